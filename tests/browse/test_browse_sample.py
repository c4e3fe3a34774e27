"""A sample archive for the tests and the picture of the pages, and what it must hold."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Container, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import cache
from hashlib import sha256
from pathlib import Path

from g2a_archive.browse import Entry, OwedEntry
from g2a_archive.demo.media import events, mp4
from g2a_archive.models import FileKind, State, StoredFile

PACIFIC = timezone(timedelta(hours=-8), "PST")
OWED = (
    OwedEntry(
        4_100_000_007, State.UNAVAILABLE, "left out of the answer", "2014-05-06T02:00:05Z", 3
    ),
    OwedEntry(4_100_000_012, State.REFUSED, "invalid ID", "2014-05-07T02:00:05Z", 1),
)


@cache
def picture(seed: int, width: int = 320, height: int = 200) -> bytes:
    """A PNG of a desktop with some windows, another one for each seed."""
    rng = random.Random(seed)
    ground = rng.choice(((29, 53, 87), (38, 70, 83), (61, 64, 91), (44, 62, 80), (52, 78, 65)))
    rows = [bytearray(bytes(ground) * width) for _ in range(height)]

    def box(x: int, y: int, w: int, h: int, colour: tuple[int, int, int]) -> None:
        for row in rows[y : y + h]:
            row[3 * x : 3 * (x + w)] = bytes(colour) * (min(x + w, width) - x)

    for _ in range(rng.randint(1, 3)):
        x, y, w, h = rng.randint(8, 120), rng.randint(8, 60), rng.randint(90, 170), 100
        box(x, y, w, h, (241, 250, 238))
        box(x, y, w, 12, rng.choice(((69, 123, 157), (231, 111, 81), (42, 157, 143))))
        for line in range(5):
            box(x + 10, y + 22 + 14 * line, rng.randint(30, w - 20), 6, (168, 200, 210))
    box(0, height - 14, width, 14, (20, 33, 61))

    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    lines = b"".join(b"\0" + row for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packed = zlib.compress(lines, 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )


def entry(number: int, start: datetime, content: Mapping[FileKind, bytes] | None = None) -> Entry:
    """An entry whose files lie in the directory of its start's date, as the archive has them."""
    directory = start.strftime("%Y/%m/%d")
    names = {FileKind.MP4: "mp4", FileKind.EVENTS: "events", FileKind.THUMBNAIL: "png"}
    content = content or {kind: f"{number} {kind}".encode() for kind in names}
    files = {
        kind: StoredFile(
            number, kind, f"{directory}/{number}.{names[kind]}", len(data), sha256(data).hexdigest()
        )
        for kind, data in content.items()
    }
    return Entry(number, start.isoformat(), directory, files)


def sample(root: Path, seed: int = 6, days: Container[int] = range(1, 32)) -> Iterator[Entry]:
    """Three years of recordings with real media, written below `root` as they are asked for.

    `days` of each month only.
    """
    rng = random.Random(seed)
    day, number = datetime(2012, 3, 5, tzinfo=PACIFIC), 1_234_567_000
    while day < datetime(2014, 5, 14, tzinfo=PACIFIC):
        busy = (0, 0, 0, 1, 1, 2, 3, 5, 9) if day.weekday() < 5 else (0, 0, 0, 1)
        times = sorted(rng.randint(8 * 60, 18 * 60) for _ in range(rng.choice(busy)))
        for minute in times:
            number += rng.randint(1, 9_000)
            start = day + timedelta(minutes=minute, seconds=rng.randint(0, 59))
            if day.day in days:
                yield _stored(root, number, start, rng)
        day += timedelta(days=1)


def _stored(root: Path, number: int, start: datetime, rng: random.Random) -> Entry:
    content = {
        FileKind.MP4: mp4(number, rng.randint(2_000, 9_000)).read(),
        FileKind.EVENTS: events(number, start, rng.randint(400, 2_000)).read(),
        FileKind.THUMBNAIL: picture(number % 20),
    }
    one = entry(number, start, content)
    for kind, file in one.files.items():
        path = root / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content[kind])
    if number % 97 == 0:
        return replace(one, state=State.DAMAGED, reason="mp4: changed", since="2014-05-01T00:00Z")
    return one


def test_the_sample_is_what_its_entries_say(tmp_path: Path) -> None:
    entries = list(sample(tmp_path))
    assert len({one.id for one in entries}) == len(entries) > 500
    for file in entries[0].files.values():
        content = (tmp_path / file.path).read_bytes()
        assert (len(content), sha256(content).hexdigest()) == (file.size, file.sha256)
