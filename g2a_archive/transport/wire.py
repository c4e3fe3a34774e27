"""One socket to a file host, plain or TLS, with as few system calls as can be.

The standard library connects and encrypts. Its reads with a time-out ask the kernel twice, once
whether there is something and once for it; with a thread a connection each question also hands
the interpreter's lock around, which costs more than the question.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from contextlib import suppress


class Wire:
    """A connected socket. Reads and writes raise `OSError`, `TimeoutError` where nothing moves."""

    def __init__(self, sock: socket.socket, timeout: float) -> None:
        """Take over a connected socket; `timeout` is in seconds, for each read and write."""
        self._socket = sock
        self.timeout = timeout
        self._failed: OSError | None = None
        self._poll = select.poll()
        if isinstance(sock, ssl.SSLSocket):
            sock.setblocking(False)
            # An end that TLS did not announce may be a cut: no body must be taken for whole by it.
            sock.suppress_ragged_eofs = False  # type: ignore[attr-defined]
        else:
            # The kernel keeps the time: one call a read, and no look at the clock.
            sock.settimeout(None)
            limit = struct.pack("@ll", int(timeout), int(timeout % 1 * 1e6))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def fileno(self) -> int:
        """The descriptor, to wait for."""
        return self._socket.fileno()

    def send(self, data: bytes, *, wait: bool = True) -> None:
        """Send all of `data`; without `wait`, `OSError` where that can't be done at once."""
        view = memoryview(data)
        until = time.monotonic() + self.timeout
        flags = 0 if wait or isinstance(self._socket, ssl.SSLSocket) else socket.MSG_DONTWAIT
        while view:
            try:
                view = view[self._socket.send(view, flags) :]
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as want:
                if not wait:
                    raise
                self._await(want, until)
            except BlockingIOError:
                raise TimeoutError from None

    def fail(self, error: OSError) -> None:
        """Let later reads fail with `error`, which the system tells of only once."""
        self._failed = error

    def first(self, buffer: memoryview) -> bytes:
        """The first bytes of an answer, by way of `buffer`; waits for them."""
        return bytes(buffer[: self.read(buffer)])

    def read(self, view: memoryview, *, wait: bool = True) -> int | None:
        """Read at least one byte into `view`; returns how many, 0 at the stream's end.

        Without `wait`, None where nothing is there to be read at once.
        """
        if self._failed is not None:
            raise self._failed
        if isinstance(self._socket, ssl.SSLSocket):
            return self._read_records(self._socket, view, wait=wait)
        try:
            return self._socket.recv_into(view, 0, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            if wait:
                raise TimeoutError from None
            return None

    def _read_records(self, sock: ssl.SSLSocket, view: memoryview, *, wait: bool) -> int | None:
        """All that is there, of as many TLS records (16 kB each) as it takes."""
        filled = 0
        until = time.monotonic() + self.timeout
        while filled < len(view):
            try:
                # What `recv_into` comes to, without the way there: each record is a call.
                count: int = sock.read(len(view) - filled, view[filled:])  # type: ignore[assignment]
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as want:
                if filled or not wait:
                    return filled or None
                self._await(want, until)
                continue
            except OSError:
                if not filled:
                    raise
                return filled  # which is good; the next read fails again, as this is no end
            if count == 0:
                break
            filled += count
        return filled

    def _await(self, want: ssl.SSLError, until: float) -> None:
        """Wait for the socket; one time-out for all that a read or write waits for."""
        event = select.POLLIN if isinstance(want, ssl.SSLWantReadError) else select.POLLOUT
        if not self.wait(until - time.monotonic(), event):
            raise TimeoutError

    def wait(self, seconds: float, event: int = select.POLLIN) -> bool:
        """Wait until a read that found nothing may find something; False where it did not."""
        self._poll.register(self._socket, event)
        return bool(self._poll.poll(max(0.0, seconds) * 1000))

    def shut(self) -> None:
        """End all reads and writes at once; may be called by another thread."""
        shut_socket(self._socket)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def shut_socket(sock: socket.socket) -> None:
    """End all reads and writes of a socket, whichever thread waits in them."""
    with suppress(OSError):
        # Not `sock.shutdown`: on a TLS socket it would take the session away from under the
        # thread that reads.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
