"""Recordings that were removed for good: how they go, and what is kept of them.

A removal is claimed first, in one transaction: from then on nothing counts these recordings as
archived. What is still to be done is remembered in the table `removal`, step by step: a line in
`removed.csv`, which outlives a lost catalogue; the files; `SHA256SUMS`, the pages, and directories
that are left empty. A run that is killed between any two of them leaves the rest to `resume`.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from g2a_archive.archive.checksums import write_checksums
from g2a_archive.archive.database import pages, revisions
from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.disk import mounts
from g2a_archive.archive.disk.domains import persistently
from g2a_archive.archive.disk.flushing import flush_directory, flush_file
from g2a_archive.archive.disk.leftovers import holding
from g2a_archive.archive.layout import ARCHIVE_DIR
from g2a_archive.errors import LocalError, StorageError, storage_error
from g2a_archive.models import ALL_KINDS, Tombstone, utc_now

NAME = "removed.csv"
MERGED, _LISTED, _DELETED = -1, 1, 2
"""Steps of a removal, after 0. What came by `merge` has nothing here to delete: it is listed."""

_TOGETHER = 500
_AT_ONCE = 5000
"""Removals that are noted as done together: deleting what is deleted does no harm."""

_HEAD = ("id", "start_time", "directory", "archived_at", "removed_at", "reason")
_FILE = ("path", "size", "sha256")
_COLUMNS = (*_HEAD, *(f"{kind}_{column}" for kind in ALL_KINDS for column in _FILE))
# What a recording's files are called, those kept aside included.
_NAME = re.compile(r"([1-9]\d{0,18})\.(mp4|events|jpg|png|gif|webp)(\.kept-\d+)?", re.ASCII)
_PART = re.compile(r"([1-9]\d{0,18})\.(mp4|events|thumbnail)\..+", re.ASCII)

_REMEMBER = """
INSERT INTO past_file
    (recording, kind, path, size, sha256, archived_at, revision, until, why)
SELECT recording, kind, path, size, sha256, archived_at, revision, ?, 'removed'
FROM file WHERE recording IN (SELECT recording FROM removal)
"""
_ENTOMB = """
UPDATE recording SET state = 'removed', reason = ?, removed_at = ?, kinds = 0, absent = 0,
    unoffered = 0, unoffered_since = NULL, owed_since = NULL
WHERE state <> 'removed' AND id IN (SELECT recording FROM removal)
"""
_PLACES = """
SELECT DISTINCT r.directory FROM removal m JOIN recording r ON r.id = m.recording WHERE m.step = ?
"""
_TO_DELETE = """
SELECT m.recording, p.path FROM recording r CROSS JOIN removal m ON m.recording = r.id
LEFT JOIN past_file p ON p.recording = r.id AND p.why = 'removed'
WHERE r.directory IS ? AND m.step = ?
"""
_LEFT_EMPTY = f"""
SELECT directory FROM ({_PLACES}) AS place WHERE directory IS NOT NULL AND NOT EXISTS
    (SELECT 1 FROM recording o JOIN file f ON f.recording = o.id
     WHERE o.directory = place.directory)
"""  # noqa: S608 - no word in it comes from outside

log = logging.getLogger("g2a_archive")


@dataclass(slots=True)
class Removed:
    """What became of files: how many were deleted, which were gone before, which stay, and why."""

    deleted: int = 0
    gone: list[str] = field(default_factory=list)
    failed: list[tuple[int, str, str]] = field(default_factory=list)


def entomb(catalog: Catalog, ids: Sequence[int], reason: str | None) -> None:
    """Claim that these recordings are removed, all or none; `resume` does the rest.

    Raises `CatalogError`.
    """
    with catalog.transaction() as db:
        until = revisions.upcoming(db)
        db.executemany(
            "INSERT OR REPLACE INTO removal (recording) VALUES (?)", ((id_,) for id_ in ids)
        )
        db.execute(_REMEMBER, (until,))
        db.execute("DELETE FROM file WHERE recording IN (SELECT recording FROM removal)")
        db.execute(_ENTOMB, (reason, utc_now()))


def tombstones(catalog: Catalog, ids: Sequence[int]) -> Iterator[Tombstone]:
    """Those of `ids` that were removed. Raises `CatalogError`."""
    for some in _some(ids):
        marks = ",".join("?" * len(some))
        sql = "SELECT id, removed_at, reason FROM recording WHERE state = 'removed' AND id IN "
        yield from (Tombstone(*row) for row in catalog.rows(f"{sql}({marks})", some))


def resume(catalog: Catalog, root: Path) -> Removed:
    """Finish what removals have begun, and bring back tombstones that a lost catalogue knew.

    For whoever opens the archive at `root` for writing, with its lock. A file that cannot be
    deleted is logged, and tried again the next time. Raises `StorageError`, and `Interrupted`
    where the catalogue is: the next run goes on.
    """
    removed = Removed()
    of_them = "SELECT 1 FROM recording WHERE state <> 'archived' AND state = 'removed'"  # by index
    if not catalog.scalar(f"SELECT EXISTS ({of_them})"):
        restore(catalog, root)
    if not catalog.scalar("SELECT EXISTS (SELECT 1 FROM removal)"):
        return removed
    _list(catalog, root)
    _delete(catalog, root, removed)
    for id_, path, why in removed.failed:
        log.error("recording %d: removed, but %s could not be deleted: %s", id_, path, why)
    try:
        write_checksums(catalog, root)
    except LocalError as error:
        log.error("%s", error)
    try:
        pages.write_again(catalog, root)
    except StorageError as error:
        log.error("the pages still name what was removed; `browse` writes them again: %s", error)
    _tidy(catalog, root)
    return removed


def _some(ids: Iterable[int]) -> Iterator[list[int]]:
    rest = iter(ids)
    while some := list(islice(rest, _TOGETHER)):
        yield some


def _done(
    catalog: Catalog, step: int, ids: Iterable[int] | None = None, places: Iterable[str] = ()
) -> None:
    """These removals are as far as this `step`; without `ids`, all that have just been begun.

    In `places`, `SHA256SUMS` is to be written.
    """
    with catalog.transaction() as db:
        sql = "INSERT OR IGNORE INTO stale_directory VALUES (?)"
        db.executemany(sql, ((place,) for place in places))
        if ids is None:
            sql = "UPDATE removal SET step = CASE WHEN step = ? THEN ? ELSE ? END WHERE step <= 0"
            db.execute(sql, (MERGED, _DELETED, step))
        else:
            sql = "UPDATE removal SET step = ? WHERE recording = ?"
            db.executemany(sql, ((step, id_) for id_ in ids))


# --- removed.csv -----------------------------------------------------------------------------


def _list(catalog: Catalog, root: Path) -> None:
    """Write the tombstones to `removed.csv`, flushed."""
    sql = (
        "SELECT r.id, r.start_time, r.directory, r.archived_at, r.removed_at, r.reason "
        "FROM removal m JOIN recording r ON r.id = m.recording WHERE m.step <= 0 "
        "AND m.recording > ? ORDER BY m.recording LIMIT ?"
    )
    path = root / ARCHIVE_DIR / NAME
    rows = catalog.rows(sql, (0, _TOGETHER))
    if not rows:
        return
    try:
        with open(path, "a+", encoding="utf-8", newline="") as file:
            if not file.tell():
                csv.writer(file, lineterminator="\n").writerow(_COLUMNS)
            elif _is_cut(path):
                file.write("\n")  # a killed run's last line
            while rows:
                csv.writer(file, lineterminator="\n").writerows(_lines(catalog, rows))
                rows = catalog.rows(sql, (rows[-1][0], _TOGETHER))
            file.flush()
            flush_file(file.fileno())
    except OSError as error:
        raise storage_error(error, "write", path) from error
    _done(catalog, _LISTED)


def _is_cut(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _lines(catalog: Catalog, rows: Sequence[Any]) -> Iterator[list[Any]]:
    files = last_files(catalog, [row[0] for row in rows])
    for row in rows:
        its = files[row[0]]
        yield [*row, *(value for kind in ALL_KINDS for value in its.get(kind, ("", "", ""))[:3])]


def last_files(catalog: Catalog, ids: Sequence[int]) -> dict[int, dict[str, tuple[Any, ...]]]:
    """What removed recordings' files were, by kind: (path, size, SHA-256, archived)."""
    marks = ",".join("?" * len(ids))
    sql = (
        "SELECT recording, kind, path, size, sha256, archived_at FROM past_file WHERE "  # noqa: S608
        f"why = 'removed' AND recording IN ({marks}) ORDER BY id"
    )
    found: dict[int, dict[str, tuple[Any, ...]]] = defaultdict(dict)
    for recording, kind, *rest in catalog.rows(sql, list(ids)):
        found[recording][kind] = tuple(rest)
    return found


def restore(catalog: Catalog, root: Path) -> int:
    """Take tombstones from `removed.csv` that the catalogue does not know; returns how many.

    Left out is what the catalogue knows by now, and what has files in the archive, which were
    fetched again since. Raises `StorageError`.
    """
    if not os.path.lexists(root / ARCHIVE_DIR / NAME):
        return 0
    count = 0
    with catalog.transaction() as db:
        now = revisions.upcoming(db)
        # Of several lines for one recording the last counts; all of them have no place in memory.
        db.execute("CREATE TEMP TABLE tombstone (id INTEGER PRIMARY KEY, line TEXT)")
        sql = "INSERT OR REPLACE INTO tombstone VALUES (?, ?)"
        db.executemany(sql, ((int(row["id"]), json.dumps(row)) for row in _kept(root)))
        for id_, line in db.execute("SELECT id, line FROM tombstone ORDER BY id"):
            row = json.loads(line)
            known = db.execute("SELECT 1 FROM recording WHERE id = ?", (id_,)).fetchone()
            files = [
                (kind.value, *(row[f"{kind}_{column}"] for column in _FILE))
                for kind in ALL_KINDS
                if row[f"{kind}_path"]
            ]
            if known or any(os.path.lexists(root / file[1]) for file in files):
                continue
            db.execute(
                "INSERT INTO recording (id, state, start_time, directory, archived_at, removed_at, "
                "reason) VALUES (?, 'removed', ?, ?, ?, ?, ?)",
                (id_, *(row[name] or None for name in _HEAD[1:])),
            )
            db.executemany(
                "INSERT INTO past_file (recording, kind, path, size, sha256, archived_at, "
                "revision, until, why) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'removed')",
                ((id_, *file, row["archived_at"], now, now) for file in files),
            )
            count += 1
        db.execute("DROP TABLE tombstone")
    return count


def _kept(root: Path) -> Iterator[dict[str, Any]]:
    """The lines of `removed.csv`; those that are cut, or odd, are told. Raises `StorageError`."""
    path = root / ARCHIVE_DIR / NAME
    odd = 0
    try:
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
            for row in csv.reader(file):
                if len(row) == len(_COLUMNS) and row[0].isdecimal():
                    yield dict(zip(_COLUMNS, row, strict=True))
                elif row and row[0] != "id":  # the head
                    odd += 1
    except OSError as error:
        raise storage_error(error, "read", path) from error
    except csv.Error as error:
        raise StorageError(
            f"cannot read {path}: {error}", hint="mend it, or move it away"
        ) from None
    if odd:
        log.warning("%s: %d lines are no tombstones, and were passed over", path, odd)


# --- the files -------------------------------------------------------------------------------


def _delete(catalog: Catalog, root: Path, removed: Removed) -> None:
    """Delete the files of all that is listed, those kept aside and those in `partial/`, too.

    One directory after the other: all that was ever removed at once has no place in memory.
    """
    _unlink(root, f"{ARCHIVE_DIR}/partial", _halves(catalog, root), _PART, removed)
    _place(catalog, root)
    done: set[int] = set()
    places: set[str] = set()
    for (directory,) in catalog.rows(_PLACES, (_LISTED,)):
        done |= _delete_of(catalog, root, directory, removed, places)
        if len(done) >= _AT_ONCE:
            _done(catalog, _DELETED, done, places)
            done.clear()
            places.clear()
            catalog.look()
    _done(catalog, _DELETED, done, places)


def _halves(catalog: Catalog, root: Path) -> set[int]:
    """The removed recordings of which something lies in `partial/`."""
    found: set[int] = set()
    with suppress(OSError), os.scandir(root / ARCHIVE_DIR / "partial") as entries:
        found = {int(match[1]) for one in entries if (match := _PART.fullmatch(one.name))}
    sql = "SELECT recording FROM removal WHERE step = ? AND recording IN "
    return {
        row[0]
        for some in _some(found)
        for row in catalog.rows(f"{sql}({','.join('?' * len(some))})", (_LISTED, *some))
    }


def _place(catalog: Catalog, root: Path) -> None:
    """Find the files that a killed run had named, and not recorded: no row tells where they are."""
    lost = {row[0] for row in catalog.rows(_TO_DELETE, (None, _LISTED))}
    if found := list(holding(root, lost)) if lost else []:
        with catalog.transaction() as db:
            db.executemany("UPDATE recording SET directory = ? WHERE id = ?", found)


def _delete_of(
    catalog: Catalog, root: Path, directory: str | None, removed: Removed, places: set[str]
) -> set[int]:
    """Delete the files of what was removed of a directory; returns the IDs that are done.

    All of `places` have been looked at; a file may lie elsewhere than its recording.
    """
    wanted: dict[str, set[int]] = defaultdict(set)
    expected: dict[str, set[str]] = defaultdict(set)
    ids = set()
    for id_, path in catalog.rows(_TO_DELETE, (directory, _LISTED)):
        ids.add(id_)
        if path is not None:
            expected[os.path.dirname(path)].add(os.path.basename(path))
        for place in (directory, os.path.dirname(path) if path else None):
            if place is not None:
                wanted[place].add(id_)
    before = len(removed.failed)
    for place, its in wanted.items():
        if why := mounts.out_of_sight(root, place):
            removed.failed += [(id_, place, why) for id_ in sorted(its)]
            continue
        names = _unlink(root, place, its, _NAME, removed)
        removed.gone += sorted(f"{place}/{name}" for name in expected[place] - names)
    places.update(wanted)
    return ids - {id_ for id_, _, _ in removed.failed[before:]}


def _unlink(
    root: Path, directory: str, ids: set[int], pattern: re.Pattern[str], removed: Removed
) -> set[str]:
    """Delete what belongs to `ids` in a directory; returns the names that were there."""
    path = root / directory
    try:
        names = persistently(lambda: os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        removed.failed += [(id_, directory, error.strerror or str(error)) for id_ in sorted(ids)]
        return set()
    before = removed.deleted
    for name in names:
        match = pattern.fullmatch(name)
        if match is None or int(match[1]) not in ids:
            continue
        try:
            persistently(lambda name=name: os.unlink(f"{path}/{name}"))  # type: ignore[misc]
            removed.deleted += pattern is _NAME
        except FileNotFoundError:
            pass
        except OSError as error:
            why = error.strerror or str(error)
            removed.failed.append((int(match[1]), f"{directory}/{name}", why))
    if removed.deleted > before:
        _flush(path)
    return set(names)


def _flush(path: Path) -> None:
    # A name that comes back after a crash is found by the next `resume`, or by `verify`.
    with suppress(OSError):
        flush_directory(path)


def _tidy(catalog: Catalog, root: Path) -> None:
    """Remove directories that are left empty, and forget that there was something to do."""
    for (directory,) in catalog.rows(_LEFT_EMPTY, (_DELETED,)):
        path = root / directory
        while path != root:
            try:
                path.rmdir()
            except OSError:  # not empty, a mount point, or not ours to remove
                break
            path = path.parent
    with catalog.transaction() as db:
        db.execute("DELETE FROM removal WHERE step = ?", (_DELETED,))
