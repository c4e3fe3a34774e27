"""The pages in a real browser, from `file://`, as somebody uses them.

`python tests/browse/test_browse_chromium.py examples/browse.png` draws the picture of the README.
"""

from __future__ import annotations

import base64
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support import run_here
from support.merging import content
from test_browse_devtools import Tab, chromium
from test_browse_sample import OWED, PACIFIC, entry, sample

from g2a_archive.browse import Entry, OwedEntry, site, write_site
from g2a_archive.cli import main
from g2a_archive.demo import SimulatedRecording, SimulatedService
from g2a_archive.models import FileKind, State, StoredFile

HOSTILE = "</title></script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u2028"


@dataclass(frozen=True)
class Archive:
    """A sample archive with its pages."""

    root: Path
    entries: list[Entry]

    def url(self, path: str) -> str:
        """The address of a file of it."""
        return self.root.joinpath(path).as_uri()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """In a directory whose name needs encoding, as shares have them."""
    root = tmp_path_factory.mktemp("share") / "Käse & 100% #1?"
    root.mkdir()
    entries = list(sample(root, seed=13, days=(6, 13, 14, 15)))
    number = next(n for n, one in enumerate(entries) if one.directory == "2014/04/15")
    entries[number] = replace(
        entries[number], state=State.DAMAGED, reason="mp4: changed", since="2014-05-01T00:00Z"
    )
    write_site(root, entries, OWED, zone=PACIFIC, title="Support recordings")
    return Archive(root, entries)


@pytest.fixture(scope="module")
def only_tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """The one tab of a new browser: each new one costs a process."""
    with chromium(tmp_path_factory.mktemp("profile")) as pipe:
        yield Tab(pipe)


@pytest.fixture
def tab(only_tab: Tab) -> Iterator[Tab]:
    """A tab, which must have had nothing to complain of in the end."""
    tab = only_tab
    tab.events.clear()
    yield tab
    tab.call("Emulation.setScriptExecutionDisabled", value=False)
    tab.call("Emulation.clearDeviceMetricsOverride")
    assert tab.complaints() == []
    # The controls of a video are drawn with data of the browser's own.
    assert [url for url in tab.requests() if not url.startswith(("file:", "data:"))] == []


def test_year_day_and_recording_are_a_click_away_and_it_plays(tab: Tab, archive: Archive) -> None:
    wanted = next(one for one in archive.entries if one.directory == "2014/04/14")
    tab.open(archive.url("index.html"))
    tab.navigating(lambda: tab.click("a.year[href='browse/2014.html']"))
    assert tab.run("document.querySelector('h1').textContent") == "2014"
    tab.navigating(lambda: tab.click("a[href$='#d2014-04-14']"))
    assert tab.run("document.querySelector(':target h2').textContent").startswith(
        "Monday, 14 April 2014"
    )
    tab.click(f"#r{wanted.id} a.play")
    tab.until("document.querySelector('dialog[open] video')?.readyState >= 2")
    video = "document.querySelector('video')"
    assert tab.run(f"{video}.videoWidth") == 320
    assert tab.run(f"{video}.duration") == pytest.approx(2, abs=0.1)
    assert tab.run(f"{video}.currentSrc") == archive.url(wanted.files[FileKind.MP4].path)
    assert str(wanted.id) in tab.run("document.querySelector('dialog h2').textContent")
    assert tab.run("document.querySelector('video').error") is None


def test_the_player_goes_on_to_the_next_and_escape_ends_it(tab: Tab, archive: Archive) -> None:
    tab.open(archive.url("browse/2014-04.html"))
    first, second = tab.run("[...document.querySelectorAll('a.play')].slice(0, 2).map(a => a.href)")
    tab.click("a.play")
    tab.until("document.querySelector('video')?.readyState >= 2")
    assert tab.run("document.querySelector('video').currentSrc") == first
    assert tab.run("document.querySelector('dialog footer button').disabled") is True
    tab.click("dialog footer button:nth-of-type(2)")
    tab.until(f"document.querySelector('video').currentSrc === '{second}'")
    tab.key("Escape")
    tab.until("!document.querySelector('video').hasAttribute('src')")
    assert tab.run("document.querySelector('dialog').open") is False
    assert tab.run("document.activeElement.href") == second


def test_a_missing_video_is_said(tab: Tab, archive: Archive) -> None:
    tab.open(archive.url("browse/2014-04.html"))
    tab.run("document.querySelector('a.play').setAttribute('href', '../gone.mp4')")
    tab.click("a.play")
    tab.until("document.querySelector('dialog [role=alert]:not([hidden])')?.offsetHeight")
    assert "gone.mp4" in tab.run("document.querySelector('[role=alert]').textContent")
    # The one complaint that is right: the file is not there.
    tab.events = [event for event in tab.events if "gone.mp4" not in str(event)]
    tab.events = [event for event in tab.events if event["method"] != "Log.entryAdded"]


@pytest.mark.parametrize("page", ["index.html", "browse/2013.html"])
def test_an_id_is_found(tab: Tab, archive: Archive, page: str) -> None:
    wanted = archive.entries[100]
    tab.open(archive.url(page))
    tab.key("/")
    tab.type(str(wanted.id)[:-1])
    tab.until(f"document.querySelector('#hits a[href$=\"#r{wanted.id}\"]')")
    tab.type(str(wanted.id)[-1])
    tab.until("document.querySelector('#told').textContent === '1 recording found.'")
    tab.navigating(lambda: tab.key("Enter"))
    assert tab.run("document.querySelector(':target').id") == f"r{wanted.id}"
    top = tab.run("document.querySelector(':target').getBoundingClientRect().top")
    assert 0 <= top < tab.run("innerHeight")


def test_an_id_of_a_day_with_several_pages_is_found(
    tab: Tab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "PER_PAGE", 2)
    start = datetime(2014, 5, 6, 12, tzinfo=PACIFIC)
    starts = {number: start + timedelta(minutes=number) for number in range(11, 17)}
    busy = [Entry(number, at.isoformat()) for number, at in starts.items()]
    write_site(tmp_path, busy, (), zone=None, title="Busy")
    tab.open((tmp_path / "index.html").as_uri())
    tab.click("#q")
    tab.type("15")
    tab.until("document.querySelector('#hits a[href$=\"2014-05-06-3.html#r15\"]')")
    tab.navigating(lambda: tab.key("Enter"))
    assert tab.run("document.querySelector(':target').id") == "r15"
    tab.navigating(lambda: tab.click(".parts a[href='2014-05-06.html']"))
    assert tab.run("document.querySelectorAll('.rec').length") == 2


def test_a_checksum_is_copied_or_where_that_is_forbidden_selected(
    tab: Tab, archive: Archive
) -> None:
    copied, selected, *_ = (one for one in archive.entries if one.directory == "2014/04/14")
    tab.open(archive.url("browse/2014-04.html"))
    permissions = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    tab.call("Browser.grantPermissions", permissions=permissions)
    button = press_copy(tab, copied)
    tab.until(f"{button}.textContent === 'Copied'")
    assert tab.run("navigator.clipboard.readText()") == copied.files[FileKind.MP4].sha256
    # As a browser refuses it; Chromium's own answer may take a person's, or a minute.
    refusal = "Promise.reject(new DOMException('no', 'NotAllowedError'))"
    tab.run(f"void (navigator.clipboard.writeText = () => {refusal})")
    button = press_copy(tab, selected)
    sum_ = tab.until("getSelection().toString().trim()")
    assert tab.run(f"{button}.textContent") == "Copy"
    assert sum_ == selected.files[FileKind.MP4].sha256


def press_copy(tab: Tab, one: Entry) -> str:
    """Open a recording's details, and press the button there; the button in JavaScript."""
    tab.click(f"#r{one.id} summary")
    button = f"document.querySelector('#r{one.id} dd button')"
    tab.until(button)
    tab.click(f"#r{one.id} dd button")
    return button


def test_an_owed_id_is_found_with_its_state(tab: Tab, archive: Archive) -> None:
    tab.open(archive.url("browse/2012.html"))
    tab.click("#q")
    tab.type(str(OWED[0].id))
    tab.until("document.querySelector('#hits a')?.textContent.includes('unavailable')")
    tab.navigating(lambda: tab.key("Enter"))
    assert tab.run("document.querySelector(':target').textContent").startswith(str(OWED[0].id))


DATES = (  # what is typed, how the answer begins, and where the first hit leads
    ("2014-04-14", "Found:", "browse/2014-04.html#d2014-04-14"),
    ("14 April 2014", "Found:", "browse/2014-04.html#d2014-04-14"),
    ("Apr 14, 2014", "Found:", "browse/2014-04.html#d2014-04-14"),
    ("14.4.2014", "Found:", "browse/2014-04.html#d2014-04-14"),
    ("2014/04", "Found:", "browse/2014-04.html"),
    ("april 2014", "Found:", "browse/2014-04.html"),
    ("2013", "Found:", "browse/2013.html"),
    ("1 January 2030", "Nothing on that day.", "browse/2014-05.html#d2014-05-13"),
    ("1999-01-01", "Nothing on that day.", "browse/2012-03.html#d2012-03-06"),
    ("1999-01", "Nothing found.", None),
    ("99", "Nothing found.", None),
    ("yesterday", "Type a recording ID", None),
)


def test_a_date_is_found(tab: Tab, archive: Archive) -> None:
    tab.open(archive.url("index.html"))
    tab.click("#q")
    link = "document.querySelector('#hits a')?.getAttribute('href') ?? null"
    found = []
    for query, told, _ in DATES:
        tab.run("document.querySelector('#q').select()")
        tab.run("void (document.querySelector('#told').textContent = '')")
        tab.type(query)
        seen = tab.until("document.querySelector('#told').textContent")
        found.append((query, told if seen.startswith(told) else seen, tab.run(link)))
    assert found == list(DATES)


def test_all_but_the_search_works_without_scripts(tab: Tab, archive: Archive) -> None:
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    tab.open(archive.url("index.html"))
    assert tab.run("document.querySelector('#search').hidden") is True
    tab.navigating(lambda: tab.click("a.year[href='browse/2014.html']"))
    tab.navigating(lambda: tab.click("a[href$='#d2014-04-14']"))
    tab.click(":target details summary")
    assert tab.run("document.querySelector(':target details').open") is True
    tab.navigating(lambda: tab.click(":target a.play"))
    assert tab.run("location.pathname").endswith(".mp4")


@pytest.mark.parametrize("page", ["index.html", "browse/2014.html", "browse/2014-04.html"])
def test_everything_has_a_name_and_nothing_sticks_out(
    tab: Tab, archive: Archive, page: str
) -> None:
    for width in (320, 1280):
        size = {"width": width, "height": 800, "deviceScaleFactor": 1}
        tab.call("Emulation.setDeviceMetricsOverride", mobile=False, **size)
        if width == 320:
            tab.open(archive.url(page))
        assert tab.run("innerWidth") == width
        assert tab.run("document.documentElement.scrollWidth") <= width
        tree = tab.call("Accessibility.getFullAXTree")["nodes"]
        assert_all_have_names([node for node in tree if not node["ignored"]])


def assert_all_have_names(nodes: list[dict[str, Any]]) -> None:
    roles = {node["role"]["value"] for node in nodes}
    assert {"banner", "main", "navigation", "search", "heading"} <= roles
    named = ("link", "button", "searchbox", "textbox", "Date", "table")
    nameless = [
        node
        for node in nodes
        if node["role"]["value"] in named and not node.get("name", {}).get("value", "").strip()
    ]
    assert nameless == []


def test_hostile_words_stay_words(tab: Tab, tmp_path: Path) -> None:
    start = "2014-05-06T10:00:00Z"
    path = f"{HOSTILE}/javascript:alert(3)/7.mp4"
    files = {FileKind.MP4: StoredFile(7, FileKind.MP4, path, 1, HOSTILE)}
    bad = [
        Entry(7, start, HOSTILE, files, State.DAMAGED, HOSTILE, HOSTILE),
        Entry(8, None, HOSTILE, {FileKind.MP4: StoredFile(8, FileKind.MP4, "x:y", 1, "")}),
    ]
    owed = [OwedEntry(9, State.FAILED, HOSTILE, HOSTILE, 1, HOSTILE)]
    root = tmp_path / "archive"
    root.mkdir()
    write_site(root, bad, owed, zone=None, title=HOSTILE, zone_name=HOSTILE)
    pages = [*root.glob("*.html"), *root.glob("browse/*.html")]
    assert len(pages) == 5
    for page in pages:
        tab.open(page.as_uri())
        own = {"recordings.js", "search.js"}
        scripts = tab.run("[...document.scripts].map(s => s.src.split('/').pop())")
        assert set(scripts) == own
        assert tab.run("document.querySelectorAll('img[src=x], [onerror]').length") == 0
        outside = f"[...document.links].filter(a => !a.href.startsWith('{root.as_uri()}'))"
        assert tab.run(f"{outside}.length") == 0
        if page.name == "2014-05.html":
            assert HOSTILE in tab.run("document.querySelector('.alarm').textContent")
    assert not [event for event in tab.events if "Dialog" in event["method"]]


def test_the_policy_stops_an_inline_script_and_an_outside_one(tab: Tab, tmp_path: Path) -> None:
    write_site(
        tmp_path, [entry(1, datetime(2014, 5, 6, 15, tzinfo=PACIFIC))], [], zone=None, title="T"
    )
    page = tmp_path / "browse/2014.html"
    added = (
        "<script>document.title = 'broken out'</script><i onclick='document.title=1'>i</i>"
        "<script src='http://localhost:9/x.js'></script><img src='http://localhost:9/x.png'>"
    )
    page.write_text(page.read_text().replace("</main>", f"{added}</main>"))
    tab.open(page.as_uri())
    tab.click("i")
    assert tab.run("document.title") == "2014 · T"
    stopped = [text for each in tab.complaints() if "violates" in (text := str(each))]
    assert len(stopped) == 4
    tab.events.clear()
    tab.open(page.parent.joinpath("owed.html").as_uri())


# --- a bag -----------------------------------------------------------------------------------


def test_it_is_watched_where_the_archive_is_not(
    tab: Tab, service: SimulatedService, root: Path, tmp_path: Path
) -> None:
    """Unpacked elsewhere, with the archive gone: nothing in it leads back."""
    ids = list(service.recordings)[:3]
    assert run_here(service, root, ids).exit_code == 0
    found = []
    for form in ("--zip", "--quiet"):
        bag, elsewhere = tmp_path / form / "case", tmp_path / f"a court's #1 %{form}"
        bag.parent.mkdir()
        elsewhere.mkdir()
        assert main.run(["bag", "--dest", str(root), str(bag), form, *map(str, ids)]) == 0
        if form == "--zip":
            with zipfile.ZipFile(f"{bag}.zip") as packed:
                packed.extractall(elsewhere)
        else:
            bag.rename(elsewhere / "case")
        found.append(elsewhere / "case" / "data")
    assert content(found[0]) == content(found[1])
    root.rename(tmp_path / "gone")
    watch(tab, found[0], service.recordings[ids[0]])


def watch(tab: Tab, data: Path, first: SimulatedRecording) -> None:
    """Go from the first page to the recording, and let it play."""
    tab.open((data / "index.html").as_uri())
    assert tab.run("document.querySelector('h1').textContent").startswith("case")
    tab.navigating(lambda: tab.click(f"a.year[href='browse/{first.start:%Y}.html']"))
    tab.navigating(lambda: tab.click(f"a[href$='#d{first.start:%Y-%m-%d}']"))
    tab.click(f"#r{first.id} a.play")
    tab.until("document.querySelector('dialog[open] video')?.readyState >= 2")
    source = tab.run("document.querySelector('video').currentSrc")
    assert source == f"{data.as_uri()}/{first.start:%Y/%m/%d}/{first.id}.mp4"


def draw(target: Path) -> None:
    """Take the picture of the README: the first page."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "recordings"
        root.mkdir()
        name = "America/Los_Angeles"
        entries = list(sample(root))
        write_site(root, entries, OWED, zone=PACIFIC, title="Support recordings", zone_name=name)
        with chromium(Path(folder) / "profile") as pipe:
            tab = Tab(pipe)
            tab.call(
                "Emulation.setDeviceMetricsOverride",
                width=1180,
                height=860,
                deviceScaleFactor=1,
                mobile=False,
            )
            tab.open(root.joinpath("index.html").as_uri())
            tab.until("[...document.images].every(image => image.complete)")
            shot = tab.call("Page.captureScreenshot", format="png")
            target.write_bytes(base64.b64decode(shot["data"]))


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
