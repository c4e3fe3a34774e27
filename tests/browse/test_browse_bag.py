"""A bag in a real browser: whoever gets it opens one page, and watches."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import archives, run_cli
from test_browse_devtools import Tab, chromium

from g2a_archive.demo import SimulatedService

original = archives.original
archive = archives.archive
service = archives.service


@pytest.mark.parametrize("form", ["--zip", "--quiet"])
def test_it_is_watched_where_the_archive_is_not(
    archive: Path, service: SimulatedService, tmp_path: Path, form: str
) -> None:
    """Unpacked elsewhere, with the archive gone: nothing in it leads back."""
    ids = list(service.recordings)[:3]
    result = run_cli(["bag", "--dest", archive, tmp_path / "case", form, *ids])
    assert result.returncode == 0, result.stderr
    elsewhere = tmp_path / "a court's #1 %"
    elsewhere.mkdir()
    if form == "--zip":
        line = [sys.executable, "-m", "zipfile", "-e", str(tmp_path / "case.zip"), str(elsewhere)]
        subprocess.run(line, check=True)
    else:
        (tmp_path / "case").rename(elsewhere / "case")
    archive.rename(tmp_path / "gone")
    first = service.recordings[ids[0]]
    with chromium(tmp_path / "profile") as pipe:
        tab = Tab(pipe)
        tab.open((elsewhere / "case" / "data" / "index.html").as_uri())
        assert tab.run("document.querySelector('h1').textContent").startswith("case")
        tab.navigating(lambda: tab.click(f"a.year[href='browse/{first.start:%Y}.html']"))
        tab.navigating(lambda: tab.click(f"a[href$='#d{first.start:%Y-%m-%d}']"))
        tab.click(f"#r{first.id} a.play")
        tab.until("document.querySelector('dialog[open] video')?.readyState >= 2")
        source = tab.run("document.querySelector('video').currentSrc")
        assert source == (elsewhere / "case" / "data").as_uri() + (
            f"/{first.start:%Y/%m/%d}/{first.id}.mp4"
        )
        tab.close()
        assert tab.complaints() == []
        assert [url for url in tab.requests() if not url.startswith(("file:", "data:"))] == []
