"""Flushing to disk: one file, the names in a directory, or many small files at once.

Some file systems have no flush for a file or for a directory (shares, FUSE, what a NAS exports).
That is known, warned of once a run for each disk, and no failure: there, a power cut can take
what came last.

`syncfs` writes all that a file system holds back, in an order of the kernel's choice, and ends with
one barrier: for a hundred small files that is a tenth of the work of a hundred flushes. Since
Linux 5.8 it tells of write errors, too. It is used on file systems of a local disk only, where it
is as safe as flushing each file: what others make of it is not as well known as what they make of
`fsync`.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Self

from g2a_archive.archive.disk.domains import retry_transient
from g2a_archive.archive.disk.libc import c_call
from g2a_archive.archive.disk.space import FAT, file_system_type

_MAGIC = {0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0x01021994}
"""ext2 to ext4, XFS, Btrfs, F2FS, tmpfs (statfs(2))."""

_SYNCFS_ERRORS_SINCE = (5, 8)

_NO_FLUSH = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY})
"""What a file system says that has no flush for a file."""

_NO_DIRECTORY_FLUSH = _NO_FLUSH | {errno.EBADF, errno.EACCES}
"""The same for a directory; some want it opened for writing, which nobody can."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_TRIAL = ".trial-"

log = logging.getLogger("g2a_archive")

_warned: set[tuple[str, int]] = set()


@cache
def boot_id() -> str:
    """Names this boot of the machine; "" where the system does not tell."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def flush_file(fd: int) -> bool:
    """Flush an open file to disk.

    False, warned of once, where the file system has no flush for files. Raises `OSError` where
    the flush fails.
    """
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise
        _warn_once("files", os.fstat(fd).st_dev, error)
        return False
    return True


def flush_directory(path: str | os.PathLike[str]) -> bool:
    """Flush the names in a directory to disk, so that they survive a crash.

    False, warned of once, where the file system has no flush for directories. Raises `OSError`
    where the flush fails.
    """
    try:
        fd = os.open(path, _DIRECTORY)
    except OSError as error:
        if error.errno != errno.EACCES:
            raise
        _warn_once("directories", 0, error)  # it may be written, but not read
        return False
    try:
        if file_system_type(os.fspath(path)) == FAT:
            _sync_all(fd)  # there, a file that was renamed has no bytes until it is written anew
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_FLUSH:
            raise
        _warn_once("directories", os.fstat(fd).st_dev, error)
        return False
    finally:
        os.close(fd)
    return True


def make_directories(path: Path) -> list[str]:
    """Make a directory, and those that it lies in; returns the ones that are to be flushed for it.

    Raises `OSError`.
    """
    made = [one for one in (path, *path.parents) if not os.path.lexists(one)]
    retry_transient(path.mkdir, parents=True, exist_ok=True)
    return [str(one.parent) for one in made]


def make_flushed(path: Path) -> tuple[bool, bool]:
    """Make a file, where there is none, with the mode that the umask gives, and flush it.

    Returns whether its file system can flush files, and names. Raises `OSError`.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        files = flush_file(fd)
    finally:
        os.close(fd)
    return files, files and flush_directory(path.parent)


@cache
def _syncfs() -> Callable[..., int] | None:
    """The call `syncfs`; None where there is none, or a container's filter forbids it."""
    syncfs = c_call("syncfs")
    if syncfs is None or syncfs(-1) in (-errno.EPERM, -errno.ENOSYS):  # else it says EBADF
        return None
    return syncfs


def _sync_all(fd: int) -> None:
    """Write all that is held back of the file system of an open directory. Raises `OSError`."""
    syncfs = _syncfs()
    if syncfs is None:
        os.sync()
    elif result := syncfs(fd):
        raise OSError(-result, os.strerror(-result))


class FlushedDevices:
    """File systems flushed since this was made: what others had left there before is on disk.

    Whoever takes files for archived that other programs have just copied there, links them, or
    removes a second copy of them, asks for that first: they may be in memory only.
    """

    def __init__(self) -> None:
        self._devices: set[int] = set()

    def flush_once(self, directory: str | os.PathLike[str]) -> None:
        """See to the file system of a directory. Raises `OSError` where the flush fails.

        What cannot be opened tells by itself, as its files are read.
        """
        try:
            device = os.stat(directory).st_dev
            if device in self._devices:
                return
            fd = os.open(directory, _DIRECTORY)
        except OSError:
            return
        try:
            _sync_all(fd)
        except OSError as error:
            if error.errno not in _NO_FLUSH:
                raise
            _warn_once("files", device, error)
        finally:
            os.close(fd)
        self._devices.add(device)


def write_trial(directory: str | os.PathLike[str], size: int = 1) -> None:
    """Write, flush and remove a file of `size` bytes in a directory; raises `OSError`."""
    path = os.path.join(directory, f"{_TRIAL}{os.getpid()}")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        block = os.urandom(min(size, 1 << 20))  # such as no file system can make smaller
        while size > 0:
            size -= os.write(fd, block[:size])
        flush_file(fd)
    finally:
        try:
            os.close(fd)  # where a share may tell that its quota is used up
        finally:
            with suppress(FileNotFoundError):  # as by a run that took it for a killed one's
                retry_transient(os.unlink, path)


def remove_trials(directory: str | os.PathLike[str]) -> set[str]:
    """Remove what killed processes left of such tries; returns the other names in the directory.

    Who waits for a share is killed just then, and there may be a `check` each minute. Raises
    `OSError`.
    """
    names = set(retry_transient(os.listdir, directory))
    left = {name for name in names if name.startswith(_TRIAL)}
    for name in left:
        with suppress(OSError):
            os.unlink(os.path.join(directory, name))
    return names - left


def reset_warnings() -> None:
    """Another run begins: what cannot be flushed is warned of once more."""
    _warned.clear()


def _warn_once(what: str, device: int, error: OSError) -> None:
    if (what, device) in _warned:
        return
    _warned.add((what, device))
    log.warning(
        "this file system cannot flush %s to disk (%s): a power cut may take what came last",
        what,
        error.strerror,
    )


class GroupFlush:
    """An open directory, whose file system can be flushed as a whole."""

    def __init__(self, directory: str) -> None:
        # Errors are told that happen from here on: this is opened before anything is written.
        self._fd = retry_transient(os.open, directory, _DIRECTORY)

    @classmethod
    def of(cls, directory: str) -> Self | None:
        """One for the file system of `directory`; None where each file must be flushed by itself.

        Raises `OSError` where the directory cannot be opened.
        """
        if sys.platform != "linux" or _kernel(os.uname().release) < _SYNCFS_ERRORS_SINCE:
            return None
        if _syncfs() is None or file_system_type(directory) not in _MAGIC:
            return None
        return cls(directory)

    def flush(self) -> None:
        """Return when all that was written to the file system before is on disk, names included.

        Raises `OSError` where any of it could not be written since the last call.
        """
        _sync_all(self._fd)

    def close(self) -> None:
        """Close the directory."""
        os.close(self._fd)


def _kernel(release: str) -> tuple[int, int]:
    numbers = re.match(r"(\d+)\.(\d+)", release)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
