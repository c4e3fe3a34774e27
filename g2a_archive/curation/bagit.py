"""BagIt 1.0 (RFC 8493): files under `data/`, a manifest of them, and what is said of both.

A bag is a directory, or one ZIP file that holds that directory.
"""

from __future__ import annotations

import hashlib
import marshal
import os
import stat
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol, cast

_DECLARATION = b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
_MANIFEST = "manifest-sha256.txt"
_OLDEST, _NEWEST = 315_619_200.0, 4_354_732_800.0
"""1980 and 2107 with a day to spare, in Unix time: what a ZIP can say of a file's time."""


class Sink(Protocol):
    """Takes the bytes of one file."""

    def write(self, data: bytes | memoryview, /) -> object: ...


class Container(Protocol):
    """Where the files of a bag go. Everything in it raises `OSError`."""

    def new(
        self, path: str, *, size: int, modified: float, packed: bool
    ) -> AbstractContextManager[Sink]: ...

    def close(self) -> None: ...


class Folder:
    """The bag as a directory, made here."""

    def __init__(self, top: Path) -> None:
        self._top = top
        top.mkdir()

    @contextmanager
    def new(self, path: str, *, size: int, modified: float, packed: bool) -> Iterator[Sink]:
        """A new file of the bag; `modified` is its time (Unix), kept where that can be."""
        target = self._top / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "xb", buffering=0) as file:
            yield _Whole(file.fileno())
            with suppress(OSError):  # some shares keep no times
                os.utime(file.fileno(), (modified, modified))

    def close(self) -> None:
        """Nothing is left to be written."""


class _Whole:
    """An open file of which a write takes everything, or fails."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, data: bytes | memoryview, /) -> object:
        left = memoryview(data)
        while left:
            left = left[os.write(self._descriptor, left) :]
        return None


class _Entries:
    """What `zipfile` keeps of every file until it writes the ZIP's directory, in a file.

    As objects in memory, three million of them would take 1.6 GB.
    """

    _SLOTS = tuple(name for name in zipfile.ZipInfo.__slots__ if not name.startswith("_"))

    def __init__(self, place: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=place)  # noqa: SIM115 - closed by close()
        self._count = 0

    def append(self, entry: zipfile.ZipInfo) -> None:
        marshal.dump([getattr(entry, name, None) for name in self._SLOTS], self._file)
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[zipfile.ZipInfo]:
        self._file.seek(0)
        for _ in range(self._count):
            entry = zipfile.ZipInfo()
            for name, value in zip(self._SLOTS, marshal.load(self._file), strict=True):  # noqa: S302 - our own
                setattr(entry, name, value)
            yield entry

    def close(self) -> None:
        self._file.close()


class _NoNames(dict[str, zipfile.ZipInfo]):
    """Where `zipfile` looks for names that come twice, which there are none of in a bag."""

    def __setitem__(self, name: str, entry: zipfile.ZipInfo) -> None:
        """Forget it."""


class Zip:
    """The bag as one ZIP file, in which everything lies below the directory `top`."""

    def __init__(self, path: Path, top: str) -> None:
        self._zip = zipfile.ZipFile(path, "x", allowZip64=True)
        self._entries = _Entries(path.parent)
        self._zip.filelist = cast("list[zipfile.ZipInfo]", self._entries)
        self._zip.NameToInfo = _NoNames()
        self._top = top

    @contextmanager
    def new(self, path: str, *, size: int, modified: float, packed: bool) -> Iterator[Sink]:
        """A new file of the bag; `size` is told beforehand, `packed` files are made smaller."""
        when = time.localtime(min(max(modified, _OLDEST), _NEWEST))[:6]
        entry = zipfile.ZipInfo(f"{self._top}/{path}", when)
        entry.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
        entry.external_attr = (stat.S_IFREG | 0o644) << 16
        entry.file_size = size  # decides whether it needs ZIP64
        with self._zip.open(entry, "w") as file:
            yield file

    def close(self) -> None:
        """Write the ZIP's directory; without it there is no ZIP."""
        try:
            self._zip.close()
        finally:
            self._entries.close()


class BagWriter:
    """Writes a bag into a container; its manifest grows in a file of `work`, not in memory.

    Whatever cannot be written raises `OSError`.
    """

    def __init__(self, container: Container, work: Path) -> None:
        self._container = container
        self._manifest = work / _MANIFEST
        self._lines = open(self._manifest, "x", encoding="utf-8", newline="")  # noqa: SIM115
        self._tags: list[str] = []
        self.files = 0
        self.bytes = 0
        self._tag("bagit.txt", _DECLARATION)

    def payload(
        self, path: str, pieces: Iterable[bytes | memoryview], *, size: int, modified: float,
        packed: bool,
    ) -> tuple[int, str]:  # fmt: skip
        """Add a file below `data/`; returns its bytes and its SHA-256, as they were written."""
        full = f"data/{path}"
        written, digest = self._add(full, pieces, size=size, modified=modified, packed=packed)
        self._lines.write(_line(digest, full))
        self.files += 1
        self.bytes += written
        return written, digest

    def finish(self, about: Mapping[str, str]) -> None:
        """Write the manifests and `bag-info.txt`, which says `about` and how much there is."""
        self._lines.close()
        with open(self._manifest, "rb") as lines:
            pieces = iter(lambda: lines.read(1 << 20), b"")
            self._tag(_MANIFEST, pieces, size=self._manifest.stat().st_size)
        oxum = {"Payload-Oxum": f"{self.bytes}.{self.files}"}
        text = "".join(f"{label}: {value}\n" for label, value in {**about, **oxum}.items())
        # A name may be no UTF-8; it is shown as elsewhere.
        self._tag("bag-info.txt", text.encode(errors="backslashreplace"))
        sums = "".join(self._tags).encode()
        self._add("tagmanifest-sha256.txt", [sums], size=len(sums), modified=_now(), packed=True)
        self._container.close()

    def close(self) -> None:
        """Close what is open still; of an unfinished bag nothing comes."""
        with suppress(OSError, ValueError):
            self._lines.close()
        with suppress(OSError, ValueError):
            self._container.close()

    def _tag(self, name: str, content: bytes | Iterable[bytes], *, size: int = 0) -> None:
        pieces = [content] if isinstance(content, bytes) else content
        _, digest = self._add(name, pieces, size=size, modified=_now(), packed=True)
        self._tags.append(_line(digest, name))

    def _add(
        self, path: str, pieces: Iterable[bytes | memoryview], *, size: int, modified: float,
        packed: bool,
    ) -> tuple[int, str]:  # fmt: skip
        digest = hashlib.sha256()
        written = 0
        with self._container.new(path, size=size, modified=modified, packed=packed) as file:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
                written += len(piece)
        return written, digest.hexdigest()


def _line(digest: str, path: str) -> str:
    """A line of a manifest. RFC 8493 has three characters encoded, and no others."""
    for character in "%\r\n":
        path = path.replace(character, f"%{ord(character):02X}")
    return f"{digest}  {path}\n"


def _now() -> float:
    return time.time()
