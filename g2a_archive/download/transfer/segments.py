"""One large file over several connections: who fetches which bytes.

At a run's end, when nothing else is left to fetch, idle workers help with the largest file that
is still on its way. Its missing bytes are given out in segments, in order, so that the hash can
follow closely behind; any worker may take any segment.
"""

from __future__ import annotations

import threading
from bisect import insort
from collections.abc import Sequence
from itertools import pairwise

SMALLEST = 1 << 20
LARGEST = 16 << 20
MIN_SPLIT_SIZE = 8 << 20
"""Bytes still missing below which help would cost more than it brings."""


_OPENING = 2.0
"""Seconds that a helper waits for the worker that has the file to share it."""


class Segments:
    """The missing bytes of a file, as half-open ranges; safe to use from several threads.

    Made by whoever lends a hand, opened by the worker that has the file.
    """

    def __init__(self, workers: int) -> None:
        self._changed = threading.Condition()
        self._free: list[tuple[int, int]] = []
        self._workers = max(1, workers)
        self._busy = 0
        self._here = [(0, 0)]  # in order, the first one from the file's beginning
        self._open = False
        self.closed = False

    def open(self, position: int, end: int, arrived: Sequence[tuple[int, int]] = ()) -> None:
        """Say what is missing: from `position` to `end`, but for the ranges in `arrived`."""
        with self._changed:
            self._here = [(0, position), *sorted(arrived)]
            self._merge()
            gaps = pairwise([*self._here, (end, end)])
            self._free = [(done, begin) for (_, done), (begin, _) in gaps if done < begin]
            self._open = True
            self._changed.notify_all()

    @property
    def position(self) -> int:
        """All bytes before it are here."""
        with self._changed:
            return self._here[0][1]

    @property
    def here(self) -> int:
        """Bytes that are here, holes between them or not."""
        with self._changed:
            return sum(end - begin for begin, end in self._here)

    @property
    def extents(self) -> list[tuple[int, int]]:
        """The ranges after `position` that are here already."""
        with self._changed:
            return self._here[1:]

    def claim(self) -> tuple[int, int] | None:
        """Take a segment to fetch; None while there is none."""
        with self._changed:
            # Not for ever: the worker that has the file may be through with it already.
            self._changed.wait_for(lambda: self._open or self.closed, timeout=_OPENING)
            if self.closed or not self._free:
                return None
            begin, end = self._free[0]
            missing = sum(b - a for a, b in self._free)
            # Smaller towards the end, so that all workers end at about the same time.
            size = min(LARGEST, max(SMALLEST, missing // (2 * self._workers)))
            cut = min(end, begin + size)
            self._free[:1] = [(cut, end)] if cut < end else []
            self._busy += 1
            return begin, cut

    def release(self, begin: int, end: int) -> None:
        """Done with a segment; what is left of it, if anything, is for others to fetch."""
        with self._changed:
            self._busy -= 1
            if begin < end:
                self._free.append((begin, end))
                self._free.sort()
            self._changed.notify_all()

    def arrived(self, begin: int, count: int) -> None:
        """Bytes were written to the file."""
        with self._changed:
            for n, (first, end) in enumerate(self._here):
                if end == begin:
                    self._here[n] = first, begin + count
                    break
            else:
                insort(self._here, (begin, begin + count))
            self._merge()

    def _merge(self) -> None:
        """Move `position` on over what it has reached."""
        while len(self._here) > 1 and self._here[1][0] <= self._here[0][1]:
            self._here[0] = 0, max(self._here[0][1], self._here.pop(1)[1])

    def wait(self, seconds: float) -> bool:
        """Wait for a segment to be released; True once nothing is free and nobody is busy."""
        with self._changed:
            if not self._free and self._busy:
                self._changed.wait(seconds)
            return not (self._free or self._busy)

    def close(self) -> None:
        """Give out no more segments: the attempt is over."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def join(self) -> None:
        """Wait until nobody is busy any more; their time-outs bound it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy)
