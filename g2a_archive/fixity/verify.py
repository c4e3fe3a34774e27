"""`verify`: the catalogue's files read again, what is found recorded, and what is nobody's.

And the `SHA256SUMS`, by which others prove a day: what one of them no longer tells, the next run
writes again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from functools import partial
from pathlib import Path

from g2a_archive.archive import checksums
from g2a_archive.archive.database import revisions
from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.database.tombstones import tombstones
from g2a_archive.archive.disk import strictpath
from g2a_archive.archive.disk.hashing import hash_file
from g2a_archive.archive.disk.lock import is_locked, lock_paths
from g2a_archive.archive.disk.mounts import require_some_mounted
from g2a_archive.archive.layout import ARCHIVE_DIR, FILE_NAME, parse_name
from g2a_archive.archive.storage import is_there
from g2a_archive.errors import CatalogError, Interrupted, LocalError
from g2a_archive.fixity.check import (
    MISSING,
    OF_REMOVED,
    Finding,
    FixityResult,
    check,
    warn_unrecorded,
)
from g2a_archive.fixity.selection import VerifyOptions, selected
from g2a_archive.fixity.tree import Tree
from g2a_archive.models import MAX_ID, State, StoredFile, pluralize, printable

_SOME = 500

_NOBODYS = "unknown: not in the catalogue"

# What a directory's SHA256SUMS has told since it was last written.
_LISTED = (
    f"SELECT substr(f.path, :start), f.sha256 {checksums.OF_DIRECTORY} "  # noqa: S608
    "AND f.revision <= (SELECT max(id) FROM revision)"
)


def open_catalog(path: Path, interrupted: Callable[[], bool] = lambda: False) -> Catalog:
    """The catalogue for a check: read only, with a warning, where it cannot be written.

    Raises `CatalogError` where it cannot be read either.
    """
    try:
        return Catalog(path, readonly=not is_there(path), beside=True, interrupted=interrupted)
    except CatalogError as error:
        catalog = Catalog(path, readonly=True, interrupted=interrupted)
        warn_unrecorded(error)
        return catalog


def verify(
    catalog: Catalog,
    root: Path,
    options: VerifyOptions,
    *,
    on_begin: Callable[[int, int], None] = lambda files, size: None,
    on_bytes: Callable[[int], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> FixityResult:
    """Check files of the archive at `root`, and record in the catalogue what is found.

    `on_begin` hears how many files, and bytes, there are to check; `on_bytes`, in several
    threads, of bytes read. Nothing is said or recorded of files in parts of the archive that are
    not mounted: those are told in `unmounted` of what is returned. Raises `StorageError` where
    archive or catalogue cannot be read, or nothing of the archive is mounted.
    """
    mounts = _Mounts(catalog, root)
    try:
        with selected(catalog, options, date.today().isoformat()) as chosen:
            on_begin(chosen.count, chosen.size)
            outcome = check(
                root,
                filter(mounts.has, chosen.files),
                chosen.count,
                unmounted=mounts.missing,
                current=lambda recording, kind: catalog.files_of(recording).get(kind),
                record=partial(_record, catalog),
                jobs=options.jobs,
                until=options.until,
                stop=stop,
                on_bytes=on_bytes,
            )
    except Interrupted:  # while they were chosen
        outcome = FixityResult(interrupted=True)
    if not (outcome.interrupted or outcome.timed_out):
        outcome.left += mounts.passed_over
    outcome.recorded = outcome.recorded and not catalog.readonly
    outcome.unmounted = mounts.parts
    _add_named(outcome, catalog, options.ids or ())
    if options.everything and not outcome.interrupted:
        _add_sums(outcome, catalog, root, stop)
        _add_unknown(outcome, catalog, root, stop)
    outcome.findings.sort(key=lambda finding: finding.path)
    return outcome


def _add_named(outcome: FixityResult, catalog: Catalog, ids: Sequence[int]) -> None:
    """What is to be said of recordings that were named, and have no files to check."""
    outcome.removed = [*tombstones(catalog, ids)]
    known = {one.id for one in outcome.removed}
    outcome.findings += _without_files(catalog, (one for one in ids if one not in known))


def _record(catalog: Catalog, good: list[StoredFile], findings: list[Finding]) -> None:
    """Put findings into the catalogue, where that may be written."""
    broken = ((one.file, one.problem) for one in findings if one.file)
    if not catalog.readonly:
        # In the table's own order, which touches each of its pages but once.
        good.sort(key=lambda file: (file.recording, file.kind))
        catalog.record_check(good, broken)


def _add_sums(
    outcome: FixityResult,
    catalog: Catalog,
    root: Path,
    stop: Callable[[], bool],
) -> None:
    """Find the `SHA256SUMS` that lack a sum, and have the next run write them."""
    lacking = []
    for directory, sha256, _ in catalog.rows(revisions.CURRENT_SUMS):
        if stop():
            outcome.interrupted = True
            return
        if sha256 is None or any(part.holds(directory) for part in outcome.unmounted):
            continue
        if problem := _sums_problem(catalog, root, directory, sha256):
            path = f"{directory}/{checksums.NAME}"
            outcome.findings.append(Finding(None, None, path, problem, False))
            lacking.append(directory)
    if lacking and outcome.recorded:
        try:
            catalog.rewrite_sums(lacking)
        except CatalogError as error:
            warn_unrecorded(error)


def _sums_problem(catalog: Catalog, root: Path, directory: str, sha256: str) -> str:
    """Why a directory's `SHA256SUMS`, last written with this digest, does not prove its files.

    "" where it does: lines that others have added are theirs. Of a directory that is gone, its
    files tell. A run may be writing it: what is wrong must be so twice, with the same files.
    """
    path = root / directory / checksums.NAME
    values = {"directory": directory, "start": len(directory) + 2}
    before: list[str] | None = None
    while True:
        try:
            if strictpath.is_file(path) and hash_file(path)[1] == sha256:
                return ""
            listed = checksums.read(path, exact=True)
        except FileNotFoundError:
            listed = {}
        except LocalError as error:
            return f"unreadable: {os.strerror(error.code)}"
        except OSError as error:
            return f"unreadable: {error.strerror}"
        rows = catalog.rows(_LISTED, values)
        lacks = [name for name, its in rows if listed.get(name) != its]
        if not lacks or not os.path.isdir(path.parent):
            return ""
        if lacks == before:
            break
        before = lacks
    if not os.path.lexists(path):
        return MISSING
    return f"changed: it does not tell what was archived of {pluralize(len(lacks), 'file')}"


def _add_unknown(
    outcome: FixityResult, catalog: Catalog, root: Path, stop: Callable[[], bool]
) -> None:
    away = {part.directory for part in outcome.unmounted}
    search = _Unknown(catalog, Tree(root, catalog.path))
    try:
        search.walk(stop)
    except Interrupted:
        outcome.interrupted = True
    outcome.findings += (one for one in search.judge() if one.path not in away)
    outcome.unjudged = search.unjudged


class _Mounts:
    """What of the archive is not mounted, as far as it is known."""

    def __init__(self, catalog: Catalog, root: Path) -> None:
        self._catalog = catalog
        self._root = root
        self.parts = require_some_mounted(catalog, root)
        self.passed_over = 0

    def has(self, file: StoredFile) -> bool:
        """Whether a file can be there; of those that can't, it is counted how many there are."""
        away = any(part.holds(os.path.dirname(file.path)) for part in self.parts)
        self.passed_over += away
        return not away

    def missing(self, directories: set[str]) -> set[str]:
        """Those of the directories that are not mounted, now that files in them are missing.

        Raises `StorageError` where nothing of the archive is mounted any more.
        """
        now = require_some_mounted(self._catalog, self._root, directories)
        known = {part.directory for part in self.parts}
        self.parts += [part for part in now if part.directory not in known]
        return {name for name in directories if any(part.holds(name) for part in now)}


def _without_files(catalog: Catalog, ids: Iterable[int]) -> Iterator[Finding]:
    # Archived is also what the service has no file of, of the kinds that were asked for.
    has_none = "SELECT 1 FROM recording WHERE id = ? AND state = 'archived' AND kinds & ~absent = 0"
    for recording in ids:
        if not catalog.files_of(recording) and not catalog.scalar(has_none, recording):
            problem = "missing: the catalogue holds no file of this recording"
            yield Finding(recording, None, "", problem, False)


class _Unknown:
    """The search for files of the archive that the catalogue, read now, does not account for.

    It accounts for a file by its row, by a recording owed, whose files come one by one and are
    recorded when the last one is there, or by a removal that is not at its end. Files that the
    program itself makes, and those kept aside, are not told.
    """

    def __init__(self, catalog: Catalog, tree: Tree) -> None:
        self._catalog = catalog
        self._tree = tree
        self._suspects: list[tuple[str, list[str]]] = []
        self._problems: list[Finding] = []
        self.unjudged = 0

    def walk(self, stop: Callable[[], bool]) -> None:
        """Look at all of the archive. Raises `StorageError` and `Interrupted`."""
        for folder in self._tree.walk(stop):
            if folder.problem:
                problem = f"unreadable: {folder.problem}"
                self._problems.append(Finding(None, None, folder.path, problem, False))
            for start in range(0, len(folder.names), _SOME):
                names = folder.names[start : start + _SOME]
                found = _unaccounted(self._catalog, self._tree, folder.path, names)
                if suspects := [name for name, _ in found]:
                    self._suspects.append((folder.path, suspects))

    def judge(self) -> Iterator[Finding]:
        """What is wrong. What came or went with a run beside this one is not.

        A run names files before it records them, `merge` for example. Had one ended when its lock
        was looked at, the second look at the catalogue finds what it did; of one that works on,
        what may be its own is only counted.
        """
        yield from self._problems
        own = self._tree.root / ARCHIVE_DIR
        locks = lock_paths(own, self._catalog.path) if self._suspects else ()
        working = any(map(is_locked, locks))
        for directory, names in self._suspects:
            for name, why in _unaccounted(self._catalog, self._tree, directory, names):
                path = os.path.join(directory, name)
                if not os.path.lexists(self._tree.root / path):
                    continue
                if working and parse_name(self._tree.key(name)) is not None:
                    self.unjudged += 1
                    continue
                yield Finding(None, None, printable(path), why, False)


def _unaccounted(
    catalog: Catalog, tree: Tree, directory: str, names: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Those of the files called `names` in a directory that the catalogue does not account for,
    each with its problem."""
    prefix = f"{directory}/" if directory else ""
    ids = {int(name.partition(".")[0]) for name in names if FILE_NAME.fullmatch(tree.key(name))}
    known = {tree.key(file.path) for file in catalog.files(id_ for id_ in ids if id_ <= MAX_ID)}
    for name in names:
        if tree.key(prefix + name) in known:  # nearly all
            continue
        key = parse_name(tree.key(name))
        elsewhere = key is not None and key[1] in catalog.files_of(key[0])
        problem = _NOBODYS if key is None or elsewhere else _problem_of(catalog, key[0])
        if problem is not None:
            yield name, problem


def _problem_of(catalog: Catalog, recording: int) -> str | None:
    """What is wrong with a file of it that has no row; None where it is owed, or the file is about
    to be deleted."""
    state = catalog.scalar("SELECT state FROM recording WHERE id = ?", recording)
    if state == State.REMOVED:
        deleting = catalog.scalar("SELECT 1 FROM removal WHERE recording = ?", recording)
        return None if deleting else OF_REMOVED
    return _NOBODYS if state in (None, State.ARCHIVED) else None
