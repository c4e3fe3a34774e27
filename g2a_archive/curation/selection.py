"""Which recordings of the archive: by their IDs, by when they started, or both."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from g2a_archive.archive.database import inventory
from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.database.inventory import NO_DATE
from g2a_archive.archive.layout import parse_start
from g2a_archive.errors import ArchiverError
from g2a_archive.models import State

_SHOWN = 10

_PAGE = 1000
"""Recordings that are read together."""

_LONGEST_DAY = 36 * 3600
"""Seconds from a day's beginning in UTC to its end in the last time zone, 12 hours behind."""

_ROWS = (
    "SELECT r.id, r.state, r.start_time, r.directory, count(f.kind), coalesce(sum(f.size), 0) "
    "FROM recording r LEFT JOIN file f ON f.recording = r.id WHERE"
)


class Row(NamedTuple):
    """A recording that can be chosen, with the number of its files, and their bytes."""

    id: int
    state: State
    start_time: str | None
    directory: str | None
    files: int
    bytes: int


@dataclass(slots=True)
class RecordingSelection:
    """Recordings, ascending, how much they are, and the first and the last day of them."""

    ids: array[int] = field(default_factory=lambda: array("q"))
    files: int = 0
    bytes: int = 0
    first_day: str | None = None
    last_day: str | None = None

    def take(self, row: Row) -> None:
        """Take in one more."""
        self.ids.append(row.id)
        self.files += row.files
        self.bytes += row.bytes
        day = inventory.day_of(row.start_time or row.directory)
        if day != NO_DATE:
            self.first_day = min(self.first_day or day, day)
            self.last_day = max(self.last_day or day, day)


def rows_of(catalog: Catalog, ids: Collection[int]) -> Iterator[tuple[int, Row | None]]:
    """Each of these IDs once, ascending, and its recording; None where this archive knows none."""
    wanted = sorted(set(ids))
    sql = f"{_ROWS} r.id IN ({{ids}}) GROUP BY r.id ORDER BY r.id"
    rows = map(Row._make, catalog.among(sql, wanted))
    row = next(rows, None)
    for id_ in wanted:
        if row is None or row.id != id_:
            yield id_, None
        else:
            yield id_, row
            row = next(rows, None)


def all_rows(catalog: Catalog) -> Iterator[Row]:
    """All recordings, ascending."""
    last = 0
    sql = f"{_ROWS} r.id > ? GROUP BY r.id ORDER BY r.id LIMIT ?"
    while rows := catalog.rows(sql, (last, _PAGE)):
        catalog.check_interrupted()
        yield from map(Row._make, rows)
        last = rows[-1][0]


@dataclass(slots=True)
class Choice(RecordingSelection):
    """The recordings of a bag.

    `left_out` are those of the time asked for that are not archived, and those that are, but nobody
    knows when they started: so not in the bag.
    """

    left_out: list[int] = field(default_factory=list)

    def consider(self, row: Row, since: int | None, until: int | None) -> None:
        """Take in an archived recording, if it is of this time."""
        if _within(row, since, until):
            self.take(row)
        elif started(row) is None:
            self.left_out.append(row.id)


def choose_ids(
    catalog: Catalog, ids: Collection[int], since: int | None = None, until: int | None = None
) -> Choice:
    """These recordings, less those that started before `since` or not before `until` (Unix time).

    Raises `ArchiverError` (exit 1) that names those which this archive does not hold, or owes.
    """
    choice = Choice()
    problems = []
    for id_, row in rows_of(catalog, ids):
        if row is None:
            problems.append(f"{id_} is not known here")
        elif row.state == State.REMOVED:
            problems.append(f"{id_} was removed (only `download --again {id_}` fetches it)")
        elif row.state != State.ARCHIVED:
            problems.append(f"{id_} is not archived ({row.state})")
        else:
            choice.consider(row, since, until)
    if problems:
        more = f"; and {len(problems) - _SHOWN:,} more" if len(problems) > _SHOWN else ""
        raise ArchiverError(
            f"no bag was made: {'; '.join(problems[:_SHOWN])}{more}",
            hint="`g2a-archive download ID` archives what can be had; leave out the others",
        )
    return choice


def choose_time(catalog: Catalog, since: int | None, until: int | None) -> Choice:
    """All archived recordings that started at or after `since` and before `until` (Unix time)."""
    choice = Choice()
    for row in all_rows(catalog):
        if row.state == State.ARCHIVED:
            choice.consider(row, since, until)
        elif row.state != State.REMOVED and _within(row, since, until):
            choice.left_out.append(row.id)
    return choice


def _within(row: Row, since: int | None, until: int | None) -> bool:
    """Whether a recording started in this time; one whose start nobody knows did not."""
    if since is None and until is None:
        return True
    start = started(row)
    if start is None:
        return False
    return (since is None or start >= since) and (until is None or start < until)


def started(row: Row, *, latest: bool = False) -> float | None:
    """When a recording started, in Unix time: by its start time, else its directory's date.

    A catalogue that was rebuilt knows no start times: of a day the beginning counts (UTC), or with
    `latest` its end, in whichever time zone. None where neither tells.
    """
    try:
        if row.start_time is not None:
            return parse_start(row.start_time).timestamp()
        day = inventory.day_of(row.directory)
        begin = datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
        return begin + _LONGEST_DAY if latest else begin
    except (ValueError, OverflowError):
        return None
