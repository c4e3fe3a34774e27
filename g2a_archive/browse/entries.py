"""What the pages show: recordings, owed recordings, and where in the calendar each belongs."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timezone, tzinfo
from typing import Protocol

from g2a_archive.models import FileKind, State, StoredFile

_DATE_IN_DIRECTORY = re.compile(r"(?:^|[^0-9])(\d{4})[-/._]?(\d\d)[-/._]?(\d\d)(?![0-9])")


@dataclass(frozen=True, slots=True)
class Entry:
    """A recording with files in the archive; paths are relative to the archive, with `/`.

    `start` is a time or its ISO 8601 text (UTC where it has no offset), None where unknown: then
    a date in `directory` places it. `since` is the ISO text of the moment since when it is owed.
    """

    id: int
    start: datetime | str | None
    directory: str | None = None
    files: Mapping[FileKind, StoredFile] = field(default_factory=dict)
    state: State = State.ARCHIVED
    reason: str | None = None
    since: str | None = None


@dataclass(frozen=True, slots=True)
class Owed:
    """A recording that the archive still owes, or has given up; times are ISO text."""

    id: int
    state: State
    reason: str | None = None
    since: str | None = None
    tries: int = 0
    last_try: str | None = None


@dataclass(frozen=True, slots=True)
class Placed:
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
    state: str
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


class Source(Protocol):
    """Where the pages' content comes from; asked in one thread."""

    def marks(self) -> Iterable[tuple[str, str]]:
        """Every directory with recordings ("" for the archive itself), and its mark.

        A mark is another one whenever a page could say something else of any recording in the
        directory; "" where that is not known.
        """
        ...

    def entries(self, directory: str) -> Iterable[Entry]:
        """The recordings of one directory."""
        ...

    def details(self, ids: Sequence[int]) -> Mapping[int, Entry]:
        """Some recordings, by ID; one that has gone meanwhile is left out."""
        ...

    def owed(self) -> Iterable[Owed]:
        """All recordings that are owed, in the order in which they are to be shown."""
        ...


class Listed:
    """A `Source` of recordings that come once, in any order; kept in a temporary file meanwhile."""

    def __init__(self, entries: Iterable[Entry], owed: Iterable[Owed]) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._owed = owed
        try:
            self._db.execute("CREATE TABLE entry (id INTEGER PRIMARY KEY, body TEXT)")
            self._db.execute("BEGIN")
            rows = ((entry.id, _as_text(entry)) for entry in entries)
            self._db.executemany("REPLACE INTO entry VALUES (?, ?)", rows)
        except BaseException:
            self.close()
            raise

    def marks(self) -> Iterable[tuple[str, str]]:
        """All of it under one name."""
        return (("", ""),)

    def entries(self, directory: str) -> Iterable[Entry]:
        """All recordings."""
        return (_from_text(body) for (body,) in self._db.execute("SELECT body FROM entry"))

    def details(self, ids: Sequence[int]) -> Mapping[int, Entry]:
        """Some recordings, by ID."""
        marks = ",".join("?" * len(ids))
        rows = self._db.execute(f"SELECT id, body FROM entry WHERE id IN ({marks})", ids)  # noqa: S608
        return {id_: _from_text(body) for id_, body in rows}

    def owed(self) -> Iterable[Owed]:
        """All that are owed."""
        return self._owed

    def close(self) -> None:
        """Let go of the temporary file."""
        self._db.close()


def _as_text(entry: Entry) -> str:
    fields = {name: getattr(entry, name) for name in entry.__slots__}
    if isinstance(entry.start, datetime):
        zone = entry.start.tzname() if entry.start.tzinfo else None
        fields["start"] = [entry.start.isoformat(), zone]
    fields["files"] = [(f.kind.value, f.path, f.size, f.sha256) for f in entry.files.values()]
    return json.dumps(fields)


def _from_text(body: str) -> Entry:
    fields = json.loads(body)
    if isinstance(fields["start"], list):
        start = datetime.fromisoformat(fields["start"][0])
        if (offset := start.utcoffset()) is not None and fields["start"][1] is not None:
            start = start.replace(tzinfo=timezone(offset, fields["start"][1]))
        fields["start"] = start
    fields["state"] = State(fields["state"])
    kinds = [(FileKind(kind), its) for kind, *its in fields["files"]]
    fields["files"] = {kind: StoredFile(fields["id"], kind, *its) for kind, its in kinds}
    return Entry(**fields)


def parse_time(value: datetime | str | None) -> datetime | None:
    """A time with an offset from a time or its ISO text; None where it is no such thing."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if value is not None and value.utcoffset() is None:
        return value.replace(tzinfo=UTC)
    return value


def local_time(value: datetime | str | None, zone: tzinfo | None) -> datetime | None:
    """A time as the archive's time zone tells it; in its own offset where there is no zone."""
    when = parse_time(value)
    if when is None or zone is None:
        return when
    try:
        return when.astimezone(zone)
    except (OverflowError, ValueError):
        return when


def place(entry: Entry, zone: tzinfo | None) -> Placed:
    """Find the entry's day in the calendar and put its times into words."""
    when = local_time(entry.start, zone)
    since = local_time(entry.since, zone)
    day = when.date().isoformat() if when else _day_of_directory(entry.directory or "")
    return Placed(
        id=entry.id,
        day=day,
        moment=_moment(when),
        clock=when.strftime("%H:%M:%S") if when else "",
        zone=_zone_name(when) if when else "",
        iso=when.isoformat(timespec="seconds") if when else "",
        directory=entry.directory or "",
        state=str(entry.state),
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
