"""A bag in a real browser: whoever gets it opens one page, and watches."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support import archives, run_cli
from test_browse_devtools import Tab, chromium

from g2a_archive.demo import SimulatedRecording, SimulatedService

original = archives.original
archive = archives.archive
service = archives.service


def unpacked_elsewhere(bag: Path, form: str, to: Path) -> Path:
    """Where the bag lies once it was handed over."""
    if form == "--zip":
        line = [sys.executable, "-m", "zipfile", "-e", f"{bag}.zip", str(to)]
        subprocess.run(line, check=True)
    else:
        bag.rename(to / bag.name)
    return to / bag.name / "data"


def test_it_is_watched_where_the_archive_is_not(
    archive: Path, service: SimulatedService, tmp_path: Path
) -> None:
    """Unpacked elsewhere, with the archive gone: nothing in it leads back."""
    ids = list(service.recordings)[:3]
    elsewhere = tmp_path / "a court's #1 %"
    elsewhere.mkdir()
    found = []
    for form in ("--zip", "--quiet"):
        bag = tmp_path / f"case{form}"
        result = run_cli(["bag", "--dest", archive, bag, form, *ids])
        assert result.returncode == 0, result.stderr
        found.append(unpacked_elsewhere(bag, form, elsewhere))
    archive.rename(tmp_path / "gone")
    with chromium(tmp_path / "profile") as pipe:
        for data in found:
            watch(Tab(pipe), data, service.recordings[ids[0]])


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
    tab.close()
    assert tab.complaints() == []
    assert [url for url in tab.requests() if not url.startswith(("file:", "data:"))] == []
