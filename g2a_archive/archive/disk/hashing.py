"""A file's size and SHA-256, read once, at the speed of the disk."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Callable
from typing import BinaryIO

from g2a_archive.errors import Interrupted

_BUFFER = 1 << 20
_local = threading.local()


def open_regular(path: str | os.PathLike[str], most: int) -> BinaryIO:
    """Open a plain file of at most `most` bytes; `OSError` for anything else, without a wait.

    A pipe in its place would let the reader wait for ever, a device would never end.
    """
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")  # noqa: SIM115
    try:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no plain file", os.fspath(path))
        if status.st_size > most:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), os.fspath(path))
    except BaseException:
        file.close()
        raise
    return file


def read_regular(path: str | os.PathLike[str], most: int) -> bytes:
    """The content of a plain file of at most `most` bytes; `OSError` for anything else."""
    with open_regular(path, most) as file:
        return file.read(most)


def hash_file(
    path: str | os.PathLike[str],
    *,
    stop: Callable[[], bool] = lambda: False,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> tuple[int, str]:
    """The size in bytes and the lower-case hex SHA-256 of the file at `path`.

    `on_bytes` hears, in the calling thread, of each piece read (1 MiB at most); `stop` is asked
    before each. Reading and hashing both leave the interpreter's lock, so threads run side by side.

    Raises `OSError` as the system gave it, and `Interrupted` where `stop` said so.
    """
    buffer = _thread_buffer()
    digest = hashlib.sha256()
    size = 0
    descriptor = os.open(path, os.O_RDONLY)
    try:
        while True:
            if stop():
                raise Interrupted
            count = os.readv(descriptor, [buffer])
            if not count:
                break
            digest.update(buffer[:count])
            on_bytes(count)
            size += count
    finally:
        os.close(descriptor)
    return size, digest.hexdigest()


def _thread_buffer() -> memoryview:
    buffer: memoryview | None = getattr(_local, "buffer", None)
    if buffer is None:
        buffer = _local.buffer = memoryview(bytearray(_BUFFER))
    return buffer
