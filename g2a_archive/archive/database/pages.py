"""The pages of `browse` of what the catalogue holds: when asked for, and after a removal."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from g2a_archive import browse
from g2a_archive.archive import layout
from g2a_archive.archive.database import revisions
from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.disk.hashing import read_regular
from g2a_archive.archive.disk.renaming import replace
from g2a_archive.archive.layout import ARCHIVE_DIR
from g2a_archive.browse import Entry, OwedEntry
from g2a_archive.errors import ArchiverError, storage_error
from g2a_archive.models import FileKind, State, StoredFile

TITLE = "GoToAssist recordings"
_OPTIONS = "browse.json"

_ENTRY = (
    "SELECT r.id, r.start_time, r.directory, r.state, r.reason, r.owed_since, "
    "f.kind, f.path, f.size, f.sha256 FROM recording r JOIN file f ON f.recording = r.id"
)
_OWED = (
    "SELECT id, state, reason, owed_since, tries, last_try FROM recording "
    "WHERE state <> 'archived' AND state <> 'removed' ORDER BY owed_since, id"
)

# What changes without its SHA256SUMS, after a catalogue was lost: lines of files that are adopted
# (whenever such lines come or go, so do their numbers), and starts that come to be known.
_REGAINED = """
SELECT directory, count(*) || ' ' || max(id) FROM other_line WHERE until IS NULL GROUP BY directory
UNION ALL
SELECT directory, count(*) || ' undated' FROM recording
WHERE start_time IS NULL AND state = 'archived' AND directory IS NOT NULL GROUP BY directory
"""


def write(
    catalog: Catalog,
    root: Path,
    *,
    title: str,
    timezone: str | None,
    on_progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> browse.SiteResult:
    """Write the pages that have changed, and remember with which title and time zone.

    `on_progress` is that of `browse.update_site`. Raises `StorageError` and `LockedError`.
    """
    result = browse.update_site(
        root,
        CatalogPages(catalog),
        zone=layout.zone(timezone),
        zone_name=timezone or "",
        title=title,
        on_progress=on_progress,
    )
    path = root / ARCHIVE_DIR / _OPTIONS
    aside = path.with_name(f".{_OPTIONS}.part")
    try:
        aside.write_text(json.dumps({"title": title, "timezone": timezone}), encoding="utf-8")
        replace(aside, path)
    except OSError as error:
        raise storage_error(error, "write", path) from error
    return result


def write_again(catalog: Catalog, root: Path) -> None:
    """Write the pages as they were written last, where there are any.

    Raises `StorageError`, and `Interrupted` where the catalogue is.
    """
    if not os.path.isdir(root / browse.FOLDER):
        return
    title, timezone = TITLE, None
    try:
        kept = json.loads(read_regular(root / ARCHIVE_DIR / _OPTIONS, 1 << 16))
        title, timezone = str(kept["title"]), kept["timezone"]
        if timezone is not None:
            layout.zone(timezone)
    except (OSError, ValueError, KeyError, TypeError, ArchiverError):
        timezone = None  # from before this was remembered: as `browse` writes without options
    write(
        catalog,
        root,
        title=title,
        timezone=timezone,
        on_progress=lambda *_: catalog.check_interrupted(),
    )


class CatalogPages:
    """A `browse.PageSource`: the catalogue as it is now, nothing of it held in memory."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def change_tokens(self) -> Iterator[tuple[str, str]]:
        """Each directory, and what tells whether anything in it has changed.

        Its files are told by the digest of its `SHA256SUMS`; what is not archived, by all that the
        pages say of it; and what a catalogue that was lost is told again, by counts. Where
        `SHA256SUMS` is yet to be written, nothing tells.
        """
        sums = dict(self._catalog.rows(f"SELECT directory, sha256 FROM ({revisions.CURRENT_SUMS})"))  # noqa: S608
        for directory in self._catalog.stale_directories():
            sums.pop(directory, None)
        others: dict[str, Any] = {}
        rows = self._catalog.stream(
            "SELECT directory, id, state, reason, owed_since, start_time "
            "FROM recording WHERE state <> 'archived' AND directory IS NOT NULL ORDER BY id"
        )
        for directory, *row in rows:
            others.setdefault(directory, hashlib.sha256()).update(repr(row).encode())
        more: dict[str, str] = {}
        for directory, count in self._catalog.rows(_REGAINED):
            more[directory] = f"{more.get(directory, '')} {count}"
        for directory in self._catalog.directories():
            sha256 = sums.get(directory)
            state = others[directory].hexdigest() if directory in others else "-"
            yield directory, f"{sha256} {state}{more.get(directory, '')}" if sha256 else ""

    def entries(self, directory: str) -> Iterator[Entry]:
        """The recordings of one directory that have files."""
        where = "WHERE r.directory = ? ORDER BY r.id"
        return _entries(self._catalog.stream(f"{_ENTRY} {where}", (directory,)))

    def details(self, ids: Sequence[int]) -> Mapping[int, Entry]:
        """Some recordings, by ID; those that have gone are left out."""
        rows = self._catalog.among(f"{_ENTRY} WHERE r.id IN ({{ids}}) ORDER BY r.id", ids)
        return {entry.id: entry for entry in _entries(rows)}

    def owed(self) -> Iterator[OwedEntry]:
        """All that is owed or given up, what is owed longest first."""
        for row in self._catalog.stream(_OWED):
            yield OwedEntry(row[0], State(row[1]), *row[2:])


def _entries(rows: Iterable[Any]) -> Iterator[Entry]:
    for id_, group in groupby(rows, key=lambda row: row[0]):
        files = {}
        for row in group:
            kind = FileKind(row[6])
            files[kind] = StoredFile(id_, kind, *row[7:])
        yield Entry(id_, row[1], row[2], files, State(row[3]), reason=row[4], since=row[5])
