"""What is downloaded: the files of a few recordings, of 0 and 1 bytes up to some megabytes."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from g2a_archive.demo import SimulatedRecording, expected_bytes
from g2a_archive.demo.recordings import KINDS, LINK_FIELDS, SUFFIXES

_START = datetime(2014, 5, 6, 9, 30, tzinfo=UTC)
_FEW = ((3_000_000, 100_000, 100_000), (100_000, 3_000_000, 0), (0, 0, 1), (100_000, 1, None))
_LARGE = ((40_000_000, None, None),)
"""Sizes of MP4, events and thumbnail; a video and a picture have at least those of the sample."""

FIELDS = {LINK_FIELDS[kind]: SUFFIXES[kind] for kind in KINDS}
"""The fields of a link, with the end of the file's name."""


class Corpus:
    """Recordings, and their files in `folder` by name: `1400000001.mp4`."""

    def __init__(
        self, folder: Path, first: int, sizes: Iterable[tuple[int, int | None, int | None]]
    ) -> None:
        self.folder = folder
        self.recordings = [
            SimulatedRecording(
                first + number, _START, mp4_size=mp4, events_size=events, thumbnail_size=picture
            )
            for number, (mp4, events, picture) in enumerate(sizes)
        ]
        self.digests: dict[str, str] = {}
        folder.mkdir()
        packed = folder.with_name(f"{folder.name}-packed")
        packed.mkdir()
        for recording in self.recordings:
            for kind in KINDS:
                if recording.size(kind) is None:
                    continue
                name = f"{recording.id}{SUFFIXES[kind]}"
                content = b"".join(expected_bytes(recording, kind))
                if kind == "thumbnail" and recording.thumbnail_size == 0:
                    content = b""
                (folder / name).write_bytes(content)
                (packed / f"{name}.gz").write_bytes(gzip.compress(content, 1))
                self.digests[name] = hashlib.sha256(content).hexdigest()

    @property
    def ids(self) -> list[int]:
        """The recordings' IDs."""
        return [recording.id for recording in self.recordings]


def few(work: Path) -> Corpus:
    """Four recordings, eleven files."""
    return Corpus(work / "files", 1_400_000_001, _FEW)


def large(work: Path) -> Corpus:
    """One recording of 40 MB, which several connections share."""
    return Corpus(work / "large", 1_500_000_001, _LARGE)
