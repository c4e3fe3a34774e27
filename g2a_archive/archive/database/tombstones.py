"""Recordings that were removed for good: how they go, and what is kept of them.

Recordings are marked as removed first, in one transaction: from then on nothing counts them as
archived. What is still to be done is remembered in the table `removal`, step by step: a line in
`removed.csv`, which outlives a lost catalogue; the files; `SHA256SUMS`, the pages, and directories
that are left empty. A run that is killed between any two of them leaves the rest to
`finish_removals`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from g2a_archive.archive.checksums import write_checksums
from g2a_archive.archive.database import pages, removed_list, revisions
from g2a_archive.archive.database.catalog import STALE, Catalog
from g2a_archive.archive.database.statements import insert
from g2a_archive.archive.disk import mounts
from g2a_archive.archive.disk.domains import retry_transient
from g2a_archive.archive.disk.flushing import flush_directory
from g2a_archive.archive.disk.leftovers import (
    PARTIAL_NAME,
    RECORDING_NAME,
    find_unrecorded,
    partial_files,
)
from g2a_archive.archive.layout import ARCHIVE_DIR
from g2a_archive.errors import LocalError, StorageError
from g2a_archive.models import State, Tombstone, utc_now

MERGED, _LISTED, _DELETED = -1, 1, 2
"""Steps of a removal, after 0. What came by `merge` has nothing here to delete: it is listed."""

_AT_ONCE = 5000
"""Removals that are noted as done together: deleting what is deleted does no harm."""

_MARK_REMOVED = """
UPDATE recording SET state = 'removed', kinds = 0, absent = 0,
    reason = (SELECT reason FROM removing WHERE id = recording.id),
    removed_at = (SELECT at FROM removing WHERE id = recording.id),
    unoffered = 0, unoffered_since = NULL, owed_since = NULL
WHERE state <> 'removed' AND id IN (SELECT id FROM removing)
"""
_SEEN = """
SELECT state, removed_at, max(coalesce(r.archived_at, ''), coalesce(last_try, '')),
    EXISTS (SELECT 1 FROM past_file
            WHERE recording = :id AND why = 'removed' AND archived_at >= :archived_at)
FROM (SELECT 1) LEFT JOIN recording r ON r.id = :id
"""
_PLACES = """
SELECT DISTINCT r.directory FROM removal m JOIN recording r ON r.id = m.recording WHERE m.step = ?
"""
# Not what went earlier, by a removal or to another archive: its directories may be gone, too.
_TO_DELETE = """
SELECT m.recording, p.path FROM recording r CROSS JOIN removal m ON m.recording = r.id
LEFT JOIN past_file p ON p.recording = r.id AND p.why = 'removed'
    AND p.until = (SELECT max(until) FROM past_file WHERE recording = r.id AND why = 'removed')
WHERE r.directory IS ? AND m.step = ?
"""
_LEFT_EMPTY = f"""
SELECT directory FROM ({_PLACES}) AS place WHERE directory IS NOT NULL AND NOT EXISTS
    (SELECT 1 FROM recording o JOIN file f ON f.recording = o.id
     WHERE o.directory = place.directory)
"""  # noqa: S608 - no word in it comes from outside

log = logging.getLogger("g2a_archive")


@dataclass(slots=True)
class RemovalResult:
    """What became of files: how many were deleted, which were gone before, which stay, and why.

    `rewrite_errors` is why `SHA256SUMS` or a page, which cannot be written, still names them: said
    already.
    """

    deleted: int = 0
    gone: list[str] = field(default_factory=list)
    failed: list[tuple[int, str, str]] = field(default_factory=list)
    rewrite_errors: list[str] = field(default_factory=list)


def begin_removal(catalog: Catalog, ids: Sequence[int], reason: str | None) -> None:
    """Mark these recordings as removed, all or none; `finish_removals` does the rest.

    Raises `CatalogError`.
    """
    now = utc_now()
    with catalog.transaction() as db:
        _mark_removed(db, ((id_, reason, now) for id_ in ids))


def _mark_removed(db: sqlite3.Connection, those: Iterable[tuple[int, str | None, str]]) -> None:
    """Mark recordings as removed: ID, why, and when."""
    db.execute("CREATE TEMP TABLE removing (id INTEGER PRIMARY KEY, reason TEXT, at TEXT)")
    db.executemany("INSERT OR REPLACE INTO removing VALUES (?, ?, ?)", those)
    db.execute("INSERT OR REPLACE INTO removal (recording) SELECT id FROM removing")
    revisions.remember(db, "recording IN (SELECT id FROM removing)")
    db.execute("DELETE FROM file WHERE recording IN (SELECT id FROM removing)")
    db.execute(_MARK_REMOVED)
    db.execute("DROP TABLE removing")


def tombstones(catalog: Catalog, ids: Iterable[int]) -> Iterator[Tombstone]:
    """Those of `ids` that were removed. Raises `CatalogError`."""
    sql = "SELECT id, removed_at, reason FROM recording WHERE state = 'removed' AND id IN ({ids})"
    return map(Tombstone._make, catalog.among(sql, ids))


def finish_removals(catalog: Catalog, root: Path) -> RemovalResult:
    """Finish what removals have begun, and bring back tombstones that a lost catalogue knew.

    For whoever opens the archive at `root` for writing, with its lock. A file that cannot be
    deleted is logged, and tried again the next time. Raises `StorageError`, and `Interrupted`
    where the catalogue is: the next run goes on.
    """
    removed = RemovalResult()
    if _may_lack(catalog, root):
        with catalog.transaction() as db:
            restore_tombstones(db, root)
    if not catalog.scalar("SELECT EXISTS (SELECT 1 FROM removal)"):
        return removed
    if removed_list.append(catalog, root):
        _done(catalog, _LISTED)
    _delete(catalog, root, removed)
    for id_, path, why in removed.failed:
        log.error("recording %d: removed, but %s could not be deleted: %s", id_, path, why)
    try:
        write_checksums(catalog, root)
    except LocalError as error:
        removed.rewrite_errors.append(str(error))
        log.error("%s", error)
    try:
        pages.write_again(catalog, root)
    except StorageError as error:
        removed.rewrite_errors.append(str(error))
        log.error("the pages still name what was removed; `browse` writes them again: %s", error)
    remove_empty_directories(root, (row[0] for row in catalog.rows(_LEFT_EMPTY, (_DELETED,))))
    if not removed.rewrite_errors:  # else SHA256SUMS or the pages are still to be written
        with catalog.transaction() as db:
            db.execute("DELETE FROM removal WHERE step = ?", (_DELETED,))
    return removed


def _done(
    catalog: Catalog, step: int, ids: Iterable[int] | None = None, places: Iterable[str] = ()
) -> None:
    """These removals are as far as this `step`; without `ids`, all that have just been begun.

    In `places`, `SHA256SUMS` is to be written.
    """
    with catalog.transaction() as db:
        insert(db, STALE, ((place,) for place in places))
        if ids is None:
            sql = "UPDATE removal SET step = CASE WHEN step = ? THEN ? ELSE ? END WHERE step <= 0"
            db.execute(sql, (MERGED, _DELETED, step))
        else:
            sql = "UPDATE removal SET step = ? WHERE recording = ?"
            db.executemany(sql, ((step, id_) for id_ in ids))


# --- removed.csv -----------------------------------------------------------------------------


def is_outdated(catalog: Catalog, root: Path) -> bool:
    """Whether the catalogue knows nothing of the last removal, as one that came from a backup."""
    line = removed_list.last(root)
    return line is not None and _is_news(catalog.rows(_SEEN, line)[0], line)


def _may_lack(catalog: Catalog, root: Path) -> bool:
    """Whether the catalogue may be a new one, or one from a backup, which lacks tombstones."""
    if not os.path.lexists(root / ARCHIVE_DIR / removed_list.NAME):
        return False
    of_them = "SELECT 1 FROM recording WHERE state <> 'archived' AND state = 'removed'"  # by index
    return not catalog.scalar(f"SELECT EXISTS ({of_them})") or is_outdated(catalog, root)


def restore_in_copy(catalog: Catalog, root: Path) -> None:
    """Have what only reads the catalogue go by the tombstones that `finish_removals` would restore.

    Raises `StorageError`.
    """
    if _may_lack(catalog, root):
        catalog.change_copy(lambda db: restore_tombstones(db, root))


def _is_news(known: Sequence[Any], line: dict[str, Any]) -> bool:
    """Whether a recording, as the catalogue has `known` it, was removed since.

    What is left of the files of this very removal tells that it was fetched again, or is to be; or
    that it was then moved to another archive. What had files, none of them here, and is owed may
    have been asked for since: its tombstone came later, by `merge`.
    """
    state, removed_at, seen, left = known
    if state == State.REMOVED or removed_at or left:
        return False
    came_later = state != State.ARCHIVED and removed_list.files_of(line)
    return state is None or bool(came_later or seen <= line["removed_at"] <= utc_now())


def restore_tombstones(db: sqlite3.Connection, root: Path) -> int:
    """Take tombstones from `removed.csv` that the catalogue does not know; returns how many.

    Left out is what the catalogue has heard of since, and what has files in the archive, which
    were fetched again. The caller has a transaction open. Raises `StorageError`.
    """
    count = 0
    # Of several lines for one recording the last counts; all of them have no place in memory.
    db.execute("CREATE TEMP TABLE tombstone (id INTEGER PRIMARY KEY, line TEXT, known INTEGER)")
    sql = "INSERT OR REPLACE INTO tombstone VALUES (?, ?, 0)"
    lines = removed_list.read(root)
    db.executemany(sql, ((int(line["id"]), json.dumps(line)) for line in lines))
    for id_, text in db.execute("SELECT id, line FROM tombstone ORDER BY id"):
        line = json.loads(text)
        known = db.execute(_SEEN, line).fetchone()
        if _is_news(known, line) and not _has_files(db, root, id_, line):
            count += 1
            if known[0] is not None:
                db.execute("UPDATE tombstone SET known = 1 WHERE id = ?", (id_,))
            else:
                _insert(db, id_, line)
    again = db.execute("SELECT id, line FROM tombstone WHERE known")
    rows = ((id_, json.loads(text)) for id_, text in again)
    _mark_removed(db, ((id_, line["reason"] or None, line["removed_at"]) for id_, line in rows))
    db.execute("DROP TABLE tombstone")
    return count


def _has_files(db: sqlite3.Connection, root: Path, id_: int, line: dict[str, Any]) -> bool:
    paths = [file[1] for file in removed_list.files_of(line)]
    paths += (row[0] for row in db.execute("SELECT path FROM file WHERE recording = ?", (id_,)))
    return any(os.path.lexists(root / path) for path in paths)


def _insert(db: sqlite3.Connection, id_: int, line: dict[str, Any]) -> None:
    """Record the tombstone of a recording that the catalogue does not know."""
    now = revisions.upcoming(db)
    db.execute(
        "INSERT INTO recording (id, state, start_time, directory, archived_at, removed_at, "
        "reason) VALUES (?, 'removed', ?, ?, ?, ?, ?)",
        (id_, *(line[name] or None for name in removed_list.HEAD[1:])),
    )
    db.executemany(
        "INSERT INTO past_file (recording, kind, path, size, sha256, archived_at, "
        "revision, until, why) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'removed')",
        ((id_, *file, line["archived_at"], now, now) for file in removed_list.files_of(line)),
    )


# --- the files -------------------------------------------------------------------------------


def _delete(catalog: Catalog, root: Path, removed: RemovalResult) -> None:
    """Delete the files of all that is listed, those kept aside and those in `partial/`, too.

    One directory after the other: all that was ever removed at once has no place in memory.
    """
    _unlink(root, f"{ARCHIVE_DIR}/partial", _partial_ids(catalog, root), PARTIAL_NAME, removed)
    _place(catalog, root)
    done: set[int] = set()
    places: set[str] = set()
    for (directory,) in catalog.rows(_PLACES, (_LISTED,)):
        done |= _delete_of(catalog, root, directory, removed, places)
        if len(done) >= _AT_ONCE:
            _done(catalog, _DELETED, done, places)
            done.clear()
            places.clear()
            catalog.check_interrupted()
    _done(catalog, _DELETED, done, places)


def _partial_ids(catalog: Catalog, root: Path) -> set[int]:
    """The removed recordings of which something lies in `partial/`."""
    found = {recording for recording, _, _ in partial_files(root / ARCHIVE_DIR / "partial")}
    sql = "SELECT recording FROM removal WHERE step = ? AND recording IN ({ids})"
    return {row[0] for row in catalog.among(sql, found, _LISTED)}


def _place(catalog: Catalog, root: Path) -> None:
    """Find the files that a killed run had named, and not recorded: no row tells where they are."""
    lost = {row[0] for row in catalog.rows(_TO_DELETE, (None, _LISTED))}
    if found := list(find_unrecorded(root, lost)) if lost else []:
        with catalog.transaction() as db:
            db.executemany("UPDATE recording SET directory = ? WHERE id = ?", found)


def _delete_of(
    catalog: Catalog, root: Path, directory: str | None, removed: RemovalResult, places: set[str]
) -> set[int]:
    """Delete the files of what was removed of a directory; returns the IDs that are done.

    All of `places` have been looked at; a file may lie elsewhere than its recording.
    """
    wanted: dict[str, set[int]] = defaultdict(set)
    expected: dict[str, set[str]] = defaultdict(set)
    ids, held = set(), set()
    for id_, path in catalog.rows(_TO_DELETE, (directory, _LISTED)):
        ids.add(id_)
        if path is not None:
            held.add(id_)
            expected[os.path.dirname(path)].add(os.path.basename(path))
        for place in (directory, os.path.dirname(path) if path else None):
            if place is not None:
                wanted[place].add(id_)
    before = len(removed.failed)
    for place, its in wanted.items():
        if why := mounts.unmounted_problem(root, place):
            # What never had a file may have a directory that nobody has made.
            removed.failed += [(id_, place, why) for id_ in sorted(its & held)]
            continue
        names = _unlink(root, place, its, RECORDING_NAME, removed)
        removed.gone += sorted(f"{place}/{name}" for name in expected[place] - names)
    places.update(wanted)
    return ids - {id_ for id_, _, _ in removed.failed[before:]}


def _unlink(
    root: Path, directory: str, ids: set[int], pattern: re.Pattern[str], removed: RemovalResult
) -> set[str]:
    """Delete what belongs to `ids` in a directory; returns the names that were there."""
    path = root / directory
    try:
        names = retry_transient(os.listdir, path)
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
            retry_transient(os.unlink, f"{path}/{name}")
            removed.deleted += pattern is RECORDING_NAME
        except FileNotFoundError:
            pass
        except OSError as error:
            full = path / name
            if os.path.isdir(full) and not os.path.islink(full):  # no file of ours: told this once
                log.warning("recording %s: a directory was left: %s/%s", match[1], directory, name)
                continue
            why = error.strerror or str(error)
            removed.failed.append((int(match[1]), f"{directory}/{name}", why))
    if removed.deleted > before:
        # A name that comes back after a crash is found by the next `finish_removals`, or `verify`.
        with suppress(OSError):
            flush_directory(path)
    return set(names)


def remove_empty_directories(root: Path, directories: Iterable[str]) -> None:
    """Remove those of these directories of an archive that are left empty, and what held them."""
    for directory in directories:
        if mounts.unmounted_problem(root, directory):
            continue
        path = root / directory
        while root in path.parents:
            try:
                path.rmdir()
            except FileNotFoundError:
                pass  # a run removed it, and was killed before it came to what holds it
            except OSError:  # not empty, a mount point, or not ours to remove
                break
            path = path.parent
