"""What the pages show: recordings, owed recordings, and where in the calendar each belongs."""

from __future__ import annotations

import pickle
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, tzinfo
from typing import Protocol

from g2a_archive.models import FileKind, State, StoredFile

_DATE_IN_DIRECTORY = re.compile(r"(?:^|[^0-9])(\d{4})[-/._]?(\d\d)[-/._]?(\d\d)(?![0-9])")


@dataclass(frozen=True, slots=True)
class Entry:
    """A recording with files in the archive; paths are relative to the archive, with `/`.

    `start` is ISO 8601 text (UTC where it has no offset), None where unknown: then a date in
    `directory` places it. `since` is such a text, of the moment since when it is owed.
    """

    id: int
    start: str | None
    directory: str | None = None
    files: Mapping[FileKind, StoredFile] = field(default_factory=dict)
    state: State = State.ARCHIVED
    reason: str | None = None
    since: str | None = None


@dataclass(frozen=True, slots=True)
class OwedEntry:
    """A recording that the archive still owes, or has given up; times are ISO text."""

    id: int
    state: State
    reason: str | None = None
    since: str | None = None
    tries: int = 0
    last_try: str | None = None


@dataclass(frozen=True, slots=True)
class CalendarEntry:
    """An entry with its place in the calendar: `day` is "" where no date is known.

    `clock` and `zone` are what a person reads; `moment` sorts within a day.
    """

    id: int
    day: str
    moment: float
    clock: str
    zone: str
    iso: str
    directory: str
    state: State
    reason: str
    since: str
    files: tuple[StoredFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    def file(self, kind: FileKind) -> StoredFile | None:
        """The file of one kind, if the recording has it."""
        return next((file for file in self.files if file.kind == kind), None)


class PageSource(Protocol):
    """Where the pages' content comes from; asked in one thread."""

    def change_tokens(self) -> Iterable[tuple[str, str]]:
        """Every directory with recordings ("" for the archive itself), and its token.

        A token is another one whenever a page could say something else of any recording in the
        directory; "" where that is not known.
        """
        ...

    def entries(self, directory: str) -> Iterable[Entry]:
        """The recordings of one directory."""
        ...

    def details(self, ids: Sequence[int]) -> Mapping[int, Entry]:
        """Some recordings, by ID; one that has gone meanwhile is left out."""
        ...

    def owed(self) -> Iterable[OwedEntry]:
        """All recordings that are owed, in the order in which they are to be shown."""
        ...


class Listed:
    """A `PageSource` of recordings that come once, in any order, each kept in a temporary file."""

    def __init__(self, entries: Iterable[Entry], owed: Iterable[OwedEntry]) -> None:
        self._entries = entries
        self._owed = owed
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("CREATE TABLE entry (id INTEGER PRIMARY KEY, body BLOB)")
        self._db.execute("BEGIN")

    def change_tokens(self) -> Iterable[tuple[str, str]]:
        """All of it under one name."""
        return (("", ""),)

    def entries(self, directory: str) -> Iterator[Entry]:
        """All recordings, once."""
        for entry in self._entries:
            self._db.execute("REPLACE INTO entry VALUES (?, ?)", (entry.id, pickle.dumps(entry)))
            yield entry

    def details(self, ids: Sequence[int]) -> Mapping[int, Entry]:
        """Some recordings, by ID."""
        marks = ",".join("?" * len(ids))
        rows = self._db.execute(f"SELECT id, body FROM entry WHERE id IN ({marks})", ids)  # noqa: S608
        return {id_: pickle.loads(body) for id_, body in rows}  # noqa: S301 - our own

    def owed(self) -> Iterable[OwedEntry]:
        """All that are owed."""
        return self._owed

    def close(self) -> None:
        """Let go of the temporary file."""
        self._db.close()


def local_time(text: str | None, zone: tzinfo | None) -> datetime | None:
    """An ISO time as the archive's zone tells it, without one in its own offset; None for no time.

    UTC where it has no offset.
    """
    try:
        when = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    try:
        return when.astimezone(zone) if zone else when
    except (OverflowError, ValueError):
        return when


def calendar_entry(entry: Entry, zone: tzinfo | None) -> CalendarEntry:
    """Find the entry's day in the calendar and put its times into words."""
    when = local_time(entry.start, zone)
    since = local_time(entry.since, zone)
    day = when.date().isoformat() if when else _day_of_directory(entry.directory or "")
    return CalendarEntry(
        id=entry.id,
        day=day,
        moment=_moment(when),
        clock=when.strftime("%H:%M:%S") if when else "",
        zone=_zone_name(when) if when else "",
        iso=when.isoformat(timespec="seconds") if when else "",
        directory=entry.directory or "",
        state=entry.state,
        reason=entry.reason or "",
        since=since.date().isoformat() if since else entry.since or "",
        files=tuple(entry.files[kind] for kind in FileKind if kind in entry.files),
    )


def _moment(when: datetime | None) -> float:
    if when is None:
        return 0.0
    try:
        return when.timestamp()
    except (OverflowError, ValueError):  # within hours of the years 1 and 9999
        return when.replace(tzinfo=UTC).timestamp()


def _zone_name(when: datetime) -> str:
    name = when.tzname() or ""
    if re.fullmatch(r"[A-Za-z]{2,6}", name):
        return name
    offset = when.strftime("%z")
    return f"UTC{offset[:3]}:{offset[3:5]}"


def _day_of_directory(directory: str) -> str:
    for year, month, day in _DATE_IN_DIRECTORY.findall(directory):
        try:
            return date(int(year), int(month), int(day)).isoformat()
        except ValueError:
            continue
    return ""
