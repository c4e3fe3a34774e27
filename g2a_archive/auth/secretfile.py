"""Files that hold one secret each: reading them, and replacing them so that no crash loses one.

A replacement is written beside the file as `NAME.new`, flushed, then renamed over it, while a lock
on `NAME.lock` keeps other processes away. A process killed between writing and renaming leaves a
whole `NAME.new`, which the next one to take the lock puts in its place.

A file that cannot be replaced (a mount of its own, as containers have them; a directory that is
not to be written to) is its own lock, and is written in place, in one piece.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import select
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from g2a_archive.archive.disk import strictpath
from g2a_archive.archive.disk.domains import retry_transient
from g2a_archive.archive.disk.flushing import flush_directory, flush_file
from g2a_archive.archive.disk.renaming import is_mount, replace
from g2a_archive.errors import CredentialsError, Interrupted, StorageError, redacted_repr

LARGEST = 64 * 1024
"""Bytes of a secret file at most; no token is near that."""

LOCK_PAUSE = 0.2
"""Seconds between two tries to take a lock."""

LOCK_TRIES = 3000
"""Tries to take a lock: ten minutes, longer than any renewal lasts."""

_SHORT = 16
"""Characters of a file's name that no secret is as short as."""

_PATIENCE = 10.0
"""Seconds in which a secret has to come through a pipe."""

_ROOM = 8192
_PRINTABLE = re.compile(r"[\x20-\x7e\xa0-\xff]+")
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC

Warn = Callable[[str], None]
Wait = Callable[[float], bool]
"""Waits for so many seconds; True means that the run should stop."""


def check_secret(value: str, what: str) -> str:
    """Return `value` without a BOM and surrounding space, if a header can hold it.

    Raises `CredentialsError`, which names `what` but never the value.
    """
    value = value.strip().removeprefix("\ufeff").strip()
    if not value:
        raise CredentialsError(f"{what} is empty")
    if not _PRINTABLE.fullmatch(value):
        raise CredentialsError(
            f"{what} holds a line break, a control character or a character outside Latin-1",
            hint="it should be the bare secret, on one line",
        )
    return value


def read_secret(path: str | os.PathLike[str], what: str, *, warn: Warn | None = None) -> str:
    """Return the secret in the file `path`; `warn` hears of a file that others can read.

    Raises `CredentialsError`, which names the file but never what it holds.
    """
    named = is_name(os.fspath(path))
    where = f"{what} in {os.fspath(path) if named else redacted_repr(os.fspath(path))}"
    try:
        status, content = retry_transient(_read, path)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        hint = "" if named else "is that the secret itself? Name a file that holds it"
        raise CredentialsError(f"cannot read {where}: {reason}", hint=hint) from None
    if warn and stat.S_ISREG(status.st_mode) and status.st_mode & 0o044:
        mode = stat.S_IMODE(status.st_mode)
        warn(f"{where} can be read by others (mode {mode:04o}): chmod 600 it")
    if len(content) > LARGEST:
        raise CredentialsError(f"{where} is too long for a secret")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = ""
    if content and not text:
        raise CredentialsError(f"{where} is not text in UTF-8")
    return check_secret(text, where)


def is_name(path: str) -> bool:
    """Whether what should name a secret file may be shown: it may be the secret itself."""
    return os.path.isabs(path) or len(path) <= _SHORT or os.path.lexists(path)


def _read(path: str | os.PathLike[str]) -> tuple[os.stat_result, bytes]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if stat.S_ISFIFO(status.st_mode):  # as `<(…)` is; no signal ends a wait for who never comes
            if not select.select([descriptor], [], [], _PATIENCE)[0]:
                raise TimeoutError("nothing came through this pipe")
            os.set_blocking(descriptor, True)
        return status, file.read(LARGEST + 1)


@contextmanager
def locked(path: str | os.PathLike[str], wait: Wait) -> Iterator[Path]:
    """Keep other processes from replacing the secret file `path`; yield the file itself.

    A symbolic link is followed, so that it stays. A replacement that a crash cut short is finished
    first. Raises `StorageError`, or `Interrupted` when `wait` says that the run should stop.
    """
    target = Path(os.path.realpath(path))
    try:
        descriptor = _lock_of(target, wait)
        try:
            _finish_replacement(target)
        except OSError:
            os.close(descriptor)
            raise
    except OSError as error:
        raise StorageError(
            f"cannot lock {target}: {os.strerror(error.errno or 0)}",
            hint="the service may replace the secret in it, so whoever runs this needs "
            "permission to write to it, or to its directory",
        ) from None
    try:
        yield target
    finally:
        os.close(descriptor)


@contextmanager
def reserve_replacement(target: Path) -> Iterator[Callable[[str], None]]:
    """Make room for what replaces `target`, before the old secret is spent; yield what stores it.

    Call it under `locked`. Raises `StorageError`, also from the function that it yields: then the
    new secret may be in `NAME.new`, which is kept.
    """
    new = beside(target, ".new")
    descriptor = _reserve(target, new)
    begun = False

    def store(value: str) -> None:
        nonlocal begun
        begun = True
        data = value.encode() + b"\n"
        try:
            if descriptor is None:
                _write_in_place(target, data)
            else:
                _replace(target, new, descriptor, data)
        except OSError as error:
            raise StorageError(
                f"the new secret could not be kept in {target}: {os.strerror(error.errno or 0)}",
                hint="the old one may be dead: make that place writable, then `g2a-archive login` "
                "again, or put a new one there",
            ) from None

    try:
        yield store
    finally:
        if descriptor is not None:
            os.close(descriptor)
        if not begun and descriptor is not None:
            with suppress(OSError):
                new.unlink()


def beside(target: Path, suffix: str) -> Path:
    """Return the lock (`.lock`) or the replacement (`.new`) that belongs to a secret file."""
    return target.with_name(target.name + suffix)


def _reserve(target: Path, new: Path) -> int | None:
    """Return a descriptor of `NAME.new`, for which there is room; None: `target` has it itself."""
    failure: OSError | None = None
    if not is_mount(target):
        try:
            return _reserve_beside(target, new)
        except OSError as error:
            failure = error
    try:
        _reserve_within(target)
    except OSError as error:
        reason = os.strerror((failure or error).errno or 0)
        raise StorageError(
            f"cannot write beside {target}: {reason}",
            hint="the service may replace the secret in it: there must be room and permission "
            "for the new one; nothing was changed",
        ) from None
    return None


def _reserve_beside(target: Path, new: Path) -> int:
    """Return a descriptor of `NAME.new`, for which there is room."""
    new.unlink(missing_ok=True)
    descriptor = os.open(new, _CREATE, 0o600)
    try:
        _give_to_owner(descriptor, target)
        _put(descriptor, b"\n" * _ROOM)
    except OSError:
        os.close(descriptor)
        new.unlink()
        raise
    return descriptor


def _reserve_within(target: Path) -> None:
    """See to it that `target` can be written to, and grow."""
    with open(target, "r+b", buffering=0) as file:
        length = os.fstat(file.fileno()).st_size
        if length > _ROOM:  # a killed process was just here
            length = len((file.read(LARGEST) or b"").rstrip())
        try:
            _put(file.fileno(), b"\n" * _ROOM, length)
        finally:
            file.truncate(length)


def _put(descriptor: int, data: bytes, at: int = 0) -> None:
    """Write all of `data`: a disk that has room for the half of it takes that, without a word."""
    if os.pwrite(descriptor, data, at) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _replace(target: Path, new: Path, descriptor: int, data: bytes) -> None:
    """Let what is in `NAME.new` take the place of `target`; where that fails, write it there."""
    try:
        _put(descriptor, data)
        os.ftruncate(descriptor, len(data))
        flush_file(descriptor)
        replace(new, target)
    except OSError as error:
        try:
            _write_in_place(target, data)
        except OSError:
            raise error from None
        with suppress(OSError):
            new.unlink()
        return
    flush_directory(target.parent)


def _write_in_place(target: Path, data: bytes) -> None:
    """Write over what is in `target`: in one piece, so that no kill leaves half of it."""
    with open(target, "r+b", buffering=0) as file:
        _put(file.fileno(), data.ljust(os.fstat(file.fileno()).st_size, b"\n"))
        flush_file(file.fileno())
        file.truncate(len(data))
        flush_file(file.fileno())


def _lock_of(target: Path, wait: Wait) -> int:
    """Return a descriptor that keeps others away: of a file beside, or of `target` itself."""
    if not is_mount(target):
        try:
            return _take_lock(beside(target, ".lock"), target, wait)
        except OSError:
            if not strictpath.exists(target):
                raise
    return _take_lock(target, target, wait)


def _take_lock(lock: Path, target: Path, wait: Wait) -> int:
    """Return a descriptor of `lock` that holds an exclusive flock; closing it releases that."""
    for _ in range(LOCK_TRIES):
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _give_to_owner(descriptor, target)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(lock)):
                return descriptor
        except (BlockingIOError, FileNotFoundError):  # held; or removed by a logout meanwhile
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if wait(LOCK_PAUSE):
            raise Interrupted
    raise StorageError(
        f"another process has held {lock} for too long",
        hint="look for a run of g2a-archive that hangs",
    )


def _finish_replacement(target: Path) -> None:
    """Put a replacement that a killed process left, if whole and not older, in its place."""
    new = beside(target, ".new")
    try:
        written = new.stat().st_mtime_ns
        line, end, more = new.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return
    # After a crash of the machine there may be zeros instead of it, or behind it.
    whole = bool(end and _PRINTABLE.fullmatch(line.decode("latin-1")))
    try:
        newer = written >= target.stat().st_mtime_ns
    except FileNotFoundError:
        newer = True
    if whole and newer:
        if more:
            os.truncate(new, len(line) + 1)
        try:
            replace(new, target)
        except OSError:
            _write_in_place(target, line + end)
        else:
            flush_directory(target.parent)
            return
    with suppress(OSError):
        new.unlink()


def _give_to_owner(descriptor: int, target: Path) -> None:
    """Let what root creates belong to the owner of `target`, who must read it tomorrow."""
    with suppress(OSError):  # no such file yet; or a share that knows no owners
        owner = target.stat()
        mine = os.fstat(descriptor)
        if (mine.st_uid, mine.st_gid) != (owner.st_uid, owner.st_gid):
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
