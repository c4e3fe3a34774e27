"""Threads that may not be had: a limit of processes or of memory can leave none."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from g2a_archive.errors import StorageError


def spawn(work: Callable[..., object], *args: object) -> threading.Thread | None:
    """A daemon thread that does `work`, started; None where the system gives none."""
    thread = threading.Thread(target=work, args=args, daemon=True)
    try:
        thread.start()
    except (RuntimeError, MemoryError):
        return None
    return thread


@contextmanager
def pool(most: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of `most` threads. Raises `StorageError` where it needs one more than there are."""
    try:
        with ThreadPoolExecutor(most) as made:
            yield made
    except RuntimeError as error:
        if "new thread" not in str(error):
            raise
        raise no_threads() from error


def no_threads() -> StorageError:
    """There is not even one thread for a job that must be done."""
    return StorageError(
        "the system gives this program no threads",
        hint="raise the limit of processes (ulimit -u) or of memory",
    )
