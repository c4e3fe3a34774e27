"""Counts that the catalogue keeps while it grows, so that nobody has to count a million rows.

Triggers keep them, whoever writes: they are right in every transaction, and cost some microseconds
a file. A catalogue from before there were any gets them when it is next opened for writing.
Until then who only reads it counts for himself.
"""

# ruff: noqa: S608 - no word of these statements comes from outside

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

DAY_COUNT = "day_count"
STATE_COUNT = "state_count"
CHECK_COUNT = "check_count"


def _day(row: str) -> str:
    """What `status --by` files a recording under: its start's day as it was written, or a place."""
    return f"coalesce(substr({row}.start_time, 1, 10), {row}.directory, '')"


# The same by counting: how the tables are filled, and what is read where there are none.
COUNTED = {
    DAY_COUNT: f"""
SELECT day, sum(state = 'archived') AS recordings, sum(files) AS files, sum(bytes) AS bytes,
       sum(unchecked) AS unchecked, sum(damaged) AS damaged
FROM (SELECT {_day("r")} AS day, r.state AS state,
             count(f.size) - count(f.damage) AS files,
             coalesce(sum(CASE WHEN f.damage IS NULL THEN f.size END), 0) AS bytes,
             count(f.size) - count(f.checked_at) AS unchecked, count(f.damage) AS damaged
      FROM recording r LEFT JOIN file f ON f.recording = r.id GROUP BY r.id)
GROUP BY day""",
    STATE_COUNT: "SELECT state, count(*) AS recordings FROM recording GROUP BY state",
    CHECK_COUNT: "SELECT checked_at, count(*) AS files FROM file WHERE checked_at IS NOT NULL "
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


def _row(table: str, key: str, value: str) -> str:
    """Make sure that there is a row; whatever the outer statement does on a conflict."""
    return (
        f"INSERT INTO {table} ({key}) SELECT {value} WHERE {value} IS NOT NULL "
        f"AND NOT EXISTS (SELECT 1 FROM {table} WHERE {key} = {value});"
    )


def _of_state(row: str, sign: str) -> str:
    return f"UPDATE state_count SET recordings = recordings {sign} 1 WHERE state = {row}.state;"


def _of_recording(row: str, sign: str) -> str:
    return (
        f"UPDATE day_count SET recordings = recordings {sign} 1 "
        f"WHERE {row}.state = 'archived' AND day = {_day(row)};"
    )


def _of_file(row: str, sign: str) -> str:
    """A file's share in its day's counts comes, or goes."""
    shares = {
        "files": f"({row}.damage IS NULL)",
        "bytes": f"CASE WHEN {row}.damage IS NULL THEN {row}.size ELSE 0 END",
        "unchecked": f"({row}.checked_at IS NULL)",
        "damaged": f"({row}.damage IS NOT NULL)",
    }
    changes = ", ".join(f"{name} = {name} {sign} {share}" for name, share in shares.items())
    day = f"(SELECT {_day('recording')} FROM recording WHERE id = {row}.recording)"
    return f"UPDATE day_count SET {changes} WHERE day = {day};"


def _of_files(row: str, sign: str) -> str:
    """The share of all files of a recording."""
    shares = {
        "files": "sum(damage IS NULL)",
        "bytes": "sum(CASE WHEN damage IS NULL THEN size ELSE 0 END)",
        "unchecked": "sum(checked_at IS NULL)",
        "damaged": "sum(damage IS NOT NULL)",
    }
    changes = ", ".join(
        f"{name} = {name} {sign} (SELECT {share} FROM file WHERE recording = new.id)"
        for name, share in shares.items()
    )
    return f"UPDATE day_count SET {changes} WHERE day = {_day(row)};"


_CHECK_COMES = (
    _row(CHECK_COUNT, "checked_at", "new.checked_at")
    + "UPDATE check_count SET files = files + 1 WHERE checked_at = new.checked_at;"
)
_CHECK_GOES = (
    "UPDATE check_count SET files = files - 1 WHERE checked_at = old.checked_at;"
    "DELETE FROM check_count WHERE checked_at = old.checked_at AND files <= 0;"
)
_COMES = _row(DAY_COUNT, "day", _day("new")) + _row(STATE_COUNT, "state", "new.state")
_MOVED = f"{_day('old')} <> {_day('new')}"

_TRIGGERS = {
    "recording_counted AFTER INSERT ON recording": (
        _COMES + _of_state("new", "+") + _of_recording("new", "+")
    ),
    f"""recording_recounted AFTER UPDATE OF state, start_time, directory ON recording
WHEN old.state <> new.state OR {_MOVED}""": (
        _COMES
        + _of_state("old", "-")
        + _of_state("new", "+")
        + _of_recording("old", "-")
        + _of_recording("new", "+")
    ),
    f"""recording_moved AFTER UPDATE OF start_time, directory ON recording
WHEN {_MOVED} AND EXISTS (SELECT 1 FROM file WHERE recording = new.id)""": (
        _row(DAY_COUNT, "day", _day("new")) + _of_files("old", "-") + _of_files("new", "+")
    ),
    "recording_uncounted AFTER DELETE ON recording": (
        _of_state("old", "-") + _of_recording("old", "-")
    ),
    "file_counted AFTER INSERT ON file": _of_file("new", "+"),
    "file_counted_check AFTER INSERT ON file WHEN new.checked_at IS NOT NULL": _CHECK_COMES,
    """file_recounted AFTER UPDATE OF size, damage, checked_at ON file
WHEN old.size <> new.size OR (old.damage IS NULL) <> (new.damage IS NULL)
    OR (old.checked_at IS NULL) <> (new.checked_at IS NULL)""": (
        _of_file("old", "-") + _of_file("new", "+")
    ),
    """file_checked AFTER UPDATE OF checked_at ON file
WHEN old.checked_at IS NOT new.checked_at""": _CHECK_GOES + _CHECK_COMES,
    "file_uncounted AFTER DELETE ON file": _of_file("old", "-") + _CHECK_GOES,
}


def create(db: sqlite3.Connection) -> None:
    """Make the tables and triggers, and count what is there.

    The caller has a transaction open. Raises `sqlite3.DatabaseError`.
    """
    for statement in _statements():
        db.execute(statement)


def _statements() -> Iterator[str]:
    yield from _TABLES
    for table, sql in COUNTED.items():
        yield f"INSERT INTO {table} {sql}"
    for head, body in _TRIGGERS.items():
        yield f"CREATE TRIGGER {head} BEGIN {body} END"
