"""Date directories: the start as the service wrote it, or in a chosen time zone."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from dateutil import tz
from dateutil.parser import isoparse
from hypothesis import given, settings
from hypothesis import strategies as st
from support import cli_here, report_of
from support.service import Serve

from g2a_archive.archive.layout import check_layout, directory_for, file_name, parse_start, zone
from g2a_archive.demo import SimulatedRecording
from g2a_archive.errors import InputError
from g2a_archive.models import FileKind

DAY, MONTH, WEEK = "%Y/%m/%d", "%Y-%m", "%G/W%V"

# recordingStartTime, layout, time zone, directory.
TABLE: list[tuple[str, str, str | None, str]] = [
    ("2014-05-06T15:04:05Z", DAY, None, "2014/05/06"),
    ("2014-05-06T15:04:05+00:00", DAY, None, "2014/05/06"),
    ("2014-05-06T15:04:05", DAY, None, "2014/05/06"),
    ("2014-05-06T15:04:05.123456Z", DAY, None, "2014/05/06"),
    ("20140506T150405Z", DAY, None, "2014/05/06"),
    ("2014-05-06", DAY, None, "2014/05/06"),
    # As written: the day of the place where it was recorded.
    ("2013-12-31T23:30:00-08:00", DAY, None, "2013/12/31"),
    ("2014-01-01T08:30:00+01:00", DAY, None, "2014/01/01"),
    ("2014-01-01T00:10:00+14:00", DAY, None, "2014/01/01"),
    # The same instants in a time zone.
    ("2013-12-31T23:30:00-08:00", DAY, "UTC", "2014/01/01"),
    ("2014-01-01T07:30:00Z", DAY, "America/Los_Angeles", "2013/12/31"),
    ("2014-01-01T08:00:00Z", DAY, "America/Los_Angeles", "2014/01/01"),
    ("2014-01-01T07:59:59Z", DAY, "America/Los_Angeles", "2013/12/31"),
    ("2013-12-31T10:30:00Z", DAY, "Pacific/Kiritimati", "2014/01/01"),
    ("2014-01-01T00:10:00+14:00", DAY, "Europe/Berlin", "2013/12/31"),
    # Without an offset it is UTC, for the zone too.
    ("2014-01-01T02:00:00", DAY, "America/Los_Angeles", "2013/12/31"),
    # Summer and winter: midnight in Berlin is 22:00 or 23:00 UTC.
    ("2014-07-01T22:00:00Z", DAY, "Europe/Berlin", "2014/07/02"),
    ("2014-01-01T22:00:00Z", DAY, "Europe/Berlin", "2014/01/01"),
    # Other layouts: the year of a week is another one than the calendar's.
    ("2014-05-06T15:04:05Z", MONTH, None, "2014-05"),
    ("2014-05-06T15:04:05Z", WEEK, None, "2014/W19"),
    ("2013-12-31T15:04:05Z", WEEK, None, "2014/W01"),
    ("2017-01-01T15:04:05Z", WEEK, None, "2016/W52"),
    ("2017-01-01T15:04:05Z", WEEK, "Asia/Tokyo", "2017/W01"),
    ("2014-05-06T15:04:05Z", "%Y/%j/%H.%M", None, "2014/126/15.04"),
    ("2014-05-06T15:04:05+05:45", "%Y %z", None, "2014 +0545"),
    ("2014-05-06T15:04:05Z", "all", None, "all"),
    # No time at all, as some systems write it: a year has four digits.
    ("0001-01-01T00:00:00Z", DAY, None, "0001/01/01"),
    ("0001-01-01T00:00:00Z", "%F", None, "0001-01-01"),
]


@pytest.mark.parametrize(("start", "layout", "name", "directory"), TABLE)
def test_the_directory_of_a_recording(
    start: str, layout: str, name: str | None, directory: str
) -> None:
    check_layout(layout)
    assert directory_for(parse_start(start), layout, zone(name) if name else None) == directory


@pytest.mark.parametrize(
    "start",
    [None, 1399388645, "", "yesterday", "2014", "2014-05", "15:04:05", "2014-13-01T00:00:00Z",
     "2014-02-30T00:00:00Z", "2014-05-06T25:00:00Z", "../../etc/passwd", "2014-05-06Tx",
     "2014-05-06T15:04:05Z\n", "\uff12\uff10\uff11\uff14-05-06", "0000-01-01T00:00:00Z", True],
)  # fmt: skip
def test_a_start_that_is_no_time(start: object) -> None:
    with pytest.raises(ValueError, match="recordingStartTime"):
        parse_start(start)


def test_midnight_at_the_end_of_a_day() -> None:
    assert parse_start("2014-05-06T24:00:00Z") == datetime(2014, 5, 7, tzinfo=UTC)


@settings(deadline=None)
@given(st.datetimes(timezones=st.timezones()), st.sampled_from(["seconds", "milliseconds", "auto"]))
def test_a_start_is_read_as_dateutil_reads_it(when: datetime, timespec: str) -> None:
    text = when.isoformat(timespec=timespec)
    try:
        expected = isoparse(text)
    except ValueError:  # offsets with seconds, as zones had before 1900
        with pytest.raises(ValueError, match="recordingStartTime"):
            parse_start(text)
    else:
        assert parse_start(text) == expected


@pytest.mark.parametrize("start", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
def test_the_ends_of_time(start: str) -> None:
    zones = [zone("America/Los_Angeles"), zone("Pacific/Kiritimati")]
    results = []
    for one in zones:
        try:
            results.append(directory_for(parse_start(start), DAY, one))
        except ValueError as error:
            assert "out of range" in str(error)  # noqa: PT017 - either is right
            results.append("")
    assert "" in results


def test_no_layout_leaves_the_archive() -> None:
    when = datetime(2014, 5, 6, tzinfo=tz.UTC)
    for layout in ("../%Y", "%Y/../../x", "/%Y", "~/../%Y", ".%Y", "%Y/.", "a\\b", "\x00", "%Y\n"):
        with pytest.raises(InputError):
            check_layout(layout)
        with pytest.raises(ValueError, match=r"it|directory"):
            directory_for(when, layout, None)


@pytest.mark.parametrize("layout", ["%k", "%e", "%l/%M"])
def test_no_layout_has_a_name_that_begins_with_a_space_at_some_hour_or_day(layout: str) -> None:
    """Where these are not known, they are refused for that."""
    with pytest.raises(InputError, match="cannot be used"):
        check_layout(layout)


@pytest.mark.parametrize(
    "layout",
    ["index.html", "Index.HTML/%Y", "Browse/%Y", "SHA256SUMS", "%Y/sha256sums/%m", "lost+found",
     "@eaDir/%Y", "%Y/#recycle", "Thumbs.db", "System Volume Information/%Y", "%Y/5.mp4.kept-1",
     "$RECYCLE.BIN", "%Y/desktop.ini"],
)  # fmt: skip
def test_no_layout_has_a_part_that_verify_passes_over(layout: str) -> None:
    with pytest.raises(InputError, match="is passed over when the archive is checked"):
        check_layout(layout)
    with pytest.raises(ValueError, match="is passed over"):
        directory_for(datetime(2014, 5, 6, tzinfo=tz.UTC), layout, None)


def test_what_is_passed_over_at_the_top_alone_may_be_a_part() -> None:
    check_layout("%Y/index.html/browse")


NAMES = {
    b"\xff\xd8\xff\xe0\x00\x10JFIF\x00": "7.jpg",
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\r": "7.png",
    b"GIF87a......": "7.gif",
    b"GIF89a......": "7.gif",
    b"RIFF\x10\x00\x00\x00WEBPVP8 ": "7.webp",
    b"RIFF\x10\x00\x00\x00WAVEfmt ": "7.jpg",
    b"": "7.jpg",
    b"<html>": "7.jpg",
}


@pytest.mark.parametrize(("head", "name"), NAMES.items())
def test_a_thumbnail_is_named_after_its_content(head: bytes, name: str) -> None:
    assert file_name(7, FileKind.THUMBNAIL, head) == name
    assert file_name(7, FileKind.MP4, head) == "7.mp4"
    assert file_name(7, FileKind.EVENTS, head) == "7.events"


YEARS_END = [
    SimulatedRecording(1, datetime.fromisoformat("2013-12-31T23:30:00-08:00")),
    SimulatedRecording(2, datetime.fromisoformat("2014-01-01T07:30:00+00:00")),
    SimulatedRecording(3, datetime.fromisoformat("2014-01-01T08:30:00+01:00")),
    SimulatedRecording(
        4,
        datetime.fromisoformat("2014-01-01T02:00:00+00:00"),
        fields={"recordingStartTime": "2014-01-01T02:00:00"},
    ),
]


@pytest.mark.parametrize(
    ("more", "directories"),
    [
        ([], ["2013/12/31", "2014/01/01", "2014/01/01", "2014/01/01"]),
        (["--timezone", "America/Los_Angeles"], ["2013/12/31"] * 4),
        (["--timezone", "UTC"], ["2014/01/01"] * 4),
        (["--layout", "%Y-%m"], ["2013-12", "2014-01", "2014-01", "2014-01"]),
        (["--layout", "%G/W%V", "--timezone", "Asia/Tokyo"], ["2014/W01"] * 4),
    ],
)
def test_a_run_across_the_end_of_the_year(
    serve: Serve, tmp_path: Path, more: list[str], directories: list[str]
) -> None:
    service = serve(YEARS_END, rate_limit=None)
    args = ["download", "1", "2", "3", "4", "--json", "--min-free", "0", *more]
    report = report_of(cli_here(args, service.environment(), cwd=tmp_path))
    assert report["archived"] == 4
    archive = tmp_path / "recordings"
    found = {p.stem: str(p.parent.relative_to(archive)) for p in archive.rglob("*.mp4")}
    assert [found[id_] for id_ in "1234"] == directories
