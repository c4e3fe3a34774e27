"""The archive's tree as a check walks it: names, links, whether it is still there; and threads."""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from g2a_archive.archive.disk.domains import retry_transient
from g2a_archive.archive.layout import ARCHIVE_DIR, is_ignored, is_of_catalog
from g2a_archive.errors import Interrupted, storage_error
from g2a_archive.models import StoredFile
from g2a_archive.threads import pool

_T = TypeVar("_T")
_R = TypeVar("_R")

_KEPT_FOLDERS = 4096
"""Directories whose real path is remembered."""

_TASK_BYTES = 8 << 20
_TASK_FILES = 64
"""Small files go to a thread together: handing over costs more than hashing one."""

_AHEAD = 32
"""Tasks ready for each thread, so that none runs dry while the caller waits for the catalogue."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A directory, relative to the archive, with the names of what lies in it, sorted.

    `problem` says why it could not be read, where it could not.
    """

    path: str
    names: tuple[str, ...] = ()
    problem: str = ""


class Tree:
    """The archive at `root`. A year may be a symbolic link to another disk, as it is to `download`.

    `folds` tells whether its file system takes names that differ in case alone for the same.
    `catalog` is where the catalogue lies, should that be in the archive, but not in its own place.
    Raises `StorageError` where there is no such directory.
    """

    def __init__(self, root: Path, catalog: Path | None = None) -> None:
        self.root = root
        self._catalog = os.path.realpath(catalog) if catalog else ""
        self._real = os.path.realpath(root)
        self._folders: dict[str, str] = {}
        self._identity = self._look()
        self.folds = _is_same(root / ARCHIVE_DIR, root / ARCHIVE_DIR.upper())

    def key(self, name: str) -> str:
        """A name or path as it can be compared: a share may show it in another case.

        And HFS+ shows letters apart from their accents, in whichever way they came.
        """
        if not name.isascii():
            name = unicodedata.normalize("NFC", name)
        return name.lower() if self.folds else name

    def check(self) -> None:
        """Raise `StorageError` unless the archive is still there: an unmounted drive is not.

        Some file systems number a directory anew at each look; then its metadata directory tells.
        """
        now = self._look()
        if now != self._identity and not (
            now[0] == self._identity[0] and os.path.isdir(self.root / ARCHIVE_DIR)
        ):
            raise storage_error(FileNotFoundError(errno.ENOENT, ""), "go on reading", self.root)

    def _look(self) -> tuple[int, int]:
        try:
            with retry_transient(os.scandir, self.root):
                info = os.stat(self.root)
        except OSError as error:
            raise storage_error(error, "read", self.root) from error
        return info.st_dev, info.st_ino

    def locate(self, path: str) -> tuple[str, os.stat_result]:
        """The real path of a file, and its status.

        Raises `OSError`: `PermissionError` where the file itself is a link out of the archive.
        """
        directory, _, name = path.rpartition("/")
        # Two threads may both find out; they find the same.
        folder = self._folders.get(directory)
        if folder is None:
            if len(self._folders) >= _KEPT_FOLDERS:
                self._folders.clear()
            folder = os.path.realpath(os.path.join(self._real, directory))
            self._folders[directory] = folder
        found = f"{folder}/{name}"
        info = os.lstat(found)
        if stat.S_ISLNK(info.st_mode):
            found = os.path.realpath(found)
            if not _is_below(found, self._real) and not _is_below(found, folder):
                if leads_nowhere(found):
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
                raise PermissionError(errno.EPERM, "it lies outside the archive")
            info = os.lstat(found)
        return found, info

    def identity(self, path: str) -> tuple[int, ...] | None:
        """What tells the file at `path` from one that replaces it; None where there is none."""
        try:
            return identity(self.locate(path)[1])
        except OSError:
            return None

    def walk(self, stop: Callable[[], bool] = lambda: False) -> Iterator[Folder]:
        """Every directory with the files, and links, that are not the program's own; in order.

        Left out are dot files, `SHA256SUMS`, files kept aside, the catalogue, pages of `browse`,
        and system files. A link to a directory outside the archive is followed, once.
        Raises `StorageError` where the archive is gone, and `Interrupted`.
        """
        stack = [""]
        followed: list[str] = []
        while stack:
            if stop():
                raise Interrupted
            path = stack.pop()
            files: list[str] = []
            folders: list[str] = []
            problem = ""
            try:
                # By name: of two links to a directory, the first is followed.
                for entry in retry_transient(_entries, self.root / path):
                    if is_ignored(entry.name, top=not path) or self._is_own(entry):
                        continue
                    if self._is_folder(entry, followed):
                        folders.append(self._usual(path, entry.name))
                    else:
                        files.append(entry.name)
            except FileNotFoundError:
                self.check()
            except OSError as error:
                self.check()
                problem = error.strerror or str(error)
            yield Folder(path, tuple(files), problem)
            stack += (os.path.join(path, name) for name in reversed(folders))

    def _is_own(self, entry: os.DirEntry[str]) -> bool:
        if not self._catalog or not entry.name.startswith(os.path.basename(self._catalog)):
            return False
        return is_of_catalog(os.path.realpath(entry.path), self._catalog)

    def _usual(self, folder: str, name: str) -> str:
        """A directory's name as people write it, where it is found by that, too."""
        usual = name if name.isascii() else unicodedata.normalize("NFC", name)
        there = self.root / folder
        return usual if usual == name or _is_same(there / usual, there / name) else name

    def _is_folder(self, entry: os.DirEntry[str], followed: list[str]) -> bool:
        """Whether to look into what an entry names; links that were are noted in `followed`."""
        if not entry.is_symlink() or not entry.is_dir():
            return entry.is_dir(follow_symlinks=False)
        real = os.path.realpath(entry.path)
        if any(_is_below(real, at) or _is_below(at, real) for at in (self._real, *followed)):
            return False
        followed.append(real)
        return True


def _entries(path: Path) -> list[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        return sorted(entries, key=lambda one: one.name)


def leads_nowhere(path: str | Path) -> bool:
    """Whether a link is certain to lead to nothing at all."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # a share that does not answer, say
        pass
    return False


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def _is_same(one: Path, other: Path) -> bool:
    try:
        return os.path.samestat(os.stat(one), os.stat(other))
    except OSError:
        return False


def identity(info: os.stat_result) -> tuple[int, ...]:
    """What tells a file from one that replaces it."""
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns


def in_bunches(files: Iterable[StoredFile]) -> Iterator[list[StoredFile]]:
    """`files` in their order, the small ones several together, as tasks for threads."""
    task: list[StoredFile] = []
    size = 0
    for file in files:
        if task and (size + file.size > _TASK_BYTES or len(task) == _TASK_FILES):
            yield task
            task, size = [], 0
        task.append(file)
        size += file.size
    if task:
        yield task


def in_parallel(
    tasks: Iterator[_T],
    work: Callable[[_T], _R],
    jobs: int | None,
    stop: Callable[[], bool],
    *,
    ahead: int = _AHEAD,
) -> Generator[_R | None, None, None]:
    """Run `work` over `tasks` in `jobs` threads; yields the results as they come.

    Without `jobs` there are as many as processors, but at least 2. None is yielded where no result
    came for a quarter of a second. `tasks` is read in the calling thread, not more than `ahead` for
    each thread. Raises what `work` raised, and `Interrupted` once `stop` says so, and
    `StorageError` where there is no thread. Closing the generator waits for the tasks that have
    begun.
    """
    jobs = jobs or max(2, os.cpu_count() or 1)
    pending: set[Future[_R]] = set()
    with pool(jobs) as threads:
        try:
            while True:
                while len(pending) < ahead * jobs and (task := next(tasks, None)) is not None:
                    pending.add(threads.submit(work, task))
                if not pending:
                    return
                done, pending = wait(pending, timeout=0.25, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
                if not done:
                    yield None
                if stop():
                    raise Interrupted
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
