"""`SHA256SUMS` in each date directory: the archive can be proved without this program.

The format is that of `sha256sum`, so that `sha256sum -c SHA256SUMS` inside a date directory
checks it. What the catalogue holds has the last word in it, and lines that the catalogue knows
nothing of stay. The file is replaced whole, never edited.
"""

from __future__ import annotations

import hashlib
import os
import re
from bisect import bisect_left, bisect_right
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import closing, suppress
from functools import partial
from itertools import islice
from operator import itemgetter
from pathlib import Path

from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.database.revisions import DirectorySums, lines_of, name_of
from g2a_archive.archive.disk import flushing, strictpath
from g2a_archive.archive.disk.domains import Operation, local_error, retry_transient
from g2a_archive.archive.disk.hashing import open_regular
from g2a_archive.archive.disk.mounts import is_empty_directory
from g2a_archive.archive.disk.renaming import recover, replace
from g2a_archive.archive.layout import parse_name
from g2a_archive.errors import LocalError
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

_BOM = b"\xef\xbb\xbf"
# Lines of escaped names begin with a backslash, and so don't match: our names need no escapes.
_LINE = re.compile(rb"([0-9a-fA-F]{64}) [ *](?:\./)?(.+)", re.DOTALL)

_WRITERS = 8
"""Threads that write: what takes long is waiting for the disk to flush."""

_TOGETHER = 16
_MANY = 2000
"""Sums of a directory above which no other one's are read meanwhile, to be held in memory, too."""


def read(path: Path, *, exact: bool = False) -> dict[str, str]:
    """The sums in a file like `SHA256SUMS`: name to lower-case hex; {} where there is no file.

    Binary-mode names (`*name`), CRLF and a byte-order mark are understood; any other line that
    is no sum is skipped. Of two lines for one name the last counts. `exact`: what `sha256sum -c`
    understands, to which a CR belongs to the name. Raises `StorageError`.
    """
    return retry_transient(_sums, path, exact)


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
            for work in [_begun(catalog, root, directory, writers) for directory in some]:
                try:
                    written += filter(None, (work.result(),))
                except LocalError as error:
                    failed.append(error)
    if written or catalog.fingerprint() is None:
        catalog.record_sums(written)
    if failed:
        raise _in_one(failed)


def _in_one(errors: Sequence[LocalError]) -> LocalError:
    """The first of them; it names a few more places where the same failed, and counts the rest."""
    error, places = errors[0], [one.path for one in errors[1:4]]
    if more := len(errors) - 1 - len(places):
        places.append(f"{more:,} more")
    if places:
        error.message += f"; nor {', '.join(places)}"
    return error


def _begun(
    catalog: Catalog, root: Path, directory: str, writers: Executor
) -> Future[DirectorySums | None]:
    """One directory's file, on its way; the catalogue is read here, in its own thread."""
    values = {"directory": directory, "start": len(directory) + 2}
    ours = [line for (line,) in catalog.stream(_LINES, values)]
    work = writers.submit(_updated, root, directory, ours)
    if len(ours) > _MANY:
        wait([work])
    return work


def _updated(root: Path, directory: str, ours: Sequence[bytes]) -> DirectorySums | None:
    """`update`; None where the directory is out of sight with some files: it stays to be done."""
    folder = root / directory
    try:
        if not strictpath.is_dir(folder) or (ours and is_empty_directory(folder)):
            return None if ours else DirectorySums(directory)
    except PermissionError:
        pass  # where it may not be written either, that is told
    except OSError as error:
        raise local_error(error, Operation.LIST, folder) from error
    return update(root, directory, ours)


def update(root: Path, directory: str, ours: Sequence[bytes]) -> DirectorySums:
    """Bring `SHA256SUMS` of one directory up to date; returns what it is then.

    `directory` is relative to the archive `root`; `ours` are the lines of all files that the
    catalogue holds there, by name. Sums of other recordings' files that still exist, known from a
    catalogue that was lost, are kept, and so are all lines about anything else: somebody keeps
    those. What is up to date is not written.

    Raises `StorageError`; the old file is then still there, whole.
    """
    try:
        return retry_transient(_update, root / directory, directory, ours)
    except OSError as error:
        raise local_error(error, Operation.NAME, root / directory / NAME) from error


def _update(folder: Path, directory: str, ours: Sequence[bytes]) -> DirectorySums:
    path = folder / NAME
    recover(path)
    with suppress(FileNotFoundError):
        (folder / _ASIDE).unlink()  # left by a killed run
    was, digest = hashlib.sha256(), hashlib.sha256()
    with closing(_lines(path)) as old:
        others = _others(folder, _hashed(old, was), ours)
    lines = [*_hashed(lines_of(ours, others), digest)]
    if digest.digest() != was.digest() or (not lines and os.path.lexists(path)):
        _replace(path, lines)
    count = len(ours) + sum(_parse(line) is not None for _, line in others)
    return DirectorySums(directory, digest.hexdigest() if lines else None, count, tuple(others))


def _hashed(lines: Iterable[bytes], into: hashlib._Hash) -> Iterator[bytes]:
    for line in lines:
        into.update(line)
        yield line


def _replace(path: Path, lines: Sequence[bytes]) -> None:
    """Put a file of these lines in the old one's place. Raises `OSError`."""
    aside = path.with_name(_ASIDE)
    if lines:
        try:
            with open(aside, "xb") as file:
                file.writelines(lines)
                file.flush()
                flushing.flush_file(file.fileno())
            replace(aside, path)
        except OSError:
            with suppress(OSError):
                aside.unlink()
            raise
    else:
        path.unlink(missing_ok=True)  # `sha256sum -c` calls an empty one an error
    flushing.flush_directory(path.parent)


def _lines(path: Path) -> Generator[bytes, None, None]:
    """The lines of a file with their ends; none where there is no file. Raises `StorageError`."""
    try:
        with open_regular(path, _LARGEST) as file:
            yield from iter(partial(file.readline, _LONGEST), b"")
    except FileNotFoundError:
        return
    except OSError as error:
        raise local_error(error, Operation.READ, path) from error


def _parse(line: bytes, *, exact: bool = False) -> tuple[bytes, bytes] | None:
    """Name and sum; None where the line is none of a sum."""
    line = line.removesuffix(b"\n")
    match = _LINE.fullmatch(line if exact else line.removeprefix(_BOM).rstrip(b"\r"))
    return (match[2], match[1].lower()) if match else None


def _of_recording(line: bytes) -> tuple[bytes, bytes] | None:
    """Name and sum of a recording's file; None where the line is about anything else."""
    found = _parse(line)
    return found if found and parse_name(found[0].decode("utf-8", "replace")) else None


def _others(folder: Path, old: Iterable[bytes], ours: Sequence[bytes]) -> list[tuple[str, bytes]]:
    """The lines of an old file that stay although they are not ours, as in `DirectorySums`."""
    sums: dict[bytes, bytes] = {}
    odd: list[tuple[bytes, bytes]] = []  # after the recording's file that is listed before it
    at, last, in_order = 0, b"", True
    for line in old:
        if at < len(ours) and line == ours[at]:  # nearly always
            name, at = name_of(line), at + 1
        elif found := _of_recording(line):
            name, digest = found
            at = bisect_right(ours, name, key=name_of)
            if not at or name_of(ours[at - 1]) != name:
                sums[name] = digest
        else:
            odd.append((last, line))
            continue
        in_order = in_order and last < name
        last = name
    kept = [
        (name, digest + b"  " + name + b"\n")
        for name, digest in sums.items()
        if _is_file(folder / os.fsdecode(name))
    ]
    whole = sorted(ours) if odd else []
    kept += (
        (name if in_order else b"", line if _ends(line) else line + b"\n")
        for name, line in odd
        if not _is_cut(line, whole)
    )
    kept.sort(key=itemgetter(0))
    return [(_before(name, ours), line) for name, line in kept]


def _is_file(path: Path) -> bool:
    return os.path.lexists(path) and not os.path.isdir(path)


def _ends(line: bytes) -> bool:
    """Whether it is a whole line, or a piece of a longer one."""
    return line.endswith(b"\n") or len(line) == _LONGEST


def _is_cut(line: bytes, whole: Sequence[bytes]) -> bool:
    """Whether it is what is left of a line of ours in a file that was cut, or whose end never came
    to the disk.

    `whole` are our lines, sorted.
    """
    half = line.rstrip(b"\0\r\n")
    at = bisect_left(whole, half)
    begins = at < len(whole) and whole[at].startswith(half)
    return line.strip() != b"" and (begins or not half)


def _before(name: bytes, ours: Sequence[bytes]) -> str:
    """The last of our names up to `name`; "" where all come later."""
    at = bisect_right(ours, name, key=name_of)
    return name_of(ours[at - 1]).decode() if at else ""
