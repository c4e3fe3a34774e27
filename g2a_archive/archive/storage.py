"""The archive's directory: metadata directory `.g2a-archive/`, final names, flushes, free space.

An `OSError` of one file or one directory becomes a `LocalError`, which fails a recording; what
concerns the archive as a whole a `StorageError`, which ends the run (see `domains`).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from g2a_archive.archive.database.catalog import Catalog, EmptyCatalog
from g2a_archive.archive.database.copying import require_plain
from g2a_archive.archive.disk import flushing, strictpath
from g2a_archive.archive.disk.domains import Operation, local_error, retry_transient
from g2a_archive.archive.disk.flushing import flush_file, write_trial
from g2a_archive.archive.disk.lease import NO_CALLBACKS, LockCallbacks
from g2a_archive.archive.disk.lock import ArchiveLock
from g2a_archive.archive.disk.mounts import MissingPart, drives_in
from g2a_archive.archive.disk.space import NOT_FULL, Space, largest_file
from g2a_archive.archive.layout import ARCHIVE_DIR
from g2a_archive.errors import Domain, InputError, LocalError, StorageError, storage_error

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

_EFFECTIVE = os.access in os.supports_effective_ids
_BELIEVED = 1.0
"""Seconds for which a try that worked is cached."""

log = logging.getLogger("g2a_archive")


def catalog_path(dest: Path, elsewhere: str | None) -> Path:
    """Where the catalogue of the archive at `dest` is; `InputError` where that can be no file."""
    path = Path(elsewhere) if elsewhere else dest / ARCHIVE_DIR / "catalog.sqlite3"
    if not path.name:  # "." or "/"
        raise InputError(f"the catalogue {path} is a directory", hint="name a file in it")
    return path


def check_destination(dest: Path) -> None:
    """Raise `InputError` where the destination, or what leads to it, is a file."""
    for path in (dest, *dest.parents):
        if is_there(path, strictpath.is_dir):
            return
        if is_there(path, strictpath.is_not_dir):  # one look: another run may make it just now
            where = "" if path == dest else f" cannot be a directory: {path}"
            raise InputError(
                f"the destination {dest}{where} is a file", hint="choose another --dest"
            )


def is_there(path: Path, told: Callable[[Path], bool] = strictpath.exists) -> bool:
    """Whether `path` exists, or is what `told` tells. Raises `StorageError` if it can't be told."""
    try:
        return told(path)
    except OSError as error:
        raise storage_error(error, "read", path) from error


def has_catalog(path: Path) -> bool:
    """Whether there is a catalogue. An empty file is none yet: a share without working locks, or
    a run that was killed at its very beginning, leaves that. Raises `StorageError`."""
    return is_there(path, strictpath.has_bytes)


class Storage:
    """An archive opened for writing by this run alone."""

    def __init__(self, dest: Path, *, catalog: str | None = None, min_free: int = 0) -> None:
        self.root = dest.absolute()
        self._root = str(self.root)
        self.metadata_dir = self.root / ARCHIVE_DIR
        self.partial = self.metadata_dir / "partial"
        self.catalog = catalog_path(self.root, catalog)
        self._catalog_elsewhere = catalog is not None
        self.lock = ArchiveLock(
            self.root, self.metadata_dir, self.catalog, elsewhere=catalog is not None
        )
        self._made: set[str] = set()
        self._made_lock = threading.Lock()
        self._unflushed: set[str] = set()
        self._trial_lock = threading.Lock()
        self._tried_until = 0.0
        self._device = -1
        self._drives: set[str] = set()
        self.space = Space(self.root, min_free)
        self.partial_names: set[str] = set()
        self.unmounted: Sequence[MissingPart] = ()  # where nothing may be made

    def open(self, callbacks: LockCallbacks = NO_CALLBACKS, *, create: bool = True) -> None:
        """Make or find the archive and take its lock.

        Raises `InputError` for a destination that is a file, `StorageError` for one that cannot
        be used, or is no archive although it should be, `LockedError`, and `Interrupted`.
        """
        self.check(create=create)
        if (
            self._catalog_elsewhere
            and is_there(self.metadata_dir)
            and not has_catalog(self.catalog)
        ):
            log.warning(
                "the catalogue %s is new, and knows nothing of what %s owes: is its disk mounted?",
                self.catalog,
                self.root,
            )
        flushing.reset_warnings()
        try:
            self._unflushed.update(flushing.make_directories(self.partial))
            self._device = retry_transient(os.stat, self._root).st_dev
            self._drives = retry_transient(drives_in, self._root, self._device)
            if self._catalog_elsewhere:
                self._unflushed.update(flushing.make_directories(self.catalog.parent))
            self.lock.acquire(callbacks)
            flushing.remove_trials(self.metadata_dir)
            self.partial_names = flushing.remove_trials(self.partial)
        except OSError as error:
            self.close()
            raise storage_error(error, "create", error.filename or self.metadata_dir) from error

    def check(self, *, create: bool = True) -> None:
        """Raise what `open` would for a destination that cannot be this archive; change nothing."""
        check_destination(self.root)
        if not create:
            self.require()
        elif (
            self._catalog_elsewhere
            and not is_there(self.metadata_dir, strictpath.is_dir)
            and has_catalog(self.catalog)
        ):
            require_plain(self.catalog)
            raise StorageError(
                f"{self.root} is not the archive that the catalogue {self.catalog} speaks of",
                hint="is the drive mounted? For a new archive, use a new catalogue",
            )

    def require(self) -> None:
        """Raise `StorageError` where the destination is no archive yet, or its catalogue is gone.

        In its own place a catalogue that is gone is lost, not only on a disk that is not mounted.
        """
        if not is_there(self.metadata_dir, strictpath.is_dir):
            raise StorageError(
                f"{self.root} is not an archive yet, and --no-create is set",
                hint="is the drive mounted? For a new archive, run once without --no-create",
            )
        if self._catalog_elsewhere and not has_catalog(self.catalog):
            raise StorageError(
                f"the catalogue {self.catalog} does not exist, and --no-create is set",
                hint="is its disk mounted? `verify --rebuild` brings back a lost one",
            )

    def open_catalog(self, stopped: Callable[[], bool]) -> Catalog:
        """The catalogue, which is written as long as no other run has taken over the archive."""
        return Catalog(self.catalog, interrupted=stopped, held=self.lock.require)

    def read_catalog(self, stopped: Callable[[], bool]) -> Catalog:
        """The catalogue as a dry run reads it, without the lock; empty where there is none yet."""
        if not has_catalog(self.catalog):
            return EmptyCatalog()
        return Catalog(self.catalog, readonly=True, interrupted=stopped)

    def close(self) -> None:
        """Let go of the locks."""
        self.lock.release()

    # --- final names ------------------------------------------------------------------------

    def find(self, directory: str, names: Iterable[str]) -> str | None:
        """The path of the first of `names` that exists in a directory of the archive."""
        return next(self._found(directory, names), None)

    def _found(self, directory: str, names: Iterable[str]) -> Iterator[str]:
        # Plain strings here and in `publish`: pathlib costs more than all else done with a path.
        place = f"{self._root}/{directory}"
        try:
            for name in names:
                if retry_transient(_is, path := f"{place}/{name}"):
                    yield path
        except OSError as error:
            raise local_error(error, Operation.LIST, place) from error

    def make_directory(self, directory: str) -> None:
        """Make a directory of the archive; `flush` also flushes those that it was made in.

        Best called before the first byte of what belongs there is asked for: where it can't be made
        or written to, raises `LocalError`. Raises `StorageError` where the archive is no longer the
        drive that the run began on.
        """
        if directory in self._made:
            return
        with self._made_lock:
            if directory in self._made:
                return
            self._make(directory)
            self._made.add(directory)

    def _make(self, directory: str) -> None:
        """Make it below the open root: a drive that goes away meanwhile takes it along."""
        for missing in self.unmounted:
            if missing.holds(directory):
                why = missing.error()
                raise LocalError(why.message, domain=Domain.DIRECTORY, hint=why.hint)
        path = self._root
        try:
            here = retry_transient(os.open, self._root, _DIRECTORY)
            try:
                if os.fstat(here).st_dev != self._device:
                    raise _another_drive(self.root)
                for part in directory.split("/"):
                    parent, path = path, f"{path}/{part}"
                    if retry_transient(_mkdir_at, part, here):
                        self._unflushed.add(parent)
                    above, here = here, retry_transient(os.open, part, _DIRECTORY, dir_fd=here)
                    os.close(above)
                    lost = parent == self._root and part in self._drives
                    if lost and os.fstat(here).st_dev == self._device:
                        raise _another_drive(path, Domain.DIRECTORY)
                if not os.access(".", os.W_OK | os.X_OK, dir_fd=here, effective_ids=_EFFECTIVE):
                    # A no may be false: the filter of an old Docker forbids the very call, and a
                    # share's server may allow what the modes here don't.
                    write_trial(path, 0)
            finally:
                os.close(here)
        except OSError as error:
            raise local_error(error, Operation.NAME, path, "make the directory") from error

    def publish(self, part: str, directory: str, names: tuple[str, ...], name: str) -> list[str]:
        """Give a whole, flushed file its final name; returns the names of what it kept aside.

        Any file that has one of the recording's `names` for this kind is kept, with a suffix.
        The caller flushes the directory afterwards. Raises `LocalError`: the bytes are still in
        `partial/`, whole, and the next run need not fetch them again.
        """
        final = f"{self._root}/{directory}/{name}"
        try:
            aside = [keep_aside(path) for path in self._found(directory, names)]
            try:
                retry_transient(os.rename, part, final)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                _copy_beside(part, final)
                os.unlink(part)
        except OSError as error:
            raise local_error(error, Operation.NAME, final) from error
        return aside

    def flush(self, directories: Iterable[str]) -> dict[str, LocalError]:
        """Flush directories to disk, so that the names in them survive a crash.

        Returns those that could not be flushed, and why: what was named in them, or further down,
        may not be claimed. A file system that has no such flush is warned of once, and passed over.
        """
        failed = {}
        with self._made_lock:
            made_in, self._unflushed = self._unflushed, set()
        for directory in {*directories, *made_in}:
            try:
                retry_transient(flushing.flush_directory, directory)
            except OSError as error:
                failed[directory] = local_error(error, Operation.FLUSH, directory)
                self._unflushed.add(directory)
        return failed

    # --- the archive as a whole ---------------------------------------------------------------

    def require_writable(self, after: LocalError | None = None) -> None:
        """Prove that the archive can be written: bytes made, flushed and removed in `partial/`.

        What a run calls after an error `after` of one file or directory, before it fails that
        recording: where this returns, the error is no more than it says, and the run goes on.
        After an error that speaks of a full disk, the try is of 32 MiB, unless it is another disk
        than that of `partial/`. One that worked is cached for a second. Raises `StorageError`,
        which ends the run.
        """
        full = after is not None and after.code in _FULL and not self._is_elsewhere(after.path)
        with self._trial_lock:
            if not full and time.monotonic() < self._tried_until:
                return
            try:
                if retry_transient(os.stat, self._root).st_dev != self._device:
                    raise _another_drive(self.root)
                retry_transient(write_trial, self.partial, NOT_FULL if full else 1)
            except OSError as error:
                raise storage_error(error, "write to", self.partial) from error
            self._tried_until = time.monotonic() + _BELIEVED

    def _is_elsewhere(self, path: str) -> bool:
        """Whether something in the archive is known to lie on another disk than `partial/`."""
        with contextlib.suppress(OSError):
            return os.stat(self._nearest(path)).st_dev != os.stat(self.partial).st_dev
        return False

    def largest_file(self, directory: str) -> int | None:
        """Bytes that a file in a directory of the archive can have; None where that isn't told.

        FAT takes no file of 4 GiB. It is known beforehand, from `recordingSize`.
        """
        places = str(self.partial), self._nearest(f"{self._root}/{directory}")
        return min((most for most in map(largest_file, places) if most is not None), default=None)

    def _nearest(self, path: str) -> str:
        """What of a path in the archive is there: itself, or what it will lie in."""
        while not os.path.exists(path) and len(path) > len(self._root):
            path = os.path.dirname(path)
        return path


def _is(path: str) -> bool:
    """Whether there is something of this name. Raises `OSError` where that is not told."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return bool(os.lstat(path))
    return False


def _another_drive(path: str | Path, domain: Domain | None = None) -> StorageError:
    text, hint = f"{path} is no longer the drive that the run began on", "is it still mounted?"
    return LocalError(text, domain=domain, hint=hint) if domain else StorageError(text, hint=hint)


def _mkdir_at(name: str, directory: int) -> bool:
    """Make a directory in an open one; False where it is there."""
    try:
        os.mkdir(name, dir_fd=directory)
    except FileExistsError:
        return False
    return True


def keep_aside(path: str) -> str:
    """Rename a file that stands in the way to the first free `NAME.kept-N`; returns that name."""
    number = 1
    while os.path.lexists(aside := f"{path}.kept-{number}"):
        number += 1
    os.rename(path, aside)
    return os.path.basename(aside)


def _copy_beside(part: str, final: str) -> None:
    """The directory is on another file system: copy beside the final name, flush, rename."""
    import shutil

    directory, name = os.path.split(final)
    beside = f"{directory}/.{name}.g2a-part"
    try:
        with open(part, "rb") as source, open(beside, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
            target.flush()
            status = os.fstat(source.fileno())
            with contextlib.suppress(OSError):  # of use with --set-mtime; a share may refuse it
                os.utime(beside, ns=(status.st_atime_ns, status.st_mtime_ns))
            flush_file(target.fileno())
        retry_transient(os.rename, beside, final)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise
