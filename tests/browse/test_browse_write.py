"""How the pages are written: only what changed, never by halves, nothing of others."""

from __future__ import annotations

import os
import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from test_browse_sample import OWED, entry
from test_browse_site import LATE, page, write

from g2a_archive.browse import Entry, site
from g2a_archive.errors import StorageError


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with its inode, which a rewrite changes, and its content."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(p.relative_to(root)): (p.stat().st_ino, p.read_bytes()) for p in files}


def test_a_second_run_writes_nothing(tmp_path: Path) -> None:
    entries = [entry(n, LATE + timedelta(days=n)) for n in range(40)]
    first = write(tmp_path, *entries, owed=OWED)
    before = snapshot(tmp_path)
    again = write(tmp_path, *reversed(entries), owed=OWED)
    assert (again.written, again.unchanged, again.removed) == (0, first.written, 0)
    assert snapshot(tmp_path) == before


def test_a_new_recording_changes_only_its_own_pages(tmp_path: Path) -> None:
    entries = [entry(100 + n, LATE - timedelta(days=20 * n)) for n in range(40)]
    write(tmp_path, *entries)
    before = snapshot(tmp_path)
    write(tmp_path, *entries, entry(99, LATE))
    after = snapshot(tmp_path)
    assert {name for name in after if after[name] != before.get(name)} == {
        "index.html",
        "browse/2014.html",
        "browse/2014-05.html",
        "browse/search/days.js",
        "browse/search/ids-9.js",
        "browse/search/shards.js",
    }


def test_pages_that_are_no_longer_needed_go_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, entry(1, LATE), entry(2, LATE.replace(year=2012)), owed=OWED)
    theirs = ["browse/notes.html", "browse/2014-05.txt", "browse/search/mine.txt", "2012.html"]
    for name in theirs:
        (tmp_path / name).write_text("mine")
    (tmp_path / "browse/.2012.html-1.part").write_text("half a pa")
    result = write(tmp_path, entry(1, LATE))
    names = {path.name for path in tmp_path.rglob("*.*") if path.is_file()}
    assert names == {
        *(Path(name).name for name in theirs),
        *("index.html", "2014.html", "2014-05.html", "owed.html"),
        *("style.css", "recordings.js", "search.js", "icon.svg"),
        *("ids-1.js", "days.js", "shards.js"),
    }
    assert result.removed == 4  # 2012, its March, the two index files of 2 and 4


def test_somebody_elses_index_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<h1>My own page</h1>")
    with pytest.raises(StorageError, match="not a page of g2a-archive"):
        write(tmp_path, entry(1, LATE))
    assert page(tmp_path, "index.html") == "<h1>My own page</h1>"


def test_pages_are_never_written_through_a_link_to_elsewhere(tmp_path: Path) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (root := tmp_path / "archive").mkdir()
    (root / "browse").symlink_to(elsewhere)
    with pytest.raises(StorageError, match="symbolic link"):
        write(root)
    assert list(elsewhere.iterdir()) == []


def test_a_failed_write_leaves_the_old_page_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, entry(1, LATE))
    before = snapshot(tmp_path)

    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write(tmp_path, entry(1, LATE), entry(2, LATE))
    assert snapshot(tmp_path) == before


def test_no_room_for_temporary_files_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect

    def small(path: str, **more: Any) -> sqlite3.Connection:
        db: sqlite3.Connection = connect(path, **more)
        db.execute("PRAGMA max_page_count = 20")
        return db

    monkeypatch.setattr(sqlite3, "connect", small)
    many = (Entry(number, None, "x" * 1000) for number in range(500))
    with pytest.raises(StorageError, match=r"cannot sort the recordings: .* is full"):
        write(tmp_path, *many)


def test_what_links_is_written_after_what_it_links_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "PER_PAGE", 1)
    written: list[str] = []
    replace_path = Path.replace

    def record(self: Path, target: Path) -> Path:
        written.append(target.name)
        return replace_path(self, target)

    monkeypatch.setattr(Path, "replace", record)
    write(tmp_path, entry(1, LATE), entry(2, LATE))
    steps = ("style.css", "2014-05-06.html", "2014-05.html", "2014.html", "index.html")
    order = [written.index(name) for name in steps]
    assert order == sorted(order)
    assert written[-1] == "index.html"
