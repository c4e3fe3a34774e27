"""Proxies on loopback: HTTP, HTTP over TLS, and SOCKS 5."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress

from support.host import Host, has_arrived


class Proxy:
    """Leads to `host`, whatever name it is asked for, or answers as `refusal` says.

    `context`: it speaks TLS itself. `socks`: it speaks SOCKS 5, and its `refusal` is the byte with
    which it replies. `asked` holds what came first on each connection.
    """

    def __init__(
        self, host: Host, *, context: ssl.SSLContext | None = None, socks: bool = False
    ) -> None:
        self._host, self._context, self._socks = host, context, socks
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.refusal = b""
        self.asked: list[bytes] = []
        self.taken = 0  # bytes from the host
        self._returned = 0  # those of them that have reached the client
        self._more = threading.Condition()
        self.port = self._listener.getsockname()[1]
        scheme = "socks5h" if socks else "http" if context is None else "https"
        self.url = f"{scheme}://localhost:{self.port}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._serve, args=(sock,)))
                self._threads[-1].start()

    def _serve(self, sock: socket.socket) -> None:
        with suppress(OSError), sock:
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True)
            with sock:
                if not (self._greet_socks(sock) if self._socks else self._greet_http(sock)):
                    return
                with socket.create_connection(("127.0.0.1", self._host.port)) as beyond:
                    back = threading.Thread(target=self._return, args=(beyond, sock))
                    back.start()
                    _pump(sock, beyond)
                    back.join()

    def _greet_http(self, sock: socket.socket) -> bool:
        self.asked.append(sock.recv(65536))
        if self.refusal:
            sock.sendall(b"HTTP/1.1 " + self.refusal + b"\r\nContent-Length: 0\r\n\r\n")
            return False
        sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        return True

    def _greet_socks(self, sock: socket.socket) -> bool:
        """RFC 1928: without authentication, and any address."""
        sock.recv(65536)
        if self.refusal == b"\xff":  # no method that it accepts
            sock.sendall(b"\x05\xff")
            return False
        sock.sendall(b"\x05\x00")
        self.asked.append(sock.recv(65536))
        sock.sendall(b"\x05" + (self.refusal or b"\x00") + b"\x00\x01" + bytes(6))
        return not self.refusal

    def _return(self, beyond: socket.socket, sock: socket.socket) -> None:
        with suppress(OSError):
            while data := beyond.recv(65536):
                self.taken += len(data)
                sock.sendall(data)
                has_arrived(sock)
                with self._more:
                    self._returned += len(data)
                    self._more.notify_all()
        with suppress(OSError):
            sock.shutdown(socket.SHUT_WR)

    def has_returned(self, count: int) -> bool:
        """Wait until more than so many bytes have reached the client; False: they don't."""
        with self._more:
            return self._more.wait_for(lambda: self._returned > count, 30)

    def close(self) -> None:
        """End it, and wait for its threads."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
