"""What `write_site` writes: days and zones, escaping, only what changed, nothing of others."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from test_browse_sample import OWED, PACIFIC, entry

from g2a_archive.browse import Entry, OwedEntry, SiteResult, open_site, site, write_site
from g2a_archive.browse.write import GENERATOR
from g2a_archive.models import State

LATE = datetime(2014, 5, 6, 23, 30, tzinfo=PACIFIC)
BERLIN = ZoneInfo("Europe/Berlin")


def write(root: Path, *entries: Entry, **options: object) -> SiteResult:
    """Write a site of these entries."""
    settings = {"owed": [], "zone": None, "title": "Recordings", **options}
    return write_site(root, entries, **settings)  # type: ignore[arg-type]


def page(root: Path, name: str) -> str:
    """A page as text."""
    return (root / name).read_text("utf-8")


def test_an_empty_archive_has_a_page_that_says_so(tmp_path: Path) -> None:
    result = write(tmp_path)
    assert "Nothing is archived yet" in page(tmp_path, "index.html")
    assert "Nothing is owed" in page(tmp_path, "browse/owed.html")
    assert (result.recordings, result.owed, result.removed) == (0, 0, 0)
    assert result.index == tmp_path / "index.html"


@pytest.mark.parametrize(
    ("zone", "day", "clock"),
    [
        (None, "2014-05-06", "23:30:00</time> <span class=\"zone\">UTC-08:00"),
        (UTC, "2014-05-07", "07:30:00</time> <span class=\"zone\">UTC"),
        (BERLIN, "2014-05-07", "09:30:00</time> <span class=\"zone\">CEST"),
        (timezone(timedelta(hours=-9, minutes=-30)), "2014-05-06", "22:00:00</time> "
         "<span class=\"zone\">UTC-09:30"),
    ],
)  # fmt: skip
def test_a_recording_is_shown_under_the_day_of_the_zone(
    tmp_path: Path, zone: ZoneInfo | None, day: str, clock: str
) -> None:
    write(tmp_path, entry(7, LATE), zone=zone)
    month = page(tmp_path, "browse/2014-05.html")
    assert f'id="d{day}"' in month
    assert month.count('<section class="day"') == 1
    assert clock in month
    # Where its files are is the catalogue's word, whatever the zone says.
    assert 'href="../2014/05/06/7.mp4"' in month


@pytest.mark.parametrize(
    ("zone", "name", "words"),
    [
        (None, "", "as each recording gives them"),
        (PACIFIC, "America/Los_Angeles", "in America/Los_Angeles"),
    ],
)
def test_the_first_page_names_the_zone(
    tmp_path: Path, zone: ZoneInfo | None, name: str, words: str
) -> None:
    write(tmp_path, entry(7, LATE), zone=zone, zone_name=name)
    assert f"Times are {words}." in page(tmp_path, "index.html")


def test_the_first_page_leads_to_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "PER_PAGE", 4)  # the day has several pages
    write(tmp_path, *(entry(n, LATE + timedelta(minutes=n)) for n in range(1, 11)))
    link = re.compile(r'<a href="(browse/[^"#]+)#r(\d+)"')
    newest = link.findall(page(tmp_path, "index.html"))
    assert [int(id_) for _, id_ in newest] == [10, 9, 8, 7, 6, 5]
    assert len({name for name, _ in newest}) > 1
    for name, id_ in newest:
        assert f'id="r{id_}"' in page(tmp_path, name)


def test_days_follow_the_zone_whatever_order_the_entries_come_in(tmp_path: Path) -> None:
    starts = ["2014-05-07T01:00:00+00:00", "2014-05-06T23:30:00-08:00", "2014-04-30T23:59:00Z"]
    write(tmp_path, *(Entry(n, start) for n, start in enumerate(starts, 1)), zone=BERLIN)
    month = page(tmp_path, "browse/2014-05.html")
    assert re.findall(r'id="([dr][0-9-]+)"', month) == ["d2014-05-01", "r3", "d2014-05-07",
                                                        "r1", "r2"]  # fmt: skip
    assert not (tmp_path / "browse/2014-04.html").exists()


def test_a_repeated_hour_keeps_its_order(tmp_path: Path) -> None:
    first = datetime(2014, 10, 26, 0, 45, tzinfo=UTC)  # 02:45 CEST
    second = datetime(2014, 10, 26, 1, 15, tzinfo=UTC)  # 02:15 CET
    write(tmp_path, entry(1, second), entry(2, first), zone=BERLIN)
    month = page(tmp_path, "browse/2014-10.html")
    assert month.index("02:45:00") < month.index("02:15:00")


@pytest.mark.parametrize(
    ("start", "directory", "where"),
    [
        (None, "2014/05/06", "2014-05.html"),
        (None, "by-day/20140506/x", "2014-05.html"),
        ("no time", "2014-05-06", "2014-05.html"),
        (None, "2014/13/06", "undated.html"),
        (None, "Mai 2014", "undated.html"),
        (None, None, "undated.html"),
        ("2014-05-06T10:00:00", None, "2014-05.html"),
        ("9999-12-31T23:59:59-12:00", None, "9999-12.html"),
        ("0001-01-01T00:00:00+12:00", None, "0001-01.html"),
    ],
)
@pytest.mark.parametrize("zone", [None, BERLIN])
def test_every_recording_has_a_place(
    tmp_path: Path, start: str | None, directory: str | None, where: str, zone: ZoneInfo | None
) -> None:
    result = write(tmp_path, Entry(7, start, directory), zone=zone)
    assert 'id="r7"' in page(tmp_path, f"browse/{where}")
    assert result.recordings == 1
    found = page(tmp_path, "browse/search/ids-7.js")
    assert ("undated.html" in found) == (where == "undated.html")


def test_a_start_without_an_offset_is_utc(tmp_path: Path) -> None:
    write(tmp_path, Entry(7, "2014-05-06T10:00:00"))
    shown = '10:00:00</time> <span class="zone">UTC</span>'
    assert shown in page(tmp_path, "browse/2014-05.html")


def test_pages_lead_to_those_before_and_after(tmp_path: Path) -> None:
    write(tmp_path, *(entry(n, LATE.replace(year=2011 + n, month=n)) for n in range(1, 4)))

    def turns(name: str) -> list[tuple[str, str]]:
        text = page(tmp_path, f"browse/{name}.html")
        return re.findall(r'rel="(prev|next)" href="([0-9-]+)\.html"', text)

    assert turns("2012") == [("next", "2013")]
    assert turns("2013") == [("prev", "2012"), ("next", "2014")]
    assert turns("2014-03") == [("prev", "2013-02")]


def test_the_calendar_counts_days(tmp_path: Path) -> None:
    several = [entry(n, LATE.replace(day=6 + n % 2)) for n in range(1, 4)]
    write(tmp_path, *several)
    for name in ("2014.html", "2014-05.html"):
        grid = page(tmp_path, f"browse/{name}")
        assert 'aria-label="Tuesday, 6 May 2014: 1 recording"><b>6</b><small>1<' in grid
        assert 'aria-label="Wednesday, 7 May 2014: 2 recordings"><b>7</b><small>2<' in grid
        # The 6th was a Tuesday: the second cell of its row.
        assert (
            '<tr><td><span>5</span></td><td><a class="s3" href="2014-05.html#d2014-05-06"' in grid
        )
    assert "3 recordings" in page(tmp_path, "index.html")
    year = page(tmp_path, "browse/2014.html")
    assert len(re.findall(r"<td>(?:<span>|<a [^>]*><b>)\d+<", year)) == 365


def test_a_big_month_has_a_page_for_each_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "PER_PAGE", 2)
    entries = [entry(n, LATE.replace(day=1 + n)) for n in range(1, 4)]
    write(tmp_path, *entries, entry(9, LATE.replace(month=6)))
    assert 'href="2014-05-02.html#d2014-05-02"' in page(tmp_path, "browse/2014.html")
    assert 'id="r1"' not in page(tmp_path, "browse/2014-05.html")
    assert 'id="r1"' in page(tmp_path, "browse/2014-05-02.html")
    assert 'id="r9"' in page(tmp_path, "browse/2014-06.html")
    assert '"split":["2014-05"]' in page(tmp_path, "browse/search/days.js")
    monkeypatch.setattr(site, "PER_PAGE", 250)
    assert write(tmp_path, *entries).removed == 5  # the three days, June, the index of 9


def test_long_lists_come_in_parts_that_the_search_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "OWED_PER_PAGE", 2)
    monkeypatch.setattr(site, "PER_PAGE", 2)
    owed = [OwedEntry(n, State.FAILED, f"reason {n}") for n in range(11, 16)]
    undated = [Entry(n, None, "somewhere") for n in range(21, 24)]
    write(tmp_path, *undated, owed=owed)
    pages = {path.name for path in (tmp_path / "browse").glob("*.html")}
    assert pages == {"owed.html", "owed-2.html", "owed-3.html", "undated.html", "undated-2.html"}
    assert "reason 15" in page(tmp_path, "browse/owed-3.html")
    assert "aria-current=page>2<" in page(tmp_path, "browse/owed-2.html")
    index = page(tmp_path, "browse/search/ids-1.js") + page(tmp_path, "browse/search/ids-2.js")
    assert '["15","owed-3.html","failed"]' in index
    assert '["23","undated-2.html",""]' in index


def test_owed_recordings_are_listed_with_state_reason_and_since(tmp_path: Path) -> None:
    write(tmp_path, owed=OWED, zone=PACIFIC)
    table = page(tmp_path, "browse/owed.html")
    assert '<tr id="o4100000007"><th scope="row"' in table
    assert "<td>not available from the service yet</td><td>left out of the answer</td>" in table
    assert '<time datetime="2014-05-05T18:00:05-08:00">2014-05-05</time>' in table
    assert "3 tries" in table
    assert "2 recordings owed" in page(tmp_path, "index.html")


def test_a_damaged_recording_says_so_in_its_place(tmp_path: Path) -> None:
    bad = replace(
        entry(1, LATE), state=State.DAMAGED, reason="mp4: missing", since="2014-06-01T00Z"
    )
    write(tmp_path, bad)
    assert "Damaged in the archive since 2014-06-01: mp4: missing" in page(
        tmp_path, "browse/2014-05.html"
    )


class Collector(HTMLParser):
    """All tags and attributes of a page, as a browser would see them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take in one tag."""
        self.tags.append((tag, dict(attrs)))


def test_no_page_has_anything_inline_or_outside(tmp_path: Path) -> None:
    write(tmp_path, entry(1, LATE), Entry(2, None, "x"), owed=OWED, title="<b>")
    pages = [tmp_path / "index.html", *tmp_path.glob("browse/*.html")]
    assert len(pages) == 5
    for path in pages:
        collector = Collector()
        collector.feed(path.read_text("utf-8"))
        names = [tag for tag, _ in collector.tags]
        assert "b" not in names or path.name in ("index.html", "2014.html", "2014-05.html",
                                                 "owed.html")  # fmt: skip
        assert "style" not in names
        assert names.count("h1") == names.count("main") == names.count("title") == 1
        ids = [attrs["id"] for _, attrs in collector.tags if "id" in attrs]
        assert len(ids) == len(set(ids))
        for tag, attrs in collector.tags:
            assert not [name for name in attrs if name.startswith("on") or name == "style"]
            assert tag != "script" or attrs.get("src")
            for name in ("href", "src"):
                target = attrs.get(name)
                if target is None or target.startswith("#"):
                    continue
                assert ":" not in target
                assert not target.startswith("/")
                plain = target.partition("#")[0]
                if not re.search(r"\.(mp4|events|png)$", plain):
                    assert (path.parent / plain).is_file(), target
        policy = next(a["content"] or "" for _, a in collector.tags if "http-equiv" in a)
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        assert "*" not in policy


def test_paths_are_encoded_segment_by_segment(tmp_path: Path) -> None:
    files = {
        kind: file._replace(path=f"Mai ä/50% #1?/a:b/{kind}")
        for kind, file in entry(1, LATE).files.items()
    }
    write(tmp_path, replace(entry(1, LATE), files=files))
    assert 'href="../Mai%20%C3%A4/50%25%20%231%3F/a%3Ab/mp4"' in page(
        tmp_path, "browse/2014-05.html"
    )


def test_the_index_of_ids_splits_where_it_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("g2a_archive.browse.search_index.lookup_files.__defaults__", (2,))
    ids = [1, 12, 120, 121, 1234, 12345, 9]
    write(tmp_path, *(entry(n, LATE) for n in ids))
    shards = data(tmp_path, "shards")
    assert shards == {"1e": 1, "12e": 1, "120": 1, "121": 1, "123": 2, "9": 1}
    assert isinstance(shards, dict)
    files = [data(tmp_path, f"ids-{name}") for name in shards]
    listed = [row[0] for rows in files if isinstance(rows, list) for row in rows]
    assert sorted(map(int, listed)) == sorted(ids)
    assert data(tmp_path, "ids-9") == [["9", "2014-05-06 23:30", ""]]


def data(root: Path, name: str) -> object:
    """The data of one script of the search index."""
    script = page(root, f"browse/search/{name}.js")
    found = re.fullmatch(r'\(self\.g2a=self\.g2a\|\|\{\}\)\["(.+?)"\]=(.+);\n', script)
    assert found
    assert found[1] == name
    return json.loads(found[2])


def test_opening_hands_the_browser_the_address_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def opening(url: str) -> bool:
        opened.append(url)
        return True

    monkeypatch.setattr("webbrowser.open", opening)
    (root := tmp_path / "a #1").mkdir()
    result = write(root)
    assert open_site(result.index) is True
    assert opened == [(root / "index.html").resolve().as_uri()]
    assert GENERATOR in page(root, "index.html")
