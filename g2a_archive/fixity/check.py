"""Files are read again and held against their SHA-256.

`check()` reads them, several at a time, in threads; the thread that calls it hears of the results
in batches, and alone talks to the catalogue, so that a run that archives meanwhile is held up for
moments only.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import stat
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from g2a_archive.archive.database.catalog import SUSPECT, UNKNOWN_SHA256
from g2a_archive.archive.disk.domains import retry_transient
from g2a_archive.archive.disk.hashing import hash_file
from g2a_archive.archive.disk.mounts import MissingPart
from g2a_archive.errors import (
    CatalogError,
    Interrupted,
    LocalError,
    StorageError,
    storage_error,
)
from g2a_archive.fixity.tree import Tree, identity, in_bunches, in_parallel
from g2a_archive.models import FileKind, StoredFile, Tombstone, pluralize

log = logging.getLogger("g2a_archive")

_BATCH_FILES = 5000
_BATCH_SECONDS = 2.0

_UNREADABLE_IN_A_ROW = 16
"""So many files that cannot be read, with none between that can: it is the drive."""

_ATTEMPTS = 5

MISSING = "missing"
"""The problem of a file that is not there."""

OF_REMOVED = "unknown: its recording was removed, so it may be deleted"
"""The problem of a file that `remove` could not know, as after a lost catalogue."""

_NOT_THE_FILE = {
    *(errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ETIMEDOUT),
    *(errno.ENODEV, errno.ENXIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
}
"""Errors of a share or of this machine, which prove nothing about one file."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong; `path` is relative to the archive.

    `problem` begins with "missing", "changed: ", "unreadable: " or "unknown: ". A file that we
    were only not allowed to read is no `damage`: it is told, but nothing is recorded of it.
    """

    recording: int | None
    kind: FileKind | None
    path: str
    problem: str
    damage: bool = True
    file: StoredFile | None = field(default=None, compare=False, repr=False)


@dataclass(slots=True)
class FixityResult:
    """What a check did: `left` files were not reached in time, or were being replaced.

    `unmounted` are the parts of the archive that are not mounted; their files are `left`.
    `removed` are those of the recordings asked for that were removed for good. `unwritten` is why
    a rebuild could not write a `SHA256SUMS`. `timed_out`: it was not done when its time was up.
    `unjudged` files are in no catalogue, but another run works here that may be about to record or
    to delete them.
    """

    files: int = 0
    bytes: int = 0
    seconds: float = 0.0
    left: int = 0
    findings: list[Finding] = field(default_factory=list)
    interrupted: bool = False
    recorded: bool = True
    unmounted: list[MissingPart] = field(default_factory=list)
    removed: list[Tombstone] = field(default_factory=list)
    unwritten: LocalError | None = None
    timed_out: bool = False
    unjudged: int = 0


Current = Callable[[int, FileKind], StoredFile | None]
Record = Callable[[list[StoredFile], list[Finding]], None]


@dataclass(frozen=True, slots=True)
class _Result:
    """What became of one file, and by what to tell later whether the same file is still there."""

    file: StoredFile
    finding: Finding | None
    seen: tuple[int, ...] | None
    doubtful: bool = False


def warn_unrecorded(error: CatalogError) -> None:
    """The check goes on and tells what it finds, of which the catalogue learns nothing."""
    log.warning("what is found cannot be recorded: %s", error)


def check(
    root: Path,
    files: Iterable[StoredFile],
    count: int,
    *,
    current: Current,
    unmounted: Callable[[set[str]], set[str]] = lambda directories: set(),
    record: Record,
    jobs: int | None = None,
    until: float = math.inf,
    stop: Callable[[], bool] = lambda: False,
    on_bytes: Callable[[int], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> FixityResult:
    """Read `files` of the archive at `root`, in their order, and compare them with their sums.

    There are `count` of them, which are asked for as they are needed, in the calling thread.

    `record` is given, every second or two, the files found right and the findings that are
    damage. A file that is wrong is told only if `current`, the catalogue's row read again, and
    the file itself are then still those that were compared: else it is checked again. Both are
    called in the calling thread, `on_bytes` in the reading threads. A `CatalogError` from
    `record` becomes one warning, and the check goes on without recording. Of the directories of
    missing files, `unmounted` tells those that are only not mounted: nothing is told of these.

    Once `clock` says `until`, no further file is begun; `stop` ends the check within moments.
    Raises `StorageError` where the archive as a whole cannot be read any more, with none of its
    files called damaged for that.
    """
    one = _Check(Tree(root), current, unmounted, record, until, stop, on_bytes, clock)
    return one.run(files, count, jobs)


@dataclass(slots=True)
class _Check:
    """One call of `check`. Only `inspect_all` and what it calls run in the reading threads."""

    tree: Tree
    current: Current
    unmounted: Callable[[set[str]], set[str]]
    record: Record
    until: float
    stop: Callable[[], bool]
    on_bytes: Callable[[int], None]
    clock: Callable[[], float]
    begun: float = 0.0
    flushed: float = 0.0
    over: bool = False
    outcome: FixityResult = field(default_factory=FixityResult)
    good: list[StoredFile] = field(default_factory=list)
    suspects: list[_Result] = field(default_factory=list)
    doubtful: list[_Result] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.begun = self.flushed = self.clock()

    def run(self, files: Iterable[StoredFile], count: int, jobs: int | None) -> FixityResult:
        tasks = (task for task in in_bunches(files) if self.in_time())
        try:
            with closing(in_parallel(tasks, self.inspect_all, jobs, self.stop)) as batches:
                try:
                    for results in batches:
                        self.sort(results or [])
                finally:
                    self.over = True
        except Interrupted:
            self.outcome.interrupted = True
        self.over = False
        self.suspects += self.doubtful
        self.flush()
        # Of a check that came to its end, what is no longer in the catalogue was not left.
        if self.outcome.interrupted or self.outcome.timed_out:
            self.outcome.left = max(0, count - self.outcome.files)
        self.outcome.seconds = self.clock() - self.begun
        return self.outcome

    def stopping(self) -> bool:
        return self.over or self.stop()

    def inspect_all(self, files: list[StoredFile]) -> list[_Result]:
        return [self.inspect(file) for file in files if self.in_time()]

    def in_time(self) -> bool:
        """Whether another file may be begun; that one may not is remembered."""
        if self.clock() < self.until:
            return True
        self.outcome.timed_out = True
        return False

    def inspect(self, file: StoredFile) -> _Result:
        """Read one file and compare it; whatever is wrong with it is in the result."""
        seen = None
        try:
            path, info = retry_transient(self.tree.locate, file.path)
            seen = identity(info)
            if not stat.S_ISREG(info.st_mode):
                return _wrong(file, "changed: it is no file any more", seen)
            size, digest = info.st_size, file.sha256
            if size == file.size:
                size, digest = hash_file(path, stop=self.stopping, on_bytes=self.on_bytes)
        except PermissionError as error:
            return _wrong(file, f"unreadable: {error.strerror}", seen, damage=False)
        except (FileNotFoundError, NotADirectoryError):
            return _wrong(file, MISSING, seen)
        except OSError as error:
            if error.errno in _NOT_THE_FILE:
                raise storage_error(error, "read", self.tree.root / file.path) from error
            return _wrong(file, f"unreadable: {error.strerror}", seen, doubtful=True)
        if size != file.size:
            here = pluralize(size, "byte")
            return _wrong(file, f"changed: {here}, {file.size:,} were archived", seen)
        if digest != file.sha256:
            what = f"changed: SHA-256 is {digest[:16]}..., {file.sha256[:16]}... was archived"
            return _wrong(file, SUSPECT if file.sha256 == UNKNOWN_SHA256 else what, seen)
        return _Result(file, None, seen)

    def sort(self, results: list[_Result]) -> None:
        """Sort results into good, suspect, and waiting for proof that the drive is still there."""
        for result in results:
            if result.doubtful:
                self.doubtful.append(result)
                continue
            if result.finding:
                self.suspects.append(result)
                continue
            self.good.append(result.file)
            self.suspects += self.doubtful
            self.doubtful.clear()
        if len(self.doubtful) >= _UNREADABLE_IN_A_ROW:
            last = self.doubtful[-1].finding
            raise StorageError(
                f"cannot read {self.tree.root}: {len(self.doubtful)} files in a row are "
                f"{last.problem if last else 'unreadable'}",
                hint="check the drive or the share",
            )
        batch = len(self.good) + len(self.suspects)
        if batch >= _BATCH_FILES or self.clock() - self.flushed >= _BATCH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Confirm the suspects, and hand over what is certain."""
        findings = [finding for suspect in self.suspects if (finding := self.confirm(suspect))]
        if findings:
            self.tree.check()
            findings = self.without_unmounted(findings)
        self.outcome.findings += findings
        self.outcome.files += len(self.good) + len(findings)
        self.outcome.bytes += sum(file.size for file in self.good)
        damage = [finding for finding in findings if finding.damage]
        if self.outcome.recorded and (self.good or damage):
            try:
                self.record(self.good, damage)
            except CatalogError as error:
                self.outcome.recorded = False
                warn_unrecorded(error)
        self.good, self.suspects = [], []
        self.flushed = self.clock()

    def without_unmounted(self, findings: list[Finding]) -> list[Finding]:
        """The findings without those of files that are only out of sight."""
        missing = {os.path.dirname(one.path) for one in findings if one.problem == MISSING}
        away = self.unmounted(missing) if missing else set()
        here = [
            one
            for one in findings
            if one.problem != MISSING or os.path.dirname(one.path) not in away
        ]
        self.outcome.left += len(findings) - len(here)
        return here

    def confirm(self, suspect: _Result) -> Finding | None:
        """The finding, if row and file are still those compared; a new file is compared anew."""
        for _ in range(_ATTEMPTS):
            row = self.current(suspect.file.recording, suspect.file.kind)
            if row is None:
                return None
            if row == suspect.file and self.tree.identity(row.path) == suspect.seen:
                return suspect.finding
            try:
                suspect = self.inspect(row)
            except Interrupted:
                break
            if suspect.finding is None:
                self.good.append(row)
                return None
        self.outcome.left += 1
        return None


def _wrong(
    file: StoredFile,
    problem: str,
    seen: tuple[int, ...] | None,
    *,
    damage: bool = True,
    doubtful: bool = False,
) -> _Result:
    finding = Finding(file.recording, file.kind, file.path, problem, damage, file)
    return _Result(file, finding, seen, doubtful)
