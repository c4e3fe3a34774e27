"""The catalogue's SQLite file: opening it, older schemas, waiting for locks, errors translated."""

from __future__ import annotations

import logging
import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote

from g2a_archive.archive.database import schema
from g2a_archive.archive.database.copying import copy_in_memory, keep_copy, require_plain
from g2a_archive.archive.database.statements import VALUES
from g2a_archive.archive.disk.domains import retry_transient
from g2a_archive.archive.disk.flushing import make_flushed, write_trial
from g2a_archive.archive.disk.lock import is_any_lock_held, remote_lease_holder
from g2a_archive.archive.disk.space import on_share
from g2a_archive.archive.layout import option_of
from g2a_archive.errors import (
    CatalogError,
    Interrupted,
    NewerCatalogError,
    storage_error,
    storage_message,
)
from g2a_archive.models import utc_now

_T = TypeVar("_T")
_Values = Sequence[object] | Mapping[str, object]

log = logging.getLogger("g2a_archive")

_WARN_AFTER = 2.0
"""Seconds after which it is said what is waited for."""

_HOT_JOURNAL = {
    *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_READONLY_ROLLBACK),
    *(sqlite3.SQLITE_READONLY_RECOVERY, sqlite3.SQLITE_READONLY_DIRECTORY),
}
"""What SQLite says to a reader of a change that is half done, and whose writer it does not see."""

_HINTS = {
    sqlite3.SQLITE_FULL: "free some space; the next run goes on",
    sqlite3.SQLITE_READONLY: "give the user that runs this permission to write there",
    sqlite3.SQLITE_CANTOPEN: "is the directory there, and may this user write to it?",
    sqlite3.SQLITE_IOERR: "check the drive or the share, or use --catalog",
}

_BUSY_TIMEOUT = 30.0
"""Seconds to wait for a reader's or another program's lock on the catalogue."""

_GRACE = 3.0
"""Of these, seconds that are left to what is still to be recorded once the run is to stop."""


def _code(error: sqlite3.DatabaseError) -> int:
    """SQLite's own code; 0 where Python raised the error."""
    return getattr(error, "sqlite_errorcode", 0)


class Database:
    """An open database file. Every method may raise `CatalogError` (exit code 6).

    It is written by whoever has the archive's lock, as long as `held` does not raise; or `beside`
    a run, which may come on a machine whose SQLite does not see ours: from then on it is only read.
    """

    def __init__(
        self,
        path: Path,
        *,
        readonly: bool = False,
        beside: bool = False,
        interrupted: Callable[[], bool] = lambda: False,
        held: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = path
        self.readonly = readonly
        self._beside = beside and not readonly
        self._copied = False
        self.now: Callable[[], str] = utc_now  # a run knows better, once the service told the time
        self._interrupted, self._held = interrupted, held
        self._kept_fds: list[int] = []
        with self._translated("open"):
            self._db = self._connected()
        try:
            if readonly and remote_lease_holder(path) and not is_any_lock_held(path):
                self._only_read(copied=True)
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _connected(self) -> sqlite3.Connection:
        require_plain(self.path)
        self._synchronous = "EXTRA" if self.readonly else self._make_file()
        # A reader that could undo what looks half done would take it from a run on another machine.
        mode = "ro" if self.readonly else "rwc"
        self._uri = f"file:{quote(os.fsencode(self.path.absolute()))}?mode={mode}"
        # One thread writes at a time; the archiver's main thread owns the connection.
        return sqlite3.connect(self._uri, uri=True, timeout=0.25, isolation_level=None)

    def _make_file(self) -> str:
        """Make the file; SQLite's own would have the mode 0644.

        Returns how SQLite is to flush, as far as the file system can: EXTRA also flushes the
        directory once the journal is gone, FULL does without that, OFF without any flush.
        """
        try:
            # Before SQLite has it open: closing it later would let go of SQLite's locks.
            files, names = retry_transient(make_flushed, self.path.absolute())
            return "EXTRA" if names else "FULL" if files else "OFF"
        except OSError as error:
            raise self._refused(error, "open", _HINTS[sqlite3.SQLITE_CANTOPEN]) from error

    def _prepare(self) -> None:
        version = self.scalar("PRAGMA user_version")
        if version > schema.VERSION:
            raise NewerCatalogError(
                f"the catalogue {self.path} is of a newer g2a-archive (schema {version}, this "
                f"program knows {schema.VERSION})",
                hint="upgrade g2a-archive on this machine",
            )
        tables = self.scalar("SELECT count(*) FROM sqlite_master")
        ours = self.scalar("PRAGMA application_id") == schema.APPLICATION_ID
        if self.readonly and not (tables or ours or self.path.stat().st_size):
            raise CatalogError(
                f"the catalogue {self.path} is empty: no run has come as far as to fill it",
                hint="the next run does; on a share, see --catalog",
            )
        if not ours and (tables or self.readonly):
            raise CatalogError(
                f"{self.path} is not a catalogue of g2a-archive",
                hint="move it away; the next download adopts the files that are there",
            )
        old = bool(tables) and not self._retry_busy(lambda: schema.is_current(self._db))
        if self.readonly:
            if old:
                self.change_copy(schema.migrate)
            self._db.execute("PRAGMA query_only = ON")
            return
        with self._translated("set up"):
            self._db.execute("PRAGMA journal_mode = DELETE")
            self._db.execute(f"PRAGMA synchronous = {self._synchronous}")
        if not tables:
            with self.transaction() as db:
                schema.create(db)
        elif old:
            self._migrate()

    def _migrate(self) -> None:
        """Bring an older catalogue to this program's schema; a copy of the old one stays."""
        with self.transaction() as db:
            version = schema.version_of(db)
            if version < schema.VERSION:
                keep_copy(self.path, self._uri, version)
            if not schema.is_current(db):  # two programs may have come here
                schema.migrate(db)

    def _writer(self) -> str:
        """What is said of a run elsewhere that may write; "" where there is none."""
        by = remote_lease_holder(self.path)
        return f"is only read: a run elsewhere works on it, or was killed: {by}" if by else ""

    def _unseen(self, error: sqlite3.DatabaseError) -> str:
        """What may have come between a reader and the file: a writer whose locks are not seen."""
        if self._copied or self._db.in_transaction or not (self.readonly or self._beside):
            return ""
        if self.readonly and _code(error) in _HOT_JOURNAL:
            return "was being written when a run was killed: it is read as it was before that"
        busy = _code(error) & 0xFF == sqlite3.SQLITE_BUSY
        return "" if busy and is_any_lock_held(self.path) else self._writer()

    def _only_read(self, why: str = "", *, copied: bool) -> None:
        """From now on, and say why; `copied`: in memory, without what was half done."""
        if why:
            log.warning("the catalogue %s %s", self.path, why)
        self._db.close()
        self.readonly, self._beside, self._copied = True, False, copied
        path, check = self.path, self.check_interrupted
        with self._translated("read"):
            self._db = copy_in_memory(path, check, _BUSY_TIMEOUT) if copied else self._connected()

    def change_copy(self, change: Callable[[sqlite3.Connection], object]) -> None:
        """A reader may not change the file, nor need it be able to: it reads a changed copy."""
        memory = sqlite3.connect(":memory:", isolation_level=None)
        try:
            self._retry_busy(lambda: self._db.backup(memory))
            with self._translated("read"):
                memory.execute("BEGIN")
                change(memory)
                memory.execute("COMMIT")
        except BaseException:
            memory.close()
            raise
        self._db.close()
        self._db = memory

    def close(self) -> None:
        """Close the connection; what was committed stays."""
        self._db.close()
        while self._kept_fds:
            os.close(self._kept_fds.pop())

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
            raise storage_error(error, doing, self.path, option=option_of(self.path)) from error

    def _explain(
        self, error: sqlite3.DatabaseError, doing: str, waited: float = _BUSY_TIMEOUT
    ) -> CatalogError:
        cannot = f"cannot {doing} the catalogue {self.path}"
        if _code(error) == sqlite3.SQLITE_READONLY_DBMOVED:
            what, hint = "it is no longer where it was", "is the drive still mounted?"
            return CatalogError(f"{cannot}: {what}", hint=hint)
        code = _code(error) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return self._unreadable(cannot) or self._damaged(str(error))
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return CatalogError(
                f"the catalogue {self.path} has been locked for {waited:.0f} s",
                hint="a program holds it open, or the share has no working locks: mount it with "
                "`nobrl` (SMB), or put the catalogue on a local disk with --catalog",
            )
        failing = code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
        if failing and not self.readonly:
            # SQLite tells of no quota, and not what a disk is full of; the same try does.
            try:
                write_trial(self.path.parent)
            except OSError as cause:
                return self._refused(cause, doing)
        return CatalogError(f"{cannot}: {error}", hint=_HINTS.get(code, ""))

    def _refused(self, error: OSError, doing: str, otherwise: str = "") -> CatalogError:
        """What the drive or the share says of the file; `otherwise` is a hint where it has none."""
        verb, instead = f"{doing} the catalogue", option_of(self.path)
        what, hint = storage_message(error, verb, self.path, option=instead)
        return CatalogError(what, hint=hint or otherwise)

    def _unreadable(self, cannot: str) -> CatalogError | None:
        """Why the drive or the share cannot read the file, or could not for a moment.

        SQLite calls that damage, too.
        """
        try:
            # Left open: closing it would let go of SQLite's locks.
            self._kept_fds.append(os.open(self.path, os.O_RDONLY | os.O_CLOEXEC))
            while os.read(self._kept_fds[-1], 1 << 20):
                pass
        except OSError as error:
            return self._refused(error, "read")
        with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(self._uri, uri=True)) as db:
            if db.execute("PRAGMA quick_check(1)").fetchone() == ("ok",):
                what = "a part of it could not be read for a moment"
                return CatalogError(f"{cannot}: {what}", hint=_HINTS[sqlite3.SQLITE_IOERR])
        return None

    def _damaged(self, how: str) -> CatalogError:
        hint = "move it away; the next download adopts the files that are there"
        if on_share(str(self.path)):  # which may not keep a writer elsewhere and a reader apart
            hint = f"does another machine work on this archive? Then wait for it; if not, {hint}"
        return CatalogError(f"the catalogue {self.path} is damaged: {how}", hint=hint)

    def _retry_busy(self, action: Callable[[], _T], doing: str = "read") -> _T:
        """Run `action`, waiting for other programs' locks in short steps that a signal can end.

        Raises `Interrupted` where nothing can be left to record, as the catalogue is only read.
        """
        began = time.monotonic()
        deadline, tell_at = began + _BUSY_TIMEOUT, began + _WARN_AFTER
        if not self._db.in_transaction:
            self._held()
            if self._beside and (why := self._writer()):
                self._only_read(why, copied=not is_any_lock_held(self.path))
        while True:
            try:
                return action()
            except sqlite3.DatabaseError as error:
                if why := self._unseen(error):
                    self._only_read(why, copied=True)
                    continue
                busy = _code(error) & 0xFF == sqlite3.SQLITE_BUSY
                now = time.monotonic()
                if busy and self._interrupted():
                    if self.readonly:
                        raise Interrupted from None
                    deadline = min(deadline, now + _GRACE)
                if not busy or now > deadline:
                    raise self._explain(error, doing, now - began) from error
                if now >= tell_at:
                    tell_at = math.inf
                    log.warning(
                        "waiting for the catalogue %s, which is locked: by a program that has it "
                        "open, or by a share without working locks (see --catalog)",
                        self.path,
                    )

    def check_interrupted(self) -> None:
        """Raise `Interrupted` where whoever opened the catalogue is asked to stop."""
        if self._interrupted():
            raise Interrupted

    def check_integrity(self, seconds: float) -> bool:
        """Read every page; False where that was not done after so many seconds.

        A writer waits that long: it should be much less than its patience. Raises `CatalogError`
        where a page is damaged, and `Interrupted`.
        """
        until = time.monotonic() + seconds

        def over() -> bool:
            return self._interrupted() or time.monotonic() > until

        def read() -> str | None:
            try:
                return str(self._db.execute("PRAGMA quick_check(1)").fetchone()[0])
            except sqlite3.DatabaseError as error:
                if _code(error) != sqlite3.SQLITE_INTERRUPT:
                    raise
                return None

        self._db.set_progress_handler(over, 10_000)
        try:
            found = self._retry_busy(read)
        finally:
            self._db.set_progress_handler(None, 0)
        self.check_interrupted()
        if found not in (None, "ok"):
            raise self._damaged(str(found).splitlines()[-1])
        return found is not None

    def scalar(self, sql: str, *values: object) -> Any:
        """The first column of the first row, or None."""
        row = self._retry_busy(lambda: self._db.execute(sql, values).fetchone())
        return row[0] if row else None

    def rows(self, sql: str, values: _Values = ()) -> list[Any]:
        """All rows of a query; fetched whole, so that no lock outlives the call."""
        return self._retry_busy(lambda: self._db.execute(sql, values).fetchall())

    def among(self, sql: str, ids: Iterable[int], *values: object) -> Iterator[Any]:
        """The rows of a query that has `{ids}` after IN, some at a time; `values` come before."""
        waiting = iter(ids)
        while some := [*islice(waiting, VALUES)]:
            yield from self.rows(sql.replace("{ids}", ",".join("?" * len(some))), (*values, *some))

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """What is read within is of one moment: a run that commits meanwhile waits for its end."""
        begun = self._retry_busy(lambda: self._db.execute("SELECT name FROM sqlite_master"))
        with closing(begun):  # a lock is held until then
            yield

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing: what happens inside is committed, and on disk, when the block ends."""
        self._retry_busy(lambda: self._db.execute("BEGIN IMMEDIATE"), "write")
        try:
            if self.readonly:  # by now
                raise CatalogError(f"the catalogue {self.path} is opened read-only")
            with self._translated("write"):
                yield self._db
            self._held()  # still
            self._retry_busy(lambda: self._db.execute("COMMIT"), "write")
        except BaseException:
            if self._db.in_transaction:
                self._db.rollback()
            raise

    def stream(self, sql: str, values: _Values = ()) -> Iterator[Any]:
        """The rows of a query one by one; a lock is held until the last one is taken."""
        found = self._retry_busy(lambda: self._db.execute(sql, values))
        with self._translated("read"):
            # `yield from` would close the cursor, of a catalogue that may be closed already.
            for row in found:  # noqa: UP028
                yield row
