"""Which window of time to ask for next, when one list call does not tell everything.

A full answer means that there may be more: then the time is cut into windows that follow each
other, and a window whose answer is full is halved, down to the second. How wide the next window
is, the last answer tells: about 400 recordings are aimed at, as a window that is not full is one
that is done with. Of a full answer nothing is wasted: its IDs are real, and where the first half
of its window turns out to be empty, the second need not be asked for as a whole.

Neighbouring windows overlap by a moment: the vendor does not say whether `fromTime` and `toTime`
include their own instant, and one that neither of two windows included would be missed. The end of
all windows is a moment earlier than what was asked for: nothing that starts then is wanted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from g2a_archive.models import LIST_LIMIT, Selection, iso, resolve_time
from g2a_archive.service.clock import MAX_SKEW

EARLIEST = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp())
"""Where the windows begin without `--since`, in Unix time: years before the service's first day."""

_LATEST = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp())
"""No window begins later, whatever the clocks say."""

_DAY = 86400
_AIM = 400
_GROWTH = 4


@dataclass(frozen=True, slots=True)
class Span:
    """What a listing is about, in Unix seconds; None is without an edge.

    `include_begin`: what starts at `begin` itself must be told. `resume`: what starts before is
    known, so that where one call is not enough, the windows begin there.
    """

    begin: int | None = None
    end: int | None = None
    include_begin: bool = False
    resume: int | None = None

    @property
    def window(self) -> Window:
        """All of it."""
        return Window(self.begin, self.end, self.include_begin, exclude_end=self.end is not None)

    def differs(self, other: Span) -> bool:
        """Whether it begins or ends elsewhere, beyond what passes between two looks at a clock."""
        return any(
            abs((mine or 0) - (its or 0)) > MAX_SKEW
            for mine, its in ((self.begin, other.begin), (self.end, other.end))
        )


def span_of(selection: Selection, now: float) -> Span:
    """What a person asked for, if it is `now` (Unix time)."""
    since, until = selection.since, selection.until
    return Span(
        None if since is None else resolve_time(since, now),
        None if until is None else resolve_time(until, now),
        include_begin=True,
    )


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time in Unix seconds; None is without an edge.

    `include_begin`: what starts at `begin` itself must be told, whether `fromTime` includes it or
    not; `exclude_end`: what starts at `end` itself must not be, whether `toTime` includes it or
    not.
    """

    begin: int | None = None
    end: int | None = None
    include_begin: bool = False
    exclude_end: bool = False

    @property
    def is_second(self) -> bool:
        """Whether it cannot be halved."""
        return self.begin is not None and self.end is not None and self.end - self.begin <= 1

    def params(self, *, fractions: bool = True) -> list[tuple[str, str]]:
        """The query attributes of this window; `fractions` of a second set a second apart."""
        found = []
        if self.begin is not None:
            begin = iso(self.begin)
            if self.include_begin:
                before = iso(self.begin - 1)
                begin = f"{before[:-1]}.998Z" if fractions else before
            found.append(("fromTime", begin))
        if self.end is not None:
            # A second alone should not take in the next one, where `toTime` is inclusive. Without
            # fractions one second too many is told rather than one too few.
            apart = (self.is_second or self.exclude_end) and fractions
            text = f"{iso(self.end - 1)[:-1]}.999Z" if apart else iso(self.end)
            found.append(("toTime", text))
        return found

    def __str__(self) -> str:
        begin = "the beginning" if self.begin is None else iso(self.begin)
        return f"{begin} to {'now' if self.end is None else iso(self.end)}"


class WindowPlanner:
    """Which window to ask for next. Pure planning: no calls, no clock.

    `window` is the next one, None when all is known; `complete_until`: what starts before is
    known, but for seconds that overflow. None until the first window is done with.
    """

    def __init__(self, span: Span, now: float, best: float) -> None:
        """`now`, `best`: Unix time as `Clock` tells it."""
        self.window: Window | None = span.window
        self._resume = span.resume
        self.complete_until: int | None = None
        self._first = True
        self._open = span.end is None
        self._at = EARLIEST if span.begin is None else span.begin
        self._begin, self._include_begin = self._at, span.include_begin
        # A day more, for a service whose clock is ahead; should that not do, see `_go_beyond`.
        self._stop = int(best) + _DAY if span.end is None else span.end
        self._step, self._beyond, self._all = _DAY, False, True
        self._horizon = min(int(now), self._stop)
        self._width = max(1, self._stop - self._at)
        self._base = self._at
        # [at, _full_to] is known to hold at least `_rest` recordings.
        self._full_to: int | None = None
        self._rest = 0

    def answered(self, count: int) -> None:
        """Take in an answer; `count` is the length of the longest array that matters."""
        window = self.window
        assert window is not None, "the walk is over"
        if self._at >= self._stop and self._open and count >= LIST_LIMIT:
            self._go_beyond()
        elif count < LIST_LIMIT or window.is_second:
            self._known(count)
        elif self._resume is not None:
            self._at = self._base = self._resume
            self._width, self._resume = max(1, self._stop - self._at), None
            self.window = self._window(None if self._open else self._stop)
            return
        else:
            self._full_to, self._rest = self._at + self._width, LIST_LIMIT
        self._first = False
        self._choose()

    def _known(self, count: int) -> None:
        """All of this window is known; go on behind it, with a width that this one suggests."""
        window = self.window
        self._all = not self._open or window is None or window.end is None
        if self._first:  # the call without windows was enough
            self._at, self.complete_until = self._stop, self._horizon
            return
        self._at += self._width
        self._rest -= count
        self.complete_until = min(self._at, self._horizon)
        if count == 0 and self._base == self._at - self._width:
            self._base = self._at  # what is before the first recording is no progress
        wider = min(_GROWTH, _AIM / count) if count else _GROWTH
        self._width = max(1, int(self._width * wider))

    def _go_beyond(self) -> None:
        """There is more, later than the clocks say that it can be: they are behind."""
        self._stop = min(self._at + self._step, _LATEST)
        self._width, self._step, self._beyond = self._step, 2 * self._step, True

    def _choose(self) -> None:
        if self._at >= self._stop:
            self.window = None if self._all or self._at >= _LATEST else self._window(None)
            return
        full_to = self._full_to
        if full_to is not None and full_to > self._at and self._rest > LIST_LIMIT // 2:
            # Most of a full answer is still ahead: as wide as that, it would be full again.
            while self._width > 1 and self._at + self._width >= full_to:
                self._width = max(1, min(self._width, full_to - self._at) // 2)
        end = min(self._at + self._width, self._stop)
        self._width = end - self._at
        last = self._open and end == self._stop and self._width > 1 and not self._beyond
        self.window = self._window(None if last else end)

    def _window(self, end: int | None) -> Window:
        include_begin = self._include_begin or self._at > self._begin
        exclude_end = not self._open and end == self._stop
        return Window(self._at, end, include_begin, exclude_end=exclude_end)

    @property
    def progress(self) -> float:
        """How much of the time is walked, 0 to 1, counted from the first recording."""
        return (self._at - self._base) / max(1, self._stop - self._base)
