"""Which recordings of the archive: by their IDs, by when they started, or both."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from g2a_archive.archive.database import inventory
from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.database.inventory import NO_DATE
from g2a_archive.archive.layout import parse_start
from g2a_archive.errors import ArchiverError
from g2a_archive.models import State

_SHOWN = 10
_PAGE = 1000
_TOGETHER = 500

_LONGEST_DAY = 36 * 3600
"""Seconds from a day's beginning in UTC to its end in the last time zone, 12 hours behind."""

_ROWS = (
    "SELECT r.id, r.state, r.start_time, r.directory, count(f.kind), coalesce(sum(f.size), 0) "
    "FROM recording r LEFT JOIN file f ON f.recording = r.id WHERE"
)


@dataclass(slots=True)
class Choice:
    """The recordings of a bag, ascending, and how much they are.

    `left_out` are recordings of the time asked for that are not archived, so not in the bag.
    """

    ids: array[int] = field(default_factory=lambda: array("q"))
    files: int = 0
    bytes: int = 0
    first_day: str = NO_DATE
    last_day: str = NO_DATE
    left_out: list[int] = field(default_factory=list)

    def take(self, row: Sequence[Any]) -> None:
        """Take in one archived recording."""
        self.ids.append(row[0])
        self.files += row[4]
        self.bytes += row[5]
        day = inventory.day_of(row[2] or row[3])
        if day != NO_DATE:
            self.first_day = min(self.first_day, day)  # letters come after digits
            self.last_day = day if self.last_day == NO_DATE else max(self.last_day, day)


# --- what goes in -----------------------------------------------------------------------------


def choose_ids(
    catalog: Catalog, ids: Sequence[int], since: int | None = None, until: int | None = None
) -> Choice:
    """These recordings, less those that started before `since` or not before `until` (Unix time).

    Raises `ArchiverError` (exit 1) that names those which this archive does not hold, or owes.
    """
    choice = Choice()
    problems = []
    known = {}
    wanted = sorted(set(ids))
    for start in range(0, len(wanted), 500):
        some = wanted[start : start + 500]
        marks = ",".join("?" * len(some))
        sql = f"{_ROWS} r.id IN ({marks}) GROUP BY r.id ORDER BY r.id"
        known = {row[0]: row for row in catalog.rows(sql, some)}
        for id_ in some:
            row = known.get(id_)
            if row is None:
                problems.append(f"{id_} is not known here")
            elif row[1] == State.REMOVED:
                problems.append(f"{id_} was removed (only `download --again {id_}` fetches it)")
            elif row[1] != State.ARCHIVED:
                problems.append(f"{id_} is not archived ({row[1]})")
            elif _within(row, since, until):
                choice.take(row)
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
    last = 0
    sql = f"{_ROWS} r.id > ? GROUP BY r.id ORDER BY r.id LIMIT {_PAGE}"
    while rows := catalog.rows(sql, (last,)):
        last = rows[-1][0]
        for row in rows:
            if not _within(row, since, until):
                continue
            if row[1] == State.ARCHIVED:
                choice.take(row)
            elif row[1] != State.REMOVED:
                choice.left_out.append(row[0])
    return choice


def _within(row: Sequence[Any], since: int | None, until: int | None) -> bool:
    """Whether a recording started in this time; one whose start nobody knows did not."""
    if since is None and until is None:
        return True
    start = started(row[2], row[3])
    if start is None:
        return False
    return (since is None or start >= since) and (until is None or start < until)


def started(start_time: str | None, directory: str | None, *, latest: bool = False) -> float | None:
    """When a recording started, in Unix time: by its start time, else its directory's date.

    A catalogue that was rebuilt knows no start times: of a day the beginning counts (UTC), or with
    `latest` its end, in whichever time zone. None where neither tells.
    """
    try:
        if start_time is not None:
            return parse_start(start_time).timestamp()
        day = inventory.day_of(directory)
        begin = datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
        return begin + _LONGEST_DAY if latest else begin
    except (ValueError, OverflowError):
        return None
