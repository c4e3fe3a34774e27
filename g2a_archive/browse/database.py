"""What the pages show, sorted for the calendar, and kept from one run to the next.

The calendar's order depends on the time zone, so the catalogue cannot sort for us. This is a
SQLite file beside the pages. It keeps where each recording stands, and of each directory of the
archive a token that tells whether anything in it has changed since: so a run reads, and draws
again, only what has. Nothing is lost with it: without it, all is read again. It can also be a
temporary file, where nothing is to be kept.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import tzinfo
from pathlib import Path
from types import TracebackType
from typing import Self

from g2a_archive.browse.entries import Entry, OwedEntry, PageSource, calendar_entry
from g2a_archive.browse.write import flush_file
from g2a_archive.errors import LockedError, StorageError, storage_error
from g2a_archive.models import State

_FORMAT = 1
_SCHEMA = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE mark (directory TEXT PRIMARY KEY, mark TEXT) WITHOUT ROWID;
CREATE TABLE entry (id INTEGER PRIMARY KEY, day TEXT, moment REAL, directory TEXT, clock TEXT,
                    size INTEGER, part INTEGER);
CREATE INDEX entry_day ON entry (day, moment, id);
CREATE INDEX entry_directory ON entry (directory);
CREATE TABLE day (day TEXT PRIMARY KEY, count INTEGER, size INTEGER) WITHOUT ROWID;
CREATE TABLE owed (n INTEGER PRIMARY KEY, id INTEGER, state TEXT, reason TEXT, since TEXT,
                   tries INTEGER, last_try TEXT);
CREATE TABLE find (key TEXT, owed INTEGER, place TEXT, state TEXT, PRIMARY KEY (key, owed))
    WITHOUT ROWID;
"""
_TOUCHED = "CREATE TEMP TABLE touched (key TEXT PRIMARY KEY) WITHOUT ROWID"
_PATIENCE = 10.0
_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@dataclass(frozen=True, slots=True)
class Day:
    """One day of the calendar: how many recordings, and how many bytes."""

    day: str
    count: int
    size: int


@dataclass(frozen=True, slots=True)
class Limits:
    """How much there is on one page: recordings, and rows of owed ones."""

    recordings: int
    owed: int


def _flushes(path: str) -> bool:
    """Whether the file system of a file, which may not be there yet, has a flush for files."""
    try:
        fd = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            return flush_file(fd)
        finally:
            os.close(fd)
    except OSError:
        return True  # SQLite finds out what is wrong


class SiteDatabase:
    """Recordings in the calendar's order, and an index of their IDs.

    What is done between `with` and its end is kept if it ends well, else not at all. `fresh`
    tells that nothing was kept of an earlier run that holds for this one; else `days` are those
    with recordings that changed since, or lost some ("" for those without a date), and
    `owed_changed` tells whether the owed are others than then.
    """

    def __init__(self, path: Path | None, about: Mapping[str, str], limits: Limits) -> None:
        self._about = {**about, "format": str(_FORMAT), "limits": repr(limits)}
        self._limits = limits
        self._path = path
        self._db = sqlite3.connect("")
        self.fresh = True
        self.touched: set[str] = set()
        self.owed_changed = True

    def __enter__(self) -> Self:
        try:
            self._begin(str(self._path or ""))
        except sqlite3.OperationalError as error:
            self._db.close()
            if "locked" in str(error) and self._is_busy():
                raise LockedError(f"another run is writing the pages beside {self._path}") from None
            # A share without locks, say: sorted in a temporary file, and not kept.
            self._begin("")
        except sqlite3.DatabaseError:  # damaged, or no database at all
            self._db.close()
            if self._path is not None:
                with suppress(OSError):
                    self._path.unlink()
            self._begin(str(self._path or ""))
        return self

    def _begin(self, path: str) -> None:
        if path:
            try:  # of SQLite's making it would be 0644, whatever the umask says
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666))
            except OSError as error:
                if error.errno in _REFUSED:
                    raise storage_error(error, "write", path) from error
        self._db.close()
        self._db = sqlite3.connect(path, isolation_level=None, timeout=_PATIENCE)
        self._db.execute("PRAGMA cache_size = -16384")
        self._db.execute("PRAGMA secure_delete = ON")  # what was removed is gone here, too
        if path and not _flushes(path):
            self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute("BEGIN IMMEDIATE")
        tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        known = dict(self._db.execute("SELECT * FROM about")) if tables else {}
        self.fresh = known != self._about
        if self.fresh:
            self._clear()
        self._db.execute(_TOUCHED)

    def _is_busy(self) -> bool:
        """Whether a lock is held, rather than not to be had at all."""
        if self._path is not None:
            with suppress(OSError), open(self._path, "rb") as file:
                fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, 1)  # of a byte that is never used
                return True
        return False

    def _clear(self) -> None:
        self.fresh = True
        for (name,) in self._db.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table'"
        ).fetchall():
            self._db.execute(f"DROP TABLE {name}")
        for statement in _SCHEMA.split(";\n"):
            if statement.strip():
                self._db.execute(statement)
        self._db.executemany("INSERT INTO about VALUES (?, ?)", self._about.items())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._db.execute("COMMIT")
        except sqlite3.DatabaseError as late:
            error = late
        finally:
            self._db.close()
        if isinstance(error, sqlite3.DatabaseError):
            hint = "free some space in the archive and in the directory for temporary files"
            if not isinstance(error, sqlite3.OperationalError) and self._path is not None:
                with suppress(OSError):
                    self._path.unlink()  # damaged
                hint = f"the next `browse` does without {self._path}, which was damaged"
            raise StorageError(f"cannot sort the recordings: {error}", hint=hint) from error

    # --- taking in --------------------------------------------------------------------------

    def load(
        self, source: PageSource, tokens: Mapping[str, str], zone: tzinfo | None
    ) -> Iterator[tuple[int, int]]:
        """Take in what has changed; yields how many of how many directories are done.

        `tokens` are the change tokens of the source.
        """
        known = dict(self._db.execute("SELECT * FROM mark"))
        news = [name for name, token in tokens.items() if not token or known.get(name) != token]
        gone = [name for name in known if name not in tokens]
        if not self.fresh and len(news) + len(gone) > max(8, len(tokens) // 4):
            self._clear()  # to begin anew is quicker, and takes no more memory
            news, gone = list(tokens), []
        for done, name in enumerate((*news, *gone), 1):
            self._take(name, source.entries(name) if name in tokens else (), zone)
            if name in tokens:
                self._db.execute("REPLACE INTO mark VALUES (?, ?)", (name, tokens[name]))
            else:
                self._db.execute("DELETE FROM mark WHERE directory = ?", (name,))
            yield done, len(news) + len(gone)
        self._take_owed(source.owed())
        self._count_days()

    def _take(self, directory: str, entries: Iterable[Entry], zone: tzinfo | None) -> None:
        """Replace all recordings of one directory."""
        sql = "SELECT id, day FROM entry WHERE directory = ?"
        old = {} if self.fresh else dict(self._db.execute(sql, (directory,)))
        self.touched.update(old.values())
        for entry in entries:
            one = calendar_entry(entry, zone)
            if not self.fresh and old.pop(one.id, None) is None:
                before = self._db.execute("SELECT day FROM entry WHERE id = ?", (one.id,))
                self.touched.update(day for (day,) in before)
            self.touched.add(one.day)
            self._db.execute(
                "REPLACE INTO entry VALUES (?, ?, ?, ?, ?, ?, -1)",
                (one.id, one.day, one.moment, directory, one.clock, one.size),
            )
        for id_ in old:
            self._db.execute("DELETE FROM entry WHERE id = ?", (id_,))
            self._db.execute("DELETE FROM find WHERE key = ? AND owed = 0", (str(id_),))
            self._touch(str(id_))

    def _take_owed(self, owed: Iterable[OwedEntry]) -> None:
        """Replace all owed recordings."""
        rows = ((o.id, str(o.state), o.reason, o.since, o.tries, o.last_try) for o in owed)
        self._db.execute("CREATE TEMP TABLE come AS SELECT * FROM owed LIMIT 0")
        self._db.executemany(
            "INSERT INTO come VALUES (?, ?, ?, ?, ?, ?, ?)",
            ((n, *row) for n, row in enumerate(rows)),
        )
        same = "SELECT count(*) FROM (SELECT * FROM {} EXCEPT SELECT * FROM {})"
        self.owed_changed = any(
            self._db.execute(same.format(*two)).fetchone()[0]
            for two in (("come", "owed"), ("owed", "come"))
        )
        if not self.owed_changed:
            return
        self._db.execute("DELETE FROM owed")
        self._db.execute("INSERT INTO owed SELECT * FROM come")
        gone = (
            "SELECT key FROM find WHERE owed = 1 AND CAST(key AS INTEGER) NOT IN "
            "(SELECT id FROM owed)"
        )
        for (key,) in self._db.execute(gone).fetchall():
            self._db.execute("DELETE FROM find WHERE key = ? AND owed = 1", (key,))
            self._touch(key)
        for n, id_, state in self._db.execute("SELECT n, id, state FROM owed"):
            self._place(id_, 1, part_name("owed", n // self._limits.owed), state)

    def _count_days(self) -> None:
        """Count the days that changed, and say of their recordings where each is found."""
        for day in self.touched:
            order = "moment, id" if day else "directory, id"
            count = size = 0
            for id_, clock, bytes_, part in self._db.execute(
                f"SELECT id, clock, size, part FROM entry WHERE day = ? ORDER BY {order}",  # noqa: S608
                (day,),
            ):
                at = count // self._limits.recordings
                count, size = count + 1, size + bytes_
                if part == at:
                    continue
                self._db.execute("UPDATE entry SET part = ? WHERE id = ?", (at, id_))
                where = f"{day} {clock[:5]}" + (f" {at + 1}" if at else "")
                self._place(id_, 0, where if day else part_name("undated", at), "")
            self._db.execute("DELETE FROM day WHERE day = ?", (day,))
            if count and day:
                self._db.execute("INSERT INTO day VALUES (?, ?, ?)", (day, count, size))

    def _place(self, id_: int, owed: int, where: str, state: str) -> None:
        row = (str(id_), owed, where, state)
        if not self.fresh:
            sql = "SELECT key, owed, place, state FROM find WHERE key = ? AND owed = ?"
            if self._db.execute(sql, row[:2]).fetchone() == row:
                return
            self._touch(row[0])
        self._db.execute("REPLACE INTO find VALUES (?, ?, ?, ?)", row)

    def _touch(self, key: str) -> None:
        self._db.execute("INSERT OR IGNORE INTO touched VALUES (?)", (key,))

    # --- asking -----------------------------------------------------------------------------

    def days(self) -> list[Day]:
        """Every day that has recordings, in order; undated ones are left out."""
        return [Day(*row) for row in self._db.execute("SELECT * FROM day ORDER BY day")]

    def recordings(self, day: str, part: int | None = None) -> Iterator[int]:
        """The recordings of one day ("": without a date), or of one part of it, in order."""
        order = "moment, id" if day else "directory, id"
        sql = f"SELECT id FROM entry WHERE day = ? ORDER BY {order} LIMIT ? OFFSET ?"  # noqa: S608
        limit = -1 if part is None else self._limits.recordings
        for (id_,) in self._db.execute(sql, (day, limit, (part or 0) * limit if part else 0)):
            yield id_

    def latest(self, count: int) -> list[tuple[int, int]]:
        """The newest recordings, newest first, each with the part of its day that it is in."""
        sql = (
            "SELECT id, part FROM entry WHERE day <> '' "
            "ORDER BY day DESC, moment DESC, id DESC LIMIT ?"
        )
        return self._db.execute(sql, (count,)).fetchall()

    def owed(self, part: int) -> Iterator[OwedEntry]:
        """One part of the owed recordings, in the order given."""
        sql = "SELECT id, state, reason, since, tries, last_try FROM owed WHERE n >= ? AND n < ?"
        first = part * self._limits.owed
        for id_, state, *rest in self._db.execute(
            f"{sql} ORDER BY n", (first, first + self._limits.owed)
        ):
            yield OwedEntry(id_, State(state), *rest)

    def owed_states(self) -> dict[State, int]:
        """How many recordings are owed in each state, the most frequent first."""
        sql = "SELECT state, count(*) FROM owed GROUP BY state ORDER BY count(*) DESC, state"
        return {State(state): count for state, count in self._db.execute(sql)}

    def undated(self) -> int:
        """How many recordings have no date."""
        sql = "SELECT count(*) FROM entry WHERE day = ''"
        return int(self._db.execute(sql).fetchone()[0])

    def count_ids(self, prefix: str, most: int, *, exact: bool = False) -> int:
        """How many index entries have an ID that begins with, or is, `prefix`; `most` at most."""
        sql = "SELECT count(*) FROM (SELECT 1 FROM find WHERE key >= ? AND key < ? LIMIT ?)"
        return int(self._db.execute(sql, (prefix, _end(prefix, exact), most)).fetchone()[0])

    def find_ids(self, prefix: str, *, exact: bool = False) -> list[tuple[str, str, str]]:
        """The index entries (ID, place, state) of IDs that begin with, or are, `prefix`."""
        sql = "SELECT key, place, state FROM find WHERE key >= ? AND key < ? ORDER BY key, state"
        return self._db.execute(sql, (prefix, _end(prefix, exact))).fetchall()

    def is_touched(self, prefix: str, *, exact: bool = False) -> bool:
        """Whether an index entry of such an ID has come, changed or gone."""
        sql = "SELECT 1 FROM touched WHERE key >= ? AND key < ? LIMIT 1"
        return self.fresh or bool(self._db.execute(sql, (prefix, _end(prefix, exact))).fetchone())


def _end(prefix: str, exact: bool) -> str:
    return prefix + ("\0" if exact else ":")


def part_name(stem: str, part: int) -> str:
    """The file name of one part of a long list, counted from 0."""
    return f"{stem}-{part + 1}.html" if part else f"{stem}.html"
