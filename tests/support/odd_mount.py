"""File systems that are odd all through: a directory, seen through a FUSE program built here.

Unlike what `odd_drive` plays, the kernel itself stands between, and every program sees the same.
Where FUSE, its headers or a C compiler cannot be had, tests skip, aloud.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from support import scratch
from support.mounts import unmount

_SOURCE = Path(__file__).with_suffix(".c")

ALL = ("noreplace", "nofsync", "nochmod", "nostatfs")
"""The quirks that do not change what is there; `fold`, `decompose` and `largest=BYTES` do."""


def _said(*command: str | Path) -> str:
    """What a command prints; skips the test where it cannot be run, or fails."""
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"there is no {command[0]} here, which FUSE needs")
    result = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )
    if result.returncode:
        pytest.skip(f"cannot mount by FUSE here: {result.stderr.strip()[-300:]}")
    return result.stdout


@cache
def _program() -> Path:
    """The program, built once a process."""
    if not os.access("/dev/fuse", os.W_OK):
        pytest.skip("there is no /dev/fuse here to mount an odd file system with")
    built = scratch.directory("odd-mount") / "odd_mount"
    flags = _said("pkg-config", "--cflags", "--libs", "fuse3").split()
    _said("cc", "-O1", "-w", _SOURCE, "-o", built, *flags)
    return built


@contextmanager
def odd_mount(at: Path, *quirks: str, behind: Path | None = None) -> Iterator[Path]:
    """A file system at `at`, with these quirks; see `odd_mount.c`. Needs no root.

    It shows what is in `behind`, which is made, and empty, where that is not given.
    """
    behind = behind or at.with_name(f".{at.name}.behind")
    for place in (at, behind):
        place.mkdir(parents=True, exist_ok=True)
    _said(_program(), behind, at, *quirks)  # which returns when it is mounted
    try:
        yield at
    finally:
        if os.geteuid():
            subprocess.run(["fusermount3", "-u", "-z", at], check=False, capture_output=True)
        else:
            unmount(at)
