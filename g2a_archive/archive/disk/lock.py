"""One run at a time on an archive. The system lets go of the lock when the process dies.

Runs on machines that do not see each other's locks are kept apart by a lease beside it.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from g2a_archive.archive.disk.domains import retry_transient
from g2a_archive.archive.disk.lease import (
    NO_CALLBACKS,
    Lease,
    LockCallbacks,
    holder_text,
    locked_error,
    text_in,
    this_run,
)
from g2a_archive.errors import LockedError, StorageError, storage_error

log = logging.getLogger("g2a_archive")

_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class NoLocksError(Exception):
    """The file system has no locks."""


class FileLock:
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
        self._take()
        with self._released_on_failure():
            self._sign()

    def acquire_shared(self) -> None:
        """Keep others out where nothing can be written: read-only media, another user's archive.

        There may be no lock file: then no run has ever been there, or none can be. Raises
        `LockedError` and `NoLocksError`.
        """
        with suppress(OSError):
            self._fd = self._locked(os.O_RDONLY, fcntl.LOCK_SH)

    def _take(self) -> None:
        try:
            self._fd = self._locked(os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX)
        except OSError as error:
            raise self._failure(error, "open the lock") from error

    def _sign(self) -> None:
        try:
            retry_transient(os.ftruncate, self._fd, 0)
            retry_transient(os.pwrite, self._fd, f"{this_run()}\n".encode(), 0)
        except OSError as error:
            raise self._failure(error, "write the lock") from error
        # Other machines see what NFS has sent away, not what is held back until a close.
        with suppress(OSError):
            os.fsync(self._fd)

    @contextmanager
    def _released_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.release()
            raise

    def _locked(self, flags: int, how: int) -> int:
        """The lock file, open and locked. Raises `OSError` where it cannot be opened."""
        # A pipe in its place would let who only reads wait for ever.
        fd = retry_transient(os.open, self.path, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError("it is no plain file: move it away")
        try:
            if how == fcntl.LOCK_EX:  # who only looks whether it is held has it for a moment
                retry_transient(fcntl.flock, fd, how | fcntl.LOCK_NB)
            else:
                fcntl.flock(fd, how | fcntl.LOCK_NB)
        except OSError as error:
            holder = text_in(fd)
            os.close(fd)
            raise self._refusal(error, holder) from error
        return fd

    def _failure(self, error: OSError, doing: str) -> StorageError:
        return storage_error(error, doing, self.path, option=self._instead)

    def _refusal(self, error: OSError, holder: str) -> Exception:
        if error.errno in _NO_LOCKS:
            return NoLocksError()
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return locked_error(holder)
        return self._failure(error, "lock")

    def release(self) -> None:
        """Let go of the lock; the file stays, as removing it would let two runs in."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with suppress(OSError):  # what is in it matters to nobody any more
                os.close(fd)


class RunLock(FileLock):
    """One on an archive, with a lease beside it, for runs that do not see it.

    `callbacks` that ask to stop while another machine's lease is watched raise `Interrupted`.
    """

    def __init__(self, path: Path, *, instead: str = "--dest") -> None:
        super().__init__(path, instead=instead)
        self._lease = Lease(path)

    def acquire(self, callbacks: LockCallbacks = NO_CALLBACKS) -> None:
        """Take both; otherwise as a `FileLock`."""
        self._take()
        with self._released_on_failure():
            self._lease.take(callbacks)
            self._sign()

    def acquire_shared(self, callbacks: LockCallbacks = NO_CALLBACKS) -> None:
        """As a `FileLock`, once no lease is renewed."""
        super().acquire_shared()
        with suppress(OSError), self._released_on_failure():
            if self._fd >= 0:
                self._lease.watch(callbacks)

    def check_available(self, callbacks: LockCallbacks = NO_CALLBACKS) -> None:
        """Raise what `acquire` would, as far as a file that is there tells; keep and write nothing.

        A file that is not there is made by a run, where its directory can be written.
        """
        try:
            os.close(self._locked(os.O_RDWR, fcntl.LOCK_SH))
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not os.path.lexists(self.path):
                return
            raise self._failure(error, "open the lock") from error
        self._lease.watch(callbacks)  # without the lock, which a run may want meanwhile

    def require(self) -> None:
        """Raise `LockedError` where a run elsewhere took over what was acquired."""
        self._lease.require()

    def release(self) -> None:
        """Let go of both."""
        self._lease.release()
        super().release()


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

    def acquire(self, callbacks: LockCallbacks = NO_CALLBACKS) -> None:
        """Take them."""
        try:
            self._both(lambda lock: lock.acquire(callbacks))
        except BaseException:
            self.release()
            raise

    def check_available(self, callbacks: LockCallbacks = NO_CALLBACKS) -> None:
        """Raise what `acquire` would; nothing is made, kept or written."""
        self._both(lambda lock: lock.check_available(callbacks))

    def require(self) -> None:
        """Raise `LockedError` where a run elsewhere took over what was acquired."""
        self._lock.require()
        self._beside.require()

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
    """The lock in the metadata directory `own`, and the one beside a `catalog` elsewhere."""
    return own / "lock", catalog.with_name(f"{catalog.name}.lock")


def remote_lease_holder(catalog: Path) -> str:
    """Who has the lease on the archive of a catalogue on another machine; "" if nobody there.

    Where a run there was killed, it may be over.
    """
    found = (Lease(lock).remote_holder() for lock in lock_paths(catalog.parent, catalog))
    return next((holder_text(text) for text in found if text is not None), "")


def is_any_lock_held(catalog: Path) -> bool:
    """Whether a lock on the archive of a catalogue is seen to be held, be it on another machine."""
    return any(map(_is_held, lock_paths(catalog.parent, catalog)))


def is_locked(path: Path) -> bool:
    """Whether a run holds the lock at `path` now, or its lease elsewhere. Writes nothing."""
    return _is_held(path) or Lease(path).remote_holder() is not None


def _is_held(path: Path) -> bool:
    lock = FileLock(path)
    try:
        lock.acquire_shared()  # whoever may only read may ask, too
    except NoLocksError:
        return False
    except (LockedError, StorageError):
        return True
    lock.release()
    return False
