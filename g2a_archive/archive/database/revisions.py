"""Revisions: the states that all `SHA256SUMS` of an archive were in, one after the other.

Whenever some of them were rewritten, that is a new revision. Its fingerprint is a digest over all
of them, which costs the directories that changed: of the others the catalogue knows it. Revisions
are numbered, as times are no order: two can fall into one second, and a clock can go back.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

_LINE = re.compile(
    r"g2a1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) (0|[1-9]\d{0,17}) ([0-9a-f]{64})", re.ASCII
)

_AS_OF = """
SELECT directory, sha256, files FROM sums AS one WHERE revision =
    (SELECT max(revision) FROM sums WHERE directory = one.directory{until})
"""
CURRENT_SUMS = _AS_OF.format(until="")
"""What each `SHA256SUMS` is; `sha256` is NULL where there is none any more."""

SUMS_AT_REVISION = _AS_OF.format(until=" AND revision <= :revision")
"""What each was in a `revision`."""

IN_ORDER = "ORDER BY directory || '/SHA256SUMS'"
"""Of the paths, byte by byte: `2014/05/SHA256SUMS`, then `2014/SHA256SUMS`."""

LISTED_SINCE = """CASE WHEN path = excluded.path AND sha256 = excluded.sha256
                  THEN revision ELSE excluded.revision END"""
"""Of a file that comes again: as it was, it is in `SHA256SUMS` since its first time."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What an archive's files are, in one line; `time` is since when they are so."""

    time: str
    files: int
    digest: str

    def __str__(self) -> str:
        return f"g2a1 {self.time} {self.files} {self.digest}"

    @classmethod
    def parse(cls, line: str) -> Fingerprint:
        """The fingerprint that `line` holds; `ValueError` where it is none, or not whole."""
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise ValueError("it is no line such as `g2a1 2026-11-25T02:00:05Z 111 9f86...`")
        datetime.fromisoformat(match[1])  # there is no February 30th
        return cls(match[1], int(match[2]), match[3])


@dataclass(frozen=True, slots=True)
class DirectorySums:
    """The `SHA256SUMS` of a directory as it was just written, or found to be right already.

    `sha256` is that of the file itself, None where the directory has none any more; `files` is
    the number of its sums. `others` are the lines, with their ends and in their order, that the
    catalogue has no file for (a comment, a sum from a catalogue that was lost), each after the
    name of the catalogue's line that comes before it, "" where none does.
    """

    directory: str
    sha256: str | None = None
    files: int = 0
    others: Sequence[tuple[str, bytes]] = ()


def upcoming(db: sqlite3.Connection) -> int:
    """The number of the revision that will tell of what is recorded now."""
    return int(db.execute("SELECT coalesce(max(id), 0) + 1 FROM revision").fetchone()[0])


def remember(db: sqlite3.Connection, which: str, values: Sequence[object] = ()) -> None:
    """Keep what is known of the files `which` (a condition) that are about to be taken out."""
    db.execute(
        "INSERT INTO past_file (recording, kind, path, size, sha256, archived_at, revision, until, "  # noqa: S608
        "why) SELECT recording, kind, path, size, sha256, archived_at, revision, ?, 'removed' "
        f"FROM file WHERE {which}",
        (upcoming(db), *values),
    )


def digest(rows: Iterable[tuple[str, str]]) -> str:
    """The digest over (directory, SHA-256 of its `SHA256SUMS`), in the order of their paths."""
    whole = hashlib.sha256()
    for directory, sha256 in rows:
        whole.update(line_of(f"{directory}/SHA256SUMS", sha256))
    return whole.hexdigest()


def record(db: sqlite3.Connection, sums: Sequence[DirectorySums], now: str) -> None:
    """Record what `SHA256SUMS` files are now, and the revision that this makes, if it is news.

    The caller has a transaction open. Raises `sqlite3.DatabaseError`.
    """
    revision = upcoming(db)
    news = [one for one in sums if _is_news(db, one)]
    for one in sums:
        _record_others(db, one, revision)
        db.execute("DELETE FROM stale_directory WHERE directory = ?", (one.directory,))
    db.executemany(
        "INSERT INTO sums (directory, revision, sha256, files) VALUES (?, ?, ?, ?)",
        ((one.directory, revision, one.sha256, one.files) for one in news),
    )
    if not news and revision > 1:  # the first one tells that there is nothing
        return
    there = f"SELECT directory, sha256 FROM ({CURRENT_SUMS}) WHERE sha256 IS NOT NULL"  # noqa: S608
    whole = digest(db.execute(f"{there} {IN_ORDER}"))
    files = db.execute(f"SELECT coalesce(sum(files), 0) FROM ({CURRENT_SUMS})").fetchone()[0]  # noqa: S608
    db.execute("INSERT INTO revision VALUES (?, ?, ?, ?)", (revision, now, files, whole))
    # What could not be written yet is not in this revision, but will be in the next.
    stale = "(SELECT id FROM recording WHERE directory IN (SELECT directory FROM stale_directory))"
    for column, table in (("revision", "file"), ("until", "past_file"), ("revision", "past_file")):
        db.execute(
            f"UPDATE {table} SET {column} = {column} + 1 "  # noqa: S608
            f"WHERE {column} = ? AND recording IN {stale}",
            (revision,),
        )


def _is_news(db: sqlite3.Connection, one: DirectorySums) -> bool:
    sql = "SELECT sha256 FROM sums WHERE directory = ? ORDER BY revision DESC LIMIT 1"
    last = db.execute(sql, (one.directory,)).fetchone()
    return (last[0] if last else None) != one.sha256


def _record_others(db: sqlite3.Connection, one: DirectorySums, revision: int) -> None:
    """Keep in step the lines of a `SHA256SUMS` that no row of the table `file` accounts for.

    The order of those after the same name is that of their numbers, so all of these go together.
    """
    sql = "SELECT after, line FROM other_line WHERE directory = ? AND until IS NULL ORDER BY id"
    known = _by_name(db.execute(sql, (one.directory,)))
    here = _by_name(one.others)
    for after in known.keys() | here.keys():
        if known.get(after) == here.get(after):
            continue
        db.execute(
            "UPDATE other_line SET until = ? WHERE directory = ? AND after = ? AND until IS NULL",
            (revision, one.directory, after),
        )
        db.executemany(
            "INSERT INTO other_line (directory, after, line, revision) VALUES (?, ?, ?, ?)",
            ((one.directory, after, line, revision) for line in here.get(after, ())),
        )


def _by_name(lines: Iterable[tuple[str, bytes]]) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for after, line in lines:
        found.setdefault(after, []).append(line)
    return found


def line_of(name: str, sha256: str) -> bytes:
    """The line of a file in a `SHA256SUMS`, as the program writes it."""
    return f"{sha256}  {name}\n".encode("utf-8", "surrogateescape")


def name_of(line: bytes) -> bytes:
    """The name in such a line."""
    return line[66:-1]


def lines_of(ours: Iterable[bytes], others: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    """The lines of a `SHA256SUMS`: `ours`, of the catalogue's files, in the order of their names.

    `others` are those of `DirectorySums`.
    """
    more = _by_name(others)
    yield from more.get("", ())
    for line in ours:
        yield line
        if more:
            yield from more.get(name_of(line).decode(), ())
