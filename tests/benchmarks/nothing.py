"""The archive that holds everything already: real files, and a catalogue that knows them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256
from itertools import islice
from pathlib import Path

from g2a_archive.archive.database.catalog import Catalog, RecordingResult
from g2a_archive.archive.layout import ARCHIVE_DIR
from g2a_archive.models import FileKind, State, StoredFile

from .corpus import FIRST_ID, file_content, start_time

_PER_DAY = 500
_LINKS = 20_000
"""Names that one file gets at most: file systems have a limit, often of 65,000."""

_BATCH = 50_000

_SIZES = {"mp4": 64, "events": 48, "jpg": 32}
_KINDS = {"mp4": "mp4", "events": "events", "jpg": "thumbnail"}


def build_archive(dest: Path, count: int, *, per_day: int = _PER_DAY, owed: int = 0) -> list[int]:
    """Make an archive with `count` recordings, and return their IDs; `owed` more are owed.

    Its files are hard links to a few small ones: whoever reads them finds them right.
    """
    inner = dest / ARCHIVE_DIR
    inner.mkdir(parents=True)
    contents = {e: b"".join(_content(e, size)) for e, size in _SIZES.items()}
    _create_files(dest, inner / "template", contents, count, per_day)
    sums = {extension: sha256(content).hexdigest() for extension, content in contents.items()}
    with Catalog(inner / "catalog.sqlite3") as catalog:
        rows = _settlements(count, sums, per_day)
        while some := list(islice(rows, _BATCH)):
            catalog.record_results(some)
        first = FIRST_ID + count + 1_000_000
        why = "not available yet"
        catalog.record_results(
            RecordingResult(first + n, State.UNAVAILABLE, reason=why) for n in range(owed)
        )
    return list(range(FIRST_ID, FIRST_ID + count))


def _content(extension: str, size: int) -> Iterator[bytes]:
    """The MP4's boxes add up, since `verify --rebuild` looks."""
    if extension == "mp4":
        head = b"\0\0\0\x18ftypisom\0\0\2\0isommp41"
        return iter((head, (size - len(head)).to_bytes(4), b"mdat", bytes(size - len(head) - 8)))
    return file_content(extension, extension, size)


def _directory(day: int) -> str:
    return start_time(day)[:10].replace("-", "/")


def _create_files(
    dest: Path, template: Path, contents: dict[str, bytes], count: int, per_day: int
) -> None:
    template.mkdir()
    for day in range(-(-count // per_day)):
        os.makedirs(dest / _directory(day))
    for extension, content in contents.items():
        source = template / extension
        for index in range(count):
            if index % _LINKS == 0:
                source.unlink(missing_ok=True)
                source.write_bytes(content)
            os.link(source, f"{dest}/{_directory(index // per_day)}/{FIRST_ID + index}.{extension}")
        source.unlink()
    template.rmdir()


def _settlements(count: int, sums: dict[str, str], per_day: int) -> Iterator[RecordingResult]:
    kinds = [(FileKind(kind), extension) for extension, kind in _KINDS.items()]
    settled = sum(kind.bit for kind, _ in kinds)
    for index in range(count):
        day, recording = index // per_day, FIRST_ID + index
        where = _directory(day)
        files = [
            StoredFile(recording, kind, f"{where}/{recording}.{e}", _SIZES[e], sums[e])
            for kind, e in kinds
        ]
        yield RecordingResult(
            recording,
            State.ARCHIVED,
            kinds=settled,
            start_time=start_time(day),
            directory=where,
            files=files,
        )
