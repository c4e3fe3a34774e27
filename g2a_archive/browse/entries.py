"""What the pages show: recordings, owed recordings, and where in the calendar each belongs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, tzinfo
from typing import Self

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

    def to_json(self) -> str:
        """All of it as text, for the shelf."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        fields["files"] = [(f.kind.value, f.path, f.size, f.sha256) for f in self.files]
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote."""
        fields = json.loads(text)
        files = fields.pop("files")
        of = fields["id"]
        return cls(**fields, files=tuple(StoredFile(of, FileKind(f[0]), *f[1:]) for f in files))


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
