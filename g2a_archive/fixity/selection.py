"""Which files a check reads, and in which order, in little memory however many there are.

What is to be sorted or drawn goes into a temporary SQLite file, and is looked up in the catalogue
again, some at a time, when its turn comes.
"""

from __future__ import annotations

import hashlib
import math
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, NamedTuple

from g2a_archive.archive.database.catalog import STORED, Catalog, stored_file
from g2a_archive.archive.database.statements import temp_space_errors
from g2a_archive.models import StoredFile

_PAGE = 2000
_SOME = 500
_SORTED = 20_000
"""Files of a whole archive up to which the largest come first; more come as they lie on disk."""

_ENTRY = (
    "SELECT f.recording, f.kind, f.size, r.start_time, f.archived_at, f.checked_at "
    "FROM file f JOIN recording r ON r.id = f.recording"
)
_TOTALS = "SELECT coalesce(sum(files + damaged), 0), coalesce(sum(bytes), 0) FROM day_count"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """What is to be checked, and how; see the options of `verify`.

    `ids`, each once, None for all; `since` has an offset; `sample` is above 0 up to 1; no file is
    begun after `until`, by `time.monotonic`; `jobs` are files read at a time.
    """

    ids: Sequence[int] | None = None
    since: datetime | None = None
    sample: float = 1.0
    oldest_first: bool = False
    until: float = math.inf
    jobs: int | None = None

    @property
    def everything(self) -> bool:
        """Whether the whole archive is looked at, so that unknown files are looked for, too."""
        return self.ids is None and self.since is None and self.sample == 1


class FileCandidate(NamedTuple):
    """A file that can be chosen, with its dates as the catalogue writes them; `size` in bytes."""

    recording: int
    kind: str
    size: int
    started: str | None
    archived: str
    checked: str | None = None


@dataclass(frozen=True, slots=True)
class FileSelection:
    """The files to check, in their order: `count` of them, of `size` bytes together.

    Of a large archive the bytes are without those of files that are known to be damaged.
    """

    files: Iterator[StoredFile]
    count: int
    size: int


@contextmanager
def selected(catalog: Catalog, options: VerifyOptions, seed: str) -> Iterator[FileSelection]:
    """The files that the `options` choose. The same `seed` (a date, say) draws the same sample.

    Raises `CatalogError`, `StorageError` where there is no room for temporary files, and
    `Interrupted` where the catalogue is: to choose among a million recordings takes a while.
    """
    if options.everything and not options.oldest_first:
        [(count, size)] = catalog.rows(_TOTALS)
        if count > _SORTED:
            yield FileSelection(_all_files(catalog), count, size)
            return
    with _scratch() as db:
        entries = _entries(catalog, options.ids)
        keys, count, size = choose(db, entries, options, seed, catalog.now())
        yield FileSelection(_looked_up(catalog, keys), count, size)


def choose(
    db: sqlite3.Connection,
    entries: Iterable[FileCandidate],
    options: VerifyOptions,
    seed: str,
    now: str,
) -> tuple[Iterator[tuple[int, str]], int, int]:
    """Recording and kind of the files to check, in order; how many; how many bytes.

    The largest (in MiB) come first, so that no thread is left alone with a long one at the end;
    with `oldest_first` those unchecked for longest; a check after `now`, by a clock that was wrong,
    counts as none. `since` leaves recordings that started, and files that were archived, then or
    later; `sample` is a share of what is left, rounded up. `db` is an empty database, which then
    holds what is chosen.
    """
    db.execute("CREATE TABLE chosen (draw BLOB, rank, recording INTEGER, kind TEXT, size INTEGER)")
    since, drawing = options.since, options.sample < 1
    rows = (
        (
            _draw(one, seed) if drawing else None,
            _past(one.checked, now) if options.oldest_first else -(one.size >> 20),
            one.recording,
            one.kind,
            one.size,
        )
        for one in entries
        if since is None or is_since(one, since)
    )
    db.executemany("INSERT INTO chosen VALUES (?, ?, ?, ?, ?)", rows)
    if drawing:
        count = db.execute("SELECT count(*) FROM chosen").fetchone()[0]
        # 0.07 * 100 is a little more than 7, and must not become 8.
        wanted = math.ceil(round(count * options.sample, 6))
        db.execute("CREATE TABLE drawn AS SELECT * FROM chosen ORDER BY draw LIMIT ?", (wanted,))
        db.execute("DROP TABLE chosen")
        db.execute("ALTER TABLE drawn RENAME TO chosen")
    count, size = db.execute("SELECT count(*), coalesce(sum(size), 0) FROM chosen").fetchone()
    keys = db.execute("SELECT recording, kind FROM chosen ORDER BY rank, recording, kind")
    return keys, count, size


def _past(checked: str | None, now: str) -> str:
    return checked if checked is not None and checked <= now else ""


def _draw(entry: FileCandidate, seed: str) -> bytes:
    text = f"{seed}:{entry.recording}:{entry.kind}"
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def is_since(entry: FileCandidate, since: datetime) -> bool:
    """Whether the recording started, or the file was archived, at this time or later."""
    for text in (entry.started, entry.archived):
        try:
            when = datetime.fromisoformat(text or "")
        except ValueError:
            continue
        if (when if when.tzinfo else when.replace(tzinfo=UTC)) >= since:
            return True
    return False


@contextmanager
def _scratch() -> Iterator[sqlite3.Connection]:
    """A temporary database, which goes into a file where it is large."""
    db = sqlite3.connect("")
    with closing(db), temp_space_errors("cannot sort the files to check in a temporary file"):
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("PRAGMA cache_size = -8192")
        yield db


# --- the catalogue, read in short steps, so that no run is held up ------------------------------


def _all_files(catalog: Catalog) -> Iterator[StoredFile]:
    return map(stored_file, _pages(catalog, f"{STORED} f"))


def _entries(catalog: Catalog, ids: Sequence[int] | None) -> Iterator[FileCandidate]:
    if ids is None:
        return map(FileCandidate._make, _pages(catalog, _ENTRY))
    return map(FileCandidate._make, catalog.among(f"{_ENTRY} WHERE f.recording IN ({{ids}})", ids))


def _pages(catalog: Catalog, sql: str) -> Iterator[Any]:
    """The rows of a query for files (`f`), by recording and kind."""
    last: tuple[int, str] = (0, "")
    after = "WHERE (f.recording, f.kind) > (?, ?) ORDER BY f.recording, f.kind LIMIT"
    while rows := catalog.rows(f"{sql} {after} {_PAGE}", last):
        catalog.check_interrupted()
        yield from rows
        last = rows[-1][0], rows[-1][1]


def _looked_up(catalog: Catalog, keys: Iterator[tuple[int, str]]) -> Iterator[StoredFile]:
    """The files of these keys, in their order, as the catalogue has them now."""
    while some := [*islice(keys, _SOME)]:
        files = catalog.files({recording for recording, _ in some})
        found: dict[tuple[int, str], StoredFile] = {(one.recording, one.kind): one for one in files}
        yield from (found[key] for key in some if key in found)
