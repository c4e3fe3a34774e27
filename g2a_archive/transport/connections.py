"""Connections to hosts: which address is tried first, and when a kept one may be used again.

The libraries make them, keep them in pools, and speak HTTP. What is added are checks: of a
connection that is old, that has something to read though nothing was asked for, or whose headers
trickle; and how another thread ends a wait.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, cast
from weakref import WeakSet

from urllib3 import HTTPHeaderDict
from urllib3.util.connection import allowed_gai_family, create_connection
from urllib3.util.ssl_ import create_urllib3_context
from urllib3.util.wait import wait_for_read

from g2a_archive.transport.errors import proxy_error
from g2a_archive.transport.sockets import has_decrypted, peek_unsolicited, read_unsolicited, shut

_LONGEST_IDLE = 60.0
"""Seconds since its last request after which a kept connection is not used again: a load balancer
forgets it about then, and does not say so."""

_MOST_INTERIM = 16
"""Interim answers before an answer at most."""

_ANSWER = re.compile(rb"HTTP/1\.\d (?!400|408)")
"""How an answer begins that another request's may be: some hosts say 400 or 408 to none at all."""

_COUNTS = re.compile(r"content-|transfer-|digest|hash|checksum", re.IGNORECASE)
"""Of the headers' names: without them, a part of a body passes for all of it."""

_LOOK = (0.05, 2.0)
"""Seconds after a request, at least and at most, in which another answer to it may come."""

HostPort = tuple[str, int]
"""A host's name and port."""


class Network:
    """What is known of the hosts, and the sockets on which something is waited for.

    For all threads.
    """

    def __init__(self, timeout: float) -> None:
        """`timeout` in seconds, for an answer's headers to come whole, and for each read of it."""
        self.timeout = timeout
        self._lock = threading.Lock()
        self._good: dict[HostPort, str] = {}
        self._failed: dict[HostPort, set[str]] = {}
        self._expired: dict[HostPort, float] = {}
        self._talkative: set[HostPort] = set()
        self._suspects: set[HostPort] = set()
        self._kept: WeakSet[Any] = WeakSet()
        self._srtt = self._rttvar = 0.0
        self._waiting: dict[Any, float] = {}
        # `connection` is the one that a thread used last, `target` what its request asks for where
        # the library would encode that.
        self.used = threading.local()
        self.aborted = False

    def connect(self, connection: Any, usual: Any) -> socket.socket:
        """A socket to the address that answered last, or else to the first that takes it: those
        that failed come last.

        What is beyond a SOCKS proxy has no address here.
        """
        if self.aborted:
            raise ConnectionAbortedError
        if hasattr(connection, "_socks_options"):
            return cast(socket.socket, usual())
        place = (connection.host, connection.port)
        made: socket.socket | None = None
        while made is None and (address := self._first(place)) is not None:
            try:
                made = create_connection(
                    (address, connection.port),
                    connection.timeout,
                    source_address=connection.source_address,
                    socket_options=connection.socket_options,
                )
            except OSError:
                self.failed(place, address)
        made = made or cast(socket.socket, usual())
        with suppress(OSError):  # the host may have hung up already: then the request will tell
            connection.unproved = made.getpeername()[0]
        return made

    def _first(self, place: HostPort) -> str | None:
        """The address to be tried before all others, where it matters."""
        good, failed = self._good.get(place), self._failed.get(place)
        if good is not None or not failed:
            return good
        with suppress(OSError, UnicodeError):  # of which the usual way tells
            family = allowed_gai_family()
            for *_, (address, *_) in socket.getaddrinfo(*place, family, socket.SOCK_STREAM):
                if address not in failed:
                    return str(address)
        failed.clear()  # all are as bad
        return None

    def failed(self, place: HostPort, address: str) -> None:
        """A new connection to this address was of no use: the host's others come before it."""
        self._failed.setdefault(place, set()).add(address)
        if self._good.get(place) == address:
            self._good.pop(place, None)

    def answered(self, connection: Any) -> None:
        """The address that a new connection goes to is of use."""
        self._good[connection.place], connection.unproved = connection.unproved, ""

    def expire(self, place: HostPort) -> None:
        """The connections to this host that are kept now are not to be used again."""
        self._expired[place] = time.monotonic()

    def mark_unsolicited(self, place: HostPort, *, suspect: bool) -> None:
        """This host has sent unsolicited bytes: it gets a new connection for each request.

        `suspect`: that was a response, so that others may have come in the place of those before.
        """
        self._talkative.add(place)
        if suspect:
            self._suspects.add(place)

    def record_latency(self, connection: Any, seconds: float) -> None:
        """The headers of an answer came, so long after its request."""
        if connection.answers == 1:
            with self._lock:
                self._kept.add(connection)
        # As RFC 6298 has it for round trips.
        self._srtt = self._srtt or seconds
        self._rttvar += (abs(seconds - self._srtt) - self._rttvar) / 4
        self._srtt += (seconds - self._srtt) / 8

    def late_wait(self) -> float:
        """Seconds in which an answer may come yet whose place another one took."""
        with self._lock:
            asked_at = (one.asked_at for one in self._kept if one.answers > 1)
            until = self.late_deadline(max(asked_at, default=0.0))
        return max(0.0, until - time.monotonic())

    def late_deadline(self, since: float) -> float:
        """Until when (monotonic seconds) it may, of a request that was made then.

        The host may have to answer the one before first.
        """
        shortest, longest = _LOOK
        return since + min(longest, max(shortest, 3 * self._srtt + 8 * self._rttvar))

    def pop_suspects(self) -> set[HostPort]:
        """Hosts, each told once, that have sent an answer to nothing: what of theirs came on
        connections in use before may be other files. Only while no request is under way."""
        with self._lock:
            kept = list(self._kept)
        for connection in kept:
            # An answer that was still waited for as the run was stopped is not one too many.
            if connection.idle and not connection.is_connected:  # which looks at what waits
                connection.close()
        found, self._suspects = self._suspects, set()
        return found

    def is_reusable(self, place: HostPort, asked_at: float) -> bool:
        """Whether a connection that was last used at `asked_at` (monotonic) may be used again."""
        young = time.monotonic() - asked_at < _LONGEST_IDLE
        trusted = asked_at > self._expired.get(place, 0.0) and place not in self._talkative
        return young and trusted and not self.aborted

    def begin(self, sock: Any, seconds: float) -> None:
        """This thread waits for what comes on `sock`: so long at most, until `end`."""
        self._waiting[sock] = time.monotonic() + seconds
        if self.aborted:
            shut(sock)

    def end(self, sock: Any) -> bool:
        """Something has come, or will not; False where another thread ended the wait."""
        return self._waiting.pop(sock, None) is not None

    def end_overdue(self) -> None:
        """To be called now and then: ends what is waited for longer than it may take.

        The library's time-out counts from byte to byte: what trickles, be it of the headers, the
        body or the chunks' sizes, would have none.
        """
        now = time.monotonic()
        for sock in list(self._waiting):
            if self._waiting.get(sock, now) < now:
                self._end(sock)

    def abort(self) -> None:
        """End every wait, those that begin later too, and let no new connection be made.

        What a read returns from then on is of no use.
        """
        self.aborted = True
        for sock in list(self._waiting):
            self._end(sock)

    def _end(self, sock: Any) -> None:
        self._waiting.pop(sock, None)
        shut(sock)


class _Final(http.client.HTTPResponse):
    """The answer itself: the library takes an interim one (RFC 9110, 15.2) for it, but for a 100.

    The answer would then come later, for whoever uses the connection next.
    """

    def __init__(self, kept: _TrackedConnection, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._kept = kept
        self._at_end = False
        self.trailers: Any = {}

    def begin(self) -> None:
        super().begin()
        for _ in range(_MOST_INTERIM):
            if not 101 < self.status < 200:
                break
            self.headers = self.msg = None  # type: ignore[assignment] # so that it begins again
            super().begin()
        if self._kept.unproved:
            self._kept.network.answered(self._kept)
        if self.status == 407:  # the proxy's; one to CONNECT is an error of the library
            raise proxy_error(407)
        if self.status < 200:  # a switch to a protocol that nobody asked for, or no end
            raise http.client.HTTPException
        # The library takes no header after a line that is none; such lines are no headers to it.
        if _COUNTS.search(str(self.headers.get_payload())):
            raise http.client.HTTPException

    def _read_and_discard_trailer(self) -> None:
        # The library has taken a "0" for the last chunk: it may be the beginning of another's size.
        if not self.fp.peek(1):
            raise http.client.IncompleteRead(b"")
        # The library would discard them, and what they tell of a digest.
        self.trailers = HTTPHeaderDict(http.client.parse_headers(self.fp).items())
        self._at_end = True

    def _close_conn(self) -> None:
        if self._at_end or self.length == 0:
            self._kept.check_unsolicited(self.fp)
        super()._close_conn()  # type: ignore[misc]


class _TrackedConnection:
    """What is added to every connection of the library; `network` is set by `track`."""

    network: Network
    asked_at = 0.0
    answers = 0
    unproved = ""
    """The address that it goes to, before that has answered."""

    idle = False
    """Whether the last answer was read whole."""

    suspect_until = -1.0
    """When the last request was made before something came that nobody had asked for."""

    answering: socket.socket | None = None
    """What the last answer comes on: a connection that is not kept has let go of it."""

    @property
    def response_class(self) -> Callable[..., _Final]:
        return partial(_Final, self)

    def _new_conn(self) -> socket.socket:
        self.answers, self.idle, self.unproved = 0, False, ""
        return self.network.connect(self, super()._new_conn)  # type: ignore[misc]

    @property
    def place(self) -> HostPort:
        return self.host, self.port  # type: ignore[attr-defined]

    @property
    def is_connected(self) -> bool:
        # The library's own look comes first: is anything waiting that nobody asked for?
        connected = bool(super().is_connected)  # type: ignore[misc]
        sock = self.sock  # type: ignore[attr-defined]
        quiet = connected and not has_decrypted(sock)
        self.idle = self.idle and quiet
        if sock is not None and not quiet and (sent := read_unsolicited(sock)):
            self._mark_unsolicited(sent)
        return quiet and self.network.is_reusable(self.place, self.asked_at)

    def check_unsolicited(self, file: Any) -> None:
        """An answer was read whole from `file`: was more read with it, which is lost with it?"""
        self.idle = True
        file.raw.readinto = lambda _: None  # as if no more had come: the system is not asked
        if sent := file.peek(1):
            self._mark_unsolicited(sent)

    def _mark_unsolicited(self, sent: bytes) -> None:
        self.suspect_until = self.asked_at
        # Of an answer that came in two pieces, this may be only its first bytes.
        whole = sent + b"HTTP/1.1 200"[len(sent) :]
        self.network.mark_unsolicited(self.place, suspect=_ANSWER.match(whole) is not None)

    def close(self) -> None:
        """Before an idle one is closed, to make room for another host's, it is looked at."""
        _ = self.idle and self.is_connected
        if self.unproved:
            self.network.failed(self.place, self.unproved)
        super().close()  # type: ignore[misc]

    def is_suspect(self, asked_at: float) -> bool:
        """Whether more has come since what was asked for then: that was another's answer, perhaps.

        For any thread. While the connection is in use again, there is no telling.
        """
        sock = self.sock  # type: ignore[attr-defined]
        idle = type(sock) is socket.socket and self.asked_at == asked_at
        # Looked at twice: somebody may begin to use it meanwhile.
        if idle and (sent := peek_unsolicited(sock)) and self.asked_at == asked_at:
            self._mark_unsolicited(sent)
        return asked_at <= self.suspect_until

    def has_unsolicited(self) -> bool:
        """Whether something comes behind an answer that was read whole, and that makes no sense:
        it is waited for. For whoever has the connection, which is of no use any more."""
        sock = self.sock  # type: ignore[attr-defined]
        with suppress(OSError, ValueError):
            if sock is not None and not has_decrypted(sock):
                wait_for_read(sock, timeout=2 * self.network.late_deadline(0.0))
        _ = self.is_connected
        self.close()
        return self.asked_at <= self.suspect_until

    def request(self, method: str, url: str, *args: Any, **more: Any) -> None:
        self.asked_at, self.idle = time.monotonic(), False
        self.network.used.connection = self
        target = getattr(self.network.used, "target", url)
        super().request(method, target, *args, **more)  # type: ignore[misc]

    def _tunnel(self) -> None:
        self._awaited(super()._tunnel)  # type: ignore[misc]

    def getresponse(self) -> Any:
        self.answering = self.sock  # type: ignore[attr-defined]
        found = self._awaited(super().getresponse)  # type: ignore[misc]
        self.answers += 1
        self.network.record_latency(self, time.monotonic() - self.asked_at)
        return found

    def _awaited(self, act: Callable[[], Any]) -> Any:
        """What `act` returns, which reads headers; another thread may end it."""
        sock = self.sock  # type: ignore[attr-defined]
        self.network.begin(sock, self.network.timeout)
        try:
            found = act()
        except BaseException:
            shut(sock)  # at once, whoever still holds what was read of it
            if self.network.end(sock) or self.network.aborted:
                raise
        else:
            if self.network.end(sock):
                return found
            if found is not None:  # headers that are cut look like headers; they hold the socket
                found.close()
        raise TimeoutError  # here, where no other error would be taken for its cause


class _TrackedTLSConnection(_TrackedConnection):
    """The same for TLS."""

    ssl_context: ssl.SSLContext | None

    def connect(self) -> None:
        if self.ssl_context is None:
            self.ssl_context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
        # With it, as Debian 12's Python has it, an end that was not announced looks like one.
        self.ssl_context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
        super().connect()  # type: ignore[misc]
        if hasattr(self.sock, "suppress_ragged_eofs"):  # type: ignore[attr-defined]
            # An end that TLS did not announce may be a cut: no body is whole by it.
            self.sock.suppress_ragged_eofs = False  # type: ignore[attr-defined]


def track(pool: Any, network: Network) -> None:
    """Have a pool make connections that `network` knows."""
    usual = pool.ConnectionCls
    if not issubclass(usual, _TrackedConnection):
        added = _TrackedTLSConnection if pool.scheme == "https" else _TrackedConnection
        pool.ConnectionCls = type(f"Tracked{usual.__name__}", (added, usual), {"network": network})
