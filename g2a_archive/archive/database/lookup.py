"""What the catalogue says of some recordings, be they one or a million."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.database.statements import GRACE_HOURS
from g2a_archive.models import State, iso, parse_iso, sorted_ids

_MANY = 20_000

# What was tried in vain, night after night, comes last: among those of as many nights, what no
# night came to is first. One that was interrupted once is gone on with first, and asking for what
# was not ready costs nothing.
_FAILURES = """CASE WHEN state IN ('failed', 'refused')
    OR state = 'queued' AND (tries > 1 OR reason IS NOT NULL)
    THEN 2 * tries + (reason IS NOT NULL) ELSE 0 END"""

_KNOWN = "SELECT id, state, kinds, absent, directory, unoffered FROM recording"


@dataclass(frozen=True, slots=True)
class KnownRecording:
    """What the catalogue says of one recording before a run touches it.

    `looked_at_again`: it is archived, and is asked for only as a file of it was not offered.
    """

    id: int
    state: State
    kinds: int = 0
    absent: int = 0
    directory: str | None = None
    unoffered: int = 0
    looked_at_again: bool = False


def archived(catalog: Catalog, ids: Collection[int], mask: int) -> Iterator[tuple[int, int, str]]:
    """Those of `ids` archived with all of `mask`: (ID, bits of the files there, directory).

    Also those of which the service did not offer a file, until it is to be looked for again.
    Raises `CatalogError`.
    """
    columns = "SELECT id, kinds & ~absent, coalesce(directory, '') FROM recording"
    now = catalog.now()
    looked = iso(parse_iso(now) - GRACE_HOURS * 3600)
    where = (
        f"state = 'archived' AND (kinds & {mask:d} = {mask:d} OR unoffered <> 0 "
        f"AND (kinds | unoffered) & {mask:d} = {mask:d} "
        f"AND unoffered_since > '{looked}' AND unoffered_since <= '{now}')"
    )
    yield from _among(catalog, ids, columns, where)


def known(catalog: Catalog, ids: Collection[int]) -> Iterator[KnownRecording]:
    """What the catalogue holds of `ids`, the smallest first. Raises `CatalogError`."""
    for row in _among(catalog, ids, _KNOWN, "TRUE"):
        yield KnownRecording(row[0], State(row[1]), *row[2:])


def begun(catalog: Catalog, ids: Collection[int], mask: int) -> Iterator[KnownRecording]:
    """Those of `ids` of which there is more to know than that they are owed.

    Not those that are archived with all of `mask`, nor those of which nothing came before they
    failed, which may be all. Raises `CatalogError`.
    """
    nothing_came = "NOT EXISTS (SELECT 1 FROM file WHERE file.recording = recording.id)"
    where = (
        f"NOT (state = 'archived' AND kinds & {mask:d} = {mask:d}) AND (state IN ('archived', "
        "'removed') OR kinds | unoffered <> 0 OR directory IS NOT NULL) "
        f"AND NOT (state = 'failed' AND kinds | unoffered = 0 AND {nothing_came})"
    )
    for row in _among(catalog, ids, _KNOWN, where):
        id_, state, kinds, absent, directory, unoffered = row
        again = state == State.ARCHIVED and (kinds | unoffered) & mask == mask
        yield KnownRecording(id_, State(state), kinds, absent, directory, unoffered, again)


def failures(catalog: Catalog, ids: Collection[int]) -> Iterator[tuple[int, int]]:
    """Those of `ids` that failed before, the smallest first, and how late each is to come.

    Raises `CatalogError`.
    """
    columns = f"SELECT id, {_FAILURES} FROM recording"  # noqa: S608
    yield from _among(catalog, ids, columns, f"{_FAILURES} > 0")


def _among(catalog: Catalog, ids: Collection[int], columns: str, where: str) -> Iterator[Any]:
    wanted = sorted_ids(ids)
    if len(wanted) > _MANY:  # one pass over the table is quicker than so many look-ups
        return _merged(catalog, wanted, columns, where)
    return catalog.among(f"{columns} WHERE {where} AND id IN ({{ids}}) ORDER BY id", wanted)


def _merged(catalog: Catalog, asked: Sequence[int], columns: str, where: str) -> Iterator[Any]:
    """The table and the IDs, both in order, side by side: neither has to be in memory."""
    sql = f"{columns} NOT INDEXED WHERE {where} AND id BETWEEN ? AND ? ORDER BY id"
    wanted = iter(asked)
    id_ = next(wanted)
    for row in catalog.stream(sql, (asked[0], asked[-1])):
        while id_ < row[0]:
            id_ = next(wanted)
        if id_ == row[0]:
            yield row
