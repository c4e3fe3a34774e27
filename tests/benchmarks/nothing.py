"""The archive that holds everything already: real files, and a catalogue that knows them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from g2a_archive.archive.catalog import Catalog, Settlement
from g2a_archive.archive.layout import ARCHIVE_DIR
from g2a_archive.models import FileKind, State, StoredFile

from .corpus import FIRST_ID, file_content, start_time

_PER_DAY = 500
_LINKS = 20_000
"""Names that one file gets at most: file systems have a limit, often of 65,000."""

_SIZES = {"mp4": 64, "events": 48, "jpg": 32}
_KINDS = {"mp4": "mp4", "events": "events", "jpg": "thumbnail"}


def build_archive(dest: Path, count: int) -> list[int]:
    """Make an archive with `count` recordings, and return their IDs.

    Its files are hard links to a few small ones, since nothing reads their content here.
    """
    inner = dest / ARCHIVE_DIR
    inner.mkdir(parents=True)
    contents = {e: b"".join(file_content(e, e, size)) for e, size in _SIZES.items()}
    _create_files(dest, inner / "template", contents, count)
    sums = {extension: sha256(content).hexdigest() for extension, content in contents.items()}
    with Catalog(inner / "catalog.sqlite3") as catalog:
        catalog.settle(_settlements(count, sums))
    return list(range(FIRST_ID, FIRST_ID + count))


def _directory(day: int) -> str:
    return start_time(day)[:10].replace("-", "/")


def _create_files(dest: Path, template: Path, contents: dict[str, bytes], count: int) -> None:
    template.mkdir()
    for day in range(-(-count // _PER_DAY)):
        os.makedirs(dest / _directory(day))
    for extension, content in contents.items():
        source = template / extension
        for index in range(count):
            if index % _LINKS == 0:
                source.unlink(missing_ok=True)
                source.write_bytes(content)
            os.link(
                source, f"{dest}/{_directory(index // _PER_DAY)}/{FIRST_ID + index}.{extension}"
            )
        source.unlink()
    template.rmdir()


def _settlements(count: int, sums: dict[str, str]) -> Iterator[Settlement]:
    kinds = [(FileKind(kind), extension) for extension, kind in _KINDS.items()]
    settled = sum(kind.bit for kind, _ in kinds)
    for index in range(count):
        day, recording = index // _PER_DAY, FIRST_ID + index
        where = _directory(day)
        files = [
            StoredFile(recording, kind, f"{where}/{recording}.{e}", _SIZES[e], sums[e])
            for kind, e in kinds
        ]
        yield Settlement(
            recording,
            State.ARCHIVED,
            kinds=settled,
            start_time=start_time(day),
            directory=where,
            files=files,
        )
