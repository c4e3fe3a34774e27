"""The sample media and the populations of the simulated service."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.memory import peak_of

from g2a_archive.demo import (
    SMALLEST_JPEG,
    SMALLEST_MP4,
    SimulatedRecording,
    expected_bytes,
    sample_recordings,
)
from g2a_archive.demo.media import BLOCK, Content, asset, events, jpeg, mp4
from g2a_archive.demo.recordings import KINDS, OFFSETS, Kind

START = datetime(2014, 5, 6, 10, 0, tzinfo=UTC)
GIB = 2**30


def boxes(content: Content) -> Iterator[tuple[bytes, int]]:
    """Yield the name and size of each top-level box, without reading what is in them."""
    at = 0
    while at < content.size:
        header = content.read(at, at + 16)
        size = int.from_bytes(header[:4], "big")
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        yield header[4:8], size
        at += size
    assert at == content.size


@pytest.mark.parametrize("size", [SMALLEST_MP4, SMALLEST_MP4 + 1, 50_000_000, 4 * GIB, 5 * GIB])
def test_mp4_is_boxes_up_to_its_last_byte(size: int) -> None:
    names = [name for name, _ in boxes(mp4(7, size))]
    assert names[:2] == [b"ftyp", b"moov"]
    assert names[-2:] == [b"mdat", b"free"]


def test_mp4_goes_over_to_large_boxes_at_the_right_byte() -> None:
    clip = len(asset("screen.mp4"))
    largest = mp4(7, clip + 2**32 - 1)
    assert list(boxes(largest))[-1] == (b"free", 2**32 - 1)
    assert list(boxes(mp4(7, clip + 2**32)))[-1] == (b"free", 2**32)


@pytest.mark.parametrize("wished", [0, 1, SMALLEST_MP4 - 1])
def test_mp4_is_never_smaller_than_what_plays(wished: int) -> None:
    assert mp4(7, wished).size == SMALLEST_MP4 < 3000


@pytest.mark.parametrize(
    "size",
    [SMALLEST_JPEG, SMALLEST_JPEG + 1]
    + [SMALLEST_JPEG + n * 65537 + off for n in (1, 2) for off in range(-26, 3)],
)
def test_jpeg_is_segments_up_to_its_picture(size: int) -> None:
    content = jpeg(7, size)
    picture = content.read()
    assert len(picture) == content.size == size
    at, comments = 2, 0
    while picture[at + 1] != 0xDA:
        assert picture[at] == 0xFF
        comments += picture[at + 1] == 0xFE
        at += 2 + int.from_bytes(picture[at + 2 : at + 4], "big")
    assert comments
    assert asset("screen.jpg").endswith(picture[at:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [5_000, 3 * BLOCK + 11])
def test_any_range_is_that_part_of_the_whole(kind: Kind, size: int) -> None:
    content = SimulatedRecording(7, START, size, size, size).content(kind)
    whole = content.read()
    assert len(whole) == content.size == size
    places = [0, 1, 20, 1730, 1759, 1760, BLOCK, 2 * BLOCK + 3, size - 2700, size - 1, size]
    for start in places:
        for stop in [*places, size + 10]:
            assert content.read(start, stop) == whole[start:stop], (start, stop)


@pytest.mark.parametrize("size", [0, 1, 79, 80, 81, 10_000])
def test_events_are_lines_of_text(size: int) -> None:
    text = events(7, START, size).read()
    assert len(text) == size
    assert text.endswith(b"\n") or not size
    assert text.isascii()
    assert all(b"=" in line for line in text.splitlines()[:-1])


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_recordings_versions_or_blocks_are_alike(kind: Kind) -> None:
    size = 6 * BLOCK
    one, other = (SimulatedRecording(number, START, size, size, size) for number in (7, 8))
    assert one.content(kind).sha256() != other.content(kind).sha256()
    assert one.content(kind).sha256() != one.content(kind, version=1).sha256()
    whole = one.content(kind).read()
    assert len({whole[at : at + 4096] for at in range(3000, size - 8192, BLOCK)}) == 6


def test_the_smallest_files_differ_by_recording() -> None:
    assert mp4(7, 0).read() != mp4(8, 0).read()
    assert jpeg(7, 0).read() != jpeg(8, 0).read()


@pytest.mark.parametrize("kind", KINDS)
def test_expected_bytes_are_the_file(kind: Kind) -> None:
    recording = SimulatedRecording(7, START)
    whole = b"".join(expected_bytes(recording, kind))
    assert len(whole) == recording.size(kind)
    assert hashlib.sha256(whole).hexdigest() == recording.content(kind).sha256()


def test_a_large_file_is_never_in_memory() -> None:
    content = mp4(7, 200_000_000)

    def read() -> None:
        assert sum(len(chunk) for chunk in content.chunks()) == content.size

    assert peak_of(read) < 1_000_000


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="no ffmpeg here to play the media with")
@pytest.mark.parametrize("size", [0, 50_000_000])
def test_a_real_player_takes_the_media(tmp_path: Path, size: int) -> None:
    recording = SimulatedRecording(7, START, mp4_size=size, thumbnail_size=min(size, 200_000))
    for kind in ("mp4", "thumbnail"):
        file = tmp_path / kind
        with file.open("wb") as stream:
            stream.writelines(expected_bytes(recording, kind))
        command = ["ffmpeg", "-v", "error", "-xerror", "-i", str(file), "-f", "null", "-"]
        played = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (played.returncode, played.stderr) == (0, "")


def test_populations_are_the_same_every_time() -> None:
    assert sample_recordings(300) == sample_recordings(300)
    assert sample_recordings(300) != sample_recordings(300, seed=2)
    assert [r.id for r in sample_recordings(3, first_id=50)] == [52, 50, 51]


def test_populations_spread_over_days_offsets_and_a_years_end() -> None:
    recordings = sample_recordings(1000)
    assert [r.start for r in recordings] == sorted(r.start for r in recordings)
    assert {r.start.utcoffset() for r in recordings} == set(OFFSETS)
    assert {timedelta(hours=5, minutes=30), timedelta(hours=-8)} <= set(OFFSETS)
    assert len({r.start.date() for r in recordings}) > 100
    texts = [r.start_text for r in recordings]
    assert "2013-12-31T20:00:00-08:00" in texts
    assert "2014-01-01T05:29:00+05:30" in texts
    earliest = min(recordings, key=lambda r: r.start)
    assert (earliest.start.year, earliest.start.astimezone(UTC).year) == (2014, 2013)
    assert all((r.size("mp4") or 0) >= SMALLEST_MP4 for r in recordings)


def test_populations_have_states_and_sizes_as_asked() -> None:
    recordings = sample_recordings(
        40, unavailable_every=10, transcode_every=4, mp4_size=9000, thumbnail_size=None
    )
    states = [recording.state for recording in recordings]
    assert states.count("unavailable") == 4
    assert states.count("transcode") == 8
    assert {recording.size("mp4") for recording in recordings} == {9000}
    assert {recording.size("thumbnail") for recording in recordings} == {None}
    with pytest.raises(LookupError, match="no thumbnail"):
        recordings[0].content("thumbnail")


@pytest.mark.parametrize("number", [0, -1, 10**20])
def test_a_recording_has_a_positive_id(number: int) -> None:
    with pytest.raises(ValueError, match="not a recording ID"):
        SimulatedRecording(number, START)


def test_a_recording_has_an_offset() -> None:
    with pytest.raises(ValueError, match="UTC offset"):
        SimulatedRecording(1, START.replace(tzinfo=None))
