"""What time it is, where this machine's clock may be wrong, and the service tells its own.

Nothing that a clock says of the future may be remembered as done: after a listing that was
complete "until next year", nothing new would be found for a year. So the service's `Date` is
believed before a local clock that is ahead of it. One that is behind does no harm: what it says to
be done is less than what is, and is looked at again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from g2a_archive.models import duration_text, iso

MAX_SKEW = 300
"""Seconds by which two honest clocks may differ."""

_CREDIBLE = range(946_684_800, 4_102_444_800)
"""Unix time from 2000 to 2100: what tells another is no clock, and its reckoning might overflow."""


class Clock:
    """Tells the time in Unix seconds. Safe to use from several threads."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._offset: float | None = None  # of the service's time from the monotonic clock

    def update(self, date: str | None) -> None:
        """Take in the `Date` of an answer that has just come; none, or nonsense, is no news."""
        if date is None:
            return
        from email.utils import parsedate_to_datetime  # takes long to load

        with suppress(ValueError, OverflowError):
            at = parsedate_to_datetime(date).timestamp()
            if int(at) not in _CREDIBLE:
                return
            self._offset = at - time.monotonic()

    def _service(self) -> float | None:
        """The service's time; None where it told none."""
        return None if self._offset is None else self._offset + time.monotonic()

    def now(self) -> float:
        """The earlier of this machine's time and the service's: what is done is done by then."""
        wall, told = self._wall(), self._service()
        return wall if told is None else min(wall, told)

    def best(self) -> float:
        """The time now as nearly as is known: the service's, or else this machine's."""
        told = self._service()
        return self._wall() if told is None else told

    def skew(self) -> float | None:
        """Seconds by which this machine's clock is ahead of the service's; None: it told none."""
        told = self._service()
        return None if told is None else self._wall() - told

    def skew_warning(self) -> str | None:
        """A sentence where this machine's clock and the service's differ by more than they may."""
        ahead = self.skew()
        if ahead is None or abs(ahead) <= MAX_SKEW:
            return None
        days = abs(ahead) / 86400
        much = f"{days:.0f} days" if days >= 2 else duration_text(abs(ahead))
        side = "ahead of" if ahead > 0 else "behind"
        return f"this machine's clock is {much} {side} the service's: set it"

    def text(self) -> str:
        """`now` as the catalogue writes it."""
        return iso(int(self.now()))
