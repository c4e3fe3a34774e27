"""Start times and time zones at the edge of what is one."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from g2a_archive.archive.layout import directory_for, parse_start, zone
from g2a_archive.errors import InputError
from g2a_archive.models import iso


@pytest.mark.parametrize(
    "text",
    [
        "2016-12-31T23:59:60Z",
        "2016-12-31t23:59:60z",
        "2016-12-31T23:59:60.000Z",
        "20161231T235960Z",
        "2016-12-31T23:59:60",
        "2017-01-01T05:29:60+05:30",
    ],
)
def test_a_leap_second_is_read_and_stays_in_its_day(text: str) -> None:
    start = parse_start(text)
    assert start.astimezone(UTC) == datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)
    day = datetime.fromisoformat(text[:8] if "-" not in text else text[:10])
    assert directory_for(start, "%Y/%m/%d", None) == f"{day:%Y/%m/%d}"


@pytest.mark.parametrize(
    "text", ["2014-05-06t15:04:05z", "2014-05-06T15:04:05z", "2014-05-06t17:04:05+02:00"]
)
def test_small_letters_are_read(text: str) -> None:
    assert parse_start(text) == datetime(2014, 5, 6, 15, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["2016-12-31T23:59:61Z", "2016-12-31T23:60:00Z", "2016-12-31T60:00:00Z", "2016-12-60"]
)
def test_other_sixties_are_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="not an ISO 8601"):
        parse_start(text)


@pytest.mark.parametrize(
    "name",
    [
        *("Foo5", "UTC+3", "EST5", "GMT+3", "CET-1CEST", "EST5EDT4,M3.2.0,M11.1.0", "5", ""),
        *("Europe", "Europe/", "/etc/localtime", "../UTC", "zone.tab", "Mars/Phobos"),
    ],
)
def test_what_is_no_name_of_a_time_zone_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="no time zone"):
        zone(name)


@pytest.mark.parametrize("name", ["UTC", "Europe/Berlin", "Etc/GMT+3", "EST5EDT", "America/Lima"])
def test_names_are_taken(name: str) -> None:
    assert datetime(2014, 1, 1, tzinfo=zone(name)).utcoffset() is not None


@pytest.mark.parametrize("year", [2037, 2038, 2040, 2199])
def test_summers_do_not_end_where_32_bits_do(year: int) -> None:
    start = datetime(year, 7, 1, 22, 30, tzinfo=UTC)
    assert directory_for(start, "%Y/%m/%d", zone("Europe/Berlin")) == f"{year}/07/02"


def test_a_time_after_2038_is_written() -> None:
    assert iso(2208988800) == "2040-01-01T00:00:00Z"
