"""HTTP/1.1 on one connection of the simulated service: requests in, answers (and faults) out.

Written on sockets, because half of the answers are meant to be wrong, which a server library
would not have; and because reading headers by hand is several times faster.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import selectors
import socket
import struct
import termios
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from http import HTTPStatus

from g2a_archive.demo.faults import Fault
from g2a_archive.demo.messages import Request, Response
from g2a_archive.demo.requestlog import RequestLog

LONGEST_LINE = 1 << 20
BODILESS = frozenset({204, 304})
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class MalformedError(Exception):
    """What came is not HTTP, or not what this service understands of it."""


class StoppedError(Exception):
    """The service stops; the connection ends here."""


class Stopper:
    """Says that the service stops, to those who wait for time and to those who wait for sockets."""

    def __init__(self) -> None:
        """Not yet."""
        self._event = threading.Event()
        self.receiver, self._sender = socket.socketpair()

    def stop(self) -> None:
        """Say it."""
        self._event.set()
        self._sender.send(b"x")

    def close(self) -> None:
        """Release the sockets, when nobody waits any more."""
        self.receiver.close()
        self._sender.close()

    @property
    def stopped(self) -> bool:
        """Whether the service stops."""
        return self._event.is_set()

    def pause(self, seconds: float) -> None:
        """Wait; end the connection if the service stops meanwhile."""
        if seconds > 0 and self._event.wait(seconds):
            raise StoppedError

    def wait_for(self, sock: socket.socket) -> bool:
        """Wait until a socket has something to read (or its peer is gone); False: stopped."""
        with selectors.DefaultSelector() as selector:
            selector.register(sock, selectors.EVENT_READ)
            selector.register(self.receiver, selectors.EVENT_READ)
            selector.select()
        return not self.stopped


class Connection:
    """One client's connection."""

    def __init__(self, sock: socket.socket, stopper: Stopper, log: RequestLog) -> None:
        """Take over a connected socket."""
        self._sock = sock
        self._stopper = stopper
        self._log = log
        self._input = sock.makefile("rb", 65536)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read_request(self) -> Request | None:
        """Return the next request, None when there is none to come."""
        line = self._line()
        if not line:
            return None
        try:
            method, target, protocol = line.split(" ")
        except ValueError:
            raise MalformedError("request line") from None
        headers: dict[str, str] = {}
        while line := self._line():
            name, colon, value = line.partition(":")
            if not colon:
                raise MalformedError("header")
            headers[name.strip().lower()] = value.strip()
        if "transfer-encoding" in headers:
            raise MalformedError("a request body in chunks")
        try:
            length = int(headers.get("content-length", "0"))
        except ValueError:
            raise MalformedError("content-length") from None
        body = self._input.read(length) if length > 0 else b""
        wish = headers.get("connection", "").lower()
        keep_alive = wish == "keep-alive" or (protocol == "HTTP/1.1" and wish != "close")
        return Request(method, target, headers, body, keep_alive)

    def _line(self) -> str:
        line = self._input.readline(LONGEST_LINE)
        if len(line) >= LONGEST_LINE:
            raise MalformedError("line too long")
        return line.decode("latin-1").rstrip("\r\n")

    def send(
        self,
        response: Response,
        fault: Fault,
        request: Request,
        *,
        latency: float = 0.0,
        rate: float | None = None,
    ) -> bool:
        """Answer, rightly or as the fault has it; return whether the connection goes on."""
        self._stopper.pause(latency)
        if fault.drop:
            self.close(reset=fault.ending == "reset")
            return False
        if fault.gzip:
            body = gzip.compress(b"".join(response.chunks()), mtime=0)
            headers = {**response.headers, "Content-Encoding": "gzip"}
            response = Response(response.status, headers, body)
        keep_alive = request.keep_alive and fault.framing != "close" and not fault.extra_length
        head = self._head(response, fault, keep_alive)
        keep_alive = keep_alive and not fault.hang_up
        self._log.answered(request, response.status)
        if request.method == "HEAD" or response.status in BODILESS:
            self._sock.sendall(head)
            return keep_alive
        if not self._send_body(head, response, fault, request, _slower(rate, fault.rate)):
            self._end(fault, request)
            return False
        return keep_alive

    def _head(self, response: Response, fault: Fault, keep_alive: bool) -> bytes:
        headers = {"Date": formatdate(usegmt=True), "Server": "simulated", **response.headers}
        if response.status not in BODILESS:
            if fault.framing == "length":
                headers["Content-Length"] = str(len(response.body) + fault.extra_length)
            elif fault.framing == "chunked":
                headers["Transfer-Encoding"] = "chunked"
        if not keep_alive:
            headers["Connection"] = "close"
        names = {name.lower() for name in fault.headers}
        kept = [(name, value) for name, value in headers.items() if name.lower() not in names]
        kept += [(name, value) for name, value in fault.headers.items() if value is not None]
        lines = [f"HTTP/1.1 {response.status} {_phrase(response.status)}"]
        lines += [f"{name}: {value}" for name, value in kept]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def _send_body(
        self,
        head: bytes,
        response: Response,
        fault: Fault,
        request: Request,
        rate: float | None,
    ) -> bool:
        """Send everything; return False when the fault's ending has come."""
        limit = None if fault.ending == "whole" else fault.after
        pending, sent, begun = head, 0, time.monotonic()
        for piece in _pieces(response, limit, rate):
            size = len(piece)
            if rate is not None:
                if pending:
                    self._sock.sendall(pending)
                    pending = b""
                self._stopper.pause(begun + (sent + size) / rate - time.monotonic())
            if fault.framing == "chunked":
                piece = b"%x\r\n%b\r\n" % (size, piece)
            self._sock.sendall(pending + piece if pending else piece)
            pending = b""
            sent += size
            self._log.progress(request, size)
        if limit is not None and sent >= limit:
            if pending:
                self._sock.sendall(pending)
            return False
        ending = b"0\r\n\r\n" if fault.framing == "chunked" else b""
        if pending or ending:
            self._sock.sendall(pending + ending)
        return True

    def _end(self, fault: Fault, request: Request) -> None:
        if fault.ending == "stall":
            self._log.stalled(request)
            self._stopper.wait_for(self._sock)
        elif fault.ending == "reset":
            self._drain()
        self.close(reset=fault.ending == "reset")

    def _drain(self) -> None:
        """Wait until the client's side has all that was sent: a reset discards the rest."""
        with contextlib.suppress(OSError):
            for _ in range(2000):
                queued = fcntl.ioctl(self._sock.fileno(), termios.TIOCOUTQ, bytes(4))
                if not any(queued):
                    return
                self._stopper.pause(0.001)

    def shut(self) -> None:
        """Wake whoever reads from or writes to this connection, from another thread."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self, reset: bool = False) -> None:
        """End the connection: in order, or with a reset."""
        with contextlib.suppress(OSError):
            if reset:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            else:
                self._sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            self._input.close()
            self._sock.close()


def _pieces(response: Response, limit: int | None, rate: float | None) -> Iterator[bytes]:
    """Yield the body up to a limit, in pieces that are small where they are to come slowly."""
    largest = None if rate is None else max(1, int(rate / 20))
    left = limit
    for piece in response.chunks():
        if left is not None:
            piece = piece[:left]
            left -= len(piece)
        step = largest or max(1, len(piece))
        for start in range(0, len(piece), step):
            yield piece if step >= len(piece) else piece[start : start + step]
        if left == 0:
            return


def _slower(one: float | None, other: float | None) -> float | None:
    rates = [rate for rate in (one, other) if rate is not None]
    return min(rates, default=None)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
