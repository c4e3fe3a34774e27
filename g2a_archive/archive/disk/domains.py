"""How much an error of the local disk concerns: one file, one directory, or the whole archive.

An error stops no more than what it concerns. The table here is walked by a test; nothing else in
the program decides by an `errno` what a failure of the disk stops.

How a run uses it: an `OSError` becomes a `LocalError` by `local_error`. One that is `TRANSIENT` is
tried again as a lost connection is. Any other fails the recording, by its sentence. Where it is not
the `FILE` alone, `Storage.require_writable` then proves whether the archive itself still works: it
returns, and the run goes on, or raises the `StorageError` that ends it (exit code 6).
"""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Callable
from enum import Enum
from typing import ParamSpec, TypeVar

from g2a_archive.errors import Domain, LocalError, storage_message
from g2a_archive.threads import sleep

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Operation(Enum):
    """What was being done, and where."""

    WRITE = "write"
    """Bytes of a file in `partial/`: making, writing, flushing, resuming it."""

    NAME = "name"
    """Making a date directory, or a name in it."""

    FLUSH = "flush"
    """Flushing a date directory."""

    READ = "read"
    """Reading a file under its final name."""

    LIST = "list"
    """Reading the names in a date directory."""


TRANSIENT = frozenset(
    {
        *(errno.EINTR, errno.EAGAIN, errno.EBUSY, errno.ETXTBSY, errno.ESTALE, errno.EINPROGRESS),
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ETIMEDOUT, errno.EDEADLK),
    }
)
"""Transient errors; a share that was away for a moment leaves handles stale."""

OF_THE_FILE = frozenset(
    {
        *(errno.EFBIG, errno.EOVERFLOW, errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL),
        *(errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.EMLINK, errno.EBADMSG, errno.ERANGE),
    }
)
"""What a size, a name, or a thing that stands in its place causes."""

_OF_A_FILE_READ = frozenset(
    {errno.EIO, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOENT, errno.ENODATA, errno.ENXIO}
)
"""Reading one file can also meet a bad block, an owner, a link that leads nowhere, a pipe."""

_TRIES = 6
_FIRST_WAIT = 0.02
"""Seconds; doubled each time, so that it all takes a little more than half a second."""


def domain_of(error: OSError, operation: Operation) -> Domain:
    """How much `error` concerns. `ARCHIVE` has yet to be proved by `Storage.require_writable`."""
    code = error.errno or 0
    if code in TRANSIENT:
        return Domain.TRANSIENT
    if code in OF_THE_FILE:
        return Domain.DIRECTORY if operation is Operation.LIST else Domain.FILE
    if operation is Operation.READ and code in _OF_A_FILE_READ:
        return Domain.FILE
    return Domain.ARCHIVE if operation is Operation.WRITE else Domain.DIRECTORY


def local_error(
    error: OSError, operation: Operation, path: str | os.PathLike[str], verb: str = ""
) -> LocalError:
    """Translate `error` of `path`; `verb` says what could not be done, else `operation` does."""
    verb = verb or _VERBS[operation]
    message, hint = storage_message(error, verb, path)
    return LocalError(
        message,
        domain=domain_of(error, operation),
        code=error.errno or 0,
        hint=hint,
        path=os.fspath(path),
    )


_VERBS = {
    Operation.WRITE: "write",
    Operation.NAME: "write",
    Operation.FLUSH: "flush the directory",
    Operation.READ: "read",
    Operation.LIST: "read the directory",
}


_LONG = 15.0
"""Seconds after the first failure, after which nothing is tried again."""


def retry_transient(action: Callable[_P, _T], *args: _P.args, **named: _P.kwargs) -> _T:
    """What `action` returns, tried again while its error is transient, six times at most.

    Where the next one takes long to fail, as on a share whose server is gone, it was the last.
    Raises the `OSError` of the last try, or what has been made of it.
    """
    pause, until = _FIRST_WAIT, math.inf
    for _ in range(_TRIES - 1):
        try:
            return action(*args, **named)
        except (OSError, LocalError) as error:
            code = error.code if isinstance(error, LocalError) else error.errno
            now = time.monotonic()
            if code not in TRANSIENT or now > until:
                raise
            until = min(until, now + _LONG)
        sleep(pause)
        pause *= 2
    return action(*args, **named)
