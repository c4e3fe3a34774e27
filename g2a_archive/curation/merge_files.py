"""Files on their way from one archive to another: linked, or copied and verified; and their end.

A hard link takes no time and no space, and both archives then name the same bytes. Where none can
be had (another file system, one without links, another user's file), the file is copied, hashed on
the way, held against its recorded SHA-256, flushed, and only then named.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NoReturn

from g2a_archive.archive.disk.domains import Operation, local_error, retry_transient
from g2a_archive.archive.disk.flushing import FlushedDevices, GroupFlush, flush_file
from g2a_archive.archive.disk.hashing import hash_file, open_regular, read_blocks
from g2a_archive.archive.layout import file_names
from g2a_archive.archive.storage import Storage
from g2a_archive.errors import ArchiverError, Domain, Interrupted, LocalError, StorageError
from g2a_archive.models import FileKind, pluralize
from g2a_archive.threads import pool

_COPIERS = 4
_ASIDE = ".merge"
"""What a copy that is not whole yet is called in `partial/`, after recording and kind."""

NOT_HELD = "this archive's own file is missing or changed: run verify"
"""Why a file stays in its source."""

_FEW_DIRECTORIES = 16
"""As many are flushed one by one; more of them together, where the file system can do that."""


class NotTakenError(Exception):
    """A file was not taken: the source does not have it as it should be.

    `contradicts`: another one stands in its place, untouched. `here`: the target could not take it.
    """

    def __init__(self, reason: str, *, contradicts: bool = False, here: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.contradicts = contradicts
        self.here = here


@dataclass(frozen=True, slots=True)
class IncomingFile:
    """A file at `source`, of this size and SHA-256, that is to be `directory/name` in the target.

    `mends`: the target's own file there is known to be broken, and is to be kept aside.
    """

    recording: int
    kind: FileKind
    source: str
    size: int
    sha256: str
    directory: str
    name: str
    mends: bool = False


@dataclass(frozen=True, slots=True)
class ImportedFile:
    """How a file came to be in the target: it was `linked`, `copied`, or was `there` already."""

    how: str
    path: str
    aside: str | None = None


@dataclass(slots=True)
class FileImporter:
    """Imports files into the archive `storage`. `on_bytes` hears of bytes copied, in any thread."""

    storage: Storage
    stop: Callable[[], bool]
    on_bytes: Callable[[int], None]
    copying: bool = False  # as links cannot be had, it seems
    _broken: bool = False
    _touched: set[str] = field(default_factory=set)
    _settled: FlushedDevices = field(default_factory=FlushedDevices)
    _group: GroupFlush | None = None

    def __enter__(self) -> FileImporter:
        with contextlib.suppress(OSError):
            self._group = GroupFlush.of(str(self.storage.root))
        return self

    def __exit__(self, *_: object) -> None:
        if self._group is not None:
            self._group.close()

    # --- coming -----------------------------------------------------------------------------

    def import_files(
        self, recordings: Sequence[Sequence[IncomingFile]]
    ) -> Iterator[tuple[IncomingFile, ImportedFile | NotTakenError]]:
        """Import files, each recording's together; nothing of it where one contradicts.

        What is left when the run is asked to stop, comes out in no tuple. Raises `StorageError`
        where the target takes nothing any more. The caller flushes before it records.
        """
        to_copy: list[IncomingFile] = []
        for files in recordings:
            if self.stop():
                break
            try:
                inspected = [(one, self._inspect(one)) for one in files]
            except Interrupted:
                break
            against = [
                (one, result)
                for one, result in inspected
                if isinstance(result, NotTakenError) and result.contradicts
            ]
            for one, result in against or inspected:
                found = result or self._linked(one)
                if found is not None:
                    yield one, found
                else:
                    to_copy.append(one)
        self.copying = bool(to_copy)
        if to_copy:
            yield from self._all_copied(to_copy)

    def _all_copied(
        self, to_copy: Sequence[IncomingFile]
    ) -> Iterator[tuple[IncomingFile, ImportedFile | NotTakenError]]:
        """Copy files, several at a time; what has come is told also where the target is full."""
        full = None
        with pool(_COPIERS) as copiers:
            for one, copied in [(one, copiers.submit(self._copied, one)) for one in to_copy]:
                try:
                    if (result := copied.result()) is not None:
                        yield one, result
                except StorageError as error:
                    full = full or error
        if full is not None:
            raise full

    def _inspect(self, one: IncomingFile) -> ImportedFile | NotTakenError | None:
        """How the file is in the target already, or why it can't be taken; None: it may come.

        Raises `StorageError` and `Interrupted`.
        """
        try:
            return self._existing(one)
        except NotTakenError as error:
            return error

    def _existing(self, one: IncomingFile) -> ImportedFile | None:
        source = examine(one.source, one.size)
        place = f"{self.storage.root}/{one.directory}"
        with self._here(place):
            self.storage.make_directory(one.directory)
            self._settle(place)
        self._touched.add(place)
        names = file_names(one.recording, one.kind)
        existing = self.storage.find(one.directory, names)
        if existing is None:
            return None
        try:
            there = retry_transient(os.lstat, existing)
            same = is_one(there, source) or (
                stat.S_ISREG(there.st_mode)
                and there.st_size == one.size
                and hash_file(existing, stop=self.stop) == (one.size, one.sha256)
            )
        except OSError as error:
            reason = f"what stands in its place cannot be read: {error.strerror}"
            raise NotTakenError(reason, here=True) from error
        if same:  # a merge was killed before it could record it
            return ImportedFile("there", os.path.relpath(existing, self.storage.root))
        if one.mends or there.st_size == 0:  # as a power cut leaves what it had just renamed on FAT
            return None
        raise NotTakenError("another file stands in its place here", contradicts=True)

    def _linked(self, one: IncomingFile) -> ImportedFile | None:
        """Link the file; None where that cannot be, whatever the reason is."""
        if one.mends:
            return None  # what is broken here has to be kept aside first, as `publish` does
        try:
            os.link(one.source, self._final(one), follow_symlinks=False)
        except OSError:
            return None
        return ImportedFile("linked", f"{one.directory}/{one.name}")

    def _final(self, one: IncomingFile) -> str:
        return f"{self.storage.root}/{one.directory}/{one.name}"

    def _copied(self, one: IncomingFile) -> ImportedFile | NotTakenError | None:
        """Copy the file; None where the run is asked to stop."""
        part = f"{self.storage.partial}/{one.recording}.{one.kind}{_ASIDE}"
        try:
            if self.stop() or self._broken:
                return None
            with self._here(part):
                self.storage.space.reserve(part, one.size, directory=one.directory)
            return self._copy(one, part)
        except NotTakenError as error:
            return error
        except Interrupted:
            return None
        except StorageError:
            self._broken = True
            raise
        finally:
            self.storage.space.release(part)
            with contextlib.suppress(OSError):
                os.unlink(part)

    def _copy(self, one: IncomingFile, part: str) -> ImportedFile:
        with _reading(), open_regular(one.source) as source:
            times = os.fstat(source.fileno())
            with self._here(part), open(part, "wb") as target:
                count, digest = self._pour(source.fileno(), target, part)
                if (count, digest) != (one.size, one.sha256):
                    raise NotTakenError("changed: not what was archived")
                target.flush()
                with contextlib.suppress(OSError):  # of use with --set-mtime
                    os.utime(part, ns=(times.st_atime_ns, times.st_mtime_ns))
                flush_file(target.fileno())
        names = file_names(one.recording, one.kind)
        with self._here(part):
            aside = self.storage.publish(part, one.directory, names, one.name)
        place = f"{one.directory}/"
        return ImportedFile("copied", f"{place}{one.name}", f"{place}{aside[0]}" if aside else None)

    def _pour(self, source: int, target: BinaryIO, part: str) -> tuple[int, str]:
        """Copy all bytes; returns how many there were, and their SHA-256."""
        digest, size = hashlib.sha256(), 0
        for piece in _read(source, self.stop):
            digest.update(piece)
            target.write(piece)
            size += len(piece)
            self.storage.space.wrote(part, len(piece))
            self.on_bytes(len(piece))
        return size, digest.hexdigest()

    def _settle(self, directory: str) -> None:
        """See to it that what others left on the disk of a directory is there to stay."""
        try:
            retry_transient(self._settled.flush_once, directory)
        except OSError as error:
            raise local_error(error, Operation.FLUSH, directory) from error

    @contextlib.contextmanager
    def _here(self, path: str) -> Iterator[None]:
        """An error of the target's own disk, at `path`, ends the merge, or fails the file alone."""
        try:
            yield
        except OSError as error:
            self._failed(local_error(error, Operation.WRITE, path))
        except LocalError as error:
            self._failed(error)

    def _failed(self, error: LocalError) -> NoReturn:
        if error.domain is not Domain.FILE:
            try:
                self.storage.require_writable(error)
            except ArchiverError:
                self._broken = True
                raise
        raise NotTakenError(str(error), here=True) from error

    def flush(self) -> dict[str, LocalError]:
        """Flush all names that files have got; returns where that failed, and why."""
        touched, self._touched = self._touched, set()
        device = os.stat(self.storage.root).st_dev
        near = [path for path in touched if device_of(path) == device]
        if self._group is not None and len(near) > _FEW_DIRECTORIES:
            with contextlib.suppress(OSError):  # each of them tells more
                self._group.flush()
                touched.difference_update(near)
        failed = self.storage.flush(touched)
        for problem in failed.values():
            self.storage.require_writable(problem)
        return failed

    # --- going ------------------------------------------------------------------------------

    def target_problem(self, path: str, size: int, sha256: str, source: str, *, seen: bool) -> str:
        """Why `source` may not go: what is wrong with the target's file at `path`; "" for nothing.

        `seen`: it was just seen to be right.
        """
        full = f"{self.storage.root}/{path}"
        try:
            here = retry_transient(os.lstat, full)
            if not stat.S_ISREG(here.st_mode):
                return NOT_HELD
            self._settle(os.path.dirname(full))
            with contextlib.suppress(OSError):
                # Of a directory that both archives share, by a link or a mount, no file may go.
                if os.path.samestat(*map(os.stat, map(os.path.dirname, (full, source)))):
                    return "it is this archive's own file: its directory there is the one here"
                seen = seen or is_one(here, os.lstat(source))
            # gocryptfs tells another size for a second after it was linked.
            seen = seen and here.st_size == size
            right = seen or hash_file(full, stop=self.stop) == (size, sha256)
        except LocalError as error:
            return str(error)
        except OSError:
            right = False
        return "" if right else NOT_HELD


def is_one(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether it is one file or directory; some file systems number none of theirs."""
    return one.st_ino != 0 and os.path.samestat(one, other)


def device_of(path: str | Path) -> int:
    """The number of the file system of `path`; -1 where that cannot be told."""
    try:
        return os.stat(path).st_dev
    except OSError:
        return -1


def examine(path: str, size: int) -> os.stat_result:
    """The state of a source's file; raises `NotTakenError` where it is not what was archived."""
    try:
        status = retry_transient(os.lstat, path)
    except FileNotFoundError:
        raise NotTakenError("missing") from None
    except OSError as error:
        raise NotTakenError(f"unreadable: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise NotTakenError("unreadable: not a plain file")
    if status.st_size != size:
        raise NotTakenError(f"changed: {pluralize(status.st_size, 'byte')} instead of {size:,}")
    return status


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NotTakenError(f"unreadable: {error.strerror}") from error


def _read(source: int, stop: Callable[[], bool]) -> Iterator[memoryview]:
    with _reading():
        yield from read_blocks(source, stop)


def remove_files(paths: Iterable[str]) -> None:
    """Take files out of a source, those that are still there. Raises `OSError`."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            retry_transient(os.unlink, path)
