"""A bag as one ZIP file: as many files as there are, in the same memory."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
from support.memory import peak_of

from g2a_archive.curation import bag
from g2a_archive.curation.bagit import Zip


def _name(number: int) -> str:
    return f"data/{number}.{'events' if number % 2 else 'mp4'}"


def fill(place: Path, count: int) -> tuple[Path, int]:
    """A ZIP of so many files, and the most memory that it took."""
    path = place / "bag.zip"

    def write() -> None:
        made = Zip(path, "täglich")
        for number in range(count):
            data = b"%d" % number
            with made.new(_name(number), len(data), 1.5e9) as file:
                file.write(data)
        made.close()

    return path, peak_of(write)


@pytest.mark.parametrize("limit", [5, 1 << 16])
def test_every_file_is_in_the_zip_s_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", limit)  # beyond it, it is a ZIP64
    path, _ = fill(tmp_path, 40)
    with zipfile.ZipFile(path) as read:
        assert read.testzip() is None
        assert read.namelist() == [f"täglich/{_name(n)}" for n in range(40)]
        assert [read.read(name) for name in read.namelist()] == [b"%d" % n for n in range(40)]
        modes = {(entry.external_attr >> 16, entry.date_time[0]) for entry in read.infolist()}
        assert modes == {(0o100644, 2017)}
    assert os.listdir(tmp_path) == ["bag.zip"]


def test_more_files_take_no_more_memory(tmp_path: Path) -> None:
    _, few = fill(tmp_path, 10)
    (tmp_path / "bag.zip").unlink()
    _, many = fill(tmp_path, 1000)
    assert many < few + 100_000  # each of them as an object: 500 bytes and more


def test_a_bag_is_flushed_by_its_files_where_there_is_no_other_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bag" / "data" / "2014").mkdir(parents=True)
    for name in ("bagit.txt", "data/a", "data/2014/b"):
        (tmp_path / "bag" / name).touch()
    flushed: list[int] = []
    flush = os.fsync

    def seen(fd: int) -> None:
        flushed.append(os.fstat(fd).st_ino)
        flush(fd)

    monkeypatch.setattr(os, "fsync", seen)
    bag._flush(tmp_path / "bag", None)
    names = ("", "bagit.txt", "data", "data/a", "data/2014", "data/2014/b")
    assert sorted(flushed) == sorted((tmp_path / "bag" / name).stat().st_ino for name in names)
    assert flushed[-1] == (tmp_path / "bag").stat().st_ino
