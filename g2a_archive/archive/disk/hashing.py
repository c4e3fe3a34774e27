"""A file's size and SHA-256, read once, at the speed of the disk."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import stat
import threading
from collections.abc import Callable, Iterator
from typing import BinaryIO

from g2a_archive.archive.disk.domains import retry_transient
from g2a_archive.errors import Interrupted

_BUFFER = 1 << 20
_local = threading.local()


def _opened(path: str | os.PathLike[str], most: float = math.inf) -> int:
    """A descriptor of a plain file of at most `most` bytes; `OSError` for anything else.

    A pipe in its place would let the reader wait for ever, a device would never end.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no plain file", os.fspath(path))
        if status.st_size > most:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), os.fspath(path))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_regular(path: str | os.PathLike[str], most: float = math.inf) -> BinaryIO:
    """Open a plain file of at most `most` bytes; `OSError` for anything else, without a wait."""
    return open(retry_transient(_opened, path, most), "rb")


def read_regular(path: str | os.PathLike[str], most: int) -> bytes:
    """The content of a plain file of at most `most` bytes; `OSError` for anything else."""
    with open_regular(path, most) as file:
        return file.read(most)


def read_blocks(descriptor: int, stop: Callable[[], bool]) -> Iterator[memoryview]:
    """What an open file holds, 1 MiB at most at a time, in a buffer that is the thread's own.

    Raises `OSError`, and `Interrupted` where `stop`, which is asked before each, said so.
    """
    buffer = _thread_buffer()
    while True:
        if stop():
            raise Interrupted
        count = os.readv(descriptor, [buffer])
        if not count:
            return
        yield buffer[:count]


def hash_file(
    path: str | os.PathLike[str],
    *,
    stop: Callable[[], bool] = lambda: False,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> tuple[int, str]:
    """The size in bytes and the lower-case hex SHA-256 of the file at `path`.

    `on_bytes` hears, in the calling thread, of each piece read (1 MiB at most), again where what
    is transient made it begin anew; `stop` is asked before each. Reading and hashing both leave
    the interpreter's lock, so threads run side by side.

    Raises `OSError`, also where it is no plain file, and `Interrupted` where `stop` said so.
    """
    return retry_transient(_hash, path, stop, on_bytes)


def _hash(
    path: str | os.PathLike[str], stop: Callable[[], bool], on_bytes: Callable[[int], None]
) -> tuple[int, str]:
    digest = hashlib.sha256()
    size = 0
    descriptor = _opened(path)
    try:
        for piece in read_blocks(descriptor, stop):
            digest.update(piece)
            on_bytes(len(piece))
            size += len(piece)
    finally:
        os.close(descriptor)
    return size, digest.hexdigest()


def _thread_buffer() -> memoryview:
    buffer: memoryview | None = getattr(_local, "buffer", None)
    if buffer is None:
        buffer = _local.buffer = memoryview(bytearray(_BUFFER))
    return buffer
