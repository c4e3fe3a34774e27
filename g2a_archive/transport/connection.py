"""Keep-alive connections to the file hosts, shared by all threads of a run.

A `requests` call a file costs more CPU than all the rest of a small file together, so it is kept
for the service's calls. A link's host never sees credentials: nothing here knows any, and no
`.netrc` is read.
"""

from __future__ import annotations

import http.client
import os
import ssl
import threading
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from g2a_archive.transport import address
from g2a_archive.transport.response import HEAD, Answer, NetworkError, explain, receive
from g2a_archive.transport.sessions import USER_AGENT
from g2a_archive.transport.wire import Wire, shut_socket

REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5
_Host = tuple[str, str]


class Connections:
    """All of a run's connections. Every method may be called by any thread."""

    def __init__(self, timeout: float, keep: int = 16) -> None:
        """`timeout` is in seconds, to connect and for each read and write.

        Where more than `keep` connections are open, an old one goes for each that is done with:
        many hosts must not use up the descriptors.
        """
        self._timeout = timeout
        self._keep = keep
        self._lock = threading.Lock()
        self._idle: dict[_Host, list[Wire]] = {}
        self._wires: dict[Wire, _Host] = {}
        self._connecting: set[http.client.HTTPConnection] = set()
        self._aborted = False
        self._local = threading.local()

    def get(
        self,
        parts: SplitResult,
        headers: Mapping[str, str],
        asked: Wire | None = None,
        came: bytes = b"",
    ) -> Answer:
        """Send a GET, following redirects, and return the answer with its body unread.

        `parts` are those of an address that `address.checked` let pass. `asked` is a connection
        that this GET was sent on already, with `ask`, and `came` what was read of its answer.
        Raises `NetworkError` where no answer came, or a redirect leads where it must not.
        """
        answer = self._send(parts, headers, asked, came)
        for left in range(_MOST_REDIRECTS, -1, -1):
            location = answer.header("Location")
            if answer.status not in REDIRECTS or not location:
                return answer
            self.release(answer)
            if not left:
                break
            try:
                target = urljoin(parts.geturl(), location)
            except ValueError:  # whose text would quote the address
                raise NetworkError("a redirect cannot be followed: it is no address") from None
            try:
                parts = address.checked(target)
            except ValueError as error:
                raise NetworkError(f"a redirect cannot be followed: {error}") from None
            answer = self._send(parts, headers)
        raise NetworkError("too many redirects")

    def ask(self, parts: SplitResult, headers: Mapping[str, str]) -> Wire | None:
        """Send a GET on a kept connection, without waiting for anything.

        None where no connection is kept, or the kept one is not good any more.
        """
        wire = self._kept((parts.scheme, parts.netloc))
        if wire is None:
            return None
        try:
            wire.send(_request(parts, headers), wait=False)
        except (OSError, UnicodeError):
            self.drop(wire)
            return None
        return wire

    def release(self, answer: Answer) -> None:
        """Be done with an answer's connection; it is kept only if all of the body has come."""
        wire, answer.wire = answer.wire, None
        if wire is None:
            return
        come = answer.drained or answer.missing == 0
        keep = come and not answer.encoded and not answer.last
        answer.close()
        with self._lock:
            host = self._wires.get(wire)
            if keep and host is not None:
                self._idle.setdefault(host, []).append(wire)
                if len(self._wires) <= self._keep:
                    return
                wire = self._oldest()
        self.drop(wire)

    def _oldest(self) -> Wire:
        """Take one that is kept, of the host that has been known longest."""
        host = next(host for host, kept in self._idle.items() if kept)
        wire = self._idle[host].pop(0)
        if not self._idle[host]:
            del self._idle[host]
        return wire

    def drop(self, wire: Wire) -> None:
        """Close a connection that cannot be used any more."""
        with self._lock:
            self._wires.pop(wire, None)
        wire.close()

    def _kept(self, host: _Host) -> Wire | None:
        with self._lock:
            kept = self._idle.get(host)
            return kept.pop() if kept and not self._aborted else None

    def _send(
        self,
        parts: SplitResult,
        headers: Mapping[str, str],
        asked: Wire | None = None,
        came: bytes = b"",
    ) -> Answer:
        host = (parts.scheme, parts.netloc)
        try:
            request = _request(parts, headers)
        except UnicodeError:
            raise NetworkError("the address cannot be sent") from None
        for fresh in (False, True):
            wire = None if fresh else asked or self._kept(host)
            reused = wire is not None
            try:
                if wire is None:
                    wire = self._connect(parts, host)
                if wire is not asked:
                    wire.send(request)
                if wire is not asked or not came:
                    came = wire.first(self._head())
                return receive(wire, came)
            except (OSError, http.client.HTTPException, ValueError) as error:
                if wire is not None:
                    self.drop(wire)
                # A kept connection may have been closed by the host meanwhile: that is no
                # failure of this file, so it gets a new connection at once.
                stale = reused and not isinstance(error, TimeoutError)
                if stale and not self._aborted:
                    continue
                raise NetworkError(explain(error)) from None
        raise NetworkError("the connection failed")

    def _head(self) -> memoryview:
        """A buffer for the first bytes of answers; one a thread."""
        head: memoryview | None = getattr(self._local, "head", None)
        if head is None:
            head = self._local.head = memoryview(bytearray(HEAD))
        return head

    def _connect(self, parts: SplitResult, host: _Host) -> Wire:
        connection = _connection(parts, self._timeout)
        try:
            with self._lock:
                if self._aborted:
                    raise NetworkError("stopped")
                self._connecting.add(connection)
            connection.connect()
            wire = Wire(connection.sock, self._timeout)
            with self._lock:
                if self._aborted:
                    raise NetworkError("stopped")
                self._wires[wire] = host
            return wire
        except BaseException:
            connection.close()
            raise
        finally:
            with self._lock:
                self._connecting.discard(connection)

    def abort(self) -> None:
        """End every transfer at once: reads under way return or fail, nothing new begins."""
        with self._lock:
            self._aborted = True
            for connection in self._connecting:
                sock = connection.sock
                if sock is not None:  # as it is while a name is looked up
                    shut_socket(sock)
            for wire in self._wires:
                wire.shut()

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            wires = list(self._wires)
            self._wires.clear()
            self._idle.clear()
        for wire in wires:
            wire.close()


def _request(parts: SplitResult, headers: Mapping[str, str]) -> bytes:
    """The bytes of a GET (RFC 9112). `parts` were checked: no space or control character in it."""
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    target = address.request_target(parts)
    return f"GET {target} HTTP/1.1\r\n{_headers(parts.netloc)}{more}\r\n".encode("ascii")


@lru_cache(maxsize=64)
def _headers(netloc: str) -> str:
    """The headers of all requests to a host."""
    parts = urlsplit(f"//{netloc}")
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    elif not host.isascii():
        host = host.encode("idna").decode("ascii")
    port = f":{parts.port}" if parts.port is not None else ""
    agent = f"User-Agent: {USER_AGENT}\r\nAccept-Encoding: identity\r\nAccept: */*\r\n"
    return f"Host: {host}{port}\r\n{agent}"


_tls_lock = threading.Lock()
_tls: ssl.SSLContext | None = None


def _tls_context() -> ssl.SSLContext:
    """One context for all workers, trusting what the service's session trusts."""
    global _tls
    with _tls_lock:
        if _tls is None:
            from requests.utils import DEFAULT_CA_BUNDLE_PATH

            bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
            bundle = bundle or DEFAULT_CA_BUNDLE_PATH
            folder = os.path.isdir(bundle)
            _tls = ssl.create_default_context(
                cafile=None if folder else bundle, capath=bundle if folder else None
            )
        return _tls


def _connection(parts: SplitResult, timeout: float) -> http.client.HTTPConnection:
    host, port = parts.hostname or "", parts.port
    if parts.scheme == "http":  # loopback only, so never through a proxy
        return http.client.HTTPConnection(host, port, timeout=timeout)
    proxy = _proxy_for(host)
    if proxy is None:
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=_tls_context())
    connection = http.client.HTTPSConnection(
        proxy.hostname or "", proxy.port or 8080, timeout=timeout, context=_tls_context()
    )
    headers = {}
    if proxy.username is not None:
        import base64

        pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    connection.set_tunnel(host, port or 443, headers)
    return connection


def _proxy_for(host: str) -> SplitResult | None:
    """The proxy that the environment names for https, as the service's session uses it too."""
    from urllib.request import getproxies, proxy_bypass

    proxy = getproxies().get("https") or getproxies().get("all")
    if not proxy or address.is_loopback(host) or proxy_bypass(host):
        return None
    return urlsplit(proxy if "://" in proxy else f"http://{proxy}")
