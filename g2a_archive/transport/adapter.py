"""The one set-up of requests and urllib3: how connections are made, kept and given up.

The libraries speak HTTP, keep the pools, and read proxies and certificates from the environment.
What is added is in the connections' classes: which address is tried first, when a kept
connection is too old to be trusted, and how another thread ends a wait.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any, cast
from weakref import WeakValueDictionary

import requests
from requests.adapters import HTTPAdapter
from urllib3.response import BaseHTTPResponse
from urllib3.util.connection import create_connection
from urllib3.util.ssl_ import create_urllib3_context
from urllib3.util.ssltransport import SSLTransport

from g2a_archive import __version__
from g2a_archive.errors import InputError

USER_AGENT = f"g2a-archive/{__version__} (Python {sys.version_info.major}.{sys.version_info.minor})"

CONNECT_TIMEOUT = 10.0
"""Seconds to connect to one address, or `--timeout` if that is shorter."""

REDIRECTS = frozenset({301, 302, 303, 307, 308})

_LONGEST_IDLE = 60.0
"""Seconds since its last request after which a kept connection is not used again: a load balancer
forgets it about then, and does not say so."""

_MOST_INTERIM = 16
"""Interim answers before an answer at most."""

_COUNTS = re.compile(r"content-|transfer-|digest|hash|checksum", re.IGNORECASE)
"""Of the headers' names: without them, a part of a body passes for all of it."""

_Place = tuple[str, int]


class Network:
    """What is known of the hosts, and the requests that wait for an answer. For all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._good: dict[_Place, str] = {}
        self._expired: dict[_Place, float] = {}
        self._waiting: dict[Any, float] = {}
        self._thread = threading.local()
        self.aborted = False

    def connect(self, connection: Any, usual: Any) -> socket.socket:
        """A socket to the address that answered last, or else to the first that answers.

        What is beyond a SOCKS proxy has no address here.
        """
        if self.aborted:
            raise ConnectionAbortedError
        if hasattr(connection, "_socks_options"):
            return cast(socket.socket, usual())
        place = (connection.host, connection.port)
        good = self._good.get(place)
        if good is not None:
            with suppress(OSError):
                return create_connection(
                    (good, connection.port),
                    connection.timeout,
                    source_address=connection.source_address,
                    socket_options=connection.socket_options,
                )
            self._good.pop(place, None)
        made: socket.socket = usual()
        with suppress(OSError):  # the host may have hung up already: then the request will tell
            self._good[place] = made.getpeername()[0]
        return made

    def expire(self, place: _Place) -> None:
        """The connections to this host that are kept now are not to be used again."""
        self._expired[place] = time.monotonic()

    def fresh(self, place: _Place, asked_at: float) -> bool:
        """Whether a connection that was last used at `asked_at` (monotonic) may be used again."""
        young = time.monotonic() - asked_at < _LONGEST_IDLE
        return young and asked_at > self._expired.get(place, 0.0) and not self.aborted

    def use(self, connection: Any) -> None:
        """This thread sends a request on `connection`."""
        self._thread.connection = connection

    def begin(self, connection: Any) -> None:
        """The headers of an answer are waited for on `connection`."""
        self._waiting[connection] = time.monotonic()
        if self.aborted:
            shut(connection)

    def end(self, connection: Any) -> bool:
        """The headers have come, or will not; False where another thread ended the wait."""
        return self._waiting.pop(connection, None) is not None

    def last(self) -> Any:
        """The connection that this thread used last, or None."""
        return getattr(self._thread, "connection", None)

    def forget(self) -> None:
        """Let go of what `last` would tell."""
        self._thread.connection = None

    def end_late(self, timeout: float) -> None:
        """End the requests whose headers have not come whole in `timeout` seconds.

        The library's time-out counts from byte to byte: headers that trickle would have none.
        """
        until = time.monotonic() - timeout
        for connection, since in list(self._waiting.items()):
            if since < until:
                self._waiting.pop(connection, None)
                shut(connection)

    def abort(self) -> None:
        """End every request that waits for an answer, and let no new connection be made."""
        self.aborted = True
        for connection in list(self._waiting):
            self._waiting.pop(connection, None)
            shut(connection)


def shut(connection: Any) -> None:
    """End all reads and writes of a connection's socket, whichever thread waits in them."""
    shut_socket(connection.sock)


def shut_socket(sock: Any) -> None:
    """The same for a socket, with or without TLS."""
    while isinstance(sock, SSLTransport):  # TLS in the TLS of a proxy
        sock = sock.socket
    if isinstance(sock, socket.socket):
        with suppress(OSError):
            # Not `sock.shutdown`: on a TLS socket it would take the session away from under the
            # thread that reads.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _decrypted(sock: object) -> bool:
    """Whether TLS holds bytes that nobody read yet: these no longer show on the socket."""
    if isinstance(sock, SSLTransport):
        waiting = sock.sslobj.pending() or sock.incoming.pending
        return bool(waiting) or _decrypted(sock.socket)
    return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0


class _Final(http.client.HTTPResponse):
    """The answer itself: the library takes an interim one (RFC 9110, 15.2) for it, but for a 100.

    The answer would then come later, for whoever uses the connection next.
    """

    def begin(self) -> None:
        super().begin()
        for _ in range(_MOST_INTERIM):
            if not 101 < self.status < 200:
                break
            self.headers = self.msg = None  # type: ignore[assignment] # so that it begins again
            super().begin()
        if self.status < 200:  # a switch to a protocol that nobody asked for, or no end
            raise http.client.HTTPException
        # The library takes no header after a line that is none; such lines are no headers to it.
        if _COUNTS.search(str(self.headers.get_payload())):
            raise http.client.HTTPException

    def _read_and_discard_trailer(self) -> None:
        # The library has taken a "0" for the last chunk: it may be the beginning of another's size.
        if not self.fp.peek(1):
            raise http.client.IncompleteRead(b"")
        super()._read_and_discard_trailer()  # type: ignore[misc]


class _Kept:
    """What is added to every connection of the library; `network` is set by `_classes`."""

    response_class = _Final
    network: Network
    asked_at = 0.0
    answers = 0
    answering: socket.socket | None = None
    """What the last answer comes on: a connection that is not kept has let go of it."""

    def _new_conn(self) -> socket.socket:
        self.answers = 0
        return self.network.connect(self, super()._new_conn)  # type: ignore[misc]

    @property
    def is_connected(self) -> bool:
        place = (self.host, self.port)  # type: ignore[attr-defined]
        # The library's own look comes first: is anything waiting that nobody asked for?
        connected = bool(super().is_connected)  # type: ignore[misc]
        quiet = not _decrypted(self.sock)  # type: ignore[attr-defined]
        return connected and quiet and self.network.fresh(place, self.asked_at)

    def request(self, *args: Any, **more: Any) -> None:
        self.asked_at = time.monotonic()
        self.network.use(self)
        super().request(*args, **more)  # type: ignore[misc]

    def _tunnel(self) -> None:
        self._awaited(super()._tunnel)  # type: ignore[misc]

    def getresponse(self) -> Any:
        self.answering = self.sock  # type: ignore[attr-defined]
        found = self._awaited(super().getresponse)  # type: ignore[misc]
        self.answers += 1
        return found

    def _awaited(self, act: Callable[[], Any]) -> Any:
        """What `act` returns, which reads headers; another thread may end it."""
        self.network.begin(self)
        try:
            found = act()
        except BaseException:
            shut(self)  # at once, whoever still holds what was read of it
            if self.network.end(self) or self.network.aborted:
                raise
        else:
            if self.network.end(self):
                return found
            if found is not None:  # headers that are cut look like headers
                found.close()
        raise TimeoutError  # here, where no other error would be taken for its cause


class _Encrypted(_Kept):
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


_ADDED: Mapping[str, type] = {"http": _Kept, "https": _Encrypted}


def _classes(known: Network, usual: Mapping[str, type]) -> dict[str, type]:
    """The classes of pools that a manager uses, with connections that know `known`."""
    found = {}
    for scheme, pool in usual.items():
        bases = (_ADDED[scheme], cast(Any, pool).ConnectionCls)
        connection = type(f"Known{bases[1].__name__}", bases, {"network": known})
        found[scheme] = type(f"Known{pool.__name__}", (pool,), {"ConnectionCls": connection})
    return found


class Adapter(HTTPAdapter):
    """requests' adapter, on connections of ours. No request is ever repeated by it."""

    def __init__(self, *, hosts: int = 4, connections: int = 4) -> None:
        """Pools for the `hosts` used last, with so many idle `connections` each."""
        self.network = Network()
        self._lock = threading.Lock()
        super().__init__(pool_connections=hosts, pool_maxsize=connections, max_retries=0)

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        """As requests does, with connections of ours."""
        super().init_poolmanager(*args, **more)
        self._know(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **more: Any) -> Any:
        """As requests does, with connections of ours; SOCKS is one of these."""
        with self._lock:
            if proxy in self.proxy_manager:
                return self.proxy_manager[proxy]
            return self._know(super().proxy_manager_for(proxy, **more))

    def _know(self, manager: Any) -> Any:
        usual = manager.pool_classes_by_scheme
        manager.pool_classes_by_scheme = _classes(self.network, usual)
        return manager

    def close(self) -> None:
        """Close the connections that are kept, whoever still holds one of the pools."""
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in manager.pools.keys():  # noqa: SIM118 - it is no dict
                pool = manager.pools.get(key)
                if pool is not None:
                    pool.close()
        super().close()


def place_of(url: str) -> str:
    """Scheme, host and port of an address that requests has prepared."""
    return "/".join(url.split("/", 3)[:3])


class FileAdapter(Adapter):
    """For thousands of small files: what is the same for all files of a host is found once.

    And an answer is not dressed up with cookies and an encoding that nobody looks at. That, and
    looking for digests only where a host tells any, saves a quarter of such a file's CPU.
    """

    def __init__(self, *, connections: int) -> None:
        super().__init__(connections=connections)
        # Nothing but this would keep a pool that the library has let go of, and its connections.
        self._pools: WeakValueDictionary[str, Any] = WeakValueDictionary()

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, *args: Any, **more: Any
    ) -> Any:
        """The host's pool, as requests finds it."""
        place = place_of(request.url or "")
        pool = self._pools.get(place)
        if pool is None or pool.pool is None:  # one that was closed to make room for others
            pool = super().get_connection_with_tls_context(request, *args, **more)
            self._pools[place] = pool
        return pool

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:
        """What is asked for: the path, or the whole address where a proxy is asked."""
        return super().request_url(request, proxies) if proxies else request.path_url

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        """The answer with its body unread; with headers of requests' own only for a redirect."""
        if resp.status in REDIRECTS:
            return super().build_response(req, resp)
        response = requests.Response()
        response.status_code, response.raw = resp.status, resp
        return response


class Session(requests.Session):
    """A session that follows no redirect, and looks at none.

    `requests` reads a redirect's whole body, and parses its `Location`, even where it is told not
    to follow it: both can be anything.
    """

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.headers["User-Agent"] = USER_AGENT
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None, always."""
        return


def check_certificates() -> None:
    """Raise `InputError` for a `REQUESTS_CA_BUNDLE` (or `CURL_CA_BUNDLE`) that cannot be used."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if bundle := os.environ.get(name):
            if (what := _wrong_with(bundle)) is not None:
                raise InputError(
                    f"{name} names {bundle!r}, which cannot be used: {what}",
                    hint="name a file of certificates in PEM form, or unset it",
                )
            return


@cache  # a usual bundle takes a tenth of a second to load
def _wrong_with(bundle: str) -> str | None:
    folder = os.path.isdir(bundle)
    try:
        ssl.create_default_context(
            cafile=None if folder else bundle, capath=bundle if folder else None
        )
    except (OSError, ValueError) as error:
        number = getattr(error, "errno", None)
        if isinstance(error, ssl.SSLError) or not number:
            return "it holds no certificates"
        return os.strerror(number)
    return None


def raw_of(response: requests.Response) -> BaseHTTPResponse:
    """The response of urllib3, whose body is unread."""
    return cast(BaseHTTPResponse, response.raw)
