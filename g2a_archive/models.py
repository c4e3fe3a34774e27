"""The words that the modules share: kinds of file, states of a recording, links, settings."""

from __future__ import annotations

import operator
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from heapq import merge
from itertools import islice, pairwise
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

from g2a_archive.errors import CatalogError

MAX_ID = 2**63 - 1
"""The largest recording ID that the catalogue can hold."""

LIST_LIMIT = 500
"""IDs in one call at most (vendor's reference, for all four calls)."""

ID_PLACES = ("path", "query", "body")
"""Where the calls that change something may have their IDs."""

_SORTED_AT_ONCE = 1 << 16


def parse_id(text: str) -> int:
    """The recording ID that `text` is; 0 where it is none."""
    # isdecimal() alone would take the digits of other scripts.
    if text.isdecimal() and text.isascii() and len(text) <= 30 and (id_ := int(text)) <= MAX_ID:
        return id_
    return 0


class _CatalogEnum(StrEnum):
    """One of some words, read from nowhere but a catalogue, which is damaged if it is another."""

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise CatalogError(
            f"the catalogue is damaged: {printable(str(value))!r} stands in a column for "
            f"{', '.join(cls)}",
            hint="move it away; the next download adopts the files that are there",
        )


class FileKind(_CatalogEnum):
    """The three files of a recording."""

    MP4 = "mp4"
    EVENTS = "events"
    THUMBNAIL = "thumbnail"

    @property
    def bit(self) -> int:
        """This kind's bit in `recording.kinds` of the catalogue."""
        return _BITS[self]


_BITS = {FileKind.MP4: 1, FileKind.EVENTS: 2, FileKind.THUMBNAIL: 4}
ALL_KINDS = (FileKind.MP4, FileKind.EVENTS, FileKind.THUMBNAIL)


def distinct(ids: Iterable[int]) -> array[int]:
    """`ids` in their order, each once: 8 bytes each, where a set would take ten times that."""
    found = ids if isinstance(ids, array) else array("q", ids)
    ordered = sorted_ids(found)
    if all(map(operator.lt, ordered, islice(ordered, 1, None))):
        return found  # seen in two thirds of the time that gathering none takes
    doubles = array("q", (one for one, next_ in pairwise(ordered) if one == next_))
    seen = bytearray(len(doubles))
    kept = array("q")
    for one in found:
        at = bisect_left(doubles, one)
        if at < len(doubles) and doubles[at] == one:
            if seen[at]:
                continue
            seen[at] = True
        kept.append(one)
    return kept


def sorted_ids(ids: Iterable[int]) -> array[int]:
    """`ids`, the smallest first: 8 bytes each. Most lists come in this order, and stay."""
    found = ids if isinstance(ids, array) else array("q", ids)
    if all(map(operator.le, found, islice(found, 1, None))):
        return found
    # As a list they would take 40 bytes each meanwhile.
    starts = range(0, len(found), _SORTED_AT_ONCE)
    parts = [array("q", sorted(found[at : at + _SORTED_AT_ONCE])) for at in starts]
    return parts[0] if len(parts) == 1 else array("q", merge(*parts))


class IdSet:
    """Which IDs are among some: 8 bytes each."""

    def __init__(self, ids: Iterable[int]) -> None:
        self._ids = sorted_ids(ids)

    def __contains__(self, id_: int) -> bool:
        at = bisect_left(self._ids, id_)
        return at < len(self._ids) and self._ids[at] == id_


_Row = TypeVar("_Row", bound=tuple[Any, ...])


class Rows(Generic[_Row]):
    """Named tuples that begin with an ID: 12 bytes each, as what follows it is mostly the same.

    A night in which everything fails has a million of them.
    """

    def __init__(self, make: Callable[..., _Row]) -> None:
        self._make = make
        self.ids = array("q")
        self._places = array("i")
        self._rests: dict[tuple[Any, ...], int] = {}

    def append(self, row: _Row) -> None:
        """One more."""
        place = self._rests.setdefault(row[1:], len(self._rests))
        self.ids.append(row[0])
        self._places.append(place)

    def extend(self, rows: Iterable[_Row]) -> None:
        """Some more."""
        for row in rows:
            self.append(row)

    def __iter__(self) -> Iterator[_Row]:
        rests = list(self._rests)
        for id_, place in zip(self.ids, self._places, strict=True):
            yield self._make(id_, *rests[place])

    def __len__(self) -> int:
        return len(self.ids)


def kinds_mask(kinds: Iterable[FileKind]) -> int:
    """The bits of `kinds` together."""
    return sum({kind.bit for kind in kinds})


class State(_CatalogEnum):
    """What the catalogue knows of a recording.

    All but `ARCHIVED`, `LOST` and `REMOVED` are owed: `download --owed` and `sync` try them again.
    """

    ARCHIVED = "archived"
    QUEUED = "queued"  # asked for, and the run ended before it was settled
    UNAVAILABLE = "unavailable"  # left out of the service's answer: not ready yet
    REFUSED = "refused"  # the service calls the ID invalid
    FAILED = "failed"
    DAMAGED = "damaged"  # verify found a file missing or changed
    LOST = "lost"  # owed for longer than --give-up-after
    REMOVED = "removed"  # by `remove`, for good


OWED_STATES = (State.QUEUED, State.UNAVAILABLE, State.REFUSED, State.FAILED, State.DAMAGED)


class ListState(StrEnum):
    """The list call's two arrays, and both."""

    DOWNLOAD = "download"
    TRANSCODE = "transcode"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Age:
    """An age: what time that is, the clock says when it is known to be right."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which recordings `list` and `sync` ask for; times are Unix time, whole seconds, or ages.

    `session_type` is the vendor's: 0 attended, 1 unattended. `archived`: those that are marked as
    archived on the service, instead of those that are not.
    """

    account_keys: tuple[str, ...] = ()
    user_keys: tuple[str, ...] = ()
    company_ids: tuple[str, ...] = ()
    session_type: int | None = None
    since: int | Age | None = None
    until: int | Age | None = None
    archived: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncSettings:
    """What `sync` was told beyond a run's settings; `wait` and `give_up_after` are seconds."""

    selection: Selection
    full: bool = False
    transcode: bool = False
    wait: float | None = None
    mark_archived: bool = False
    give_up_after: float | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """A secret address of one file, and when the service gave it (both clocks, seconds)."""

    url: str = field(repr=False)
    wall: float
    monotonic: float

    def age(self, wall: float, monotonic: float) -> float:
        """Seconds since the service gave the link; the larger of both clocks, as one may jump."""
        return max(wall - self.wall, monotonic - self.monotonic)


@dataclass(frozen=True, slots=True)
class Recording:
    """One entry of the service's answer to the link call, checked.

    `links` has no entry for a file that does not exist. `size` is the MP4's, in bytes, or None.
    """

    id: int
    start: datetime
    start_text: str
    size: int | None
    links: Mapping[FileKind, Link] = field(repr=False)
    link_problems: Mapping[FileKind, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LinkResult:
    """What became of the IDs of one chunk; every ID asked for is in exactly one of these."""

    recordings: tuple[Recording, ...] = ()
    unavailable: tuple[int, ...] = ()
    refused: tuple[int, ...] = ()
    failed: Mapping[int, str] = field(default_factory=dict)


class StoredFile(NamedTuple):
    """A file under its final name: `path` is relative to the archive, `size` in bytes."""

    recording: int
    kind: FileKind
    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Shard:
    """The `number`-th (from 1) of `count` parts of all recordings (`--shard 2/8`).

    Which part an ID is in depends on the ID and the count alone, and never changes: the first 8
    bytes of the SHA-256 of its decimal digits, a big-endian number, modulo `count`, plus 1.
    """

    number: int
    count: int

    def __contains__(self, recording: int) -> bool:
        import hashlib  # which takes a while to load, and most runs have no shard

        digest = hashlib.sha256(b"%d" % recording).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number - 1

    def select(self, ids: Iterable[int]) -> list[int]:
        """Those of `ids` that are in this part, in their order."""
        return [id_ for id_ in ids if id_ in self]

    def scope(self, whole: str) -> str:
        """What the catalogue calls a query of `sync` of which only this part was looked at."""
        return f"{whole} shard {self}"

    @classmethod
    def parse_scope(cls, name: str) -> tuple[str, Shard | None]:
        """The query and the part that `scope` has named; no part where it is the whole."""
        whole, _, part = name.rpartition(" shard ")
        number, _, count = part.partition("/")
        return (whole, cls(int(number), int(count))) if whole else (name, None)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


class Tombstone(NamedTuple):
    """A recording that was removed for good: when (`2026-11-23T02:00:05Z`), and why."""

    id: int
    removed_at: str
    reason: str | None

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"removed from the archive at {self.removed_at}{why}"


class Failure(NamedTuple):
    """One thing that went wrong with a recording, or with one of its files."""

    id: int
    file: FileKind | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """Everything that a run needs to know, parsed once; see cli/OPTIONS.md."""

    dest: str = "recordings"
    jobs: int = 8
    segments: int = 8
    kinds: tuple[FileKind, ...] = ALL_KINDS
    layout: str = "%Y/%m/%d"
    timezone: str | None = None
    limit_rate: int | None = None
    retries: int = 5
    timeout: float = 60.0
    max_duration: float | None = None
    min_free: int = 1 << 30
    dry_run: bool = False
    no_create: bool = False
    again: bool = False
    catalog: str | None = None
    set_mtime: bool = False
    ignore_size: bool = False
    api_url: str = "https://api.getgo.com/G2A/rest/v1"
    id_attribute: str = "recordingIds"
    ids_in: str = "path"
    shard: Shard | None = None


def iso(at: int) -> str:
    """Unix time as ISO 8601, as the catalogue, the report and the log have it.

    `2026-11-23T02:00:05Z`: in this form, the order of texts is the order of times.
    """
    # `fromtimestamp` ends in 2038 where the system's time has 32 bits.
    return (datetime(1970, 1, 1) + timedelta(seconds=at)).isoformat() + "Z"


def parse_iso(text: str) -> int:
    """The Unix time that `iso` has written as `text`."""
    return int(datetime.fromisoformat(text).timestamp())


def utc_now() -> str:
    """The time now by this machine's clock, as `iso` writes it."""
    return iso(int(time.time()))


def resolve_time(when: int | Age, now: float) -> int:
    """A time, or an age before `now`, in Unix seconds."""
    return int(now - when.seconds) if isinstance(when, Age) else when


def printable(text: str) -> str:
    """`text` on one line, with what would steer a terminal written out: `\\x1b[31m`."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def pluralize(number: int, noun: str) -> str:
    """`1 recording`, `1,234 recordings`, `2 tries`."""
    if number != 1:
        noun = f"{noun[:-1]}ies" if noun.endswith("ry") else f"{noun}s"
    return f"{number:,} {noun}"


def size_text(count: float) -> str:
    """A number of bytes for a person: `10.2 MB`, 1024-based like the options are."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < (1024 if unit == "B" else 1023.95):
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TB"


def duration_text(seconds: float) -> str:
    """A duration for a person: `0.8 s`, `12 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
