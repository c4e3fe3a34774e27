"""What the benchmark downloads: recordings with deterministic pseudo-random content."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

KIB = 1 << 10
MIB = 1 << 20
FIRST_ID = 1_000_000_001
_BLOCK = MIB
_FTYP = b"\0\0\0\x18ftypisom\0\0\2\0isommp41"
_HEADS = {"mp4": _FTYP, "events": b"events\n", "jpg": b"\xff\xd8\xff\xe0"}


@dataclass(frozen=True)
class Spec:
    """How many recordings, and the bytes of their files; 0 means that there is no such file.

    The first `odd` recordings have an MP4 of `odd_size` bytes instead.
    """

    count: int
    mp4: int
    events: int = 0
    thumbnail: int = 0
    odd: int = 0
    odd_size: int = 0
    per_day: int = 50

    def sizes(self, index: int) -> dict[str, int]:
        """The recording's files: extension and bytes."""
        mp4 = self.odd_size if index < self.odd else self.mp4
        every = {"mp4": mp4, "events": self.events, "jpg": self.thumbnail}
        return {extension: size for extension, size in every.items() if size}


class Corpus:
    """The files of a `Spec` below `root/files`, and what the service says of them."""

    def __init__(self, root: Path, spec: Spec) -> None:
        self.spec = spec
        self.files = root / "files"
        self.catalogue = root / "catalogue.json"
        self.ids = [FIRST_ID + index for index in range(spec.count)]
        self.sizes: dict[str, int] = {}
        for index, recording in enumerate(self.ids):
            for extension, size in spec.sizes(index).items():
                self.sizes[f"{recording}.{extension}"] = size

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(self.sizes.values())

    def create(self) -> None:
        """Write the files (they stay in the page cache) and the service's catalogue."""
        self.files.mkdir(parents=True)
        entries: dict[str, dict[str, object]] = {}
        for index, recording in enumerate(self.ids):
            sizes = self.spec.sizes(index)
            entries[str(recording)] = {"start": start_time(index // self.spec.per_day), **sizes}
            for extension, size in sizes.items():
                _write(self.files / f"{recording}.{extension}", extension, size)
        self.catalogue.write_text(json.dumps(entries))

    def differences(self, where: Path, *, content: bool) -> list[str]:
        """What is wrong with a copy of the files anywhere below `where`, in words.

        Names in hidden directories are the business of whoever made them.
        """
        found: dict[str, Path] = {}
        for folder, folders, names in os.walk(where):
            folders[:] = [name for name in folders if not name.startswith(".")]
            found.update((n, Path(folder, n)) for n in names if n in self.sizes)
        wrong = []
        for name, size in self.sizes.items():
            path = found.get(name)
            if path is None:
                wrong.append(f"{name} is missing")
            elif path.stat().st_size != size:
                wrong.append(f"{name} has {path.stat().st_size} bytes, not {size}")
            elif content and not _same(path, self.files / name):
                wrong.append(f"{name} has other content")
        return wrong


def start_time(day: int) -> str:
    """The start time of the recordings of the `day`-th day."""
    when = datetime(2014, 5, 6, 9, 30, tzinfo=UTC) + timedelta(days=day)
    return when.strftime("%Y-%m-%dT%H:%M:%S.000+00:00")


def file_content(name: str, extension: str, size: int) -> Iterator[bytes]:
    """The content of a file in blocks; no two blocks are alike, so that a swap would show."""
    source = random.Random(name)
    head = _HEADS[extension][:size]
    yield head
    left = size - len(head)
    while left > 0:
        yield source.randbytes(min(left, _BLOCK))
        left -= _BLOCK


def _write(path: Path, extension: str, size: int) -> None:
    with path.open("wb", buffering=0) as file:
        for block in file_content(path.name, extension, size):
            file.write(block)


def _same(one: Path, other: Path) -> bool:
    with one.open("rb", buffering=0) as a, other.open("rb", buffering=0) as b:
        left, right = memoryview(bytearray(_BLOCK)), memoryview(bytearray(_BLOCK))
        while True:
            count = a.readinto(left) or 0
            if count != (b.readinto(right) or 0) or left[:count] != right[:count]:
                return False
            if not count:
                return True
