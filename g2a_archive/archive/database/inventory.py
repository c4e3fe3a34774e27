"""What the archive holds, and what it still owes: the read-only questions of `status` and `export`.

Everything is read in short steps, each of one moment, so that a run is never kept waiting by a slow
pipe, and nothing is told half as it was before a commit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from g2a_archive.archive.database.catalog import IS_OWED, REMOVED_FILES, Catalog
from g2a_archive.archive.database.statements import VALUES
from g2a_archive.archive.disk.leftovers import partial_usage
from g2a_archive.archive.layout import ARCHIVE_DIR, parse_start
from g2a_archive.models import OWED_STATES, State

PERIODS = {"year": 4, "month": 7, "day": 10}
"""The periods of `by_period`, and how much of a date `2014-05-06` names each."""

NO_DATE = "unknown"
"""The period of recordings whose date the catalogue does not know."""

_PAGE = VALUES
_ISO_DATE = re.compile(r"(\d{4})[-/]?(\d\d)[-/]?(\d\d)(?!\d)")
_RECORDING = (
    "SELECT id, state, start_time, directory, reason, owed_since, tries, last_try, archived_at, "
    "removed_at FROM recording"
)
_FILE = (
    "SELECT recording, kind, path, size, sha256, archived_at, checked_at, damage FROM file "
    "WHERE recording IN"
)
_OLDEST = "SELECT min(owed_since) FROM recording WHERE owed_since IS NOT NULL AND state = ?"
_RUN = (
    "SELECT command, started_at, finished_at, exit_code, requested, archived, failed, files, "
    "bytes, seconds FROM run"
)


@dataclass(frozen=True, slots=True)
class OwedCount:
    """How many recordings of one state are owed, and since when the oldest of them is."""

    state: str
    count: int
    since: str | None


@dataclass(frozen=True, slots=True)
class Run:
    """One run as the catalogue recorded it; `exit_code` is None where it was killed, or goes on."""

    command: str
    started_at: str
    finished_at: str | None
    exit_code: int | None
    requested: int | None
    archived: int | None
    failed: int | None
    files: int | None
    bytes: int | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """The archive in a few numbers. `files` and `bytes` are those of files not known as damaged.

    Days are `2014-05-06`, times `2026-11-23T02:00:05Z`. `unchecked` files were never verified;
    `oldest_check` is when the file verified longest ago was. `halves` are recordings of which
    something lies in `partial/`, to be resumed, `half_bytes` how much.
    """

    archived: int
    files: int
    bytes: int
    first_day: str | None
    last_day: str | None
    owed: tuple[OwedCount, ...]
    lost: int
    removed: int
    damaged_files: int
    unchecked: int
    oldest_check: str | None
    last_run: Run | None
    last_success: Run | None
    halves: int = 0
    half_bytes: int = 0

    @property
    def owed_count(self) -> int:
        """Recordings that this archive still owes."""
        return sum(one.count for one in self.owed)


@dataclass(frozen=True, slots=True)
class Period:
    """A year, month or day (`name`: `2014`, `2014-05`, `2014-05-06`) and what is archived of it."""

    name: str
    recordings: int
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class FileDetail:
    """One file of a recording; `path` is relative to the archive, `size` in bytes."""

    kind: str
    path: str
    size: int
    sha256: str
    archived_at: str
    checked_at: str | None
    damage: str | None


@dataclass(frozen=True, slots=True)
class RecordingDetail:
    """Everything that the catalogue knows of one recording."""

    id: int
    state: str
    start_time: str | None
    directory: str | None
    reason: str | None
    owed_since: str | None
    tries: int
    last_try: str | None
    archived_at: str | None
    removed_at: str | None
    files: tuple[FileDetail, ...] = ()


def summary(catalog: Catalog, root: Path | None = None) -> Summary:
    """The archive in a few numbers; with its `root`, also what is half there.

    Raises `CatalogError`, as all functions here.
    """
    halves, half_bytes = (
        partial_usage(root / ARCHIVE_DIR / "partial") if root is not None else (0, 0)
    )
    with catalog.snapshot():
        kept = catalog.rows(
            "SELECT day, recordings, files, bytes, unchecked, damaged FROM day_count"
        )
        states = dict(catalog.rows("SELECT state, recordings FROM state_count"))
        # A check of the future is none.
        later, oldest = catalog.rows(
            "SELECT coalesce(sum(files) FILTER (WHERE checked_at > ?), 0), "
            "min(checked_at) FILTER (WHERE checked_at <= ?) "
            "FROM check_count WHERE files > 0",
            (catalog.now(),) * 2,
        )[0]
        owed = tuple(
            OwedCount(state, states[state], catalog.scalar(_OLDEST, state))
            for state in OWED_STATES
            if states.get(state)
        )
        last_run, last_success = _run(catalog, ""), _run(catalog, "WHERE exit_code = 0")
    files, size, unchecked, damaged = (sum(row[n] for row in kept) for n in range(2, 6))
    days = {day_of(row[0]) for row in kept if row[1]} - {NO_DATE}
    return Summary(
        archived=states.get(State.ARCHIVED, 0),
        files=files,
        bytes=size,
        first_day=min(days, default=None),
        last_day=max(days, default=None),
        owed=owed,
        lost=states.get(State.LOST, 0),
        removed=states.get(State.REMOVED, 0),
        damaged_files=damaged,
        unchecked=unchecked + later,
        oldest_check=oldest,
        last_run=last_run,
        last_success=last_success,
        halves=halves,
        half_bytes=half_bytes,
    )


def _run(catalog: Catalog, where: str) -> Run | None:
    rows = catalog.rows(f"{_RUN} {where} ORDER BY id DESC LIMIT 1")
    return Run(*rows[0]) if rows else None


def by_period(catalog: Catalog, period: str) -> list[Period]:
    """Archived recordings, files and bytes by "year", "month" or "day", in order.

    The day is that of the start time as the service wrote it, in its own time zone; where the
    catalogue has no start time (it was rebuilt) that of the directory; else `NO_DATE`.
    `files` and `bytes` also count what is there of recordings that are still owed.
    """
    rows = catalog.rows("SELECT day, recordings, files, bytes FROM day_count")
    found: dict[str, list[int]] = {}
    for text, *counts in rows:
        if any(counts):
            name = day_of(text)
            name = name if name == NO_DATE else name[: PERIODS[period]]
            found[name] = [a + b for a, b in zip(found.get(name, (0, 0, 0)), counts, strict=True)]
    return [Period(name, *counts) for name, counts in sorted(found.items())]


def day_of(text: str | None) -> str:
    """The day of a start time, or of a directory: `2014-05-06`; `NO_DATE` where there is none."""
    if match := _ISO_DATE.search(text or ""):
        return "-".join(match.groups())
    try:
        return parse_start(text).date().isoformat()
    except ValueError:
        return NO_DATE


def recording_detail(catalog: Catalog, recording: int) -> RecordingDetail | None:
    """All that is known of one recording; None where the catalogue has never seen its ID."""
    return next(recordings(catalog, (recording,)), None)


def recordings(catalog: Catalog, ids: Iterable[int]) -> Iterator[RecordingDetail]:
    """Those of `ids` that the catalogue knows, by pages; `ids` are in ascending order."""
    waiting = iter(ids)
    while some := [*islice(waiting, _PAGE)]:
        marks = ",".join("?" * len(some))
        yield from _read(catalog, f"{_RECORDING} WHERE id IN ({marks}) ORDER BY id", some)


def owed_list(catalog: Catalog) -> Iterator[RecordingDetail]:
    """The recordings that this archive owes, in the order of their IDs."""
    return _pages(catalog, f"{IS_OWED} AND")


def count(catalog: Catalog) -> int:
    """How many recordings the catalogue knows."""
    return int(catalog.scalar("SELECT count(*) FROM recording"))


def everything(catalog: Catalog) -> Iterator[RecordingDetail]:
    """All recordings, in the order of their IDs; however many, in little memory."""
    return _pages(catalog, "")


def _pages(catalog: Catalog, where: str) -> Iterator[RecordingDetail]:
    sql = f"{_RECORDING} WHERE {where} id > ? ORDER BY id LIMIT ?"
    last = 0
    while some := _read(catalog, sql, (last, _PAGE)):
        yield from some
        last = some[-1].id


def _read(catalog: Catalog, sql: str, values: Sequence[int]) -> list[RecordingDetail]:
    """Some recordings, in the order of their IDs, with the files that they had at that moment."""
    with catalog.snapshot():
        rows = catalog.rows(sql, values)
        files: dict[int, list[FileDetail]] = {row[0]: [] for row in rows}
        for id_, *file in catalog.among(f"{_FILE} ({{ids}}) ORDER BY recording, kind", files):
            files[id_].append(FileDetail(*file))
        removed = [row[0] for row in rows if row[1] == State.REMOVED]
        last = {(row[0], row[1]): row for row in catalog.among(REMOVED_FILES, removed)}
    for id_, *file in last.values():
        files[id_].append(FileDetail(*(*file, None, None)))
    return [RecordingDetail(*(*row, tuple(files[row[0]]))) for row in rows]
