"""Drives that answer as odd file systems do: a library, built here, that a process preloads.

Where there is no C compiler, or no way to preload (other systems than Linux), tests skip, aloud.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from support import scratch

_SOURCE = Path(__file__).with_name("odd_drive.c")

ODD = -1
"""Not an error: a `statvfs` of all zero, a `statfs` of a FAT, a `write` of half the bytes."""

NFS = -2
"""Instead of an error: a `statfs` of an NFS."""


@dataclass(frozen=True)
class Fault:
    """`call` on paths that match `pattern` fails with `code`: after so many calls, so many times.

    Calls: open, create, openw (for writing), read, pread (as SQLite does), write, truncate, fsync,
    syncfs, close, rename, replace (of a file that is there), mkdir, unlink, rmdir, stat, access,
    list, flock, lock (SQLite's), chmod, statvfs, statfs (statfs32: not that of 64 bits).
    """

    call: str
    pattern: str
    code: int
    after: int = 0
    times: int = -1

    def __str__(self) -> str:
        assert not set(self.pattern) & set(" \n"), "a pattern has no blanks"
        return f"{self.call} {self.pattern} {self.code} {self.after} {self.times}"


@cache
def library() -> Path:
    """The library, built once a process; skips the test where that cannot be."""
    if sys.platform != "linux":
        pytest.skip("faults are played by a preloaded library, on Linux only")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("faults are played by a library that a C compiler builds; there is none here")
    built = scratch.directory("odd-drive") / "odd_drive.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-w", "-o", built, _SOURCE, "-ldl"]
    result = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )
    if result.returncode:
        pytest.skip(f"cannot build the library that plays faults: {result.stderr[-300:]}")
    return built


def playing(faults: Iterable[Fault] = (), *, fold: Path | None = None) -> dict[str, str]:
    """The environment of a process whose drive plays `faults`.

    Below `fold`, all names are kept in lower case. Skips the test where faults cannot be played.
    """
    env = {"LD_PRELOAD": str(library()), "G2A_FAULTS": "\n".join(map(str, faults))}
    if fold is not None:
        env["G2A_FOLD"] = str(fold)
    return {**env, **_trial(env)}


@cache
def _works(preload: str) -> bool:
    """Whether a preloaded library is heard at all: not where the system forbids it."""
    probe = "import os; os.fsync(os.open('/', os.O_RDONLY))"
    env = {
        **os.environ,
        "LD_PRELOAD": preload,
        "G2A_FAULTS": str(Fault("fsync", "/", errno.EXDEV)),
    }
    result = subprocess.run(
        [sys.executable, "-c", probe], env=env, capture_output=True, text=True, check=False
    )
    return "OSError" in result.stderr


def _trial(env: dict[str, str]) -> dict[str, str]:
    if not _works(env["LD_PRELOAD"]):
        pytest.skip("a preloaded library is not heard here")
    return {}
