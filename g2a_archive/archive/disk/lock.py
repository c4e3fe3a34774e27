"""One run at a time on an archive. The system lets go of the lock when the process dies."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from g2a_archive.archive.disk.domains import persistently
from g2a_archive.errors import LockedError, StorageError, storage_error
from g2a_archive.models import utc_now

log = logging.getLogger("g2a_archive")

_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class NoLocksError(Exception):
    """The file system has no locks."""


class RunLock:
    """A lock file that names its holder; `instead`: the option that names another place for it."""

    def __init__(self, path: Path, *, instead: str = "--dest") -> None:
        self.path = path
        self._instead = instead
        self._fd = -1

    def acquire(self) -> None:
        """Take the lock, or raise `LockedError` naming the holder; `NoLocksError`; `StorageError`.

        A file's lock is the system's own (flock), which ends with the process, so that a killed
        run leaves nothing behind that someone would have to remove.
        """
        try:
            fd = self._fd = self._locked(os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX)
        except OSError as error:
            raise self._failure(error, "open the lock") from error
        text = f"host {os.uname().nodename}, process {os.getpid()}, since {utc_now()}\n"
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, text.encode(), 0)
        except OSError as error:
            self.release()
            raise self._failure(error, "write the lock") from error
        # Other machines see what NFS has sent away, not what is held back until a close.
        with suppress(OSError):
            os.fsync(fd)

    def look(self) -> None:
        """Raise what `acquire` would, as far as a file that is there tells; keep and write nothing.

        A file that is not there is made by a run, where its directory can be written.
        """
        try:
            os.close(self._locked(os.O_RDWR, fcntl.LOCK_SH))
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not os.path.lexists(self.path):
                return
            raise self._failure(error, "open the lock") from error

    def share(self) -> None:
        """Keep runs out where nothing can be written: read-only media, another user's archive.

        There may be no lock file: then no run has ever been there, or none can be. Raises
        `LockedError` and `NoLocksError`.
        """
        with suppress(OSError):
            self._fd = self._locked(os.O_RDONLY, fcntl.LOCK_SH)

    def _locked(self, flags: int, how: int) -> int:
        """The lock file, open and locked. Raises `OSError` where it cannot be opened."""
        fd = persistently(os.open, self.path, flags | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(fd)
            os.close(fd)
            raise self._refusal(error, holder) from error
        return fd

    def _failure(self, error: OSError, doing: str) -> StorageError:
        return storage_error(error, doing, self.path, instead=self._instead)

    def _refusal(self, error: OSError, holder: str) -> Exception:
        if error.errno in _NO_LOCKS:
            return NoLocksError()
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return LockedError(
                f"another run is working on this archive{holder}",
                hint="wait for it to end, or stop it; the lock is free once it is gone",
            )
        return self._failure(error, "lock")

    def release(self) -> None:
        """Let go of the lock; the file stays, as removing it would let two runs in."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with suppress(OSError):  # what is in it matters to nobody any more
                os.close(fd)


class ArchiveLock:
    """The lock of an archive, and one beside a catalogue that lies `elsewhere`: both, or neither.

    Every method raises `LockedError` where another run has one of them, and `StorageError` where
    there can be none.
    """

    def __init__(self, root: Path, own: Path, catalog: Path, *, elsewhere: bool) -> None:
        self._root = root
        lock, beside = lock_paths(own, catalog)
        self._lock, self._beside = RunLock(lock), RunLock(beside, instead="--catalog")
        self._elsewhere = elsewhere

    def acquire(self) -> None:
        """Take them."""
        try:
            self._both(RunLock.acquire)
        except BaseException:
            self.release()
            raise

    def look(self) -> None:
        """Tell whether they could be taken; nothing is made, kept or written."""
        self._both(RunLock.look)

    def _both(self, take: Callable[[RunLock], None]) -> None:
        apart = False
        try:
            if self._elsewhere:
                take(self._beside)
                apart = True
            take(self._lock)
        except NoLocksError:
            if not apart:
                raise StorageError(
                    f"the file system of {self._root} has no locks",
                    hint="put the catalogue and its lock on a local disk with --catalog",
                ) from None
            log.warning(
                "the file system of %s has no locks: only runs that use this --catalog are "
                "kept apart",
                self._root,
            )

    def release(self) -> None:
        """Let go of them."""
        self._lock.release()
        self._beside.release()


def lock_paths(own: Path, catalog: Path) -> tuple[Path, Path]:
    """The lock in an archive's `own` corner, and the one beside a `catalog` that lies elsewhere."""
    return own / "lock", catalog.with_name(f"{catalog.name}.lock")


def is_locked(path: Path) -> bool:
    """Whether a run holds the lock at `path` now. Writes nothing."""
    lock = RunLock(path)
    try:
        lock.share()  # whoever may only read may ask, too
    except NoLocksError:
        return False
    except (LockedError, StorageError):
        return True
    lock.release()
    return False


def _holder(fd: int) -> str:
    try:
        text = os.pread(fd, 300, 0).decode("utf-8", "replace").strip()
    except OSError:
        return ""
    text = "".join(c for c in text if c.isprintable())
    return f": {text}" if text else ""
