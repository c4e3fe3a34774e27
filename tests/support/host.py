"""A host that acts out a script, byte by byte: what no proper server would ever send."""

from __future__ import annotations

import datetime
import fcntl
import os
import re
import socket
import ssl
import struct
import sys
import termios
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import trustme

_ESTABLISHED = b"\x01"  # Linux' tcp_states.h

Script = Callable[[socket.socket], None]


class Host:
    """A server on loopback that reads one request after another and acts out `script` for each.

    `context`: it speaks TLS. `requests` holds the heads that came.
    """

    def __init__(
        self, context: ssl.SSLContext | None = None, at: tuple[str, int] = ("127.0.0.1", 0)
    ) -> None:
        self._context = context
        self._listener = socket.create_server(at)
        self._done = threading.Event()
        self._threads: list[threading.Thread] = []
        self._served: list[socket.socket] = []
        self.script: Script = lambda sock: sock.sendall(answer(b""))
        self.accepted = 0
        self.requests: list[bytes] = []
        self._asked = threading.local()
        self.port = self._listener.getsockname()[1]
        scheme = "http" if context is None else "https"
        self.url = f"{scheme}://localhost:{self.port}/a"
        self._spawn(self._accept)

    def _spawn(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.accepted += 1
                self._spawn(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        with suppress(OSError), sock:
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True)
            self._served.append(sock)
            with sock:
                while b"\r\n\r\n" in (head := sock.recv(65536)):
                    self.requests.append(head)
                    self._asked.head = head
                    self.script(sock)

    @property
    def head(self) -> bytes:
        """The head of the request that the script that asks is to answer."""
        return bytes(self._asked.head)

    def left(self, seconds: float = 10.0) -> bool:
        """Whether the other sides have closed all connections, or do so within some seconds."""
        _, *serving = self._threads
        for thread in serving:
            thread.join(seconds)
        return not any(thread.is_alive() for thread in serving)

    def silence(self) -> None:
        """Wait until the test is over."""
        self._done.wait(30)

    def close(self) -> None:
        """End it, and wait for its threads."""
        self._done.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._served:
            with suppress(OSError):  # whoever still keeps a connection need not end it first
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()


def answer(body: bytes, *lines: str, status: str = "200 OK", length: bool = True) -> bytes:
    """An answer with these header lines, and a `Content-Length` unless that is not wanted."""
    told = [f"Content-Length: {len(body)}"] if length else []
    head = "\r\n".join([f"HTTP/1.1 {status}", *told, *lines])
    return head.encode("utf-8") + b"\r\n\r\n" + body


def asked_from(head: bytes) -> int | None:
    """The first byte that a request wants, if it is for a part."""
    found = re.search(rb"(?i)\r\nrange: bytes=(\d+)-", head)
    return int(found[1]) if found else None


def part_of(body: bytes, begin: int, *lines: str, end: int | None = None, total: str = "") -> bytes:
    """A 206 with the bytes from `begin` on."""
    end = len(body) if end is None else min(end, len(body))
    span = f"Content-Range: bytes {begin}-{end - 1}/{total or len(body)}"
    return answer(body[begin:end], span, *lines, status="206 Partial Content")


def has_arrived(sock: socket.socket) -> None:
    """Wait until the other side's kernel has all that was sent: on loopback, too, it takes time.

    Not where the other side has closed it.
    """
    if sys.platform != "linux":
        return
    waiting = bytearray(b"some")
    while any(waiting) and sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == _ESTABLISHED:
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, waiting)
        os.sched_yield()


def chunks(body: bytes, size: int = 1000) -> bytes:
    """`body` in the chunked transfer coding."""
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in [*parts, b""])


def cut_off(sock: socket.socket) -> None:
    """Close the connection below TLS, without a word of it."""
    with socket.socket(fileno=socket.dup(sock.fileno())) as plain:
        plain.shutdown(socket.SHUT_RDWR)


def reset(sock: socket.socket) -> None:
    """Close the connection with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    plain = socket.socket(fileno=sock.detach())
    plain.close()


class Authority:
    """A certificate authority of the test's own; `bundle` is the file that names it."""

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self.bundle = folder / "authority.pem"
        self._ca.cert_pem.write_to_path(self.bundle)

    def context(self, *names: str, expired: bool = False) -> ssl.SSLContext:
        """What a host of these names, else `localhost`, speaks TLS with."""
        until = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC) if expired else None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(*(names or ("localhost",)), not_after=until).configure_cert(context)
        return context
