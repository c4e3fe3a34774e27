"""A relay that passes every byte on, until it cuts the connection: a bad line to a good server."""

from __future__ import annotations

import select
import socket
import struct
import threading
from contextlib import suppress


class Relay:
    """Listens on `port`, and leads to `target`. Cuts `cuts` connections, each after `after` bytes.

    A cut is a reset, or else an end that looks orderly.
    """

    def __init__(self, target: int, *, after: int, cuts: int, reset: bool) -> None:
        self._target, self._after, self._cuts, self._reset = target, after, cuts, reset
        self._left = cuts
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def again(self) -> None:
        """As many cuts as at first."""
        with self._lock:
            self._left = self._cuts

    def close(self) -> None:
        """Listen no more."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._lead, args=(client,), daemon=True).start()

    def _lead(self, client: socket.socket) -> None:
        # One thread for both ways: a socket that another thread reads would not be reset by close.
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", self._target)) as to:
            other = {client: to, to: client}
            sent = 0
            while other:
                for source in select.select(list(other), [], [])[0]:
                    data = source.recv(65536)
                    if not data:
                        other.pop(source).shutdown(socket.SHUT_WR)
                    elif source is client:
                        to.sendall(data)
                    elif sent + len(data) > self._after and self._take_cut():
                        client.sendall(data[: max(0, self._after - sent)])
                        self._cut(client)
                        return
                    else:
                        client.sendall(data)
                        sent += len(data)

    def _take_cut(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left >= 0

    def _cut(self, client: socket.socket) -> None:
        if self._reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
