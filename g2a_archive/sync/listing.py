"""Finding recordings: the list call tells 500 at most and has no next page, so time is walked.

See `windows` for how. What several windows tell is taken once.
"""

from __future__ import annotations

import logging
import sqlite3
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, product, repeat
from urllib.parse import urlencode
from weakref import finalize

from g2a_archive.archive.database.statements import temp_space_errors
from g2a_archive.console.progress import Snapshot
from g2a_archive.errors import (
    ArchiverError,
    BadRequestError,
    BadResponseError,
    CredentialsError,
    ServiceError,
)
from g2a_archive.models import LIST_LIMIT, ListState, Selection, Shard, iso
from g2a_archive.service.clock import Clock
from g2a_archive.service.payloads import ListResult
from g2a_archive.sync.windows import Span, Window, WindowPlanner

log = logging.getLogger("g2a_archive")

Ask = Callable[[Sequence[tuple[str, str]]], ListResult]
"""Makes a list call with these query attributes (`Service.ready`)."""


_TABLES = """
CREATE TABLE found (id INTEGER PRIMARY KEY, rank INTEGER, state TEXT, place INTEGER);
CREATE TABLE ready (place INTEGER PRIMARY KEY, id INTEGER UNIQUE, rank INTEGER);
"""

_TAKE = """
INSERT INTO found VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET
    rank = max(rank, excluded.rank),
    state = CASE WHEN state = 'download' THEN state ELSE excluded.state END
"""

_NO_ROOM = "what was found cannot be kept in the temporary directory"

_READY = """
INSERT INTO ready (id, rank) {} ON CONFLICT (id) DO UPDATE SET rank = max(rank, excluded.rank)
"""


_SAME_SECONDS = 4
"""So many full answers in a row, each of another second, are not the same by chance: without
fractions of a second, the windows of three seconds in a row overlap."""


@dataclass(frozen=True, slots=True)
class Query:
    """What a list call asks for but for its times: one key of each sort, and the filters."""

    params: tuple[tuple[str, str], ...]

    @property
    def scope(self) -> str:
        """The name under which the catalogue remembers what became of this query."""
        return urlencode(self.params)

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.params)


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


def each_query(queries: Sequence[Query], act: Callable[[Query], None]) -> list[ArchiverError]:
    """Do `act` for each query; returns the errors of those that it failed for.

    One that the service refuses, or cannot tell of, keeps no other out. Of several, each error
    says of which it is.
    """
    failed: list[ArchiverError] = []
    for query in queries:
        try:
            act(query)
        except (ServiceError, CredentialsError) as error:
            if len(queries) > 1:
                error.message = f"{query}: {error.message}"
            failed.append(error)
    return failed


@dataclass(frozen=True, slots=True)
class WindowResult:
    """What one list call told. `rank` is the first ID's place in start order, the next ones follow.

    `complete_until`: what starts before is known, in Unix time; None before the first window is
    done with. `walked`: one call was not enough. `overflows`: this second holds more than is told.
    """

    query: Query
    window: Window
    ready: ListResult
    rank: int
    complete_until: int | None
    walked: bool = False
    overflows: bool = False


class Listing:
    """Every recording that some queries find, each once, however many calls it takes."""

    def __init__(
        self,
        ask: Ask,
        clock: Clock,
        wanted: ListState = ListState.ALL,
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
        self._last_told: set[int] = set()
        self._in_a_row = 0
        self._places = count()
        # A temporary file, once they are many: an account may have a million.
        self._found = sqlite3.connect("", check_same_thread=False)
        finalize(self, self._found.close)
        self._found.executescript(_TABLES)

    def walk(self, query: Query, span: Callable[[], Span] = Span) -> Iterator[WindowResult]:
        """Make the calls for one query and one span, as they are needed.

        What time it is may turn out only with the first answer: if `span` then says something
        else, that answer is thrown away. Raises what the call raises: `ServiceError`,
        `CredentialsError`, `Interrupted`.
        """
        before, walked = self.calls, False
        asked = span()
        answer: ListResult | None = self._call(query, asked.window)
        now = span()
        if now.differs(asked):
            asked, answer = now, None
        planner = WindowPlanner(
            replace(asked, resume=now.resume), self._clock.now(), self._clock.best()
        )
        while (window := planner.window) is not None:
            told = answer or self._call(query, window)
            ready, longest = self._take_in(window, told)
            answer = None
            planner.answered(longest)
            walked = walked or planner.window is not None
            self._estimate(before, planner.progress)
            overflows = self._overflows(window, longest)
            if overflows:
                self._require_progress(told)
            yield WindowResult(
                query, window, ready, _rank(window), planner.complete_until, walked, overflows
            )
        self.total = self.calls

    def _require_progress(self, told: ListResult) -> None:
        """Raise `BadResponseError` where the times that were asked for make no difference.

        Else every second since `EARLIEST` would be asked for.
        """
        same = {*told.transcode, *told.download}
        self._in_a_row = self._in_a_row + 1 if same == self._last_told else 1
        self._last_told = same
        if self._in_a_row >= _SAME_SECONDS:
            raise BadResponseError(
                f"list call: the same recordings are told of {self._in_a_row} seconds in a row: "
                "the service does not heed fromTime and toTime, so that only the first ones are "
                "found"
            )

    def second(self, query: Query, second: int) -> WindowResult:
        """Ask for one second (Unix time) alone. Raises as `walk`."""
        window = Window(second, second + 1, include_begin=True)
        ready, longest = self._take_in(window, self._call(query, window))
        overflows = self._overflows(window, longest)
        return WindowResult(query, window, ready, _rank(window), None, overflows=overflows)

    def _take_in(self, window: Window, answer: ListResult) -> tuple[ListResult, int]:
        """What matters of a call's answer, and the length of the longest array."""
        ready = self._wanted_of(answer)
        longest = max(
            len(ready.transcode) + ready.odd_transcode, len(ready.download) + ready.odd_download
        )
        if self._shard is not None:
            mine = self._shard.select
            ready = replace(
                ready,
                transcode=tuple(mine(ready.transcode)),
                download=tuple(mine(ready.download)),
            )
        with temp_space_errors(_NO_ROOM), self._found:
            for state, ids in (
                (ListState.DOWNLOAD, ready.download),
                (ListState.TRANSCODE, ready.transcode),
            ):
                ranks = count(_rank(window))
                rows = zip(ids, ranks, repeat(state.value), self._places, strict=False)
                self._found.executemany(_TAKE, rows)
        log.info(
            "listed %s: %d ready for download, %d for transcoding",
            window,
            len(ready.download),
            len(ready.transcode),
        )
        return ready, longest

    def _call(self, query: Query, window: Window) -> ListResult:
        self.calls += 1
        plain = window.params(fractions=False)
        params = window.params() if self._fractions else plain
        try:
            return self._ask([*query.params, *params])
        except BadRequestError:
            if params == plain:
                raise
        # The vendor says "ISO 8601" and no more: perhaps fractions of a second are too much.
        self._fractions = False
        return self._call(query, window)

    def _overflows(self, window: Window, told: int) -> bool:
        """Whether a second holds more than the service tells of it; if so, that is said."""
        if not (window.is_second and told >= LIST_LIMIT and window.begin is not None):
            return False
        self.overflowing.append(iso(window.begin))
        log.error(
            "at least %d recordings started at %s, and the service tells no more of them: "
            "some may be missing (once these are marked as archived, it tells the rest)",
            LIST_LIMIT,
            iso(window.begin),
        )
        return True

    def ids(self, state: ListState = ListState.ALL) -> array[int]:
        """What was found in this state, each ID once and in one state.

        They are in start order; of `ALL`, as nearly as the service tells: by windows, and in
        start order within each state.
        """
        sql = "SELECT id FROM found WHERE ? IN ('all', state) ORDER BY rank, place"
        with temp_space_errors(_NO_ROOM):
            return array("q", (row[0] for row in self._found.execute(sql, [state.value])))

    def ready_and(self, others: Iterable[tuple[int, int]]) -> array[int]:
        """What is ready for download, and `others` (ID, rank in start order), in start order."""
        db = self._found
        ready = "SELECT id, rank FROM found WHERE state = 'download' ORDER BY rank, place"
        with temp_space_errors(_NO_ROOM), db:
            db.execute("DELETE FROM ready")
            db.executemany(_READY.format("VALUES (?, ?)"), others)
            db.execute(_READY.format(ready))
            sql = "SELECT id FROM ready ORDER BY rank, place"
            return array("q", (row[0] for row in db.execute(sql)))

    def snapshot(self) -> Snapshot:
        """A look at the listing while it goes on."""
        return Snapshot("Listing", self.calls, max(self.total, self.calls), None, unit="window")

    def _wanted_of(self, ready: ListResult) -> ListResult:
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
