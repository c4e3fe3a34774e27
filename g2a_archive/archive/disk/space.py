"""Free space, of each disk that the archive lies on: what may be written without filling it.

A year's directory may lie on a disk of its own, with free space of its own. A file system that does
not tell (all zero, or an error) is not full: what cannot be written there, it will say itself.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from g2a_archive.archive.disk.libc import c_call
from g2a_archive.errors import Domain, LocalError, StorageError
from g2a_archive.models import size_text

_NEAR = 256 << 20
"""Bytes: nearer than this to `--min-free`, the free space is read before each file.

Farther off it is known for a second. On a share whose calls take 1 ms each, to ask for each file
took a fifth longer: 9.0 s instead of 7.3 for 2,300 small files.
"""

FOR_THE_CATALOGUE = 1 << 20
"""Bytes that no download takes: what was finished must still be recorded on a full disk."""

NOT_FULL = 32 << 20
"""Bytes that a disk has for us which is not full: more than running transfers give back."""

_NO_ODD_ONES = 3
"""Files that find no room on a disk which is not full, after which it is too full all the same."""

FAT, _FAT_LARGEST = 0x4D44, (1 << 32) - 1
"""FAT's type in `struct statfs` (statfs(2)), and its largest file in bytes."""


def free_space(path: str | Path) -> tuple[int, int] | None:
    """Free bytes for us, and all bytes, of a file system; None where it does not tell."""
    try:
        disk = os.statvfs(path)
    except OSError:
        return None
    unit = disk.f_frsize or disk.f_bsize
    if not (disk.f_blocks and unit):
        return None
    return disk.f_bavail * unit, disk.f_blocks * unit


_SHARES = frozenset({0x6969, 0x517B, 0xFF534D42, 0xFE534D42, 0x00C36400})
"""NFS, SMB in three versions, Ceph."""


@lru_cache(256)
def on_share(path: str) -> bool:
    """Whether a path lies on a share that keeps what is written to it back for a while.

    What a server did not take then is lost, though the machine went on, and reads as zeros. Asked
    once of each path: to ask for each piece of a large file over TLS took a tenth longer.
    """
    return file_system_type(path) in _SHARES


def file_system_type(path: str) -> int:
    """The type of a path's file system as statfs(2) numbers them; 0 where that is not told."""
    if sys.platform != "linux":
        return 0
    # Where a word has 32 bits, `statfs` tells nothing of what has more than 2**32 blocks or files.
    statfs = c_call("statfs64") or c_call("statfs")
    if statfs is None:
        return 0
    import ctypes

    about = ctypes.create_string_buffer(512)
    if statfs(os.fsencode(path), about) != 0:
        return 0
    # `struct statfs` begins with the type, in a word of the machine's.
    word = about.raw[: ctypes.sizeof(ctypes.c_long)]
    return int.from_bytes(word, sys.byteorder) & 0xFFFFFFFF


def largest_file(path: str) -> int | None:
    """Bytes that a file in the directory `path` can have at most; None where no limit is known."""
    if sys.platform == "darwin":
        try:
            bits = os.pathconf(path, "PC_FILESIZEBITS")
        except (OSError, ValueError):
            return None
        return (1 << (bits - 1)) - 1 if 0 < bits < 64 else None
    return _FAT_LARGEST if file_system_type(path) == FAT else None


class NoRoomError(StorageError):
    """There is no room for a file; a smaller one may find some."""


class SpaceReservedError(StorageError):
    """There is room for this one, and others under way will need it: it can wait for them."""


@dataclass(slots=True)
class _Disk:
    """One disk: what it is called by, and what is reserved on it."""

    path: str
    keep: int  # bytes that stay free
    reserved: dict[object, int] = field(default_factory=dict)
    spare: int = 0
    fresh_until: float = 0.0


class Space:
    """Keeps `--min-free`: bytes that downloads under way still need count as used."""

    def __init__(self, root: Path, min_free: int) -> None:
        self._root = str(root)
        self._min_free = min_free
        self._lock = threading.Lock()
        self._own = _Disk(self._root, max(min_free, FOR_THE_CATALOGUE))
        self._others: dict[int, _Disk] = {}
        self._disk_of: dict[str, _Disk | None] = {}
        self._too_large: set[object] = set()

    def require(self) -> None:
        """Raise `StorageError` where less is free than `--min-free`, before anything is fetched."""
        told = free_space(self._root)
        if told is not None and told[0] < self._own.keep:
            message, hint = self._too_little(self._own, told[0], 0)
            raise StorageError(message, hint=hint)

    def reserve(
        self,
        owner: object,
        need: int,
        *,
        here: int = 0,
        try_only: bool = False,
        directory: str | None = None,
    ) -> None:
        """`owner` is about to write `need` bytes more; with those `here`, they go to `directory`.

        `try_only` asks whether that could be, and reserves nothing. Where it can't, all that
        `owner` had reserved is free for others. Raises `NoRoomError` where the archive's own disk
        is full: that ends a run. Raises `SpaceReservedError`, and `LocalError` where only the
        directory's disk is full, or where the length is one that the whole disk doesn't have, or
        has no room for although it is not full: a host's word for one length proves nothing of
        others' files.
        """
        with self._lock:
            try:
                self._reserve(self._own, owner, need, try_only=try_only)
                disk = self._disk(directory) if directory is not None else None
                if disk is not None:
                    self._reserve(disk, owner, need + here, try_only=try_only)
            except StorageError:
                self._release(owner)
                raise

    def _disk(self, directory: str) -> _Disk | None:
        """The disk that a directory of the archive lies on; None where it is the archive's own."""
        if directory not in self._disk_of:
            if len(self._disk_of) > 4096:
                self._disk_of.clear()
            self._disk_of[directory] = self._find_disk(directory)
        return self._disk_of[directory]

    def _find_disk(self, directory: str) -> _Disk | None:
        path = f"{self._root}/{directory}"
        while len(path) > len(self._root):
            try:
                device = os.stat(path).st_dev
                if device == os.stat(self._root).st_dev:
                    return None
                return self._others.setdefault(device, _Disk(path, self._min_free))
            except OSError:
                path = os.path.dirname(path)
        return None

    def _reserve(self, disk: _Disk, owner: object, need: int, *, try_only: bool) -> None:
        if disk.spare >= need + disk.keep and time.monotonic() < disk.fresh_until:
            if not try_only:
                disk.spare -= need
                disk.reserved[owner] = need
            return
        # Before the disk is asked: what is written meanwhile then counts twice, never not at all.
        others = sum(n for who, n in disk.reserved.items() if who is not owner and not try_only)
        told = free_space(disk.path)
        if told is not None:
            free, total = told
            if need > total:
                raise LocalError(
                    f"{size_text(need)} are announced; the whole disk of {disk.path} has "
                    f"{size_text(total)}",
                    domain=Domain.FILE,
                )
            disk.spare = free - others - need - _NEAR
            disk.fresh_until = time.monotonic() + 1.0
            if free - others - need < disk.keep:
                leaving = self._leaving() if disk is self._own else 0
                fits, full = free + leaving - need >= disk.keep, free - disk.keep < NOT_FULL
                to_come = others + need if fits else need
                message, hint = self._too_little(disk, free, to_come)
                if fits:
                    raise SpaceReservedError(message, hint=hint)
                if disk is self._own:
                    if not try_only:
                        self._too_large.add(owner)
                    if full or len(self._too_large) >= _NO_ODD_ONES:
                        raise NoRoomError(message, hint=hint)
                raise LocalError(message, domain=Domain.DIRECTORY, hint=hint)
        if not try_only:
            disk.reserved[owner] = need

    def _leaving(self) -> int:
        """Bytes in `partial/` that belong on another disk, and will go there."""
        own = self._own.reserved
        return sum(
            max(0, size - own.get(owner, 0))
            for disk in self._others.values()
            for owner, size in disk.reserved.items()
        )

    def _too_little(self, disk: _Disk, free: int, to_come: int) -> tuple[str, str]:
        parts = [f"{size_text(free)} free"]
        if to_come:
            parts.append(f"{size_text(to_come)} still to come")
        hint = ""
        if disk.keep == self._min_free > 0:
            parts.append(f"and --min-free keeps {size_text(disk.keep)}")
            hint = ", or lower --min-free"
        elif disk.keep:
            parts.append(f"and the catalogue may need {size_text(disk.keep)}")
        return (
            f"not enough space on {disk.path}: {', '.join(parts)}",
            f"free some space{hint}; the next run goes on",
        )

    def wrote(self, owner: object, count: int) -> None:
        """`owner` wrote `count` of the bytes that it reserved, to `partial/`."""
        left = self._own.reserved.get(owner)
        if left is not None:
            self._own.reserved[owner] = max(0, left - count)

    def release(self, owner: object) -> None:
        """`owner` writes no more: its file has its final name, or none yet."""
        with self._lock:
            self._release(owner)

    def _release(self, owner: object) -> None:
        for disk in (self._own, *self._others.values()):
            disk.reserved.pop(owner, None)
