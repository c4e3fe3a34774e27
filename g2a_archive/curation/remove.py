"""Taking recordings out of the archive for good: which, and what that takes along.

What is done, and how a kill at any moment is survived, is `archive/database/tombstones`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.database.tombstones import RemovalResult, begin_removal, finish_removals
from g2a_archive.archive.disk.mounts import missing_parts, unmounted_error
from g2a_archive.curation.selection import RecordingSelection, Row, all_rows, rows_of, started
from g2a_archive.errors import InputError
from g2a_archive.models import Age, State, parse_iso, resolve_time

_DAY = 86400
_DOUBTFUL = 32 * _DAY
"""Seconds by which a clock may be ahead of what the archive knows: more than a month of no run."""

_SHOWN = 10
# The times that a run has from the service, whose clock it believes before its own.
_NEWEST = """
SELECT max(newest) FROM (
    SELECT max(last_try) AS newest FROM recording UNION ALL
    SELECT max(archived_at) FROM recording UNION ALL SELECT max(complete_until) FROM scan)
"""

log = logging.getLogger("g2a_archive")


@dataclass(slots=True)
class Removal(RecordingSelection):
    """What is to be removed.

    `kept` are those that `--except` holds back, `already` those that were removed before,
    `undated` those whose start nobody knows, which a date therefore never removes.
    """

    kept: int = 0
    already: int = 0
    undated: int = 0

    def ask_for(self, row: Row, held: Collection[int]) -> None:
        """Take in a recording, unless it is held back, or removed already."""
        if row.state == State.REMOVED:
            self.already += 1
        elif row.id in held:
            self.kept += 1
        else:
            self.take(row)


def choose_ids(catalog: Catalog, ids: Collection[int], held: Collection[int]) -> Removal:
    """These recordings, archived or owed. Raises `InputError` naming those that nobody knows."""
    removal = Removal()
    unknown: list[int] = []
    for id_, row in rows_of(catalog, ids):
        if row is not None:
            removal.ask_for(row, held)
        else:
            unknown.append(id_)
    if unknown:
        more = f" and {len(unknown) - _SHOWN:,} more" if len(unknown) > _SHOWN else ""
        names = ", ".join(map(str, unknown[:_SHOWN]))
        raise InputError(
            f"this archive has never heard of {names}{more}; nothing was removed",
            hint="check the ID; take it out of the file",
        )
    return removal


def limit_of(catalog: Catalog, before: int | Age, now: float) -> int:
    """`before` in Unix time; `now` is what this machine's clock says.

    An age counts from the newest that the archive knows of, where the clock is ahead of that: one
    that is a year ahead would remove a year too much. By more than a month of no run it is too far
    to go by: `InputError`.
    """
    newest = catalog.scalar(_NEWEST) if isinstance(before, Age) else None
    if newest is None:
        return resolve_time(before, now)
    known = parse_iso(newest)
    ahead = now - known
    if ahead > _DOUBTFUL:
        raise InputError(
            f"this machine's clock is {ahead / _DAY:,.0f} days ahead of the newest that this "
            f"archive knows of ({newest}): no age is believed, and nothing was removed",
            hint="set the clock; if it is right, name a date instead, or let a run ask the service",
        )
    if ahead > _DAY:
        log.warning(
            "the age counts from %s, the newest that this archive knows of: this machine's clock "
            "is %.1f days ahead of that",
            newest,
            ahead / _DAY,
        )
    return resolve_time(before, min(now, known))


def choose_before(catalog: Catalog, before: int, held: Collection[int]) -> Removal:
    """All recordings that started before `before` (Unix time)."""
    removal = Removal()
    for row in all_rows(catalog):
        start = started(row, latest=True)
        if start is None and row.state == State.ARCHIVED:
            removal.undated += 1
        elif start is not None and start < before and row.state != State.REMOVED:
            removal.ask_for(row, held)
    return removal


def remove(catalog: Catalog, root: Path, removal: Removal, reason: str | None) -> RemovalResult:
    """Remove what was chosen; for whoever holds the archive's lock.

    Raises `StorageError` where a part of the archive that holds any of it is not mounted: then
    nothing was removed.
    """
    sql = "SELECT DISTINCT directory FROM recording WHERE directory IS NOT NULL AND id IN ({ids})"
    places = {row[0] for row in catalog.among(sql, removal.ids)}
    missing = (part for part in missing_parts(catalog, root, places) if part.recordings)
    if there := [part for part in missing if any(part.holds(place) for place in places)]:
        raise unmounted_error(there)
    begin_removal(catalog, removal.ids, reason)
    return finish_removals(catalog, root)
