"""Finding recordings: the list call tells 500 at most and has no next page, so time is walked.

A full answer means that there may be more: then the time is cut into windows that follow each
other, and a window whose answer is full is halved, down to the second. How wide the next window
is, the last answer tells: about 400 recordings are aimed at, as a window that is not full is one
that is done with. Of a full answer nothing is wasted: its IDs are real, and where the first half
of its window turns out to be empty, the second need not be asked for as a whole.

Neighbouring windows share their edge. The vendor does not say whether `fromTime` and `toTime`
include it; what both tell is taken once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import product
from urllib.parse import urlencode

from g2a_archive.console.progress import Snapshot
from g2a_archive.errors import MalformedCallError
from g2a_archive.models import LIST_LIMIT, ListState, Selection, Shard
from g2a_archive.service.payloads import Ready

log = logging.getLogger("g2a_archive")

EARLIEST = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp())
"""Where the windows begin without `--since`, in Unix time: years before the service's first day."""

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
class Window:
    """A stretch of time in Unix seconds; None is without an edge."""

    begin: int | None = None
    end: int | None = None

    @property
    def is_second(self) -> bool:
        """Whether it cannot be halved."""
        return self.begin is not None and self.end is not None and self.end - self.begin <= 1

    def params(self, *, fractions: bool = True) -> list[tuple[str, str]]:
        """The query attributes of this window; `fractions` of a second set a second apart."""
        found = []
        if self.begin is not None:
            found.append(("fromTime", iso(self.begin)))
        if self.end is not None:
            # A second alone should not take in the next one, where `toTime` is inclusive.
            apart = self.is_second and fractions
            text = f"{iso(self.end - 1)[:-1]}.999Z" if apart else iso(self.end)
            found.append(("toTime", text))
        return found

    def __str__(self) -> str:
        begin = "the beginning" if self.begin is None else iso(self.begin)
        return f"{begin} to {'now' if self.end is None else iso(self.end)}"


def iso(at: int) -> str:
    """Unix time as ISO 8601: `2026-11-23T02:00:05Z`."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Walk:
    """Which window to ask for next. Pure planning: no calls, no clock.

    `window` is the next one, None when all is known; `complete_until`: what starts before is
    known, but for seconds that overflow. None until the first window is done with.
    """

    def __init__(
        self, begin: int | None, end: int | None, now: float, resume: int | None = None
    ) -> None:
        """`begin`, `end`, `now`: Unix time. `resume`: before that all is known already, so where
        a call without a window is not enough, the windows begin there.
        """
        self.window: Window | None = Window(begin, end)
        self._resume = resume
        self.complete_until: int | None = None
        self._first = True
        self._open = end is None
        self._at = EARLIEST if begin is None else begin
        # Clocks differ: a day is enough for those that run ahead.
        self._stop = int(now) + _DAY if end is None else end
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
        if count < LIST_LIMIT or window.is_second:
            self._known(count)
        elif self._resume is not None:
            self._at = self._base = self._resume
            self._width, self._resume = max(1, self._stop - self._at), None
            self.window = Window(self._at, None if self._open else self._stop)
            return
        else:
            self._full_to, self._rest = self._at + self._width, LIST_LIMIT
            self._width = max(1, self._width // 2)
        self._first = False
        self._choose()

    def _known(self, count: int) -> None:
        """All of this window is known; go on behind it, with a width that this one suggests."""
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

    def _choose(self) -> None:
        if self._at >= self._stop:
            self.window = None
            return
        full_to = self._full_to
        if full_to is not None and full_to > self._at and self._rest > LIST_LIMIT // 2:
            # Most of a full answer is still ahead: as wide as that, it would be full again.
            while self._width > 1 and self._at + self._width >= full_to:
                self._width = max(1, min(self._width, full_to - self._at) // 2)
        end = min(self._at + self._width, self._stop)
        self._width = end - self._at
        last = self._open and end == self._stop and self._width > 1
        self.window = Window(self._at, None if last else end)

    @property
    def share(self) -> float:
        """How much of the time is walked, 0 to 1, counted from the first recording."""
        return (self._at - self._base) / max(1, self._stop - self._base)


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
        clock: Callable[[], float] = time.time,
        shard: Shard | None = None,
    ) -> None:
        """`wanted` and `shard`: what of the answers matters; the rest is as if not told."""
        self._shard = shard
        self._ask = ask
        self._wanted = wanted
        self._clock = clock
        self._fractions = True
        self.calls = 0
        self.total = 1
        self.overflowing: list[str] = []
        self._ranks: dict[int, int] = {}
        self._states: dict[int, ListState] = {}

    def walk(
        self, query: Query, begin: int | None, end: int | None, resume: int | None = None
    ) -> Iterator[Found]:
        """Make the calls for one query from `begin` to `end` (Unix time), as they are needed.

        `resume` as in `Walk`. Raises what the call raises: `ServiceError`, `CredentialsError`,
        `Interrupted`.
        """
        walk = Walk(begin, end, self._clock(), resume)
        before, walked = self.calls, False
        while (window := walk.window) is not None:
            ready, count = self._ask_window(query, window)
            walk.answered(count)
            walked = walked or walk.window is not None
            self._estimate(before, walk.share)
            overflows = self._overflows(window, count)
            yield Found(query, window, ready, _rank(window), walk.complete_until, walked, overflows)
        self.total = self.calls

    def second(self, query: Query, second: int) -> Found:
        """Ask for one second (Unix time) alone. Raises as `walk`."""
        window = Window(second, second + 1)
        ready, count = self._ask_window(query, window)
        overflows = self._overflows(window, count)
        return Found(query, window, ready, _rank(window), None, overflows=overflows)

    def _ask_window(self, query: Query, window: Window) -> tuple[Ready, int]:
        """One list call: what matters of its answer, and the length of the longest array."""
        ready = self._wanted_of(self._call(query, window))
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
            if not (window.is_second and self._fractions):
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
