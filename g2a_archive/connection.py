"""Keep-alive connections to the file host: one set a worker, bytes read straight into its buffer.

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

from g2a_archive import address
from g2a_archive.response import HEAD, Answer, NetworkError, explain, receive
from g2a_archive.session import USER_AGENT
from g2a_archive.wire import Wire, shut_socket

_MOST_REDIRECTS = 5


class Connections:
    """One worker's connections, one for each host. `abort` may be called by another thread."""

    def __init__(self, timeout: float) -> None:
        """`timeout` is in seconds, to connect and for each read and write."""
        self._timeout = timeout
        self._open: dict[tuple[str, str], Wire] = {}
        self._connecting: http.client.HTTPConnection | None = None
        self._aborted = False
        self._head = memoryview(bytearray(HEAD))

    def get(self, parts: SplitResult, headers: Mapping[str, str]) -> Answer:
        """Send a GET, following redirects, and return the answer with its body unread.

        `parts` are those of an address that `address.checked` let pass. Raises `NetworkError`
        where no answer came, or a redirect leads where it must not.
        """
        for _ in range(_MOST_REDIRECTS + 1):
            answer = self._send(parts, headers)
            location = answer.header("Location")
            if answer.status not in (301, 302, 303, 307, 308) or not location:
                return answer
            self.release(answer)
            try:
                target = urljoin(parts.geturl(), location)
            except ValueError:  # whose text would quote the address
                raise NetworkError("a redirect cannot be followed: it is no address") from None
            try:
                parts = address.checked(target)
            except ValueError as error:
                raise NetworkError(f"a redirect cannot be followed: {error}") from None
        raise NetworkError("too many redirects")

    def release(self, answer: Answer) -> None:
        """Be done with an answer; its connection is kept only if the body was read whole."""
        keep = answer.drained and not answer.encoded and not answer.last
        answer.close()
        if not keep:
            self.close()

    def _send(self, parts: SplitResult, headers: Mapping[str, str]) -> Answer:
        key = (parts.scheme, parts.netloc)
        try:
            request = _request(parts, headers)
        except UnicodeError:
            raise NetworkError("the address cannot be sent") from None
        for fresh in (False, True):
            wire = self._open.get(key)
            reused = wire is not None
            try:
                if wire is None:
                    wire = self._open[key] = self._connect(parts)
                if self._aborted:
                    raise NetworkError("stopped")
                wire.send(request)
                return receive(wire, self._head)
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._open.pop(key, None)
                if wire is not None:
                    wire.close()
                # A kept connection may have been closed by the host meanwhile: that is no
                # failure of this file, so it gets a new connection at once.
                stale = reused and not fresh and not isinstance(error, TimeoutError)
                if stale and not self._aborted:
                    continue
                raise NetworkError(explain(error)) from None
        raise NetworkError("the connection failed")

    def _connect(self, parts: SplitResult) -> Wire:
        connection = self._connecting = _connection(parts, self._timeout)
        try:
            connection.connect()
            return Wire(connection.sock, self._timeout)
        except BaseException:
            connection.close()
            raise
        finally:
            self._connecting = None

    def abort(self) -> None:
        """End every transfer of this worker at once; its reads return or fail."""
        self._aborted = True
        connecting = self._connecting
        sock = connecting.sock if connecting is not None else None
        if sock is not None:
            shut_socket(sock)
        for wire in list(self._open.values()):
            wire.shut()

    def close(self) -> None:
        """Close every connection."""
        for wire in self._open.values():
            wire.close()
        self._open.clear()


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
