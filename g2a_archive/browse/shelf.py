"""A temporary SQLite file that sorts any number of recordings in little memory.

The calendar's order depends on the time zone, so the catalogue cannot sort for us; and a page's
links to its neighbours need all days known before the first page is written.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import tzinfo
from types import TracebackType
from typing import Self

from g2a_archive.browse.entries import Entry, Owed, Placed, place
from g2a_archive.errors import StorageError
from g2a_archive.models import State

_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -16384;
CREATE TABLE entry (id INTEGER, day TEXT, moment REAL, directory TEXT, clock TEXT,
                    size INTEGER, body TEXT);
CREATE TABLE owed (n INTEGER PRIMARY KEY, id INTEGER, state TEXT, reason TEXT, since TEXT,
                   tries INTEGER, last_try TEXT);
CREATE TABLE find (key TEXT, place TEXT, state TEXT);
"""
_ADD = "INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class Day:
    """One day of the calendar: how many recordings, and how many bytes."""

    day: str
    count: int
    size: int


class Shelf:
    """Recordings in the calendar's order, and an index of their IDs."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.executescript(_SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        self._db.close()
        if isinstance(error, sqlite3.OperationalError):
            raise StorageError(
                f"cannot sort the recordings in a temporary file: {error}",
                hint="free some space in the directory for temporary files, or set TMPDIR",
            ) from error

    def load(self, entries: Iterable[Entry], owed: Iterable[Owed], zone: tzinfo | None) -> None:
        """Take everything in, and sort it."""
        placed = (place(entry, zone) for entry in entries)
        rows = ((p.id, p.day, p.moment, p.directory, p.clock, p.size, p.to_json()) for p in placed)
        self._db.execute("BEGIN")
        self._db.executemany(_ADD, rows)
        self._db.executemany(
            "INSERT INTO owed VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (n, o.id, str(o.state), o.reason, o.since, o.tries, o.last_try)
                for n, o in enumerate(owed)
            ),
        )
        self._db.execute("CREATE INDEX by_day ON entry (day, moment, id)")
        self._db.execute("COMMIT")

    def index(self, undated_per_page: int, owed_per_page: int) -> None:
        """Fill the index of IDs: a day and time, or a page, for each."""
        self._db.execute("BEGIN")
        self._db.execute(
            "INSERT INTO find SELECT cast(id AS TEXT), day || ' ' || substr(clock, 1, 5), '' "
            "FROM entry WHERE day <> ''"
        )
        sql = "SELECT id FROM entry WHERE day = '' ORDER BY directory, id"
        undated = self._db.execute(sql).fetchall()
        self._db.executemany(
            "INSERT INTO find VALUES (?, ?, '')",
            (
                (str(i), part_name("undated", n // undated_per_page))
                for n, (i,) in enumerate(undated)
            ),
        )
        owed = self._db.execute("SELECT n, id, state FROM owed").fetchall()
        self._db.executemany(
            "INSERT INTO find VALUES (?, ?, ?)",
            ((str(i), part_name("owed", n // owed_per_page), state) for n, i, state in owed),
        )
        self._db.execute("CREATE INDEX by_key ON find (key)")
        self._db.execute("COMMIT")

    def days(self) -> list[Day]:
        """Every day that has recordings, in order; undated ones are left out."""
        sql = "SELECT day, count(*), sum(size) FROM entry WHERE day <> '' GROUP BY day ORDER BY day"
        return [Day(*row) for row in self._db.execute(sql)]

    def recordings(self, day: str) -> Iterator[Placed]:
        """The recordings of one day, in order."""
        sql = "SELECT body FROM entry WHERE day = ? ORDER BY moment, id"
        for (body,) in self._db.execute(sql, (day,)):
            yield Placed.from_json(body)

    def latest(self, count: int) -> list[Placed]:
        """The newest recordings, newest first."""
        sql = (
            "SELECT body FROM entry WHERE day <> '' ORDER BY day DESC, moment DESC, id DESC LIMIT ?"
        )
        return [Placed.from_json(body) for (body,) in self._db.execute(sql, (count,))]

    def undated(self) -> Iterator[Placed]:
        """The recordings of which no date is known, by directory."""
        sql = "SELECT body FROM entry WHERE day = '' ORDER BY directory, id"
        for (body,) in self._db.execute(sql):
            yield Placed.from_json(body)

    def owed(self) -> Iterator[Owed]:
        """The owed recordings, in the order given."""
        sql = "SELECT id, state, reason, since, tries, last_try FROM owed ORDER BY n"
        for id_, state, *rest in self._db.execute(sql):
            yield Owed(id_, State(state), *rest)

    def owed_states(self) -> dict[State, int]:
        """How many recordings are owed in each state, the most frequent first."""
        sql = "SELECT state, count(*) FROM owed GROUP BY state ORDER BY count(*) DESC, state"
        return {State(state): count for state, count in self._db.execute(sql)}

    def count(self, *, undated: bool = False) -> int:
        """How many recordings there are, or how many of them have no date."""
        sql = "SELECT count(*), count(*) FILTER (WHERE day = '') FROM entry"
        return int(self._db.execute(sql).fetchone()[undated])

    def found(self, prefix: str) -> int:
        """How many index entries have an ID that begins with `prefix`."""
        sql = "SELECT count(*) FROM find WHERE key >= ? AND key < ?"
        return int(self._db.execute(sql, (prefix, prefix + ":")).fetchone()[0])

    def find(self, prefix: str, *, exact: bool = False) -> list[tuple[str, str, str]]:
        """The index entries (ID, place, state) of IDs that begin with, or are, `prefix`."""
        sql = "SELECT key, place, state FROM find WHERE key >= ? AND key < ? ORDER BY key, state"
        end = prefix + ("\0" if exact else ":")
        return self._db.execute(sql, (prefix, end)).fetchall()


def part_name(stem: str, part: int) -> str:
    """The file name of one part of a long list, counted from 0."""
    return f"{stem}-{part + 1}.html" if part else f"{stem}.html"
