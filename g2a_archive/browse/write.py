"""Files of the site: written aside, flushed and renamed, and only where their content differs."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from g2a_archive.errors import StorageError, storage_error

FOLDER = "browse"
GENERATOR = '<meta name="generator" content="g2a-archive browse">'
_ASIDE = ".part"
_OURS = re.compile(
    r"\d{4}(-\d\d){0,2}\.html|\d{4}-\d\d-\d\d-\d+\.html|(owed|undated)(-\d+)?\.html|search/[0-9a-z-]+\.js|"
    rf"(search/)?\.[0-9a-z.-]+{re.escape(_ASIDE)}"
)
"""Names in `browse/` that an earlier run may have left; nothing else there is ever removed."""


class Writer:
    """Writes the files of one site, and counts what it did. Raises `StorageError`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / FOLDER
        self.written = 0
        self.removed = 0
        self._prepare()
        self._there = self._names()

    def _prepare(self) -> None:
        for path in (self.folder, self.folder / "search"):
            try:
                path.mkdir(exist_ok=True)
                linked = not stat.S_ISDIR(path.lstat().st_mode)
            except OSError as error:
                raise storage_error(error, "make", path) from error
            if linked:
                raise StorageError(
                    f"{path} is a symbolic link", hint="remove it; the pages belong in the archive"
                )
        index = self.root / "index.html"
        head = self._read(index, 4096)
        if head is not None and GENERATOR.encode() not in head:
            raise StorageError(
                f"{index} is not a page of g2a-archive", hint="move it away, then run again"
            )

    def write_text(self, name: str, content: str) -> None:
        """Bring `name`, in `browse/`, or `index.html`, at the root, to this content."""
        self.write_bytes(name, content.encode("utf-8", "replace"))

    def write_bytes(self, name: str, content: bytes) -> None:
        """Like `page`, with bytes."""
        path = self.root / name if name == "index.html" else self.folder / name
        if self._read(path, len(content) + 1) == content:
            return
        # Beside the other asides, so that a later run finds and removes what a killed one left.
        aside = self.folder / f".{name.replace('/', '-')}-{os.getpid()}{_ASIDE}"
        try:
            with aside.open("wb") as file:
                file.write(content)
                file.flush()
                flush_file(file.fileno())
            _replace(aside, path)
        except OSError as error:
            with suppress(OSError):
                aside.unlink()
            raise storage_error(error, "write", path) from error
        self.written += 1

    def has(self, name: str) -> bool:
        """Whether an earlier run has written such a page."""
        return name in self._there or (name == "index.html" and os.path.isfile(self.root / name))

    def finish(self, pages: Collection[str]) -> None:
        """Remove what is none of these `pages`, and flush the directories."""
        for name in sorted(self._names()):
            path = self.folder / name
            if name in pages or not _OURS.fullmatch(name) or os.path.isdir(path):
                continue
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise storage_error(error, "remove", path) from error
            self.removed += not path.name.endswith(_ASIDE)
        if self.written or self.removed:
            for folder in (self.folder / "search", self.folder, self.root):
                _flush(folder)

    def _names(self) -> set[str]:
        """What lies in `browse/` and `browse/search/`, relative to the former."""
        try:
            search = (f"search/{name}" for name in os.listdir(self.folder / "search"))
            return {*os.listdir(self.folder), *search}
        except OSError as error:
            raise storage_error(error, "read", self.folder) from error

    @staticmethod
    def _read(path: Path, limit: int) -> bytes | None:
        try:  # without a wait where it is a pipe
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                return file.read(limit)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(error, "read", path) from error


def flush_file(fd: int) -> bool:
    """Flush; False where the file system has no flush for files, as a page can be made again."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.ENOTTY):
            raise
        return False
    return True


def _replace(aside: Path, path: Path) -> None:
    """Rename over an old page; some shares rename over nothing, and a page can be made again."""
    try:
        aside.replace(path)
    except (FileExistsError, PermissionError):
        path.unlink(missing_ok=True)
        aside.replace(path)


def _flush(folder: Path) -> None:
    # Some shares refuse to flush a directory; the pages are whole without it.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
