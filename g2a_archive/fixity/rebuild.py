"""A lost catalogue, rebuilt from the archive's tree and its `SHA256SUMS` files."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from g2a_archive.archive import checksums, content
from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.database.tombstones import tombstones
from g2a_archive.archive.disk.flushing import FlushedDevices
from g2a_archive.archive.disk.hashing import hash_file
from g2a_archive.archive.disk.mounts import broken_link_part, missing_parts
from g2a_archive.archive.layout import ARCHIVE_DIR, is_directory, parse_name
from g2a_archive.errors import Interrupted, LocalError, StorageError, storage_error
from g2a_archive.fixity.check import OF_REMOVED, Finding, FixityResult
from g2a_archive.fixity.tree import Folder, Tree, in_parallel, leads_nowhere
from g2a_archive.models import FileKind, StoredFile, pluralize, printable

_TOGETHER = 500
"""Files of a directory that are looked at together."""

_AHEAD = 2
_PAGE = 2000

_Key = tuple[int, FileKind]


@dataclass(slots=True)
class _Found:
    """What some names of one directory stand for: files to hash, and what came of it.

    `listed` are the sums that `SHA256SUMS` has for these names.
    """

    directory: str
    todo: dict[str, _Key] = field(default_factory=dict)
    listed: dict[str, str] = field(default_factory=dict)
    files: list[StoredFile] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def path(self, name: str) -> str:
        """The path of one of them, relative to the archive."""
        return os.path.join(self.directory, name)


def rebuild(
    catalog: Catalog,
    root: Path,
    *,
    jobs: int | None = None,
    on_begin: Callable[[int], None] = lambda files: None,
    on_files: Callable[[int], None] = lambda files: None,
    on_bytes: Callable[[int], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> FixityResult:
    """Bring into the catalogue the files of the archive at `root` that it does not hold.

    A file that its directory's `SHA256SUMS` lists must have that sum; one that is not listed
    must be whole, as far as it tells by itself, and is then taken as it is. Any other makes its
    recording owed. `on_begin` hears how many files there are, `on_files` of so many more that were
    looked at, `on_bytes`, in several threads, of bytes read. The caller holds the archive's lock.

    Told as `unmounted` is what the catalogue knows to be so, and links that lead nowhere. Raises
    `StorageError`; `stop` ends it within moments, and what was recorded stays.
    """
    begun = time.monotonic()
    one = _Rebuilding(catalog, Tree(root, catalog.path), on_bytes, stop)
    one.outcome.unmounted = missing_parts(catalog, root)
    try:
        on_begin(sum(len(folder.names) for folder in one.tree.walk(stop)))
        one.run(jobs, on_files)
    except Interrupted:
        one.outcome.interrupted = True
    finally:
        one.write()
    one.outcome.findings.sort(key=lambda finding: finding.path)
    one.outcome.seconds = time.monotonic() - begun
    return one.outcome


def require_files(root: Path, stop: Callable[[], bool]) -> None:
    """Raise `StorageError` where no archive was ever: a drive that is not mounted looks like that.

    With the catalogue, all of `.g2a-archive` may be lost; then a recording's file tells.
    """
    tree = Tree(root)
    if os.path.isdir(root / ARCHIVE_DIR):
        return
    names = (
        name for folder in tree.walk(stop) if is_directory(folder.path) for name in folder.names
    )
    if not any(parse_name(tree.key(name)) for name in names):
        raise StorageError(
            f"there is no archive at {root}, nor a file of a recording",
            hint="check --dest; is the drive mounted?",
        )


@dataclass(slots=True)
class _Rebuilding:
    """One call of `rebuild`. Only `examine` and what it calls run in the reading threads."""

    catalog: Catalog
    tree: Tree
    on_bytes: Callable[[int], None]
    stop: Callable[[], bool]
    over: bool = False
    outcome: FixityResult = field(default_factory=FixityResult)
    pending: dict[_Key, str] = field(default_factory=dict)
    """Where the files lie that are being looked at, or wait to be recorded."""
    files: list[StoredFile] = field(default_factory=list)
    broken: dict[int, str] = field(default_factory=dict)
    finished: list[_Key] = field(default_factory=list)
    flushed: FlushedDevices = field(default_factory=FlushedDevices)

    def run(self, jobs: int | None, on_files: Callable[[int], None]) -> None:
        work = in_parallel(self.tasks(), self.examine, jobs, self.stop, ahead=_AHEAD)
        with closing(work) as results:
            try:
                for found in results:
                    if found is not None:
                        self.collect(found)
                        on_files(len(found.todo))
            finally:
                self.over = True

    def stopping(self) -> bool:
        return self.over or self.stop()

    def tasks(self) -> Iterator[_Found]:
        """All files of the archive, some of one directory at a time, and what is seen at once."""
        for folder in self.tree.walk(self.stop):
            if not _is_text(folder.path):
                if folder.names:
                    files = pluralize(len(folder.names), "file")
                    problem = f"unknown: its name is not UTF-8; {files} in it"
                    yield _Found(folder.path, findings=[_unknown(folder.path, problem)])
                continue
            sums = self.sums_of(folder.path)
            if isinstance(sums, Finding):  # what it lists may be told by the next rebuild
                yield _Found(folder.path, findings=[sums])
                continue
            missing = _missing(sums.keys() - {self.tree.key(name) for name in folder.names})
            self.flush(folder.path)
            for names in _by_recording(self.reachable(folder)):
                yield self.sorted_out(folder.path, names, sums, missing)
            last = _Found(folder.path)
            if folder.problem:
                problem = f"unreadable: {folder.problem}"
                last.findings.append(Finding(None, None, folder.path, problem, False))
            for recording in [*missing]:
                self.add_missing(last, recording, missing)
            yield last

    def flush(self, directory: str) -> None:
        """What was copied here a moment ago is flushed before it counts. Raises `StorageError`."""
        path = self.tree.root / directory
        try:
            self.flushed.flush_once(path)
        except OSError as error:
            raise storage_error(error, "flush the directory", path) from error

    def reachable(self, folder: Folder) -> list[str]:
        """The names in a directory without links that lead nowhere, as one to a drive may.

        Such a link that has no recording's name is a part of the archive that is not mounted.
        """
        names = []
        for name in folder.names:
            path = os.path.join(folder.path, name)
            full = self.tree.root / path
            ours = parse_name(self.tree.key(name)) is not None or not _is_text(path)
            if not ours and os.path.islink(full) and leads_nowhere(full):
                if not any(part.directory == path for part in self.outcome.unmounted):
                    self.outcome.unmounted.append(
                        broken_link_part(self.catalog, self.tree.root, path)
                    )
            else:
                names.append(name)
        return names

    def sums_of(self, directory: str) -> dict[str, str] | Finding:
        """What the `SHA256SUMS` of a directory lists; why it cannot be read, where it is so."""
        path = os.path.join(directory, checksums.NAME)
        try:
            sums = checksums.read(self.tree.root / path)
        except LocalError as error:
            self.tree.check()
            return _unknown(path, f"unreadable: {os.strerror(error.code)}; its files were left")
        return {self.tree.key(name): digest for name, digest in sums.items()}

    def sorted_out(
        self,
        directory: str,
        names: Sequence[str],
        sums: Mapping[str, str],
        missing: dict[int, list[tuple[str, FileKind]]],
    ) -> _Found:
        """Which of these names are to be looked at, and what is missing of their recordings."""
        found = _Found(directory)
        ours = is_directory(directory)
        keys = {name: parse_name(self.tree.key(name)) for name in names}
        ids = {key[0] for key in keys.values() if key}
        files, removed = self.catalog.files(ids), {one.id for one in tombstones(self.catalog, ids)}
        held: dict[_Key, str] = {(file.recording, file.kind): file.path for file in files}
        for name, key in keys.items():
            path = found.path(name)
            if key is None or not ours:
                why = "in no directory that a layout makes" if key else "not a recording's file"
                found.findings.append(_unknown(path, f"unknown: {why}"))
                continue
            if key[0] in removed:
                found.findings.append(_unknown(path, OF_REMOVED))
                continue
            self.add_missing(found, key[0], missing)
            other = held.get(key) or self.pending.get(key)
            if other is None:
                self.pending[key] = path
                found.todo[name] = key
                if digest := sums.get(self.tree.key(name)):
                    found.listed[name] = digest
            elif self.tree.key(other) != self.tree.key(path):
                found.findings.append(_unknown(path, f"unknown: a second {other}"))
        return found

    def add_missing(
        self, found: _Found, recording: int, missing: dict[int, list[tuple[str, FileKind]]]
    ) -> None:
        """Add what is missing of a recording; together with its other files, or not at all."""
        for name, kind in missing.pop(recording, ()):
            # What is no file, or is passed over, may have the name all the same.
            if not os.path.lexists(self.tree.root / found.path(name)):
                problem = f"missing: {checksums.NAME} lists it"
                found.findings.append(Finding(recording, kind, found.path(name), problem))

    def examine(self, found: _Found) -> _Found:
        """Hash the files, and compare them with their sums."""
        for name, key in found.todo.items():
            path = found.path(name)
            full = self.tree.root / path
            size, digest = 0, ""
            listed = found.listed.get(name)
            try:
                problem = _problem(full, key[1], listed=listed is not None)
                if not problem:
                    size, digest = hash_file(full, stop=self.stopping, on_bytes=self.on_bytes)
            except OSError as error:
                self.tree.check()
                problem = f"unreadable: {error.strerror}"
            if not problem and listed not in (None, digest):
                problem = f"changed: not what {checksums.NAME} lists"
            if problem:
                found.findings.append(Finding(*key, path, problem))
            else:
                found.files.append(StoredFile(*key, path, size, digest))
        return found

    def collect(self, found: _Found) -> None:
        """Remember what is to be recorded, and record it where that is enough."""
        findings = [one for one in found.findings if not self.elsewhere(one)]
        self.outcome.files += len(found.files)
        self.outcome.bytes += sum(file.size for file in found.files)
        self.outcome.findings += findings
        self.files += found.files
        for one in findings:
            if one.recording is not None and one.damage:
                self.broken[one.recording] = f"{one.kind}: {one.problem}"
        self.finished += found.todo.values()
        if len(self.finished) >= _PAGE:
            self.write()

    def elsewhere(self, one: Finding) -> bool:
        """Whether a file that is missing in one directory has been found in another."""
        if one.recording is None or one.kind is None or not one.problem.startswith("missing"):
            return False
        key = (one.recording, one.kind)
        return key in self.pending or one.kind in self.catalog.files_of(one.recording)

    def write(self) -> None:
        """Record what was found. Raises `CatalogError`."""
        if self.files or self.broken:
            self.catalog.adopt(self.files, self.broken)
        for key in self.finished:
            del self.pending[key]
        self.files.clear()
        self.broken.clear()
        self.finished.clear()


def _is_text(path: str) -> bool:
    """Whether a path can be in a catalogue, which holds Unicode."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _by_recording(names: Sequence[str]) -> Iterator[list[str]]:
    """Names in their order, some at a time, all of one recording's together."""
    some: list[str] = []
    for _, its in groupby(names, lambda name: name.partition(".")[0]):
        if len(some) >= _TOGETHER:
            yield some
            some = []
        some += its
    if some:
        yield some


def _missing(names: Iterable[str]) -> dict[int, list[tuple[str, FileKind]]]:
    """Names and kinds of the files that are listed and not there, by recording."""
    missing: dict[int, list[tuple[str, FileKind]]] = {}
    for name in sorted(names):
        if key := parse_name(name):
            missing.setdefault(key[0], []).append((name, key[1]))
    return missing


def _unknown(path: str, problem: str) -> Finding:
    return Finding(None, None, printable(path), problem, False)


def _problem(path: Path, kind: FileKind, *, listed: bool) -> str:
    """Why this cannot be a recording's file; "" where it can. A listed file needs only be one."""
    if not stat.S_ISREG(os.lstat(path).st_mode):
        return "changed: it is no file"
    if listed:
        return ""
    doubt = content.integrity_problem(path, kind)
    return f"changed: {doubt}" if doubt else ""
