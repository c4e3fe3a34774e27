"""What is at a path, links followed: yes, no, or an error where that cannot be told.

From Python 3.14 on, its own `Path.is_dir()` and the like say "no" to all errors: a share that does
not answer would look like an archive that is not there.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from g2a_archive.archive.disk.domains import persistently

_NOTHING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def _mode(path: str | Path) -> int:
    """`st_mode`, 0 where there is nothing. Raises `OSError`."""
    try:
        return persistently(os.stat, path).st_mode
    except OSError as error:
        if error.errno in _NOTHING:
            return 0
        raise


def exists(path: str | Path) -> bool:
    """Whether there is anything. Raises `OSError` where that cannot be told."""
    return _mode(path) != 0


def is_dir(path: str | Path) -> bool:
    """Whether there is a directory. Raises `OSError` where that cannot be told."""
    return stat.S_ISDIR(_mode(path))


def is_file(path: str | Path) -> bool:
    """Whether there is a regular file. Raises `OSError` where that cannot be told."""
    return stat.S_ISREG(_mode(path))
