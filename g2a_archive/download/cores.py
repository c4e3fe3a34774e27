"""CPU affinity of a run's threads: on how many of the machine's cores they are.

Python runs one thread at a time. Where thousands of small files come, threads on several cores
only take that turn from each other, many times a file: 4,500 files of 6 kB take 8.5 s on one core
instead of 12 s, and a third less CPU; 1,800 of 330 kB 6.2 s instead of 7.9 s. The small files of
the README's table take 18% more CPU without it. Large files are hashed on all cores at once, and
are left alone.
"""

from __future__ import annotations

import os
import random
import threading
from contextlib import suppress

SMALL = 256 << 10
"""Bytes a file, on average, up to which one core is better."""

_MANY = 100
"""Files a second from which it is worth it."""

_SECONDS = 0.25
"""How often to look."""


class CpuAffinity:
    """Keeps the threads on one core while many small files come. For the main thread."""

    def __init__(self) -> None:
        self._all: set[int] = set()
        with suppress(AttributeError, OSError):  # Linux has it
            self._all = os.sched_getaffinity(0)
        self._last = (0.0, 0, 0)
        self._one = False

    def update(self, now: float, files: int, received: int) -> None:
        """To be called often: so many `files` and bytes have come until `now` (monotonic)."""
        since, files_then, received_then = self._last
        if now - since < _SECONDS:
            return
        self._last = (now, files, received)
        if not since:
            return
        came = files - files_then
        many = came >= _MANY * (now - since)
        if many and received - received_then <= came * SMALL and len(self._all) > 1:
            # Another one each time: this one may be what another program runs on, or another of
            # ours has come to.
            self._keep_to({random.choice(sorted(self._all))})
            self._one = True
        else:
            self.release()

    def release(self) -> None:
        """Let all threads run wherever the system likes."""
        if self._one:
            self._one = False
            self._keep_to(self._all)

    @staticmethod
    def _keep_to(cores: set[int]) -> None:
        for thread in threading.enumerate():
            with suppress(OSError):  # one that has ended, or a core that was taken away
                os.sched_setaffinity(thread.native_id or 0, cores)
