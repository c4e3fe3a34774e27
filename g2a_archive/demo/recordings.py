"""What the simulated service has recorded, and populations of it for demonstrations and tests.

A recording is a row, not a file: its bytes are made when somebody asks for them (see `media`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Final, Literal, get_args

from g2a_archive.demo.media import Content, events, jpeg, mp4

Kind = Literal["mp4", "events", "thumbnail"]
State = Literal["ready", "transcode", "unavailable"]

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
SUFFIXES: Final[Mapping[Kind, str]] = {"mp4": ".mp4", "events": ".events", "thumbnail": ".jpg"}
MEDIA_TYPES: Final[Mapping[Kind, str]] = {
    "mp4": "video/mp4",
    "events": "application/octet-stream",
    "thumbnail": "image/jpeg",
}
LINK_FIELDS: Final[Mapping[Kind, str]] = {
    "mp4": "recordingUrl",
    "events": "eventsUrl",
    "thumbnail": "thumbnailUrl",
}


@dataclass(frozen=True)
class SimulatedRecording:
    """One session recording as the service knows it.

    `state` is the one that it starts in: ready for download, waiting to be transcoded, or known
    but not available (still being recorded, say). A size of None means that the recording has no
    such file and that its link is left out. `fields` replaces or adds fields of its entry in the
    link call's answer, for answers that lie; a value of None leaves the field out.
    """

    id: int
    start: datetime
    mp4_size: int | None = 20_000
    events_size: int | None = 2_000
    thumbnail_size: int | None = 4_000
    session_type: Literal[0, 1] = 0
    state: State = "ready"
    account_key: str = "1000"
    user_key: str = "2000"
    company_id: str = "3000"
    fields: Mapping[str, object] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse what the service could not have."""
        if not 0 < self.id < 10**20:
            raise ValueError(f"not a recording ID: {self.id}")
        if self.start.tzinfo is None:
            raise ValueError("a recording's start needs its UTC offset")

    @property
    def start_text(self) -> str:
        """The start as ISO 8601 in the recording's own offset, as the vendor's answer holds it."""
        return self.start.isoformat(timespec="seconds")

    def size(self, kind: Kind) -> int | None:
        """Return the bytes of a file as it is served, None where there is no such file."""
        configured = self._configured_size(kind)
        return None if configured is None else self.content(kind).size

    def content(self, kind: Kind, version: int = 0, size: int | None = None) -> Content:
        """Return a file of this recording; another version or size is another file."""
        configured = self._configured_size(kind) if size is None else size
        if configured is None:
            raise LookupError(f"recording {self.id} has no {kind}")
        if kind == "mp4":
            return mp4(self.id, configured, version)
        if kind == "thumbnail":
            return jpeg(self.id, configured, version)
        return events(self.id, self.start, configured, version)

    def etag(self, kind: Kind, version: int = 0, size: int | None = None) -> str:
        """Return the strong validator of a file: it changes with whatever changes the bytes."""
        length = self.size(kind) if size is None else size
        return f'"{self.id:x}-{kind}-{length}-{version}"'

    def last_modified(self, version: int = 0) -> str:
        """Return when its files were made, the day after the session, as an HTTP date."""
        made = self.start.astimezone(UTC) + timedelta(days=1 + version)
        return format_datetime(made, usegmt=True)

    def _configured_size(self, kind: Kind) -> int | None:
        sizes = {
            "mp4": self.mp4_size,
            "events": self.events_size,
            "thumbnail": self.thumbnail_size,
        }
        return sizes[kind]


def expected_bytes(recording: SimulatedRecording, kind: Kind) -> Iterator[bytes]:
    """Yield, piece by piece, what the archive should hold of a file of this recording."""
    return recording.content(kind).chunks()


OFFSETS: Final = (
    timedelta(0),
    timedelta(hours=2),
    timedelta(hours=5, minutes=30),
    timedelta(hours=-8),
    timedelta(hours=-3, minutes=-30),
    timedelta(hours=13),
)

EDGE_CASES: Final = (
    datetime(2013, 12, 31, 23, 59, 30, tzinfo=UTC),
    datetime(2013, 12, 31, 20, 0, 0, tzinfo=timezone(timedelta(hours=-8))),
    datetime(2014, 1, 1, 5, 29, 0, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    datetime(2014, 1, 1, 0, 0, 0, tzinfo=UTC),
    datetime(2016, 2, 29, 12, 0, 0, tzinfo=UTC),
)
"""Starts that every population begins with: the same instants lie in two years, by offset."""

FIRST_ID: Final = 1_400_000_001


def sample_recordings(
    count: int,
    *,
    seed: int = 1,
    first_id: int = FIRST_ID,
    mp4_size: int | tuple[int, int] = (8_000, 40_000),
    events_size: int | tuple[int, int] | None = (500, 4_000),
    thumbnail_size: int | tuple[int, int] | None = (3_000, 6_000),
    begin: datetime = datetime(2014, 1, 2, tzinfo=UTC),
    days: float = 120,
    unavailable_every: int = 0,
    transcode_every: int = 0,
) -> list[SimulatedRecording]:
    """Return `count` recordings, the same ones for the same arguments, in start order.

    Their IDs are consecutive. The first few have the starts of `EDGE_CASES`; the others are spread
    evenly, in several UTC offsets, over `days` from `begin`. A pair of sizes is a range to draw
    from. Every `unavailable_every`-th is not available, every `transcode_every`-th waits for its
    transcoding.
    """
    chance = random.Random(seed)

    def draw(size: int | tuple[int, int]) -> int:
        return size if isinstance(size, int) else chance.randint(*size)

    def start(number: int) -> datetime:
        if number < len(EDGE_CASES):
            return EDGE_CASES[number]
        share = (number - len(EDGE_CASES)) / max(1, count - len(EDGE_CASES))
        at = begin + timedelta(seconds=int((share * days) * 86400))
        return at.astimezone(timezone(chance.choice(OFFSETS)))

    recordings = [
        SimulatedRecording(
            id=first_id + number,
            start=start(number),
            mp4_size=draw(mp4_size),
            events_size=None if events_size is None else draw(events_size),
            thumbnail_size=None if thumbnail_size is None else draw(thumbnail_size),
            session_type=1 if chance.random() < 0.3 else 0,
            state=_state_of(number + 1, unavailable_every, transcode_every),
        )
        for number in range(count)
    ]
    return sorted(recordings, key=lambda recording: recording.start)


def _state_of(number: int, unavailable_every: int, transcode_every: int) -> State:
    if unavailable_every and number % unavailable_every == 0:
        return "unavailable"
    if transcode_every and number % transcode_every == 0:
        return "transcode"
    return "ready"
