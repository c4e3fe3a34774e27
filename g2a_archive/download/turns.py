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
from collections import deque

_LENGTH = 0.1
"""Seconds of a turn, where others wait for one."""

_FEWEST, _MOST = 2, 4
"""Turns at a time. More than the fewest only where there are as many processors."""

_LONGEST_WAIT = 1.0
"""Seconds. A turn is a courtesy: nobody stands still because of another's trouble."""


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


class Turns:
    """All turns of a run, given in the order in which they are asked for."""

    def __init__(self) -> None:
        self.free = max(_FEWEST, min(_MOST, _processors()))
        self._waiting: deque[threading.Lock] = deque()
        self._lock = threading.Lock()

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for a turn."""
        return bool(self._waiting)

    def take(self) -> bool:
        """Wait for a turn; False where that took too long."""
        with self._lock:
            if self.free:
                self.free -= 1
                return True
            place = threading.Lock()
            place.acquire()
            self._waiting.append(place)
        if place.acquire(timeout=_LONGEST_WAIT):
            return True
        with self._lock:
            if place not in self._waiting:  # it was given just now
                return True
            self._waiting.remove(place)
            return False

    def give(self) -> None:
        """Hand a turn on to who has waited longest."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self.free += 1


class Turn:
    """One thread's turn, while it is that."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._began = 0.0
        self._counts = False
        self.taken = False

    def take(self) -> None:
        """Begin a turn, if it has not begun: when there is one, or without one in the end."""
        if not self.taken:
            self._counts = self._turns.take()
            self._began = time.monotonic()
            self.taken = True

    def give(self) -> None:
        """End the turn, if it has begun."""
        if self.taken:
            self.taken = False
            if self._counts:
                self._turns.give()

    def look(self) -> None:
        """End the turn where it has taken long enough, and others wait."""
        if time.monotonic() - self._began > _LENGTH and self._turns.wanted:
            self.give()
