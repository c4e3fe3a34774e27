"""A download in flight: its bytes in `partial/`, and beside them what is needed to resume it.

A small control file (JSON) beside the bytes keeps the validator and the length that the file host
announced. It is written only once a file has proved to be no quick one, since most files arrive
whole before it could be of use.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from g2a_archive.archive.content import HEAD_SIZE, has_holes
from g2a_archive.archive.disk.flushing import boot_id, flush_file
from g2a_archive.archive.disk.hashing import read_regular
from g2a_archive.archive.disk.renaming import replace
from g2a_archive.archive.disk.space import on_share
from g2a_archive.errors import Interrupted

_CONTROL_FILE_AFTER_BYTES = 256 * 1024
_CONTROL_FILE_AFTER_SECONDS = 0.05
_FLUSH_EVERY, _ON_A_SHARE = 128 << 20, 16 << 20
"""Bytes after which a file is flushed on its way: more than this is lost to no crash, and, on a
share, where only that is trusted, to no kill."""

_WRITE_BACK_EVERY = 8 << 20
"""Bytes after which the system is asked to begin writing, so that a flush finds little to do. The
less there is of it, the sooner its memory can serve again: with twice as much, a run of large files
takes a tenth longer."""

_GIVEN_BACK = 1 << 20
_READ = 1 << 18
_MAX_CONTROL_FILE = 1 << 20


class Validator(NamedTuple):
    """What tells whether the file at the host is still the same (RFC 9110, 13.1.5)."""

    etag: str | None = None
    modified: str | None = None
    weak: str | None = None  # an ETag that may not be sent for a range

    @classmethod
    def checked(cls, etag: str, modified: str) -> Validator:
        """Validators that make sense; others are left out."""
        tag = etag.removeprefix("W/")
        # Of doubled ones nobody knows which counts.
        one = tag[:1] == '"' == tag[-1:] and 3 <= len(tag) < 300 and '"' not in tag[1:-1]
        if not (one and tag.isascii() and tag.isprintable()):
            etag = tag = ""
        fine = 10 < len(modified) < 60 and modified.isascii() and modified.isprintable()
        strong = etag if etag == tag else ""
        weak = "" if etag == tag else etag
        return cls(strong or None, modified if fine else None, weak or None)

    @property
    def condition(self) -> str | None:
        """The value for `If-Range`, or None where there is no validator."""
        return self.etag or self.modified

    def contradicts(self, other: Validator) -> bool:
        """Whether `other`, of a later answer, may be that of another file.

        It may where one of them differs, and where the ETag is gone, unless the time of the last
        change is the same. The rest of a file need not tell that time again (RFC 9110, 15.3.7).
        The same ETag at another time may be that of the file before, which the host has kept.
        """
        both = self.modified is not None and other.modified is not None
        if self.etag or self.weak:
            if other.etag or other.weak:
                if (self.etag, self.weak) != (other.etag, other.weak):
                    return True
            elif not both:
                return True
        return both and self.modified != other.modified


NO_VALIDATOR = Validator()


class Partial:
    """One file in `partial/`. Its methods raise `OSError` of the local disk."""

    def __init__(self, directory: str | Path, name: str) -> None:
        self.name = name
        self.path = f"{directory}/{name}.part"
        self._control_file = f"{directory}/{name}.json"
        self.size = 0
        self.total: int | None = None
        self.sparse = False  # whether there may be holes after `size`
        self.extents: list[tuple[int, int]] = []  # what is here after `size`, holes between
        self.validator = NO_VALIDATOR
        self.varies = False  # whether the same bytes came under another validator
        self.sha = hashlib.sha256()
        self.fd = -1  # open from `begin` or `resume` to `close`
        self._head: bytes | None = None
        self._hashed = 0
        self._flushed = 0
        self._written_back = 0
        self._has_control_file = False
        self._begun = time.monotonic()

    @property
    def files(self) -> tuple[str, ...]:
        """The names in `partial/` that belong to this file."""
        return tuple(f"{self.name}{suffix}" for suffix in (".part", ".json", ".json.new"))

    def load(self) -> None:
        """Take up what an earlier run left; leaves `size` at 0 where that cannot be used."""
        # Any control file must go before other bytes come: it speaks of those there now.
        self._has_control_file = True
        try:
            status = os.lstat(self.path)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                return
            size = status.st_size
            control = json.loads(read_regular(self._control_file, _MAX_CONTROL_FILE))
            trusted = control["boot"] == boot_id() != "" and not on_share(self.path)
            total, etag = control["total"], control["etag"] or control.get("weak")
            modified = control["modified"]
            sparse = None if control["size"] is None else int(control["size"])
            extents = [(int(a), int(b)) for a, b in control["extents"]]
            here = [(0, size if sparse is None else min(sparse, size)), *extents]
            # After a crash, and on a share, only what was flushed is known to be there; so it is
            # on a drive that was pulled out before it had been told all.
            trusted = trusted and not self._lacks(here, size)
            size = size if trusted else min(size, int(control["flushed"]))
            self.varies = control.get("varies") is True
        except (OSError, ValueError, OverflowError, KeyError, TypeError, RecursionError):
            return
        if total is not None and (not isinstance(total, int) or size > total):
            return
        if min(size, 0 if sparse is None else sparse) < 0:
            return
        if trusted and sparse is not None:
            self.extents = [(a, min(b, size)) for a, b in extents if a < size]
            size, self.sparse = min(sparse, size), True
        self.size, self.total = size, total
        self.validator = Validator.checked(str(etag or ""), str(modified or ""))

    def _lacks(self, ranges: list[tuple[int, int]], size: int) -> bool:
        """Whether some of these bytes were never written, as far as the file system can tell."""
        with open(self.path, "rb") as file:
            return any(has_holes(file.fileno(), min(end, size), begin) for begin, end in ranges)

    def begin(self, total: int | None, validator: Validator) -> None:
        """Start over with nothing."""
        self.close()
        self._drop_control_file()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self.fd = os.open(self.path, flags, 0o666)
        except FileExistsError:  # what an earlier try left; or a link, which must not be followed
            os.unlink(self.path)
            self.fd = os.open(self.path, flags, 0o666)
        self._keep_only(0)
        self._written_back, self.varies = 0, False
        self.total, self.validator = total, validator
        self._begun = time.monotonic()

    def resume(self, total: int | None, stopped: Callable[[], bool]) -> None:
        """Go on after the bytes that are there; hashes those that are not hashed yet.

        Raises `Interrupted` as soon as `stopped` says so.
        """
        self._open()
        if not self.extents:
            os.ftruncate(self.fd, self.size)
            self.sparse = False
        if total is not None:
            self.total = total
        self._written_back = self.size
        self._hash(self.size, stopped)

    def _open(self) -> None:
        if self.fd < 0:
            self.fd = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)

    @property
    def head(self) -> bytes:
        """The file's beginning, `content.HEAD_SIZE` bytes of it at most."""
        if self._head is None or len(self._head) < min(self.size, HEAD_SIZE):
            self._head = os.pread(self.fd, HEAD_SIZE, 0)
        return self._head

    def close_until_flushed(self) -> None:
        """Close the whole file until it is flushed: hundreds of small ones may wait for that."""
        _ = self.head
        self.close()

    def append(self, data: bytes | memoryview) -> None:
        """Write and hash bytes."""
        if self.size == 0:
            self._head = bytes(data[:HEAD_SIZE])
        _write(self.fd, data, self.size)
        self.size += len(data)
        self.sha.update(data)
        self._hashed += len(data)
        self._grown()

    def read(self, begin: int, count: int) -> bytes:
        """`count` of the bytes that are here, from `begin` on."""
        data = b""
        while len(data) < count:
            more = os.pread(self.fd, count - len(data), begin + len(data))
            if not more:
                raise OSError(errno.EIO, "the partial file became shorter")
            data += more
        return data

    def digest(self, name: str) -> bytes:
        """The whole file's digest by one of hashlib's algorithms; SHA-256 is at hand."""
        if name == "sha256":
            return self.sha.digest()
        digest = hashlib.new(name, usedforsecurity=False)
        for at in range(0, self.size, _READ):
            digest.update(self.read(at, min(_READ, self.size - at)))
        return digest.digest()

    def _keep_only(self, size: int) -> None:
        """No bytes but the first `size` count from here on; these are still to be hashed."""
        self.size, self._flushed = size, min(self._flushed, size)
        self.sparse, self.extents = False, []
        self.sha, self._hashed, self._head = hashlib.sha256(), 0, None

    def confirm(self, total: int | None, validator: Validator, *, varies: bool) -> None:
        """The bytes that are here are those of a file of this length and validator, too."""
        self.total, self.validator, self.varies = total, validator, self.varies or varies
        if self._has_control_file:
            self.write_control_file()

    def replace_from(self, size: int, total: int | None, validator: Validator) -> None:
        """From `size` on, the bytes that are here are not those of the file that comes."""
        os.ftruncate(self.fd, size)
        self._keep_only(size)
        self._hash(size)
        self.varies = False
        self.confirm(total, validator, varies=False)

    def _grown(self) -> None:
        """Now and then, write a control file beside bytes that have come, and get them to disk."""
        if self.size == self.total:  # nothing is left to resume, and all will be flushed at once
            return
        if not self._has_control_file:
            large = self.size >= _CONTROL_FILE_AFTER_BYTES
            if large or time.monotonic() - self._begun > _CONTROL_FILE_AFTER_SECONDS:
                self.write_control_file()
        if self.size - self._written_back >= _WRITE_BACK_EVERY:
            self._write_back()
        held_back = self.size - self._flushed
        if held_back >= _FLUSH_EVERY or (held_back >= _ON_A_SHARE and on_share(self.path)):
            self.flush()

    def _write_back(self) -> None:
        """Have what came last written, without waiting, and what was before that forgotten.

        A night of large files shall not push everything else out of the machine's memory.
        """
        begin = max(0, self._written_back - _WRITE_BACK_EVERY)
        self._written_back = self.size
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # it is advice
                os.posix_fadvise(self.fd, begin, self.size - begin, os.POSIX_FADV_DONTNEED)

    def write_at(self, data: bytes, offset: int) -> None:
        """Write bytes further on in the file; `advance` hashes them in their turn."""
        _write(self.fd, data, offset)

    def advance(self, size: int) -> None:
        """All bytes before `size` are here now: hash those that are not hashed yet."""
        self._hash(size)
        self.size = size
        self._grown()

    def _hash(self, size: int, stopped: Callable[[], bool] = lambda: False) -> None:
        while self._hashed < size:
            if stopped():
                raise Interrupted
            data = self.read(self._hashed, min(_READ, size - self._hashed))
            self.sha.update(data)
            self._hashed += len(data)

    def write_control_file(self) -> None:
        """Keep beside the file what a later run needs to resume it."""
        control = {
            "total": self.total,
            "etag": self.validator.etag,
            "weak": self.validator.weak,
            "modified": self.validator.modified,
            "flushed": self._flushed,
            "boot": boot_id(),
            "size": self.size if self.sparse else None,
            "extents": self.extents,
            "varies": self.varies,
        }
        aside = f"{self._control_file}.new"
        Path(aside).write_text(json.dumps(control))
        replace(aside, self._control_file)
        self._has_control_file = True

    def flush(self) -> None:
        """Flush the bytes to disk, and record that in the control file."""
        self.sync()
        self.write_control_file()

    def sync(self) -> None:
        """Flush the whole file to disk, before it gets its final name."""
        try:
            self._open()
            flush_file(self.fd)
        except OSError:
            self._drop_unflushed()
            raise
        self._flushed = self.size

    def _drop_unflushed(self) -> None:
        """A flush failed: of what came since the last one, some may be lost, and read as zeros."""
        self._keep_only(self._flushed)
        with contextlib.suppress(OSError):
            if self.size:
                os.truncate(self.path, self.size)
            else:
                self.discard()

    def suspend(self) -> None:
        """Leave the bytes, if there are any, for a later attempt or a later run."""
        if self.fd < 0:
            return
        try:
            if self.size or self.extents:
                self.flush()
            else:
                self.discard()
        finally:
            self.close()

    def save_complete(self) -> None:
        """The whole file got no name: the next run need not fetch it all again."""
        self._open()
        self.suspend()

    def free_tail(self) -> None:
        """The disk is full: drop the last bytes, so that the catalogue has room for its own."""
        with contextlib.suppress(OSError):
            os.truncate(self.path, max(0, os.stat(self.path).st_size - _GIVEN_BACK))
            self.write_control_file()
        self.close()

    def close(self) -> None:
        """Close the file, if it is open."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            try:
                os.close(fd)
            except OSError:  # a share flushes now
                self._drop_unflushed()
                raise

    def discard(self) -> None:
        """Forget the bytes: they are wrong, or the file has its final name."""
        self.close()
        self._keep_only(0)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self._drop_control_file()

    def remove_control_file(self) -> None:
        """The bytes were renamed away: remove the control file."""
        self.close()
        self._drop_control_file()

    def _drop_control_file(self) -> None:
        if self._has_control_file:
            for path in (self._control_file, f"{self._control_file}.new"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
            self._has_control_file = False


def _write(fd: int, data: bytes | memoryview, offset: int) -> None:
    left = memoryview(data)
    while len(left):
        count = os.pwrite(fd, left, offset)
        offset += count
        left = left[count:]
