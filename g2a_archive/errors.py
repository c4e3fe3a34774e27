"""The errors of the whole program, and what each means for the exit code.

::

    ArchiverError              a sentence, where useful a hint, an exit code
    ├── InputError           2  a bad option, ID, ID file or configuration
    ├── CredentialsError       4  none, or the service refused them
    ├── LockedError            5  another run is working on this archive
    ├── StorageError           6  the local disk, or a share, failed us
    │   ├── LocalError         1  it refuses one file or one directory; the rest may go on
    │   └── CatalogError       6  the catalogue is damaged, newer, or locked
    └── ServiceError           7  a call to the service failed to the end
        ├── UnreachableError      no answer at all: connection, name, time-out
        ├── BadAnswerError        an answer that cannot be read, or 5xx to the end
        ├── MalformedCallError    400: the service did not understand the call
        ├── ForbiddenError        401 or 403: the credentials, or an ID in the list
        └── CallTooLongError      413, 414 or 431: too many IDs in one query
    Interrupted                SIGINT, SIGTERM or SIGHUP arrived (not a failure)

No message ever holds a link, a query string, a token or any other secret.
"""

from __future__ import annotations

import errno
import os
from enum import Enum, IntEnum

_SHORT = 12
"""Characters that no token, client's secret or link is as short as."""

_LONGEST = 20
"""Characters of what is shown as it is a number, or nearly one."""


def redacted_repr(text: str) -> str:
    """`text` in quotes, as a message may hold it; of what may be a secret, its length alone.

    Where an ID, a word or a name is due, somebody may have given a token, or a file of them.
    """
    number = 2 * sum(map(str.isdigit, text)) > len(text) and sum(map(str.isalpha, text)) <= 2
    if len(text) <= (_LONGEST if number else _SHORT):
        return repr(text)
    return f"… ({len(text):,} characters)"


class ExitCode(IntEnum):
    """What the process ends with; the table of the README."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNAVAILABLE = 3
    CREDENTIALS = 4
    LOCKED = 5
    STORAGE = 6
    SERVICE = 7
    MAX_DURATION = 8
    SIGINT = 130
    SIGTERM = 143


class ArchiverError(Exception):
    """Something that a person should read: what happened, where, and what to do about it."""

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InputError(ArchiverError):
    """A bad option, ID, ID file or configuration; nothing was requested."""

    exit_code = ExitCode.USAGE


class CredentialsError(ArchiverError):
    """There are no credentials, or the service refused them."""

    exit_code = ExitCode.CREDENTIALS


class LockedError(ArchiverError):
    """Another run is working on this archive."""

    exit_code = ExitCode.LOCKED


class StorageError(ArchiverError):
    """The archive cannot be read or written: no space, read-only, no permission, gone."""

    exit_code = ExitCode.STORAGE


class Domain(Enum):
    """How much an error of the local disk, or of a share, concerns."""

    TRANSIENT = "passing"
    """Transient: it passes by itself; the same is tried again, a few times."""

    FILE = "file"
    """One file, and so its recording."""

    DIRECTORY = "directory"
    """What belongs into one directory; others may lie on another disk, or be of another owner."""

    ARCHIVE = "archive"
    """The archive as a whole, as it looks; that is believed only once it is proven by a try."""


class LocalError(StorageError):
    """The local disk, or a share, refuses one file or one directory: a recording's failure.

    `domain` tells how much it concerns, `code` is the `errno` (0 where there was none), `path` what
    it was met at ("" where that is not told).
    """

    exit_code = ExitCode.FAILED

    def __init__(
        self, message: str, *, domain: Domain, code: int = 0, hint: str = "", path: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.domain = domain
        self.code = code
        self.path = path


class CatalogError(StorageError):
    """The catalogue is damaged, locked for too long, or of a newer program."""


class NewerCatalogError(CatalogError):
    """The catalogue is of a newer program."""


class ServiceError(ArchiverError):
    """A call to the service failed to the end; `status` is that of the answer, if one came."""

    exit_code = ExitCode.SERVICE
    status: int | None = None


class UnreachableError(ServiceError):
    """No answer came: the name, the connection or the time-out."""


class BadResponseError(ServiceError):
    """The service answered with a failure of its own, or with something unreadable."""


class BadRequestError(ServiceError):
    """400: the service did not understand the call."""


class ForbiddenError(ServiceError):
    """401 or 403: bad credentials or an invalid ID; the service does not say which.

    `header` is the value of the `Authorization` header that was refused.
    """

    def __init__(self, message: str, *, header: str) -> None:
        super().__init__(message)
        self.header = header


class CallTooLongError(ServiceError):
    """413, 414 or 431: the call holds too many IDs for the service or a proxy."""


class Interrupted(Exception):  # noqa: N818 - it is not an error
    """A signal asked the run to stop; work so far is kept. `code` is what to end with, if known."""

    def __init__(self, code: ExitCode | None = None) -> None:
        super().__init__()
        self.code = code


def unexpected_error(error: Exception) -> ArchiverError:
    """What to say of a bug: where, and no more, as an exception's text may hold secrets.

    Memory that is not to be had is none, nor what the system says of a file, be it our own code,
    nor a Python that was built without something.
    """
    import traceback

    if isinstance(error, OSError) and error.errno and error.filename is not None:
        return generic_storage_error(error)
    if isinstance(error, MemoryError) or "failed to map segment" in str(error):
        return StorageError(
            "the system gives this program no more memory",
            hint="raise its limit (ulimit -v, or the container's), or lower --jobs",
        )
    if isinstance(error, ModuleNotFoundError):
        return ArchiverError(
            f"this Python has no module {error.name}",
            hint="install the package that brings it, or use another Python",
        )
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    where = " < ".join(f"{os.path.basename(f.filename)}:{f.lineno}" for f in reversed(frames))
    return ArchiverError(
        f"unexpected {type(error).__name__} at {where}: this is a bug, please report it; "
        "what is archived is safe, and the next run goes on"
    )


_STORAGE_HINTS = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "the quota is used up: free some space",
    errno.EROFS: "the file system is read-only: remount it writable, then run again",
    errno.EACCES: "give the user that runs this permission to write there",
    errno.EPERM: "give the user that runs this permission to write there",
    errno.ENOTDIR: "a file stands where a directory is needed: move it away",
    errno.EEXIST: "a file stands where a directory is needed: move it away",
    errno.EISDIR: "a directory stands where a file is needed: move it away",
    errno.ENOENT: "is the drive still mounted?",
    errno.ESTALE: "is the share still mounted?",
    errno.EIO: "check the drive or the share",
    errno.EMFILE: "lower --jobs, or raise the limit of open files (ulimit -n)",
}


def storage_error(
    error: OSError, doing: str, path: str | os.PathLike[str], *, option: str = "--dest"
) -> StorageError:
    """Translate `error`, raised while `doing` (e.g. "write") something to `path`.

    `option`: what would name another place; "" where nothing does.
    """
    message, hint = storage_message(error, doing, path, option=option)
    return StorageError(message, hint=hint)


def generic_storage_error(error: OSError) -> StorageError:
    """Translate `error`, of which nobody else has said what it was met at."""
    if isinstance(error.filename, str | bytes):
        return storage_error(error, "use", os.fsdecode(error.filename), option="")
    try:
        os.getcwd()
    except FileNotFoundError:
        return StorageError("the working directory is gone", hint="start from one that is there")
    return StorageError(error.strerror or str(error))


def storage_message(
    error: OSError, doing: str, path: str | os.PathLike[str], *, option: str = "--dest"
) -> tuple[str, str]:
    """What `error` says in words, and a hint: of a disk that is full, also of what it is full."""
    what = error.strerror or (os.strerror(error.errno) if error.errno else str(error))
    hint = _STORAGE_HINTS.get(error.errno or 0, "")
    if error.errno == errno.EEXIST and not os.path.exists(path):
        what, hint = "it is a link that leads nowhere", "is the drive mounted?"
    if error.errno == errno.ENOSPC and _no_inodes(path):
        what = "no more files can be made on its file system: its inodes are used up"
        hint = "remove files that nobody needs"
    if error.errno == errno.ENOSPC and option:
        hint += f", or choose another {option}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT) and option == "--dest":
        hint += "; the next run goes on"
    return f"cannot {doing} {os.fspath(path)}: {what}", hint


def _no_inodes(path: str | os.PathLike[str]) -> bool:
    """Whether the file system of `path` has room for bytes, and none for one more file."""
    for place in (path, os.path.dirname(path)):
        try:
            disk = os.statvfs(place)
        except OSError:
            continue
        return disk.f_files > 0 and disk.f_favail == 0 and disk.f_bavail > 0
    return False
