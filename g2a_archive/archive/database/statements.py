"""Statements of many values, and databases of a moment."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

from g2a_archive.errors import StorageError

VALUES = 900
"""In one statement; every SQLite takes 999."""


def insert(db: sqlite3.Connection, sql: str, rows: Iterable[Sequence[object]]) -> None:
    """Execute an INSERT that has `{rows}` after VALUES, for many rows at a time.

    For each row of `executemany` the library gives the interpreter's lock away, and would have to
    wait for it thousands of times while a busy thread downloads.
    """
    waiting = iter(rows)
    for first in waiting:
        some = [first, *islice(waiting, VALUES // len(first) - 1)]
        marks = f"({','.join('?' * len(first))})"
        text = sql.replace("{rows}", ",".join([marks] * len(some)))
        db.execute(text, [value for row in some for value in row])


@contextmanager
def needing_room(what: str) -> Iterator[None]:
    """For a temporary database: raises `StorageError`, which says `what`, where it has no room."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StorageError(
            f"{what}: {error}",
            hint="free some space in the directory for temporary files, or set TMPDIR "
            "or SQLITE_TMPDIR",
        ) from error
