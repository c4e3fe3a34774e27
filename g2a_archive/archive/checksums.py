"""`SHA256SUMS` in each date directory: the archive can be proved without this program.

The format is that of `sha256sum`, so that `sha256sum -c SHA256SUMS` inside a date directory
checks it. The file is replaced whole, never edited, and never held in memory as a whole: the old
one is merged, line by line, with what the catalogue holds.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import closing, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.database.revisions import DirectorySums
from g2a_archive.archive.disk import flushing, look
from g2a_archive.archive.disk.domains import Doing, local_error, persistently
from g2a_archive.archive.disk.hashing import open_regular
from g2a_archive.archive.disk.mounts import holds_nothing
from g2a_archive.archive.disk.renaming import recover, replace
from g2a_archive.archive.layout import parse_name
from g2a_archive.errors import LocalError, in_one
from g2a_archive.threads import pool

NAME = "SHA256SUMS"
OF_DIRECTORY = """FROM recording r JOIN file f ON f.recording = r.id
WHERE r.directory = :directory AND substr(f.path, 1, :start - 1) = :directory || '/'
      AND instr(substr(f.path, :start), '/') = 0"""  # :start of the name in the path
_LINES = f"""SELECT CAST(f.sha256 || '  ' || substr(f.path, :start) || char(10) AS BLOB)
{OF_DIRECTORY} ORDER BY f.path"""
_ASIDE = f".{NAME}.tmp"
_LARGEST = 1 << 28
_LONGEST = 1 << 16
"""Bytes of a line that are looked at together; longer ones are no sums, and pass in pieces."""

_AT_ONCE = 512
"""Lines that are written together."""

_BOM = b"\xef\xbb\xbf"
# Lines of escaped names begin with a backslash, and so don't match: our names need no escapes.
_LINE = re.compile(rb"([0-9a-fA-F]{64}) [ *](?:\./)?(.+)", re.DOTALL)

_WRITERS = 8
"""Threads that write: what takes long is waiting for the disk to flush."""

_TOGETHER = 16
_SMALL = 2000
"""Sums of a directory up to which it is given to such a thread whole."""


def read(path: Path, *, exact: bool = False) -> dict[str, str]:
    """The sums in a file like `SHA256SUMS`: name to lower-case hex; {} where there is no file.

    Binary-mode names (`*name`), CRLF and a byte-order mark are understood; any other line that
    is no sum is skipped. Of two lines for one name the last counts. `exact`: what `sha256sum -c`
    understands, to which a CR belongs to the name. Raises `StorageError`.
    """
    return persistently(_sums, path, exact)


def _sums(path: Path, exact: bool) -> dict[str, str]:
    with closing(_lines(path)) as lines:
        found = (one for line in lines if (one := _parse(line, exact=exact)))
        return {name.decode("utf-8", "surrogateescape"): digest.decode() for name, digest in found}


def write_checksums(catalog: Catalog, root: Path) -> None:
    """Bring `SHA256SUMS` of every directory that changed up to date, and record what they are.

    Raises `CatalogError`, and `LocalError`, which keeps no other directory's from being written.
    """
    stale = iter(catalog.stale_directories())
    written: list[DirectorySums] = []
    failed: list[LocalError] = []
    with pool(_WRITERS) as writers:
        while some := [*islice(stale, _TOGETHER)]:
            works = [_work(catalog, root, directory, writers) for directory in some]
            for work in works:
                try:
                    written += filter(None, (work(),))
                except LocalError as error:
                    failed.append(error)
    if written or catalog.fingerprint() is None:
        catalog.summed(written)
    if failed:
        raise in_one(failed)


def _work(
    catalog: Catalog, root: Path, directory: str, writers: Executor
) -> Callable[[], DirectorySums | None]:
    """Have one directory's file brought up to date; what is returned waits for that.

    The catalogue is read here, in its own thread.
    """
    lines = _Lines(catalog, directory)
    first = [*islice(lines, _SMALL)]
    if len(first) < _SMALL:
        return writers.submit(_updated, root, directory, first, some=bool(first)).result
    return partial(_updated, root, directory, lines, some=True)


def _updated(
    root: Path, directory: str, lines: Iterable[bytes], *, some: bool
) -> DirectorySums | None:
    """`update`; None where the directory is out of sight with `some` files: it stays to be done."""
    folder = root / directory
    try:
        if not look.is_dir(folder) or (some and holds_nothing(folder)):
            return None if some else DirectorySums(directory)
    except PermissionError:
        pass  # where it may not be written either, that is told
    except OSError as error:
        raise local_error(error, Doing.LIST, folder) from error
    return update(root, directory, lines)


class _Lines(Iterable[bytes]):
    """What the catalogue has to say in one directory's file, read as it is asked for."""

    def __init__(self, catalog: Catalog, directory: str) -> None:
        self._catalog = catalog
        self._values = {"directory": directory, "start": len(directory) + 2}

    def __iter__(self) -> Iterator[bytes]:
        return (row[0] for row in self._catalog.stream(_LINES, self._values))


def update(root: Path, directory: str, lines: Iterable[bytes]) -> DirectorySums:
    """Bring `SHA256SUMS` of one directory up to date; returns what it is then.

    `directory` is relative to the archive `root`; `lines` are those of all files that the
    catalogue holds there, by name, and may be gone through again. Sums of other recordings' files
    that still exist, known from a catalogue that was lost, are kept, and so are all lines about
    anything else: somebody keeps those. What is up to date is not written.

    Raises `StorageError`; the old file is then still there, whole.
    """
    try:
        return persistently(_update, root / directory, directory, lines)
    except OSError as error:
        raise local_error(error, Doing.NAME, root / directory / NAME) from error


def _update(folder: Path, directory: str, lines: Iterable[bytes]) -> DirectorySums:
    path = folder / NAME
    recover(path)
    with closing(_Rewrite(folder)) as new:
        with closing(_lines(path)) as old:
            ordered = _merge(old, iter(lines), new)
        if not ordered:
            new.restart()
            _merge(_in_order(path), iter(lines), new)
        return new.finish(directory)


def _lines(path: Path) -> Generator[bytes, None, None]:
    """The lines of a file with their ends; none where there is no file. Raises `StorageError`."""
    try:
        with open_regular(path, _LARGEST) as file:
            yield from iter(partial(file.readline, _LONGEST), b"")
    except FileNotFoundError:
        return
    except OSError as error:
        raise local_error(error, Doing.READ, path) from error


def _parse(line: bytes, *, exact: bool = False) -> tuple[bytes, bytes] | None:
    """Name and sum; None where the line is none of a sum."""
    line = line.removesuffix(b"\n")
    match = _LINE.fullmatch(line if exact else line.removeprefix(_BOM).rstrip(b"\r"))
    return (match[2], match[1].lower()) if match else None


def _of_recording(line: bytes) -> tuple[bytes, bytes] | None:
    """Name and sum of a recording's file; None where the line is about anything else."""
    found = _parse(line)
    return found if found and parse_name(found[0].decode("utf-8", "replace")) else None


def _in_order(path: Path) -> Iterator[bytes]:
    """The lines of a file that is not in order: first those that are no recordings' sums."""
    sums = {}
    for line in _lines(path):
        if found := _of_recording(line):
            sums[found[0]] = line
        else:
            yield line if line.endswith(b"\n") else line + b"\n"
    for name in sorted(sums):
        yield sums[name]


def _merge(old: Iterator[bytes], ours: Iterator[bytes], new: _Rewrite) -> bool:
    """Merge the old lines with ours; False, with half of it done, if the old are not in order."""
    theirs: deque[bytes] = deque()
    mine: deque[bytes] = deque()
    while True:
        theirs.extend(islice(old, _AT_ONCE - len(theirs)))
        mine.extend(islice(ours, _AT_ONCE - len(mine)))
        if theirs == mine:  # nearly always, and compared in no time
            if not mine:
                return True
            new.ours(*mine)
            theirs.clear()
            mine.clear()
            continue
        ends = len(theirs) < _AT_ONCE, len(mine) < _AT_ONCE
        while (theirs or ends[0]) and (mine or ends[1]) and (theirs or mine):
            if not _merge_one(theirs, mine, new):
                return False


def _merge_one(theirs: deque[bytes], mine: deque[bytes], new: _Rewrite) -> bool:
    """Take the next line, from either or both; False if the old ones are not in order."""
    raw = theirs[0] if theirs else b""
    line = mine[0] if mine else b""
    if raw == line:
        new.ours(theirs.popleft())
        mine.popleft()
        return True
    found = _of_recording(raw)
    if raw and found is None:
        theirs.popleft()
        half = raw.rstrip(b"\0\r\n")  # of a file that was cut, or has no bytes on its disk
        if raw.strip() and any(one.startswith(half) for one in (*mine, b"")):
            new.drop()
            return True
        whole = raw.endswith(b"\n") or len(raw) == _LONGEST
        new.other(raw, raw if whole else raw + b"\n")
        return True
    if found and found[0] <= new.last:
        return False
    if line and (found is None or _name(line) <= found[0]):
        if found and _name(line) == found[0]:
            theirs.popleft()
        new.drop()
        new.ours(mine.popleft())
        return True
    theirs.popleft()
    name, digest = found or (b"", b"")
    new.last = name
    place = os.path.join(new.folder, os.fsdecode(name))
    if os.path.lexists(place) and not os.path.isdir(place):
        new.other(raw, digest + b"  " + name + b"\n")
    else:
        new.drop()
    return True


def _name(line: bytes) -> bytes:
    """The name in a line of ours."""
    return line[66:-1]


class _Rewrite:
    """A new `SHA256SUMS` beside the old one, begun with the first line that differs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / NAME
        self._aside = folder / _ASIDE
        with suppress(FileNotFoundError):
            self._aside.unlink()  # left by a killed run
        self._file: BinaryIO | None = None
        self._clear()

    def _clear(self) -> None:
        self._digest = hashlib.sha256()
        self._lines: list[bytes] = []
        self._size = 0
        self._sums = 0
        self._others: list[tuple[str, bytes]] = []
        self._after = b""
        self.last = b""
        """The last recording's file, by name, whoever has it."""

    def ours(self, *lines: bytes) -> None:
        """The next lines are the catalogue's. Raises `OSError`, as all here."""
        self._lines += lines
        self._sums += len(lines)
        self.last = self._after = _name(lines[-1])
        if len(self._lines) >= _AT_ONCE:
            self._spill()

    def other(self, old: bytes, line: bytes) -> None:
        """The next line is one that the catalogue has no file for; `old` is how it was."""
        if line != old:
            self.drop()
        self._lines.append(line)
        self._sums += _parse(line) is not None
        self._others.append((self._after.decode(), line))

    def drop(self) -> None:
        """The old file goes on otherwise from here."""
        if self._file is None:
            self._spill()
            self._begin(self._size)

    def restart(self) -> None:
        """Forget all lines: the new file will hold other ones."""
        self.close()
        self._clear()
        self._begin(0)

    def _spill(self) -> None:
        some = b"".join(self._lines)
        self._lines.clear()
        self._digest.update(some)
        self._size += len(some)
        if self._file is not None:
            self._file.write(some)

    def _begin(self, same: int) -> None:
        """Open the new file; the first `same` bytes are those of the old one."""
        descriptor = os.open(self._aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self._file = open(descriptor, "wb")  # noqa: SIM115 - closed by close()
        if same:
            with open_regular(self._path, _LARGEST) as old:
                while same and (some := old.read(min(same, 1 << 20))):
                    self._file.write(some)
                    same -= len(some)

    def finish(self, directory: str) -> DirectorySums:
        """Put the new file in the old one's place, if they differ; returns what it is."""
        self._spill()
        if self._file is not None:
            self._file.flush()
            if self._size:
                flushing.flush_file(self._file.fileno())
                replace(self._aside, self._path)
            else:
                self._path.unlink(missing_ok=True)  # `sha256sum -c` calls an empty one an error
            flushing.flush_directory(self.folder)
        digest = self._digest.hexdigest() if self._size else None
        return DirectorySums(directory, digest, self._sums, tuple(self._others))

    def close(self) -> None:
        """Leave nothing beside the old file."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None
            with suppress(OSError):
                self._aside.unlink()
