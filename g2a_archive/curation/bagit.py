"""BagIt 1.0 (RFC 8493): files under `data/`, a manifest of them, and what is said of both.

A bag is a directory, or one ZIP file that holds that directory.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import stat
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Protocol, cast

_DECLARATION = b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
_MANIFEST = "manifest-sha256.txt"
_OLDEST, _NEWEST = 315_619_200.0, 4_354_732_800.0
"""1980 and 2107 with a day to spare, in Unix time: what a ZIP can say of a file's time."""

_SMALL_ALREADY = (".mp4", ".jpg", ".png", ".gif", ".webp")


class Container(Protocol):
    """Where the files of a bag go. Everything in it raises `OSError`."""

    def new(
        self, path: str, size: int, modified: float | None
    ) -> AbstractContextManager[IO[bytes]]: ...

    def close(self) -> None: ...


class Folder:
    """The bag as a directory, made here."""

    def __init__(self, top: Path) -> None:
        self._top = top
        top.mkdir()

    @contextmanager
    def new(self, path: str, size: int, modified: float | None) -> Iterator[IO[bytes]]:
        """A new file of the bag; `modified` is its time (Unix), kept where that can be."""
        target = self._top / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "xb") as file:
            yield file
            file.flush()
            if modified is not None:
                with suppress(OSError):  # some shares keep no times
                    os.utime(file.fileno(), (modified, modified))

    def close(self) -> None:
        """Nothing is left to be written."""


class _Entries:
    """What `zipfile` keeps of every file until it writes the ZIP's directory, in a file.

    As objects in memory, three million of them would take 1.6 GB.
    """

    def __init__(self, place: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=place)  # noqa: SIM115 - closed by close()
        self._count = 0

    def append(self, entry: zipfile.ZipInfo) -> None:
        pickle.dump(entry, self._file)
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[zipfile.ZipInfo]:
        self._file.seek(0)
        for _ in range(self._count):
            yield pickle.load(self._file)  # noqa: S301 - our own

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
    def new(self, path: str, size: int, modified: float | None) -> Iterator[IO[bytes]]:
        """A new file of the bag; `size` is told beforehand, `modified` is its time, else now."""
        at = time.time() if modified is None else min(max(modified, _OLDEST), _NEWEST)
        entry = zipfile.ZipInfo(f"{self._top}/{path}", time.localtime(at)[:6])
        stored = path.endswith(_SMALL_ALREADY)
        entry.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
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
        self._manifest = open(work / _MANIFEST, "x+b")  # noqa: SIM115 - closed by close()
        self._tags: list[bytes] = []
        self.files = 0
        self.bytes = 0
        self._tag("bagit.txt", [_DECLARATION])

    def payload(
        self,
        path: str,
        pieces: Iterable[bytes | memoryview],
        size: int,
        modified: float | None = None,
    ) -> str:
        """Add a file of `size` bytes below `data/`; returns its SHA-256, as it was written.

        `modified` is its time (Unix), else now.
        """
        full = f"data/{path}"
        written, digest = self._add(full, pieces, size, modified)
        self._manifest.write(_line(digest, full))
        self.files += 1
        self.bytes += written
        return digest

    def finish(self, about: Mapping[str, str]) -> None:
        """Write the manifests and `bag-info.txt`, which says `about` and how much there is."""
        size = self._manifest.tell()
        self._manifest.seek(0)
        with self._manifest as lines:
            self._tag(_MANIFEST, iter(partial(lines.read, 1 << 20), b""), size)
        oxum = {"Payload-Oxum": f"{self.bytes}.{self.files}"}
        text = "".join(f"{label}: {value}\n" for label, value in {**about, **oxum}.items())
        # A name may be no UTF-8; it is shown as elsewhere.
        self._tag("bag-info.txt", [text.encode(errors="backslashreplace")])
        self._add("tagmanifest-sha256.txt", self._tags)
        self._container.close()

    def close(self) -> None:
        """Close what is open still; of an unfinished bag nothing comes."""
        with suppress(OSError, ValueError):
            self._manifest.close()
        with suppress(OSError, ValueError):
            self._container.close()

    def _tag(self, name: str, pieces: Iterable[bytes], size: int = 0) -> None:
        _, digest = self._add(name, pieces, size)
        self._tags.append(_line(digest, name))

    def _add(
        self,
        path: str,
        pieces: Iterable[bytes | memoryview],
        size: int = 0,
        modified: float | None = None,
    ) -> tuple[int, str]:
        """Write a file of `size` bytes, which a small one need not tell; its bytes and SHA-256."""
        digest = hashlib.sha256()
        written = 0
        with self._container.new(path, size, modified) as file:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
                written += len(piece)
        return written, digest.hexdigest()


def _line(digest: str, path: str) -> bytes:
    """A line of a manifest. RFC 8493 has three characters encoded, and no others."""
    for character in "%\r\n":
        path = path.replace(character, f"%{ord(character):02X}")
    return f"{digest}  {path}\n".encode()
