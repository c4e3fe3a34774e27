"""The catalogue's SQLite file: opening it, older schemas, waiting for locks, errors translated."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote

from g2a_archive.archive import schema
from g2a_archive.errors import CatalogError, storage_error

_T = TypeVar("_T")

_PATIENCE = 30.0
"""Seconds to wait for a reader's or another program's lock on the catalogue."""

_VALUES = 900
"""In one statement; every SQLite takes 999."""


def insert(db: sqlite3.Connection, sql: str, rows: Iterable[Sequence[object]]) -> None:
    """Execute an INSERT that has `{rows}` after VALUES, for many rows at a time.

    For each row of `executemany` the library gives the interpreter's lock away, and would have to
    wait for it thousands of times while a busy thread downloads.
    """
    waiting = iter(rows)
    first = next(waiting, None)
    if first is None:
        return
    most = _VALUES // len(first)
    marks = f"({','.join('?' * len(first))})"
    some = [first, *islice(waiting, most - 1)]
    while some:
        text = sql.replace("{rows}", ",".join([marks] * len(some)))
        db.execute(text, [value for row in some for value in row])
        some = list(islice(waiting, most))


class Database:
    """An open database file. Every method may raise `CatalogError` (exit code 6)."""

    def __init__(
        self,
        path: Path,
        *,
        readonly: bool = False,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.path = path
        self.readonly = readonly
        self._interrupted = interrupted
        # A reader opens for writing where it may, so that SQLite can undo what a killed run left
        # half done; `query_only` keeps it from changing anything else.
        self._uri = f"file:{quote(os.fsencode(path.absolute()))}?mode={'rw' if readonly else 'rwc'}"
        with self._translated("open"):
            # One thread writes at a time; the archiver's main thread owns the connection.
            self._db = sqlite3.connect(self._uri, uri=True, timeout=0.25, isolation_level=None)
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        version = self.scalar("PRAGMA user_version")
        if version > schema.VERSION:
            raise CatalogError(
                f"the catalogue {self.path} is of a newer g2a-archive (schema {version}, this "
                f"program knows {schema.VERSION})",
                hint="upgrade g2a-archive on this machine",
            )
        tables = self.scalar("SELECT count(*) FROM sqlite_master")
        ours = self.scalar("PRAGMA application_id") == schema.APPLICATION_ID
        if (tables and not ours) or (self.readonly and not ours):
            raise CatalogError(
                f"{self.path} is not a catalogue of g2a-archive",
                hint="move it away; the next download adopts the files that are there",
            )
        if self.readonly:
            if version < schema.VERSION:
                self._migrate_in_memory()
            self._db.execute("PRAGMA query_only = ON")
            return
        with self._translated("set up"):
            self._db.execute("PRAGMA journal_mode = DELETE")
            # EXTRA also flushes the directory after the journal is gone: a commit is a commit.
            self._db.execute("PRAGMA synchronous = EXTRA")
        if not tables:
            with self.transaction() as db:
                schema.create(db)
        elif version < schema.VERSION:
            self._migrate()

    def _migrate(self) -> None:
        """Bring an older catalogue to this program's schema; a copy of the old one stays."""
        with self.transaction() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version < schema.VERSION:  # two programs may have come here
                self._keep_copy(version)
                schema.migrate(db)

    def _keep_copy(self, version: int) -> None:
        """Copy the catalogue to `NAME.schema-VERSION` beside it, whole or not at all."""
        kept = self.path.with_name(f"{self.path.name}.schema-{version}")
        aside = kept.with_name(f".{kept.name}.part")
        try:
            with suppress(FileNotFoundError):
                aside.unlink()  # left by a killed run
            # A connection of its own: the file as it was before this transaction.
            own = sqlite3.connect(self._uri, uri=True)
            with closing(own) as old, closing(sqlite3.connect(aside)) as copy:
                old.backup(copy)
            with open(aside, "rb") as file:
                os.fsync(file.fileno())
            os.replace(aside, kept)
        except BaseException:
            with suppress(OSError):
                aside.unlink()
            raise

    def _migrate_in_memory(self) -> None:
        """A reader may not change the file, nor need it be able to: it reads a migrated copy."""
        memory = sqlite3.connect(":memory:", isolation_level=None)
        try:
            self._patiently(lambda: self._db.backup(memory))
            with self._translated("read"):
                memory.execute("BEGIN")
                schema.migrate(memory)
                memory.execute("COMMIT")
        except BaseException:
            memory.close()
            raise
        self._db.close()
        self._db = memory

    def close(self) -> None:
        """Close the connection; what was committed stays."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise self._explain(error, doing) from error
        except OSError as error:
            raise storage_error(error, doing, self.path) from error

    def _explain(self, error: sqlite3.DatabaseError, doing: str) -> CatalogError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        text = f"cannot {doing} the catalogue {self.path}: {error}"
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return CatalogError(
                f"the catalogue {self.path} is damaged: {error}",
                hint="move it away; the next download adopts the files that are there",
            )
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return CatalogError(
                f"the catalogue {self.path} has been locked for {_PATIENCE:.0f} s",
                hint="a program holds it open, or the share has no working locks: "
                "put it on a local disk with --catalog",
            )
        hints = {
            sqlite3.SQLITE_FULL: "free some space; the next run goes on",
            sqlite3.SQLITE_READONLY: "give the user that runs this permission to write there",
            sqlite3.SQLITE_CANTOPEN: "is the directory there, and may this user write to it?",
            sqlite3.SQLITE_IOERR: "check the drive or the share, or use --catalog",
        }
        return CatalogError(text, hint=hints.get(code, ""))

    def _patiently(self, action: Callable[[], _T], doing: str = "read") -> _T:
        """Run `action`, waiting for other programs' locks in short steps that a signal can end."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return action()
            except sqlite3.DatabaseError as error:
                busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or self._interrupted() or time.monotonic() > deadline:
                    raise self._explain(error, doing) from error

    def scalar(self, sql: str, *values: object) -> Any:
        """The first column of the first row, or None."""
        row = self._patiently(lambda: self._db.execute(sql, values).fetchone())
        return row[0] if row else None

    def rows(self, sql: str, values: Sequence[object] | Mapping[str, object] = ()) -> list[Any]:
        """All rows of a query; fetched whole, so that no lock outlives the call."""
        return self._patiently(lambda: self._db.execute(sql, values).fetchall())

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing: what happens inside is committed, and on disk, when the block ends."""
        self._patiently(lambda: self._db.execute("BEGIN IMMEDIATE"), "write")
        try:
            with self._translated("write"):
                yield self._db
            self._patiently(lambda: self._db.execute("COMMIT"), "write")
        except BaseException:
            if self._db.in_transaction:
                self._db.rollback()
            raise

    def stream(
        self, sql: str, values: Sequence[object] | Mapping[str, object] = ()
    ) -> Iterator[Any]:
        """The rows of a query one by one; a lock is held until the last one is taken."""
        with self._translated("read"):
            yield from self._db.execute(sql, values)
