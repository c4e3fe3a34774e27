"""Counts that the catalogue keeps while it grows, so that nobody has to count a million rows.

Triggers keep them, whoever writes: they are right in every transaction, and cost some microseconds
a file.
"""

# ruff: noqa: S608 - no word of these statements comes from outside

from __future__ import annotations

import sqlite3
from collections.abc import Callable


def _day(row: str) -> str:
    """What `status --by` files a recording under: its start's day as it was written, or a place."""
    return f"coalesce(substr({row}.start_time, 1, 10), {row}.directory, '')"


# The same by counting: how the tables are filled.
COUNTED = {
    "day_count": f"""
SELECT day, sum(state = 'archived') AS recordings, sum(files) AS files, sum(bytes) AS bytes,
       sum(unchecked) AS unchecked, sum(damaged) AS damaged
FROM (SELECT {_day("r")} AS day, r.state AS state,
             count(f.size) - count(f.damage) AS files,
             coalesce(sum(CASE WHEN f.damage IS NULL THEN f.size END), 0) AS bytes,
             count(f.size) - count(f.checked_at) AS unchecked, count(f.damage) AS damaged
      FROM recording r LEFT JOIN file f ON f.recording = r.id GROUP BY r.id)
GROUP BY day""",
    "state_count": "SELECT state, count(*) AS recordings FROM recording GROUP BY state",
    "check_count": "SELECT checked_at, count(*) AS files FROM file WHERE checked_at IS NOT NULL "
    "GROUP BY checked_at",
}

_TABLES = (
    """
CREATE TABLE day_count (
    day TEXT PRIMARY KEY,
    recordings INTEGER NOT NULL DEFAULT 0,
    files INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    unchecked INTEGER NOT NULL DEFAULT 0,
    damaged INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID""",
    "CREATE TABLE state_count (state TEXT PRIMARY KEY, recordings INTEGER NOT NULL DEFAULT 0) "
    "WITHOUT ROWID",
    "CREATE TABLE check_count (checked_at TEXT PRIMARY KEY, files INTEGER NOT NULL DEFAULT 0) "
    "WITHOUT ROWID",
    "CREATE INDEX recording_owed_since ON recording (state, owed_since) "
    "WHERE owed_since IS NOT NULL",
)


def _day_share(row: str) -> str:
    """What a recording itself adds to its day."""
    return f"({row}.state = 'archived')"


def _file_share(row: str) -> dict[str, str]:
    """What a file adds to each count of its recording's day."""
    return {
        "files": f"({row}.damage IS NULL)",
        "bytes": f"CASE WHEN {row}.damage IS NULL THEN {row}.size ELSE 0 END",
        "unchecked": f"({row}.checked_at IS NULL)",
        "damaged": f"({row}.damage IS NOT NULL)",
    }


def _comes(table: str, key: str, count: str, value: str, share: str = "1") -> str:
    """A count grows. Of a conflict the upsert decides, whatever the outer statement says."""
    return (
        f"INSERT INTO {table} ({key}, {count}) VALUES ({value}, {share}) "
        f"ON CONFLICT ({key}) DO UPDATE SET {count} = {count} + excluded.{count};"
    )


def _goes(table: str, key: str, count: str, value: str, share: str = "1") -> str:
    return f"UPDATE {table} SET {count} = {count} - {share} WHERE {key} = {value};"


def _of_file(*terms: tuple[str, str]) -> str:
    """What files are to their day changes by these terms (sign, row)."""
    row = terms[0][1]
    changes = ", ".join(
        f"{name} = {name} " + " ".join(f"{sign} {_file_share(its)[name]}" for sign, its in terms)
        for name in _file_share(row)
    )
    day = f"(SELECT {_day('recording')} FROM recording WHERE id = {row}.recording)"
    return f"UPDATE day_count SET {changes} WHERE day = {day};"


def _of_files(row: str, sign: str) -> str:
    """All files of a recording come to a day, or leave it."""
    changes = ", ".join(
        f"{name} = {name} {sign} (SELECT sum({share}) FROM file WHERE recording = new.id)"
        for name, share in _file_share("file").items()
    )
    return f"UPDATE day_count SET {changes} WHERE day = {_day(row)};"


def _of_day(change: Callable[..., str], row: str) -> str:
    return change("day_count", "day", "recordings", _day(row), _day_share(row))


def _of_state(change: Callable[..., str], row: str) -> str:
    return change("state_count", "state", "recordings", f"{row}.state")


def _of_check(change: Callable[..., str], row: str) -> str:
    return change("check_count", "checked_at", "files", f"{row}.checked_at")


_MOVED = f"{_day('old')} <> {_day('new')}"

_TRIGGERS = {
    "recording_counted AFTER INSERT ON recording": (
        _of_state(_comes, "new") + _of_day(_comes, "new")
    ),
    "recording_restated AFTER UPDATE OF state ON recording WHEN old.state <> new.state": (
        _of_state(_goes, "old") + _of_state(_comes, "new")
    ),
    f"""recording_recounted AFTER UPDATE OF state, start_time, directory ON recording
WHEN {_MOVED} OR {_day_share("old")} <> {_day_share("new")}""": (
        _of_day(_goes, "old") + _of_day(_comes, "new")
    ),
    f"""recording_moved AFTER UPDATE OF start_time, directory ON recording
WHEN {_MOVED} AND EXISTS (SELECT 1 FROM file WHERE recording = new.id)""": (
        f"INSERT INTO day_count (day) VALUES ({_day('new')}) ON CONFLICT (day) DO NOTHING;"
        + _of_files("old", "-")
        + _of_files("new", "+")
    ),
    "recording_uncounted AFTER DELETE ON recording": (
        _of_state(_goes, "old") + _of_day(_goes, "old")
    ),
    "file_counted AFTER INSERT ON file": _of_file(("+", "new")),
    """file_counted_check AFTER INSERT ON file WHEN new.checked_at IS NOT NULL""": (
        _of_check(_comes, "new")
    ),
    """file_recounted AFTER UPDATE OF size, damage, checked_at ON file
WHEN old.size <> new.size OR (old.damage IS NULL) <> (new.damage IS NULL)
    OR (old.checked_at IS NULL) <> (new.checked_at IS NULL)""": (
        _of_file(("-", "old"), ("+", "new"))
    ),
    """file_checked AFTER UPDATE OF checked_at ON file
WHEN new.checked_at IS NOT NULL AND old.checked_at IS NOT new.checked_at""": (
        _of_check(_comes, "new")
    ),
    """file_unchecked AFTER UPDATE OF checked_at ON file
WHEN old.checked_at IS NOT NULL AND old.checked_at IS NOT new.checked_at""": (
        _of_check(_goes, "old")
    ),
    "file_uncounted AFTER DELETE ON file": _of_file(("-", "old")),
    "file_uncounted_check AFTER DELETE ON file WHEN old.checked_at IS NOT NULL": (
        _of_check(_goes, "old")
    ),
}


def create(db: sqlite3.Connection) -> None:
    """Make the tables and triggers, and count what is there.

    The caller has a transaction open. Raises `sqlite3.DatabaseError`.
    """
    filled = (f"INSERT INTO {table} {sql}" for table, sql in COUNTED.items())
    watched = (f"CREATE TRIGGER {head} BEGIN {body} END" for head, body in _TRIGGERS.items())
    for statement in (*_TABLES, *filled, *watched):
        db.execute(statement)


def forget_zeros(db: sqlite3.Connection) -> None:
    """Take out times at which none of the files was checked last; in the caller's transaction."""
    db.execute("DELETE FROM check_count WHERE files <= 0")
