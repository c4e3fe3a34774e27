"""What is at a path, links followed: yes, no, or an error where that cannot be told.

From Python 3.14 on, its own `Path.is_dir()` and the like say "no" to all errors: a share that does
not answer would look like an archive that is not there.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from g2a_archive.archive.disk.domains import retry_transient

_NOTHING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def _stat(path: str | Path) -> os.stat_result | None:
    """None where there is nothing. Raises `OSError`."""
    try:
        return retry_transient(os.stat, path)
    except OSError as error:
        if error.errno in _NOTHING:
            return None
        raise


def _mode(path: str | Path) -> int:
    found = _stat(path)
    return found.st_mode if found else 0


def exists(path: str | Path) -> bool:
    """Whether there is anything. Raises `OSError` where that cannot be told."""
    return _mode(path) != 0


def is_dir(path: str | Path) -> bool:
    """Whether there is a directory. Raises `OSError` where that cannot be told."""
    return stat.S_ISDIR(_mode(path))


def is_not_dir(path: str | Path) -> bool:
    """Whether there is something else than a directory. Raises `OSError`."""
    mode = _mode(path)
    return mode != 0 and not stat.S_ISDIR(mode)


def is_not_file(path: str | Path) -> bool:
    """Whether there is something else than a regular file. Raises `OSError`."""
    mode = _mode(path)
    return mode != 0 and not stat.S_ISREG(mode)


def has_bytes(path: str | Path) -> bool:
    """Whether there is anything but an empty file. Raises `OSError`."""
    found = _stat(path)
    return found is not None and not (stat.S_ISREG(found.st_mode) and found.st_size == 0)


def is_file(path: str | Path) -> bool:
    """Whether there is a regular file. Raises `OSError` where that cannot be told."""
    return stat.S_ISREG(_mode(path))
