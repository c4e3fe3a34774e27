"""`SHA256SUMS` in each date directory: the archive can be proved without this program.

The format is that of `sha256sum`, so that `sha256sum -c SHA256SUMS` inside a date directory
checks it. The file is replaced whole, never edited.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from g2a_archive.archive import flushing
from g2a_archive.archive.hashing import hash_file as hash_file
from g2a_archive.archive.hashing import read_regular
from g2a_archive.archive.revisions import DirectorySums, lines_of
from g2a_archive.errors import storage_error
from g2a_archive.models import StoredFile

NAME = "SHA256SUMS"
_ASIDE = f".{NAME}.tmp"
_LARGEST = 1 << 28
# Lines of escaped names begin with a backslash, and so don't match: our names need no escapes.
_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")


def read(path: Path) -> dict[str, str]:
    """The sums in a file like `SHA256SUMS`: name to lower-case hex; {} where there is no file.

    Binary-mode names (`*name`), CRLF and a byte-order mark are understood; any other line that
    is no sum is skipped. Of two lines for one name the last counts. Raises `StorageError`.
    """
    return _parse(_content(path))


def update(
    root: Path, directory: str, files: Iterable[StoredFile], *, flush_directory: bool = True
) -> DirectorySums:
    """Bring `SHA256SUMS` of one directory up to date; returns what it is then.

    `directory` is relative to the archive `root`, as are the paths of `files`: all that the
    catalogue holds there. Sums of other files that still exist, known from a catalogue that was
    lost, are kept. Without `flush_directory` the caller flushes the directory itself.

    Raises `StorageError`; the old file is then still there, whole.
    """
    folder = root / directory
    path = folder / NAME
    old = _content(path)
    prefix = f"{directory}/"
    paths = ((file.path.removeprefix(prefix), file) for file in files)
    sums = {name: file.sha256 for name, file in paths if "/" not in name}
    others = {
        name: digest
        for name, digest in _parse(old).items()
        if name not in sums and os.path.lexists(folder / name)
    }
    placed = tuple(_placed(sums, others))
    new = b"".join(lines_of(sorted(sums.items()), placed))
    sha256 = hashlib.sha256(new).hexdigest() if new else None
    written = DirectorySums(directory, sha256, len(sums) + len(others), placed)
    if new == old:
        return written
    try:
        if new:
            _replace(folder, path, new)
        else:
            path.unlink()  # `sha256sum -c` calls an empty file an error
        if flush_directory:
            flushing.flush_directory(folder)
    except OSError as error:
        raise storage_error(error, "write", path) from error
    return written


def _placed(sums: Mapping[str, str], others: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """The lines of `others`, each with the name of ours that comes before it."""
    after = ""
    for name in sorted({**sums, **others}):
        if name in sums:
            after = name
        else:
            yield after, f"{others[name]}  {name}\n".encode("utf-8", "surrogateescape")


def _content(path: Path) -> bytes:
    try:
        return read_regular(path, _LARGEST)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise storage_error(error, "read", path) from error


def _parse(content: bytes) -> dict[str, str]:
    text = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    sums = {}
    for line in text.split("\n"):
        if match := _LINE.fullmatch(line.rstrip("\r")):
            sums[match[2].removeprefix("./")] = match[1].lower()
    return sums


def _replace(folder: Path, path: Path, content: bytes) -> None:
    aside = folder / _ASIDE
    with suppress(FileNotFoundError):
        aside.unlink()  # left by a killed run
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            flushing.flush_file(descriptor)
        os.replace(aside, path)
    except BaseException:
        with suppress(OSError):
            aside.unlink()
        raise
