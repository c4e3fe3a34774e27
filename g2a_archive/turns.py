"""Turns at working on what has come, where more comes than the processors get through.

What waits in the sockets of many connections has left the processors' caches by the time that it
is read. So, rather than a little of each connection, a few of them are worked on at a time, each
as long as something is there, up to the length of a turn.
"""

from __future__ import annotations

import os
import sys
import threading
import time

_LENGTH = 0.05
"""Seconds of a turn."""

_FEWEST, _MOST = 2, 4
"""Turns at a time. More than the fewest only where there are as many processors."""

_LONGEST_WAIT = 0.5
"""Seconds. A turn is a courtesy: nobody stands still because of another's trouble."""


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


class Turns:
    """All turns of a run."""

    def __init__(self) -> None:
        self.free = threading.BoundedSemaphore(max(_FEWEST, min(_MOST, _processors())))


class Turn:
    """One thread's turn, when it has one."""

    def __init__(self, turns: Turns) -> None:
        self._free = turns.free
        self._began = 0.0
        self.taken = False

    def take(self) -> None:
        """Wait until there is a turn for this thread; or long enough."""
        if not self.taken:
            self.taken = self._free.acquire(timeout=_LONGEST_WAIT)
            self._began = time.monotonic()

    def give(self) -> None:
        """Let another thread have it."""
        if self.taken:
            self.taken = False
            self._free.release()

    def look(self) -> None:
        """Give it away once it has taken long enough."""
        if time.monotonic() - self._began > _LENGTH:
            self.give()
