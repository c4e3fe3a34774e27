"""Files that others left: whether they can be taken for whole by what is in them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from g2a_archive.archive import content
from g2a_archive.demo.media import mp4
from g2a_archive.models import FileKind

MP4, EVENTS = FileKind.MP4, FileKind.EVENTS
VIDEO = mp4(1, 300_000).read()


def doubt(path: Path, kind: FileKind, *, control_file: bool = False) -> str:
    with open(path, "rb") as file:
        file.seek(7)
        found = content.doubt(file.fileno(), kind, path.stat().st_size, control_file)
        assert file.tell() == os.lseek(file.fileno(), 0, os.SEEK_CUR)
    return found


@pytest.mark.parametrize(
    ("data", "kind", "control_file", "expected"),
    [
        (VIDEO, MP4, False, ""),
        (VIDEO, MP4, True, "another downloader has not finished it"),
        (VIDEO[:-1], MP4, False, "it is truncated, or damaged"),
        (VIDEO + b"more", MP4, False, "it is truncated, or damaged"),
        (b"no video", MP4, False, "it is no MP4 video"),
        (b"", EVENTS, False, "it is empty"),
        (b"anything", EVENTS, False, ""),
        (b"anything", EVENTS, True, "another downloader has not finished it"),
        (b"<html>expired", EVENTS, False, "it is a web page"),
    ],
)
def test_what_speaks_against_a_file(
    tmp_path: Path, data: bytes, kind: FileKind, control_file: bool, expected: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    assert doubt(path, kind, control_file=control_file) == expected


@pytest.mark.parametrize("how", ["truncate", "fallocate", "in the middle"])
@pytest.mark.parametrize("kind", [MP4, EVENTS])
def test_room_that_was_taken_and_never_filled(tmp_path: Path, how: str, kind: FileKind) -> None:
    """As aria2 and others do: the size is right, and so are the boxes."""
    path = tmp_path / "file"
    with open(path, "wb") as file:
        if how == "fallocate":
            if not hasattr(os, "posix_fallocate"):
                pytest.skip("no posix_fallocate here")
            os.posix_fallocate(file.fileno(), 0, len(VIDEO))
        file.write(VIDEO[:65536])
        if how == "in the middle":
            file.seek(len(VIDEO) - 65536)
            file.write(VIDEO[-65536:])
        os.truncate(path, len(VIDEO))
        file.flush()
        os.fsync(file.fileno())
    if not _tells_holes(tmp_path):
        assert doubt(path, kind) == ""
        pytest.skip("this file system does not tell of holes")
    assert doubt(path, kind) == "parts of it were never written"
    path.write_bytes(path.read_bytes())
    assert doubt(path, kind) == ""


def _tells_holes(folder: Path) -> bool:
    path = folder / "hole"
    with open(path, "wb") as file:
        os.truncate(path, 1 << 20)
        return os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 0
