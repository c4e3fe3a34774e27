"""Threads that may not be had: a limit of processes or of memory can leave none."""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from g2a_archive.errors import StorageError

sleep = threading.Event().wait
"""`time.sleep` fails where libfaketime sets the clock."""

_ENDING = 1.0
"""Seconds in which threads of ours that were told to end are gone, and others can be had."""


_NONE = "can't start new thread"
_TO_BEGIN = 16 << 20
"""Bytes that must be there for a thread: its stack, and what it needs to say that it has begun. One
that cannot is waited for without end."""


def has_memory(count: int) -> bool:
    """Whether so many bytes of memory are to be had, as far as a limit of it tells."""
    try:
        mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, MemoryError):
        return False
    return True


def spawn(work: Callable[..., object], *args: object) -> threading.Thread | None:
    """A daemon thread that does `work`, started; None where the system gives none."""
    if not has_memory(_TO_BEGIN):
        return None
    thread = threading.Thread(target=work, args=args, daemon=True)
    try:
        thread.start()
    except (RuntimeError, MemoryError):
        return None
    return thread


class _Pool(ThreadPoolExecutor):
    """One that makes do with fewer threads where the system gives no more."""

    def _adjust_thread_count(self) -> None:
        until = time.monotonic() + _ENDING
        while True:
            try:
                if len(self._threads) < self._max_workers and not has_memory(_TO_BEGIN):
                    raise RuntimeError(_NONE)
                return super()._adjust_thread_count()
            except RuntimeError:
                if self._threads:
                    return None
                if time.monotonic() > until:
                    raise
                sleep(0.01)  # nothing tells when the system has a thread again


@contextmanager
def pool(most: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of `most` threads, or fewer. Raises `StorageError` where there is not even one."""
    try:
        with _Pool(most) as made:
            yield made
    except RuntimeError as error:
        if _NONE not in str(error):
            raise
        raise no_threads_error() from error


def no_threads_error() -> StorageError:
    """There is not even one thread for a job that must be done."""
    return StorageError(
        "the system gives this program no threads",
        hint="raise the limit of processes (ulimit -u) or of memory",
    )
