"""The archive's directory: its own corner `.g2a-archive/`, final names, flushes, free space.

Every `OSError` becomes a `StorageError`, which stops the run: a disk that fails once fails on.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from g2a_archive.archive.layout import ARCHIVE_DIR
from g2a_archive.archive.lock import NoLocksError, RunLock
from g2a_archive.errors import InputError, StorageError, storage_error
from g2a_archive.models import size_text

_MOST_LISTED = 64
"""Directories whose names are kept in memory."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_NEAR = 256 << 20
"""Bytes: nearer than this to `--min-free`, the free space is read before each file."""

log = logging.getLogger("g2a_archive")


def catalog_path(dest: Path, elsewhere: str | None) -> Path:
    """Where the catalogue of the archive at `dest` is."""
    return Path(elsewhere) if elsewhere else dest / ARCHIVE_DIR / "catalog.sqlite3"


def check_destination(dest: Path) -> None:
    """Raise `InputError` where the destination, or what leads to it, is a file."""
    for path in (dest, *dest.parents):
        if is_there(path, Path.is_dir):
            return
        if is_there(path):
            where = "" if path == dest else f" cannot be a directory: {path}"
            raise InputError(
                f"the destination {dest}{where} is a file", hint="choose another --dest"
            )


def is_there(path: Path, look: Callable[[Path], bool] = Path.exists) -> bool:
    """Whether `path` exists, or is what `look` tells. Raises `StorageError` if it can't be told."""
    try:
        return look(path)
    except OSError as error:
        raise storage_error(error, "read", path) from error


class Storage:
    """An archive opened for writing by this run alone."""

    def __init__(self, dest: Path, *, catalog: str | None = None, min_free: int = 0) -> None:
        self.root = dest.absolute()
        self._root = str(self.root)
        self.own = self.root / ARCHIVE_DIR
        self.partial = self.own / "partial"
        self.catalog = catalog_path(self.root, catalog)
        self._catalog_elsewhere = catalog is not None
        self._locks: list[RunLock] = []
        self._made: set[str] = set()
        self._listed: dict[str, set[str]] = {}
        self._made_lock = threading.Lock()
        self._device = -1
        self.space = Space(self.root, min_free)
        self.leftovers: set[str] = set()

    def open(self, *, create: bool = True) -> None:
        """Make or find the archive and take its lock.

        Raises `InputError` for a destination that is a file, `StorageError` for one that cannot
        be used, or is no archive although it should be, and `LockedError`.
        """
        check_destination(self.root)
        if not create:
            self.require()
        elif (
            self._catalog_elsewhere
            and not is_there(self.own, Path.is_dir)
            and is_there(self.catalog)
        ):
            raise StorageError(
                f"{self.root} is not the archive that the catalogue {self.catalog} speaks of",
                hint="is the drive mounted? For a new archive, use a new catalogue",
            )
        try:
            self.partial.mkdir(parents=True, exist_ok=True)
            self._device = self.root.stat().st_dev
            if self._catalog_elsewhere:
                self.catalog.parent.mkdir(parents=True, exist_ok=True)
            self._acquire()
            self.leftovers = set(os.listdir(self.partial))
        except OSError as error:
            self.close()
            raise storage_error(error, "create", error.filename or self.own) from error

    def require(self) -> None:
        """Raise `StorageError` where the destination is not an archive yet."""
        if not is_there(self.own, Path.is_dir):
            raise StorageError(
                f"{self.root} is not an archive yet, and --no-create is set",
                hint="is the drive mounted? For a new archive, run once without --no-create",
            )

    def _acquire(self) -> None:
        """The lock in the archive, and one beside a catalogue that lies elsewhere."""
        lock = RunLock(self.own / "lock")
        beside = RunLock(self.catalog.with_name(self.catalog.name + ".lock"))
        try:
            if self._catalog_elsewhere:
                beside.acquire()
                self._locks.append(beside)
            lock.acquire()
            self._locks.append(lock)
        except NoLocksError:
            if not self._locks:
                raise StorageError(
                    f"the file system of {self.root} has no locks",
                    hint="put the catalogue and its lock on a local disk with --catalog",
                ) from None
            log.warning(
                "the file system of %s has no locks: only runs that use this --catalog are "
                "kept apart",
                self.root,
            )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the locks."""
        for lock in self._locks:
            lock.release()
        self._locks.clear()

    # --- final names ------------------------------------------------------------------------

    def find(self, directory: str, names: Iterable[str]) -> str | None:
        """The path of the first of `names` that exists in a directory of the archive."""
        # Plain strings here and in `publish`: pathlib costs more than all else done with a path.
        there = self._names_in(directory)
        for name in names:
            if name in there:
                return f"{self._root}/{directory}/{name}"
        return None

    def _names_in(self, directory: str) -> set[str]:
        """What a directory held when this run first came to it; one listing, not a look a file."""
        names = self._listed.get(directory)
        if names is None:
            try:
                names = set(os.listdir(f"{self._root}/{directory}"))
            except (FileNotFoundError, NotADirectoryError):
                names = set()
            except OSError as error:
                raise storage_error(error, "read", f"{self._root}/{directory}") from error
            while len(self._listed) >= _MOST_LISTED:
                with contextlib.suppress(KeyError, StopIteration, RuntimeError):
                    del self._listed[next(iter(self._listed))]
            self._listed[directory] = names
        return names

    def make_directory(self, directory: str) -> frozenset[str]:
        """Make a directory of the archive; returns the directories that must be flushed for it."""
        if directory in self._made:
            return frozenset()
        with self._made_lock:
            if directory in self._made:
                return frozenset()
            touched = self._make(directory)
            self._made.add(directory)
            return touched

    def _make(self, directory: str) -> frozenset[str]:
        """Make it below the open root: a drive that goes away meanwhile takes it along."""
        touched = set()
        path = self._root
        try:
            here = os.open(path, _DIRECTORY)
            try:
                if os.fstat(here).st_dev != self._device:
                    raise StorageError(
                        f"{self.root} is no longer the drive that the run began on",
                        hint="is it still mounted?",
                    )
                for part in directory.split("/"):
                    parent, path = path, f"{path}/{part}"
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, dir_fd=here)
                        touched.add(parent)
                    above, here = here, os.open(part, _DIRECTORY, dir_fd=here)
                    os.close(above)
            finally:
                os.close(here)
        except OSError as error:
            raise storage_error(error, "make the directory", path) from error
        return frozenset(touched)

    def publish(self, part: str, directory: str, names: tuple[str, ...], name: str) -> list[str]:
        """Give a whole, flushed file its final name; returns the names of what it kept aside.

        Any file that has one of the recording's `names` for this kind is kept, with a suffix.
        The caller flushes the directory afterwards.
        """
        final = f"{self._root}/{directory}/{name}"
        aside = []
        try:
            old = self.find(directory, names)
            # The listing may be older than what somebody has put there meanwhile.
            for path in {final, old or final}:
                if os.path.lexists(path):
                    aside.append(keep_aside(path))
            try:
                os.rename(part, final)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                _copy_beside(part, final)
                os.unlink(part)
        except OSError as error:
            raise storage_error(error, "write", final) from error
        return aside

    def flush(self, directories: Iterable[str]) -> None:
        """Flush directories to disk, so that the names in them survive a crash."""
        for directory in directories:
            flush_directory(directory)


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
            os.fsync(target.fileno())
        os.rename(beside, final)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


def flush_directory(directory: str) -> None:
    """Flush a directory to disk. Raises `StorageError`; a share that can't is passed over."""
    try:
        fd = os.open(directory, _DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        # Some network file systems cannot flush a directory; they keep names by themselves.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise storage_error(error, "flush the directory", directory) from error


_FOR_THE_CATALOGUE = 1 << 20
"""Bytes that no download takes: what was finished must still be recorded on a full disk."""


class Space:
    """Keeps `--min-free`: bytes that downloads under way still need count as used."""

    def __init__(self, root: Path, min_free: int) -> None:
        self._root = root
        self._min_free = max(min_free, _FOR_THE_CATALOGUE)
        self._lock = threading.Lock()
        self._claims: dict[object, int] = {}
        self._spare = 0
        self._fresh_until = 0.0

    def claim(self, owner: object, need: int, *, at_once: bool = False) -> None:
        """`owner` is about to write `need` bytes more; `StorageError` if they don't fit.

        What is written `at_once` need not be remembered for others.
        """
        with self._lock:
            if self._spare >= need + self._min_free and time.monotonic() < self._fresh_until:
                self._spare -= need
                if not at_once:
                    self._claims[owner] = need
                return
            others = sum(n for who, n in self._claims.items() if who is not owner)
            try:
                disk = os.statvfs(self._root)
            except OSError as error:
                raise storage_error(error, "read the free space of", self._root) from error
            free = disk.f_bavail * disk.f_frsize
            self._spare = free - others - need - _NEAR
            self._fresh_until = time.monotonic() + 1.0
            if free - others - need < self._min_free:
                keeper, hint = "--min-free keeps", ", or lower --min-free"
                if self._min_free <= _FOR_THE_CATALOGUE:
                    keeper, hint = "the catalogue may need", ""
                raise StorageError(
                    f"not enough space on {self._root}: {size_text(free)} free, "
                    f"{size_text(others + need)} still to come, and {keeper} "
                    f"{size_text(self._min_free)}",
                    hint=f"free some space{hint}; the next run goes on",
                )
            self._claims[owner] = need

    def wrote(self, owner: object, count: int) -> None:
        """`owner` wrote `count` of the bytes that it claimed."""
        left = self._claims.get(owner)
        if left is not None:
            self._claims[owner] = max(0, left - count)

    def release(self, owner: object) -> None:
        """`owner` writes no more."""
        if owner in self._claims:
            with self._lock:
                del self._claims[owner]
