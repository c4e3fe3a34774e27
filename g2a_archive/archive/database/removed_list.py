"""`removed.csv`: the tombstones once more, in a file that outlives a lost catalogue.

Lines are only ever added to it; of several for one recording the last counts.
"""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import Any

from g2a_archive.archive.database.catalog import REMOVED_FILES, Catalog
from g2a_archive.archive.disk.flushing import flush_file
from g2a_archive.archive.disk.hashing import open_regular
from g2a_archive.archive.layout import ARCHIVE_DIR
from g2a_archive.errors import StorageError, storage_error
from g2a_archive.models import ALL_KINDS, parse_id, pluralize

NAME = "removed.csv"
HEAD = ("id", "start_time", "directory", "archived_at", "removed_at", "reason")
_FILE = ("path", "size", "sha256")
_COLUMNS = (*HEAD, *(f"{kind}_{column}" for kind in ALL_KINDS for column in _FILE))

_TOGETHER = 500
_TAIL = 1 << 16
"""Bytes at the end in which the last whole line is looked for."""

_NEW = (
    "SELECT r.id, r.start_time, r.directory, r.archived_at, r.removed_at, r.reason "
    "FROM removal m JOIN recording r ON r.id = m.recording WHERE m.step <= 0 "
    "AND m.recording > ? ORDER BY m.recording LIMIT ?"
)

log = logging.getLogger("g2a_archive")


def append(catalog: Catalog, root: Path) -> bool:
    """Write the tombstones of removals that have just begun, flushed; whether there are any.

    Raises `StorageError`.
    """
    path = root / ARCHIVE_DIR / NAME
    rows = catalog.rows(_NEW, (0, _TOGETHER))
    if not rows:
        return False
    try:
        with open(path, "a+", encoding="utf-8", newline="") as file:
            if not file.tell():
                csv.writer(file, lineterminator="\n").writerow(_COLUMNS)
            elif _is_cut(path):
                file.write("\n")  # a killed run's last line
            while rows:
                csv.writer(file, lineterminator="\n").writerows(_lines(catalog, rows))
                rows = catalog.rows(_NEW, (rows[-1][0], _TOGETHER))
            file.flush()
            flush_file(file.fileno())
    except OSError as error:
        raise storage_error(error, "write", path) from error
    return True


def _is_cut(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _lines(catalog: Catalog, rows: Sequence[Any]) -> Iterator[list[Any]]:
    files: dict[tuple[int, str], Sequence[Any]] = {}
    for id_, kind, *its, _ in catalog.among(REMOVED_FILES, (row[0] for row in rows)):
        files[id_, kind] = its
    for row in rows:
        of_kinds = (files.get((row[0], kind), ("", "", "")) for kind in ALL_KINDS)
        yield [*row, *chain.from_iterable(of_kinds)]


def files_of(line: dict[str, Any]) -> list[tuple[str, ...]]:
    """The files that a line tells of: kind, path, size, SHA-256."""
    return [
        (kind.value, *(line[f"{kind}_{column}"] for column in _FILE))
        for kind in ALL_KINDS
        if line[f"{kind}_path"]
    ]


def last(root: Path) -> dict[str, Any] | None:
    """The last line that is a tombstone; None where there is none, or it cannot be read."""
    path = root / ARCHIVE_DIR / NAME
    try:
        with suppress(FileNotFoundError, csv.Error), open_regular(path) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            rows = [*_rows(file.read().decode("utf-8", "replace").splitlines())]
            return next((line for row in reversed(rows) if (line := _tombstone(row))), None)
    except OSError as error:
        # The catalogue knows the same, unless it is older, as from a backup.
        log.warning("%s", storage_error(error, "read", path))
    return None


def _rows(lines: Iterable[str]) -> Iterator[list[str]]:
    """Each line by itself: a quote that one which was cut left open swallows no other."""
    for line in lines:
        yield from csv.reader([line])


def _tombstone(row: Sequence[str]) -> dict[str, Any] | None:
    if len(row) == len(_COLUMNS) and parse_id(row[0]):
        return dict(zip(_COLUMNS, row, strict=True))
    return None


def read(root: Path) -> Iterator[dict[str, Any]]:
    """All lines; those that are cut, or odd, are told. Raises `StorageError`."""
    path = root / ARCHIVE_DIR / NAME
    odd = 0
    try:
        with TextIOWrapper(open_regular(path), "utf-8-sig", "replace", newline="") as file:
            for row in _rows(file):
                if line := _tombstone(row):
                    yield line
                elif row and row[0] != "id":  # the head
                    odd += 1
    except OSError as error:
        raise storage_error(error, "read", path) from error
    except csv.Error as error:
        raise StorageError(
            f"cannot read {path}: {error}", hint="mend it, or move it away"
        ) from None
    if odd:
        log.warning("%s: passed over %s with no tombstone", path, pluralize(odd, "line"))
