"""Statements of many values, the one that records a result, and databases of a moment."""

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
def temp_space_errors(what: str) -> Iterator[None]:
    """For a temporary database: raises `StorageError`, which says `what`, where it has no room."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StorageError(
            f"{what}: {error}",
            hint="free some space in the directory for temporary files, or set TMPDIR "
            "or SQLITE_TMPDIR",
        ) from error


# --- how a result is recorded ---------------------------------------------------------------

# A run knows only what it has seen itself; what earlier ones have seen stays true beside it. So the
# state, the kinds of file and since when they are missing are decided where both are at hand.

_ISO = "%Y-%m-%dT%H:%M:%SZ"

GRACE_HOURS = 20
"""Hours after which a file that was not offered is looked for again: less than from one night to
the next."""

# A run for some kinds of file (--only) leaves what was asked for of another kind owed.
_WANTED = "(recording.wanted | excluded.wanted | excluded.kinds)"
# That the service has no such file is believed at the second look, a night after the first.
_BELIEVED = f"""(recording.unoffered & excluded.unoffered & ~excluded.kinds & CASE
    WHEN recording.unoffered_since <= strftime('{_ISO}', excluded.last_try, '-{GRACE_HOURS} hours')
    THEN 7 ELSE 0 END)"""
_SETTLED = f"(recording.kinds | excluded.kinds | {_BELIEVED})"
_UNOFFERED = f"((recording.unoffered | excluded.unoffered) & ~{_SETTLED})"
_KEPT = f"""excluded.state = 'archived' AND recording.state NOT IN ('archived', 'lost', 'removed')
    AND {_WANTED} & ~({_SETTLED} | {_UNOFFERED}) <> 0"""
# A run that ended before it came to a recording takes nothing back of why others failed at it.
_NOT_TRIED = """excluded.state = 'queued' AND excluded.reason IS NULL
    AND recording.state IN ('queued', 'failed')"""

RECORD_RESULT = f"""
INSERT INTO recording (id, state, kinds, absent, wanted, unoffered, unoffered_since, start_time,
                       directory, reason, owed_since, tries, last_try, archived_at)
VALUES {{rows}}
ON CONFLICT (id) DO UPDATE SET
    state = CASE WHEN {_KEPT} THEN recording.state ELSE excluded.state END,
    kinds = {_SETTLED},
    absent = (recording.absent & ~excluded.kinds) | excluded.absent | {_BELIEVED},
    wanted = {_WANTED},
    unoffered = {_UNOFFERED},
    unoffered_since = CASE WHEN {_UNOFFERED} = 0 THEN NULL
                           WHEN excluded.unoffered & ~recording.unoffered <> 0
                           THEN excluded.unoffered_since
                           ELSE coalesce(min(recording.unoffered_since, excluded.last_try),
                                         recording.unoffered_since) END,
    start_time = coalesce(excluded.start_time, recording.start_time),
    directory = coalesce(excluded.directory, recording.directory),
    reason = CASE WHEN {_KEPT} OR {_NOT_TRIED} THEN recording.reason ELSE excluded.reason END,
    owed_since = CASE WHEN {_KEPT} THEN recording.owed_since
                      WHEN excluded.owed_since IS NULL THEN NULL
                      ELSE coalesce(recording.owed_since, excluded.owed_since) END,
    tries = recording.tries + excluded.tries,
    last_try = excluded.last_try,
    archived_at = coalesce(excluded.archived_at, recording.archived_at),
    removed_at = NULL
"""  # noqa: S608 - no word in it comes from outside
