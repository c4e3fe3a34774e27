"""Copies of the catalogue: before its schema is changed, and of one that may be half written.

SQLite takes a journal whose writer it does not see for that of a killed run, and undoes its change
where the file lies: under the hands of a run on another machine, that damages the catalogue. So
only who has the archive's lock lets SQLite do so; who reads has it done in a copy.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from g2a_archive.archive.disk import strictpath
from g2a_archive.archive.disk.domains import retry_transient
from g2a_archive.archive.disk.flushing import flush_file
from g2a_archive.archive.disk.renaming import replace
from g2a_archive.errors import CatalogError

_FULL = (errno.ENOSPC, errno.EDQUOT)


def require_plain(path: Path) -> None:
    """Raise `CatalogError` where no file stands for the catalogue or its journal.

    SQLite would wait for a pipe, and read a device. Raises `OSError` where that cannot be told.
    """
    for one in (path, Path(f"{os.path.realpath(path)}-journal")):
        if strictpath.is_not_file(one):
            what, thing = "it is no plain file", "a pipe, a device or the like"
            if strictpath.is_dir(one):
                what, thing = os.strerror(errno.EISDIR), "a directory"
            hint = f"{thing} stands where a file is needed: move it away"
            raise CatalogError(f"cannot open the catalogue {one}: {what}", hint=hint)


def keep_copy(path: Path, uri: str, version: int) -> None:
    """Copy the catalogue to `NAME.schema-VERSION` beside it, whole or not at all."""
    kept = path.with_name(f"{path.name}.schema-{version}")
    aside = kept.with_name(f".{kept.name}.part")
    try:
        aside.unlink(missing_ok=True)  # left by a killed run
        # A connection of its own: the file as it was before this transaction.
        own = sqlite3.connect(uri, uri=True)
        with closing(own) as old, closing(sqlite3.connect(aside)) as copy:
            old.backup(copy)
        with open(aside, "rb") as file:
            flush_file(file.fileno())
        replace(aside, kept)
    except BaseException:
        with suppress(OSError):
            aside.unlink()
        raise


def copy_in_memory(path: Path, check: Callable[[], None], seconds: float) -> sqlite3.Connection:
    """What was committed last to the database at `path`; nothing there is changed.

    Commits of another machine are waited for, `seconds` at most. Raises `CatalogError` after that,
    `OSError`, `sqlite3.DatabaseError`, and whatever `check` raises meanwhile.
    """
    with _needing_room(path), tempfile.TemporaryDirectory(prefix="g2a-archive-") as place:
        copy = Path(place) / "catalog.sqlite3"
        until = time.monotonic() + seconds
        path = Path(os.path.realpath(path))  # which SQLite has the journal beside
        while not retry_transient(_copied, path, copy):  # a journal that goes is a stale handle
            check()
            if time.monotonic() > until:
                hint = "another machine works on this archive: wait for it"
                raise CatalogError(f"the catalogue {path} changes all the time", hint=hint)
        with closing(sqlite3.connect(copy)) as whole:  # which undoes what is half done in it
            memory = sqlite3.connect(":memory:", isolation_level=None)
            whole.backup(memory)
            return memory


@contextmanager
def _needing_room(path: Path) -> Iterator[None]:
    """Says so where the directory for temporary files has no room for a copy, or isn't there."""
    try:
        tempfile.gettempdir()
    except OSError as error:
        raise _no_room(path, str(error.strerror)) from error
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise _no_room(path, f"{tempfile.gettempdir()}: {os.strerror(error.errno)}") from error
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_FULL:
            raise
        raise _no_room(path, f"{tempfile.gettempdir()}: it is full") from error


def _no_room(path: Path, why: str) -> CatalogError:
    hint = "free some space in the directory for temporary files, or set TMPDIR"
    return CatalogError(f"cannot read a copy of the catalogue {path}: {why}", hint=hint)


def _copied(path: Path, copy: Path) -> bool:
    """Copy the file, then its journal; False if something was committed meanwhile.

    Whatever the copy has of a change is in the journal already, which a writer fills first.
    """
    before = _change(path)
    shutil.copyfile(path, copy)
    copy.with_name(f"{copy.name}-journal").unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        shutil.copyfile(f"{path}-journal", f"{copy}-journal")
    return _change(path) == before


def _change(path: Path) -> tuple[bytes, bytes]:
    """The headers of a database, which counts its commits, and of its journal, if there is one.

    Source: SQLite's description of its file format, sections 1.3 and 3.
    """
    with open(path, "rb") as file:
        head = file.read(100)
    try:
        with open(f"{path}-journal", "rb") as file:
            return head, file.read(28)
    except FileNotFoundError:
        return head, b""
