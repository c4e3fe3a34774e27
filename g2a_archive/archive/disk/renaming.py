"""Replacing a file whole by another: also on a share that doesn't rename over a file that is there.

Such a share (some SMB and WebDAV servers, some FUSE programs) answers EEXIST, EPERM or EACCES. The
old file then steps aside for a moment, as `NAME.old`; a process killed just then leaves it, and
`recover` puts it back.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress
from pathlib import Path

from g2a_archive.archive.disk.domains import retry_transient

_REFUSED = (errno.EEXIST, errno.EPERM, errno.EACCES, errno.ENOTSUP)
_OLD = ".old"


def replace(new: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Rename `new` to `path`, over what is there. Raises `OSError`; then both are as they were."""
    try:
        retry_transient(os.replace, new, path)
    except OSError as error:
        if error.errno not in _REFUSED or not os.path.isfile(path):
            raise
        aside = f"{os.fspath(path)}{_OLD}"
        with suppress(FileNotFoundError):
            os.unlink(aside)
        try:
            os.rename(path, aside)
        except OSError:  # then it is the directory that may not be written
            raise error from None
        try:
            os.rename(new, path)
        except OSError:
            os.rename(aside, path)
            raise
        os.unlink(aside)


def rename_noreplace(new: Path, path: Path) -> None:
    """Rename a file to `path`, never over another one; where there are no links, after a look."""
    try:
        os.link(new, path)
    except FileExistsError:
        raise
    except OSError:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        os.rename(new, path)


def recover(path: str | os.PathLike[str]) -> None:
    """Put back what a killed process had moved aside, where nothing has taken its place."""
    aside = f"{os.fspath(path)}{_OLD}"
    if not os.path.lexists(path) and os.path.isfile(aside):
        os.rename(aside, path)


def is_mount(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a mount of its own, over which nothing can be renamed.

    `path` is absolute, with no symbolic links in it.
    """
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return False  # elsewhere than on Linux the attempt will tell
    places = {re.sub(rb"\\([0-7]{3})", _unescaped, line.split(b" ")[4]) for line in lines}
    return os.fsencode(path) in places


def _unescaped(found: re.Match[bytes]) -> bytes:
    return bytes([int(found[1], 8)])
