"""The pages of `browse` of what the catalogue holds: when asked for, and after a removal."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from g2a_archive import browse
from g2a_archive.archive import layout
from g2a_archive.archive.catalog import Catalog
from g2a_archive.archive.layout import ARCHIVE_DIR
from g2a_archive.errors import ArchiverError, storage_error
from g2a_archive.models import FileKind, State, StoredFile

TITLE = "GoToAssist recordings"
_OPTIONS = "browse.json"


def write(catalog: Catalog, root: Path, *, title: str, timezone: str | None) -> browse.SiteResult:
    """Write the pages, and remember with which title and time zone. Raises `StorageError`."""
    result = browse.write_site(
        root,
        _entries(catalog),
        _owed(catalog),
        zone=layout.zone(timezone) if timezone else None,
        zone_name=timezone or "",
        title=title,
    )
    path = root / ARCHIVE_DIR / _OPTIONS
    aside = path.with_name(f".{_OPTIONS}.part")
    try:
        aside.write_text(json.dumps({"title": title, "timezone": timezone}), encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        raise storage_error(error, "write", path) from error
    return result


def write_again(catalog: Catalog, root: Path) -> None:
    """Write the pages as they were written last, where there are any. Raises `StorageError`."""
    if not (root / browse.FOLDER).is_dir():
        return
    title, timezone = TITLE, None
    try:
        kept = json.loads((root / ARCHIVE_DIR / _OPTIONS).read_text(encoding="utf-8"))
        title, timezone = str(kept["title"]), kept["timezone"]
        if timezone is not None:
            layout.zone(timezone)
    except (OSError, ValueError, KeyError, TypeError, ArchiverError):
        timezone = None  # from before this was remembered: as `browse` writes without options
    write(catalog, root, title=title, timezone=timezone)


def _entries(catalog: Catalog) -> Iterator[browse.Entry]:
    rows = catalog.stream(
        "SELECT r.id, r.start_time, r.directory, r.state, r.reason, r.owed_since, "
        "f.kind, f.path, f.size, f.sha256 "
        "FROM recording r JOIN file f ON f.recording = r.id ORDER BY r.id"
    )
    for id_, group in groupby(rows, key=lambda row: row[0]):
        files = {}
        for row in group:
            kind = FileKind(row[6])
            files[kind] = StoredFile(id_, kind, *row[7:])
        yield browse.Entry(id_, row[1], row[2], files, State(row[3]), reason=row[4], since=row[5])


def _owed(catalog: Catalog) -> Iterator[browse.Owed]:
    for row in catalog.rows(
        "SELECT id, state, reason, owed_since, tries, last_try FROM recording "
        "WHERE state NOT IN ('archived', 'removed') ORDER BY owed_since, id"
    ):
        yield browse.Owed(row[0], State(row[1]), *row[2:])
