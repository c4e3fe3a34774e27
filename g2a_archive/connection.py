"""Keep-alive connections to the file host: one set a worker, bytes read straight into its buffer.

The standard library's HTTP client parses the answers. A `requests` call a file costs more CPU
than all the rest of a small file together, so it is kept for the service's calls. A link's host
never sees credentials: nothing here knows any, and no `.netrc` is read.
"""

from __future__ import annotations

import http.client
import io
import os
import re
import select
import socket
import ssl
import threading
import zlib
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from g2a_archive import address
from g2a_archive.session import USER_AGENT

_MOST_REDIRECTS = 5
_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)$")


class NetworkError(Exception):
    """The connection failed, stalled or ended early; the text says how, and holds no address."""


class Answer:
    """A status, headers, and a body that is read into a buffer of the caller's.

    `length` is the number of body bytes that the response announced, None where it didn't.
    """

    def __init__(
        self, response: http.client.HTTPResponse, sock: socket.socket, timeout: float
    ) -> None:
        self._response = response
        self._socket = sock
        self._timeout = timeout
        self._direct = False
        self._headers: dict[str, str] = {}
        for name, value in response.headers.items():
            self._headers.setdefault(name.lower(), value)
        self.status = response.status
        self.chunked = bool(response.chunked)
        self.length = None if self.chunked else response.length
        self._left = self.length
        encoding = (self.header("Content-Encoding") or "identity").strip().lower()
        self.encoding = encoding
        self._inflate = None
        if encoding in ("gzip", "x-gzip", "deflate"):
            self._inflate = zlib.decompressobj(47 if encoding != "deflate" else 15)

    def header(self, name: str) -> str | None:
        """A header's value, or None; of doubled ones the first."""
        return self._headers.get(name.lower())

    @property
    def encoded(self) -> bool:
        """Whether the body is compressed, although we asked for it as it is."""
        return self.encoding not in ("identity", "")

    @property
    def decodable(self) -> bool:
        """Whether `read_into` can undo the body's encoding."""
        return not self.encoded or self._inflate is not None

    def content_range(self) -> tuple[int | None, int | None, int | None]:
        """`Content-Range` as (first, last, total), each None where it is not told."""
        match = _CONTENT_RANGE.match((self.header("Content-Range") or "").strip())
        if not match:
            return None, None, None
        first, last, total = match.groups()
        return (
            int(first) if first else None,
            int(last) if last else None,
            int(total) if total != "*" else None,
        )

    def read_into(self, view: memoryview) -> int:
        """Read at least one byte into `view` and return how many; 0 at the body's end.

        Raises `NetworkError` where the body ends before the length that was announced.
        """
        count = self._translated(view, wait=True)
        assert count is not None
        return count

    def read_now(self, view: memoryview) -> int | None:
        """As `read_into`, but None where nothing is there to be read without waiting."""
        return self._translated(view, wait=False)

    def _translated(self, view: memoryview, *, wait: bool) -> int | None:
        try:
            if self._inflate is not None:
                return self._read_inflated(view) if wait else None
            if self._left is None:
                return self._read_unbounded(view) if wait else None
            if self._left == 0:
                return 0
            return self._read_bounded(view[: self._left], wait=wait)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NetworkError(explain(error)) from None
        except zlib.error:
            raise NetworkError("the compressed body is damaged") from None

    def _read_unbounded(self, view: memoryview) -> int:
        data = self._response.read1(len(view))
        view[: len(data)] = data
        return len(data)

    def _read_bounded(self, view: memoryview, *, wait: bool) -> int | None:
        count: int | None
        if self._direct:
            count = self._read_directly(view, wait=wait)
        elif not wait and not self._readable():
            return None
        else:
            # `readinto1` makes one read from the socket; `readinto` would lose what had come
            # before a time-out.
            count = self._response.fp.readinto1(view)
            # The reader's own buffer is empty now, if the view could take all of it.
            plain = not isinstance(self._socket, ssl.SSLSocket)
            self._direct = plain and len(view) >= io.DEFAULT_BUFFER_SIZE
        if count is None:
            return None
        if count == 0:
            raise NetworkError("the connection was closed early")
        assert self._left is not None
        self._left -= count
        return count

    def _read_directly(self, view: memoryview, *, wait: bool) -> int | None:
        """Read from the socket's descriptor: one system call instead of two for each read.

        A socket with a time-out does not block, and asks whether it may read before it does.
        """
        while True:
            try:
                return os.readv(self._socket.fileno(), [view])
            except BlockingIOError:
                if not wait:
                    return None
                if not self._readable(self._timeout):
                    raise TimeoutError from None

    def _readable(self, seconds: float = 0.0) -> bool:
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def _read_inflated(self, view: memoryview) -> int:
        assert self._inflate is not None
        while True:
            pending = self._inflate.unconsumed_tail
            if not pending:
                pending = self._read_encoded()
                if not pending:
                    data = self._inflate.flush(len(view))
                    if not self._inflate.eof and not data:
                        raise NetworkError("the compressed body ended early")
                    view[: len(data)] = data
                    return len(data)
            data = self._inflate.decompress(pending, len(view))
            if data:
                view[: len(data)] = data
                return len(data)

    def _read_encoded(self) -> bytes:
        raw = memoryview(bytearray(16384))
        if self._left is None:
            return bytes(raw[: self._read_unbounded(raw)])
        if self._left == 0:
            return b""
        return bytes(raw[: self._read_bounded(raw[: self._left], wait=True)])

    @property
    def exhausted(self) -> bool:
        """Whether the next read is known to bring nothing."""
        return self._left == 0 and self._inflate is None

    @property
    def drained(self) -> bool:
        """Whether the whole body was read, so that the connection can serve another request."""
        return self._left == 0 if self._left is not None else self._response.isclosed()

    @property
    def last(self) -> bool:
        """Whether the host closes the connection after this answer."""
        return bool(self._response.will_close)

    def close(self) -> None:
        """Let go of the response."""
        self._response.close()


class Connections:
    """One worker's connections, one for each host. `abort` may be called by another thread."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._open: dict[tuple[str, str, int | None], http.client.HTTPConnection] = {}
        self._aborted = False

    def get(self, url: str, headers: Mapping[str, str]) -> Answer:
        """Send a GET, following redirects, and return the answer with its body unread.

        Raises `NetworkError` where no answer came, or a redirect leads where it must not.
        """
        parts = urlsplit(url)  # a link was checked when the service gave it
        for _ in range(_MOST_REDIRECTS + 1):
            answer = self._send(parts, headers)
            location = answer.header("Location")
            if answer.status not in (301, 302, 303, 307, 308) or not location:
                return answer
            self.release(answer, parts)
            try:
                url = urljoin(url, location)
                parts = address.checked(url)
            except ValueError as error:
                raise NetworkError(f"a redirect cannot be followed: {error}") from None
        raise NetworkError("too many redirects")

    def release(self, answer: Answer, parts: SplitResult | None = None) -> None:
        """Be done with an answer; its connection is kept only if the body was read whole."""
        keep = answer.drained and not answer.encoded and not answer.last
        answer.close()
        if not keep:
            self.close()

    def _send(self, parts: SplitResult, headers: Mapping[str, str]) -> Answer:
        key = (parts.scheme, parts.hostname or "", parts.port)
        request = _request(parts, headers)
        for fresh in (False, True):
            connection = self._open.get(key)
            reused = connection is not None
            try:
                if connection is None:
                    connection = self._open[key] = _connect(parts, self._timeout)
                    connection.connect()
                if self._aborted:
                    raise NetworkError("stopped")
                # The library opens connections and reads answers; a request is a few lines, the
                # same for all files, and cheaper to send at once than to compose again.
                connection.sock.sendall(request)
                response = http.client.HTTPResponse(connection.sock, method="GET")
                try:
                    response.begin()
                except BaseException:
                    response.close()
                    raise
                return Answer(response, connection.sock, self._timeout)
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._open.pop(key, None)
                if connection is not None:
                    connection.close()
                # A kept connection may have been closed by the host meanwhile: that is no
                # failure of this file, so it gets a new connection at once.
                if reused and not fresh and not isinstance(error, TimeoutError):
                    continue
                raise NetworkError(explain(error)) from None
        raise NetworkError("the connection failed")

    def abort(self) -> None:
        """End every transfer of this worker at once; its reads return or fail."""
        self._aborted = True
        for connection in list(self._open.values()):
            sock = connection.sock
            if sock is not None:
                with suppress(OSError):
                    # Not `sock.shutdown`: on a TLS socket it would take the session away
                    # from under the thread that reads.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close every connection."""
        for connection in self._open.values():
            connection.close()
        self._open.clear()


_HEADERS = f"User-Agent: {USER_AGENT}\r\nAccept-Encoding: identity\r\nAccept: */*\r\n"


def _request(parts: SplitResult, headers: Mapping[str, str]) -> bytes:
    """The bytes of a GET (RFC 9112). `parts` were checked: no space or control character in it."""
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    elif not host.isascii():
        host = host.encode("idna").decode("ascii")
    port = f":{parts.port}" if parts.port is not None else ""
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    target = address.request_target(parts)
    return f"GET {target} HTTP/1.1\r\nHost: {host}{port}\r\n{_HEADERS}{more}\r\n".encode("ascii")


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


def _connect(parts: SplitResult, timeout: float) -> http.client.HTTPConnection:
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


def explain(error: Exception) -> str:
    """Say what went wrong on a connection, without an address or anything else the host sent."""
    if isinstance(error, NetworkError):
        return str(error)
    if isinstance(error, TimeoutError):
        return "nothing came within the time-out"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, http.client.RemoteDisconnected | http.client.IncompleteRead):
        return "the connection was closed early"
    if isinstance(error, ConnectionResetError | BrokenPipeError | ConnectionAbortedError):
        return "connection reset"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "the host's TLS certificate cannot be trusted"
    if isinstance(error, ssl.SSLError):
        return "the TLS connection failed"
    if isinstance(error, socket.gaierror):
        return "the host name cannot be resolved"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return "the host's answer is not HTTP"
