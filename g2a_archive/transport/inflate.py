"""Undoing what a host compressed although nobody had asked for that."""

from __future__ import annotations

import zlib

from g2a_archive.transport.errors import NetworkError

WINDOWS = {"gzip": 31, "deflate": 15}
"""The content codings that can be undone, with zlib's number for each."""


class Inflate:
    """Undoes gzip (RFC 1952: of several members, zeros behind the last) or deflate, be it
    without its wrapper, as some hosts send it (RFC 9110, 8.4.1.2)."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._stream = zlib.decompressobj(window)
        self._waiting = b""
        self._begun = False

    def feed(self, data: bytes) -> None:
        """Take in more of the compressed body."""
        first = not (self._begun or self._waiting)
        if first and self._window == WINDOWS["deflate"] and data[0] & 15 != zlib.DEFLATED:
            self._stream = zlib.decompressobj(-zlib.MAX_WBITS)
        self._waiting += data

    def more(self, most: int) -> bytes:
        """Up to `most` bytes, or b"" where more must be fed first. Raises `NetworkError`."""
        try:
            while self._waiting:
                if self._stream.eof and not self._next_member():
                    return b""
                self._begun = True
                data = self._stream.decompress(self._waiting, most)
                self._waiting = self._stream.unconsumed_tail or self._stream.unused_data
                if data:
                    return data
        except zlib.error:
            raise NetworkError("the compressed body is damaged") from None
        return b""

    def _next_member(self) -> bool:
        """Begin the next member; False where only padding is left."""
        if not self._waiting.strip(b"\0"):
            self._waiting = b""
            return False
        if self._window == WINDOWS["deflate"]:
            raise NetworkError("the compressed body is damaged")
        self._stream = zlib.decompressobj(self._window)
        return True

    @property
    def ended(self) -> bool:
        """Whether the end of the compressed data has come."""
        return self._stream.eof

    @property
    def whole(self) -> bool:
        """Whether they ended, or there are none."""
        return self.ended or not self._begun
