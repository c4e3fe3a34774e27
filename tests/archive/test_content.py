"""Files that others left: whether they can be taken for whole by what is in them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from g2a_archive.archive.content import integrity_problem
from g2a_archive.demo.media import mp4
from g2a_archive.models import FileKind

MP4, EVENTS, THUMBNAIL = FileKind
VIDEO = mp4(1, 300_000).read()


@pytest.mark.parametrize(
    ("data", "kind", "beside", "expected"),
    [
        (VIDEO, MP4, "", ""),
        (VIDEO, MP4, "file.aria2", "another downloader has not finished it"),
        (VIDEO[:-1], MP4, "", "it is truncated, or damaged"),
        (VIDEO + b"more", MP4, "", "it is truncated, or damaged"),
        (b"no video", MP4, "", "it is no MP4 video"),
        (b"", EVENTS, "", "it is empty"),
        (b"anything", EVENTS, "", ""),
        (b"anything", EVENTS, "file.st", "another downloader has not finished it"),
        (b"<html>expired", EVENTS, "", "it is a web page"),
        (b'{"error": "expired"}', EVENTS, "", "it is an error document"),
        (b'{"error": "expired"}', THUMBNAIL, "", "it is an error document"),
        (b'["what a picture is not"]', THUMBNAIL, "", "it is an error document"),
        (b"\xff\xd8\xff", THUMBNAIL, "", ""),
    ],
)
def test_what_speaks_against_a_file(
    tmp_path: Path, data: bytes, kind: FileKind, beside: str, expected: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    if beside:
        (tmp_path / beside).touch()
    assert integrity_problem(path, kind) == expected


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
        assert integrity_problem(path, kind) == ""
        pytest.skip("this file system does not tell of holes")
    assert integrity_problem(path, kind) == "parts of it were never written"
    path.write_bytes(path.read_bytes())
    assert integrity_problem(path, kind) == ""


def _tells_holes(folder: Path) -> bool:
    path = folder / "hole"
    with open(path, "wb") as file:
        os.truncate(path, 1 << 20)
        return os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 0
