"""Finding recordings: the list call tells 500 at most and has no next page, so time is walked.

A full answer means that there may be more: then the time is cut into windows that follow each
other, and a window whose answer is full is halved, down to the second. How wide the next window
is, the last answer tells: about 400 recordings are aimed at, as a window that is not full is one
that is done with. Of a full answer nothing is wasted: its IDs are real, and where the first half
of its window turns out to be empty, the second need not be asked for as a whole.

Neighbouring windows overlap by a moment: the vendor does not say whether `fromTime` and `toTime`
include their own instant, and one that neither of two windows included would be missed. What both
tell is taken once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import product
from urllib.parse import urlencode

from g2a_archive.console.progress import Snapshot
from g2a_archive.errors import MalformedCallError
from g2a_archive.models import LIST_LIMIT, ListState, Selection, Shard, iso, moment
from g2a_archive.service.clock import SKEW, Clock
from g2a_archive.service.payloads import Ready

log = logging.getLogger("g2a_archive")

EARLIEST = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp())
"""Where the windows begin without `--since`, in Unix time: years before the service's first day."""

_LATEST = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp())
"""No window begins later, whatever the clocks say."""

_DAY = 86400
_AIM = 400
_GROWTH = 4

Ask = Callable[[Sequence[tuple[str, str]]], Ready]
"""Makes a list call with these query attributes (`Service.ready`)."""


@dataclass(frozen=True, slots=True)
class Query:
    """What a list call asks for but for its times: one key of each sort, and the filters."""

    params: tuple[tuple[str, str], ...]

    @property
    def scope(self) -> str:
        """The name under which the catalogue remembers what became of this query."""
        return urlencode(self.params)


def queries(selection: Selection) -> list[Query]:
    """The queries that together find what was selected, one for each combination of keys.

    The vendor's reference takes "one or more of accountKey, userKey, companyId" and says nothing
    of the same one twice, so none is repeated within a call.
    """
    keys = (
        ("accountKey", selection.account_keys),
        ("companyId", selection.company_ids),
        ("userKey", selection.user_keys),
    )
    choices = [
        [(name, value) for value in dict.fromkeys(values)] for name, values in keys if values
    ]
    fixed: list[tuple[str, str]] = []
    if selection.session_type is not None:
        fixed.append(("sessionType", str(selection.session_type)))
    if selection.archived:
        fixed.append(("archived", "1"))
    return [Query((*combination, *fixed)) for combination in product(*choices)]


@dataclass(frozen=True, slots=True)
class Span:
    """What a listing is about, in Unix seconds; None is without an edge.

    `sharp`: what starts at `begin` itself must be told. `resume`: what starts before is known, so
    that where one call is not enough, the windows begin there.
    """

    begin: int | None = None
    end: int | None = None
    sharp: bool = False
    resume: int | None = None

    def differs(self, other: Span) -> bool:
        """Whether it begins or ends elsewhere, beyond what passes between two looks at a clock."""
        return any(
            (mine is None) != (its is None) or abs((mine or 0) - (its or 0)) > SKEW
            for mine, its in ((self.begin, other.begin), (self.end, other.end))
        )


def span_of(selection: Selection, now: float) -> Span:
    """What a person asked for, if it is `now` (Unix time)."""
    since, until = selection.since, selection.until
    return Span(
        None if since is None else moment(since, now),
        None if until is None else moment(until, now),
        sharp=True,
    )


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time in Unix seconds; None is without an edge.

    `sharp`: what starts at `begin` itself must be told, whether `fromTime` includes it or not.
    """

    begin: int | None = None
    end: int | None = None
    sharp: bool = False

    @property
    def is_second(self) -> bool:
        """Whether it cannot be halved."""
        return self.begin is not None and self.end is not None and self.end - self.begin <= 1

    def params(self, *, fractions: bool = True) -> list[tuple[str, str]]:
        """The query attributes of this window; `fractions` of a second set a second apart."""
        found = []
        if self.begin is not None:
            begin = iso(self.begin)
            if self.sharp:
                before = iso(self.begin - 1)
                begin = f"{before[:-1]}.998Z" if fractions else before
            found.append(("fromTime", begin))
        if self.end is not None:
            # A second alone should not take in the next one, where `toTime` is inclusive.
            apart = self.is_second and fractions
            text = f"{iso(self.end - 1)[:-1]}.999Z" if apart else iso(self.end)
            found.append(("toTime", text))
        return found

    @property
    def fractional(self) -> bool:
        """Whether its attributes hold fractions of a second, where they may."""
        return self.is_second or (self.sharp and self.begin is not None)

    def __str__(self) -> str:
        begin = "the beginning" if self.begin is None else iso(self.begin)
        return f"{begin} to {'now' if self.end is None else iso(self.end)}"


class Walk:
    """Which window to ask for next. Pure planning: no calls, no clock.

    `window` is the next one, None when all is known; `complete_until`: what starts before is
    known, but for seconds that overflow. None until the first window is done with.
    """

    def __init__(self, span: Span, now: float, best: float | None = None) -> None:
        """`now`, `best`: Unix time as `Clock` tells it."""
        self.window: Window | None = first_window(span)
        self._resume = span.resume
        self.complete_until: int | None = None
        self._first = True
        self._open = span.end is None
        self._at = EARLIEST if span.begin is None else span.begin
        self._begin, self._sharp = self._at, span.sharp
        # A day more, for a service whose clock is ahead; should that not do, see `_go_beyond`.
        self._stop = int(now if best is None else best) + _DAY
        self._step, self._beyond, self._all = _DAY, False, True
        if span.end is not None:
            self._stop = span.end
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
            self._width = max(1, self._width // 2)
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
        return Window(self._at, end, sharp=self._sharp or self._at > self._begin)

    @property
    def share(self) -> float:
        """How much of the time is walked, 0 to 1, counted from the first recording."""
        return (self._at - self._base) / max(1, self._stop - self._base)


def first_window(span: Span) -> Window:
    """The window that a walk begins with: all of its span."""
    return Window(span.begin, span.end, span.sharp)


@dataclass(frozen=True, slots=True)
class Found:
    """What one list call told. `rank` is the first ID's place in start order, the next ones follow.

    `complete_until`: what starts before is known, in Unix time; None before the first window is
    done with. `walked`: one call was not enough. `overflows`: this second holds more than is told.
    """

    query: Query
    window: Window
    ready: Ready
    rank: int
    complete_until: int | None
    walked: bool = False
    overflows: bool = False


class Listing:
    """Every recording that some queries find, each once, however many calls it takes."""

    def __init__(
        self,
        ask: Ask,
        wanted: ListState = ListState.ALL,
        clock: Clock | None = None,
        shard: Shard | None = None,
    ) -> None:
        """`wanted` and `shard`: what of the answers matters; the rest is as if not told."""
        self._shard = shard
        self._ask = ask
        self._wanted = wanted
        self._clock = clock or Clock()
        self._fractions = True
        self.calls = 0
        self.total = 1
        self.overflowing: list[str] = []
        self._ranks: dict[int, int] = {}
        self._states: dict[int, ListState] = {}

    def walk(self, query: Query, span: Callable[[], Span] = Span) -> Iterator[Found]:
        """Make the calls for one query and one span, as they are needed.

        What time it is may turn out only with the first answer: if `span` then says something
        else, that answer is thrown away. Raises what the call raises: `ServiceError`,
        `CredentialsError`, `Interrupted`.
        """
        before, walked = self.calls, False
        asked = span()
        answer: Ready | None = self._call(query, first_window(asked))
        now = span()
        if now.differs(asked):
            asked, answer = now, None
        walk = Walk(replace(asked, resume=now.resume), self._clock.now(), self._clock.best())
        while (window := walk.window) is not None:
            ready, count = self._take_in(window, answer or self._call(query, window))
            answer = None
            walk.answered(count)
            walked = walked or walk.window is not None
            self._estimate(before, walk.share)
            overflows = self._overflows(window, count)
            yield Found(query, window, ready, _rank(window), walk.complete_until, walked, overflows)
        self.total = self.calls

    def second(self, query: Query, second: int) -> Found:
        """Ask for one second (Unix time) alone. Raises as `walk`."""
        window = Window(second, second + 1, sharp=True)
        ready, count = self._take_in(window, self._call(query, window))
        overflows = self._overflows(window, count)
        return Found(query, window, ready, _rank(window), None, overflows=overflows)

    def _take_in(self, window: Window, answer: Ready) -> tuple[Ready, int]:
        """What matters of a call's answer, and the length of the longest array."""
        ready = self._wanted_of(answer)
        count = max(
            len(ready.transcode) + ready.odd_transcode, len(ready.download) + ready.odd_download
        )
        if self._shard is not None:
            mine = self._shard.of
            ready = replace(
                ready,
                transcode=tuple(mine(ready.transcode)),
                download=tuple(mine(ready.download)),
            )
        for state, ids in (
            (ListState.DOWNLOAD, ready.download),
            (ListState.TRANSCODE, ready.transcode),
        ):
            for place, id_ in enumerate(ids):
                rank = _rank(window) + place
                self._ranks[id_] = max(rank, self._ranks.get(id_, 0))
                if self._states.get(id_) is not ListState.DOWNLOAD:
                    self._states[id_] = state
        log.info(
            "listed %s: %d ready for download, %d for transcoding",
            window,
            len(ready.download),
            len(ready.transcode),
        )
        return ready, count

    def _call(self, query: Query, window: Window) -> Ready:
        self.calls += 1
        try:
            params = window.params(fractions=self._fractions)
            return self._ask([*query.params, *params])
        except MalformedCallError:
            if not (window.fractional and self._fractions):
                raise
        # The vendor says "ISO 8601" and no more: perhaps fractions of a second are too much.
        self._fractions = False
        return self._call(query, window)

    def _overflows(self, window: Window, count: int) -> bool:
        """Whether a second holds more than the service tells of it; if so, that is said."""
        if not (window.is_second and count >= LIST_LIMIT and window.begin is not None):
            return False
        self.overflowing.append(iso(window.begin))
        log.error(
            "at least %d recordings started at %s, and the service tells no more of them: "
            "some may be missing (once these are marked as archived, it tells the rest)",
            LIST_LIMIT,
            iso(window.begin),
        )
        return True

    def ids(self, state: ListState = ListState.ALL) -> list[int]:
        """What was found in this state, each ID once and in one state.

        They are in start order; of `ALL`, as nearly as the service tells: by windows, and in
        start order within each state.
        """
        chosen = [i for i, s in self._states.items() if state in (ListState.ALL, s)]
        return sorted(chosen, key=self._ranks.__getitem__)

    def rank(self, recording: int) -> int | None:
        """A recording's place in start order among all; None where it was not found."""
        return self._ranks.get(recording)

    def look(self) -> Snapshot:
        """A look at the listing while it goes on."""
        return Snapshot("Listing", self.calls, max(self.total, self.calls), None, unit="windows")

    def _wanted_of(self, ready: Ready) -> Ready:
        if self._wanted is ListState.DOWNLOAD:
            return replace(ready, transcode=(), odd_transcode=0)
        if self._wanted is ListState.TRANSCODE:
            return replace(ready, download=(), odd_download=0)
        return ready

    def _estimate(self, before: int, share: float) -> None:
        calls = self.calls - before
        self.total = before + max(calls + 1, round(calls / share) if share > 0 else calls + 1)


def _rank(window: Window) -> int:
    """The rank of the first of a window's recordings; 500 of them fit before the next second's."""
    return (window.begin or 0) * 1000
