"""The bytes of the simulated recordings: real media, any size, made as they are asked for.

Each file is a small real one (see `assets/`) that is padded the way its format provides for: an MP4
by a `free` box, a JPEG by comment segments. Whatever its size, it opens in any player or viewer.
No two recordings, and no two blocks of one file, have the same bytes, so that a transfer that goes
wrong anywhere shows in the comparison. Nothing is held in memory but the file's first few kB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Final

BLOCK: Final = 65536
STAMP: Final = 16
BOX_HEADER: Final = 8
LARGEST_SMALL_BOX: Final = 2**32 - 1
LABEL: Final = 20
"""Digits of the recording ID that every padded file holds: a 64-bit number, zero-filled."""

LARGEST_SEGMENT: Final = 65535 + 2
"""A JPEG comment with its marker: the length field counts itself, but not the marker."""

LINE: Final = 80
LINES_A_MINUTE: Final = 30
MINUTE: Final = LINE * LINES_A_MINUTE


@dataclass(frozen=True)
class Content:
    """A file that exists only as a rule: `head`, then numbered blocks, then `tail`."""

    size: int
    head: bytes
    block: Callable[[int], bytes]
    block_size: int = BLOCK
    tail: bytes = b""

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the bytes from `start` up to `stop` (the end of the file by default)."""
        stop = self.size if stop is None else min(stop, self.size)
        body, tail = len(self.head), self.size - len(self.tail)
        if start < min(body, stop):
            yield self.head[start:stop]
            start = min(body, stop)
        while start < min(tail, stop):
            number, skip = divmod(start - body, self.block_size)
            wanted = min(tail, stop) - start
            piece = self.block(number)
            if skip or wanted < self.block_size:
                piece = piece[skip : skip + wanted]
            yield piece
            start += len(piece)
        if start < stop:
            yield self.tail[start - tail : stop - tail]

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes from `start` up to `stop`: for small ranges."""
        return b"".join(self.chunks(start, stop))

    def sha256(self) -> str:
        """Return the SHA-256 of the whole file, in hexadecimal."""
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()


@cache
def asset(name: str) -> bytes:
    """Return one of the sample files that come with the package."""
    return files(__package__).joinpath("assets", name).read_bytes()


@cache
def _noise() -> bytes:
    return hashlib.shake_128(b"simulated recording").digest(2 * BLOCK)


def noise_blocks(recording_id: int, version: int) -> Callable[[int], bytes]:
    """Return a maker of blocks that differ by recording, version and number, at memcpy's speed."""
    noise = _noise()
    owner = hashlib.blake2b(f"{recording_id}/{version}".encode(), digest_size=8).digest()
    turn = int.from_bytes(owner, "big")

    def block(number: int) -> bytes:
        start = (turn + number * 40503) % BLOCK
        return owner + number.to_bytes(8, "big") + noise[start : start + BLOCK - STAMP]

    return block


def _label(recording_id: int) -> bytes:
    return f"{recording_id:0{LABEL}d}".encode()


SMALLEST_MP4: Final = len(asset("screen.mp4")) + BOX_HEADER + LABEL
"""The sample with an empty `free` box but for the recording's ID."""

SMALLEST_JPEG: Final = len(asset("screen.jpg")) + 4 + LABEL
"""The sample with a comment that holds the recording's ID."""


def mp4(recording_id: int, size: int, version: int = 0) -> Content:
    """Return a playable MP4 of `size` bytes, or of `SMALLEST_MP4` where that is more."""
    size = max(size, SMALLEST_MP4)
    clip = asset("screen.mp4")
    padding = size - len(clip)
    if padding <= LARGEST_SMALL_BOX:
        header = padding.to_bytes(4, "big") + b"free"
    else:  # a size of 1 says that 64 bits of it follow the name
        header = (1).to_bytes(4, "big") + b"free" + padding.to_bytes(8, "big")
    head = clip + header + _label(recording_id)
    return Content(size, head, noise_blocks(recording_id, version))


def jpeg(recording_id: int, size: int, version: int = 0) -> Content:
    """Return a JPEG of `size` bytes, or of `SMALLEST_JPEG` where that is more."""
    size = max(size, SMALLEST_JPEG)
    picture = asset("screen.jpg")
    start, rest = picture[:20], picture[20:]  # comments go between the JFIF header and the rest
    label = _label(recording_id)
    full, first = divmod(size - len(picture) - 4 - LABEL, LARGEST_SEGMENT)
    first += 4 + LABEL
    blocks = noise_blocks(recording_id, version)

    def comment(length: int, number: int, text: bytes = b"") -> bytes:
        filling = (blocks(2 * number) + blocks(2 * number + 1))[: length - 4 - len(text)]
        return b"\xff\xfe" + (length - 2).to_bytes(2, "big") + text + filling

    if first <= LARGEST_SEGMENT:
        head = start + comment(first, full, label)
    else:
        half = first // 2
        head = start + comment(half, full, label) + comment(first - half, full + 1)
    return Content(size, head, lambda n: comment(LARGEST_SEGMENT, n), LARGEST_SEGMENT, rest)


_DEEDS: Final = ("mouse ", "mouse ", "key   ", "mouse ", "window", "mouse ", "key   ", "chat  ")
_STRIDE: Final = 2654435761
_EVENT: Final = "event=%s x=%04d y=%04d seed=%010d" + " " * 31 + "\n"
_MINUTE: Final = f"%-{LINE - 1}.{LINE - 1}s\n" + "".join(
    f"t=+{2 * n:02d} {_EVENT}" for n in range(1, LINES_A_MINUTE)
)


def events(recording_id: int, started: datetime, size: int, version: int = 0) -> Content:
    """Return a session's event log of `size` bytes: one time-stamped line of `key=value` an event.

    The format is our own; the vendor does not publish that of its `.events` files.
    """
    shift = recording_id * 7 + version * 131

    def minute(number: int) -> bytes:
        begin = f"minute={number:08d} recording={recording_id} begin={started.isoformat()}"
        first = shift + number * LINES_A_MINUTE
        values: list[object] = [begin]
        for n in range(first + 1, first + LINES_A_MINUTE):
            seed = n * _STRIDE % 2**32
            values += _DEEDS[seed % 8], seed // 8 % 1920, seed // 16384 % 1080, seed
        return (_MINUTE % tuple(values)).encode()

    return Content(size, b"", minute, MINUTE, b"\n" if size else b"")
