"""Small real file systems for tests: only root can mount them, so others skip, aloud."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _run(*command: str | Path) -> None:
    result = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )
    if result.returncode:
        pytest.skip(f"cannot {command[0]} here: {result.stderr.strip()}")


def need_root(*programs: str) -> None:
    """Skip the test where nothing can be mounted."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root, on Linux, can mount a small file system")
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program} here")


@contextmanager
def tmpfs(at: Path, size: str) -> Iterator[Path]:
    """A file system in memory with room for `size` bytes."""
    need_root("mount")
    at.mkdir(parents=True, exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", at)
    try:
        yield at
    finally:
        unmount(at)


@contextmanager
def ext4(at: Path, image: Path, size: int, *, inodes: int | None = None) -> Iterator[Path]:
    """A file system of its own in a file; an error in it makes it read-only.

    It has room for so many `inodes`, some of which are its own.
    """
    need_root("mount", "mkfs.ext4")
    at.mkdir(parents=True, exist_ok=True)
    with open(image, "wb") as file:
        file.truncate(size)
    _run("mkfs.ext4", "-q", *(() if inodes is None else ("-N", str(inodes))), image)
    _run("mount", "-o", "loop,errors=remount-ro", image, at)
    try:
        yield at
    finally:
        unmount(at)


@contextmanager
def bind(source: Path, at: Path) -> Iterator[Path]:
    """`source` once more, at another place."""
    need_root("mount")
    if not at.exists():
        at.mkdir(parents=True)
    _run("mount", "--bind", source, at)
    try:
        yield at
    finally:
        unmount(at)


def unmount(at: Path) -> None:
    """Take the file system away, even where files in it are open."""
    subprocess.run(["umount", "-l", at], check=False, capture_output=True)


def grow(at: Path, size: str) -> None:
    """Give a tmpfs more room."""
    _run("mount", "-o", f"remount,size={size}", at)


def fail(at: Path) -> None:
    """Let the kernel find an error in an ext4: it is read-only from now on."""
    device = os.stat(at).st_dev
    name = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name
    trigger = Path(f"/sys/fs/ext4/{name}/trigger_fs_error")
    try:
        trigger.write_text("a test\n")
    except OSError as error:
        pytest.skip(f"cannot make an ext4 fail here: {error.strerror}")


UNPRIVILEGED = """
import ctypes, os
libc = ctypes.CDLL(None)
head = (ctypes.c_uint32 * 2)(0x20080522, 0)
sets = (ctypes.c_uint32 * 6)()
assert libc.capget(head, sets) == 0
for number in range(3):
    sets[number] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
assert libc.capset(head, sets) == 0
"""
"""`before` of a process in which root may not pass over the modes of other people's files."""


def need_modes() -> str:
    """`UNPRIVILEGED` where it is needed; the test is skipped where it can't be had."""
    if os.geteuid() != 0:
        return ""
    if sys.platform != "linux":
        pytest.skip("root ignores permissions, and cannot give that up here")
    return UNPRIVILEGED
