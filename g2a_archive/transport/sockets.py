"""Sockets, with or without TLS: what waits to be read on one, and how a wait on one is ended."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from typing import Any

from urllib3.util.ssltransport import SSLTransport
from urllib3.util.wait import wait_for_read


def shut(sock: Any) -> None:
    """End all reads and writes of a socket, with or without TLS, whichever thread waits in them."""
    while isinstance(sock, SSLTransport):  # TLS in the TLS of a proxy
        sock = sock.socket
    if isinstance(sock, socket.socket):
        with suppress(OSError):
            # Not `sock.shutdown`: on a TLS socket it would take the session away from under the
            # thread that reads.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


def has_decrypted(sock: object) -> bool:
    """Whether TLS holds bytes that nobody read yet: these no longer show on the socket."""
    if isinstance(sock, SSLTransport):
        waiting = sock.sslobj.pending() or sock.incoming.pending
        return bool(waiting) or has_decrypted(sock.socket)
    return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0


def read_unsolicited(sock: Any, flags: int = 0) -> bytes:
    """The first bytes that wait on a connection; none for its end, or a word of it (408)."""
    with suppress(OSError, ValueError):  # nothing waits, or it has been closed
        sock.settimeout(0)
        data: bytes = sock.recv(len(b"HTTP/1.1 408"), flags)
        return data if data[9:] != b"408" else b""
    return b""


def peek_unsolicited(sock: socket.socket) -> bytes:
    """The same for a connection without TLS that may be used again: the bytes stay there."""
    with suppress(OSError, ValueError):
        if wait_for_read(sock, timeout=0):
            with sock.dup() as same:
                return read_unsolicited(same, socket.MSG_PEEK)
    return b""
