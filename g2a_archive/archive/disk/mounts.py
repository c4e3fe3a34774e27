"""Drives that are not mounted: what the catalogue knows, and all of which is gone at once.

An archive, or a year of it, may lie on a disk of its own. Where that is not mounted, nothing is
lost: nothing may become owed, be fetched again below the mount point, or be written there. Where
the line is between that and a loss:

- The whole archive: nothing of what the catalogue holds is there.
- A directory that holds nothing, cannot be reached, or is a link that leads nowhere: such is a
  mount point. This goes for each level of the layout, the date directory too.
- A year, or whatever stands first in the layout, that is not there itself, if other directories
  belong into it: mount points are also made and removed with the mount.
- Anything else is a loss, and is fetched again when it is asked for: a file, or a date directory
  that somebody has removed. So is a year that holds any file: whoever has lost one for good makes
  its directory anew, with a file in it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.disk.domains import retry_transient
from g2a_archive.archive.layout import is_system_file
from g2a_archive.errors import StorageError
from g2a_archive.models import pluralize

_UNREACHABLE = frozenset(
    {
        *(errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENODEV, errno.ENXIO),
        *(errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.ELOOP),
    }
)
"""What a mount point says whose drive, server or FUSE program is gone."""

_NOWHERE = "is a link that leads nowhere"

_Tree = dict[str, "_Tree"]

_SAID = 5
"""Missing parts that a sentence names."""

_MOST_YEARS = 1000
"""Entries of the archive that are looked at: where it has a directory a day, none is a drive."""


@dataclass(frozen=True, slots=True)
class MissingPart:
    """A directory of the archive that is not mounted ("" for the whole archive).

    `problem` says what is there instead, `recordings` how many archived ones the catalogue has
    there.
    """

    root: Path
    directory: str
    problem: str
    recordings: int

    def holds(self, directory: str | None) -> bool:
        """Whether a directory of the archive lies in it."""
        place = directory or ""
        return not self.directory or f"{place}/".startswith(f"{self.directory}/")

    @property
    def place(self) -> Path:
        """Where it should be."""
        return self.root / self.directory if self.directory else self.root

    def error(self) -> StorageError:
        """What a command says of it, and ends with: exit code 6."""
        many = pluralize(self.recordings, "archived recording")
        lost = f": nothing is there of its {many}" if self.recordings else ""
        return StorageError(
            f"{self.place} {self.problem}{lost}",
            hint="is the drive mounted? What is lost for good is fetched again once the directory "
            "is there and has a file in it",
        )


def missing_parts(catalog: Catalog, root: Path, suspects: Iterable[str] = ()) -> list[MissingPart]:
    """The parts of the archive at `root` that are not mounted, each as far up as possible.

    One listing a year and a month, none of a date directory, but of the `suspects`, in which files
    are missing; whoever lists others asks for the `missing_date` of each that turns out to hold
    nothing. Only where the layout has no other level, as `%Y` for a disk a year, each is looked at
    for a first name in it. Raises `CatalogError`.
    """
    missing = _missing(catalog, root)
    for directory in suspects:
        known = any(part.holds(directory) for part in missing)
        if not known and (date := missing_date(catalog, root, directory)):
            missing.append(date)
    return missing


def require_some_mounted(
    catalog: Catalog, root: Path, suspects: Iterable[str] = ()
) -> list[MissingPart]:
    """`missing_parts` where something is mounted; raises `StorageError` where nothing is."""
    missing = missing_parts(catalog, root, suspects)
    if missing and not missing[0].directory:
        raise missing[0].error()
    return missing


def _missing(catalog: Catalog, root: Path) -> list[MissingPart]:
    tree = _tree(catalog)
    if not tree:
        return []
    seen = _names(root)
    if isinstance(seen, str) or not any(_is_among(root / name, seen) for name in tree):
        problem = seen if isinstance(seen, str) else "holds nothing of the archive"
        return [part for part in [_part(catalog, root, "", problem)] if part.recordings]
    missing: list[MissingPart] = []
    for name, below in tree.items():
        if below and not _is_among(root / name, seen):
            missing.append(_part(catalog, root, name, "is not there"))
        elif below:
            missing += _missing_in(catalog, root, name, below)
        elif part := missing_date(catalog, root, name):
            missing.append(part)
    # Recordings that have failed have a directory, too, which nobody has made.
    return [part for part in missing if part.recordings]


def _missing_in(catalog: Catalog, root: Path, directory: str, tree: _Tree) -> list[MissingPart]:
    """The parts that are missing in a directory that others belong into, or that itself."""
    if problem := _problem_at(root / directory):
        return [_part(catalog, root, directory, problem)]
    missing = []
    for name, below in tree.items():
        path = f"{directory}/{name}"
        if below and os.path.lexists(root / path):
            missing += _missing_in(catalog, root, path, below)
    return missing


def missing_date(catalog: Catalog, root: Path, directory: str) -> MissingPart | None:
    """A date directory that is there and holds nothing, or leads nowhere; None for any other."""
    problem = _problem_at(root / directory) if os.path.lexists(root / directory) else ""
    return _part(catalog, root, directory, problem) if problem else None


def broken_link_part(catalog: Catalog, root: Path, path: str) -> MissingPart:
    """What a link that leads nowhere is, also where the catalogue knows of nothing in it."""
    return _part(catalog, root, path, _NOWHERE)


def unmounted_error(parts: Sequence[MissingPart]) -> StorageError:
    """What a command says of all that is missing, in one sentence; exit code 6."""
    first = parts[0].error()
    others = "".join(f"; also {part.place} {part.problem}" for part in parts[1:_SAID])
    if len(parts) > _SAID:
        others += f"; and {len(parts) - _SAID:,} more"
    return StorageError(first.message + others, hint=first.hint)


def drives_in(root: str, device: int) -> set[str]:
    """What in the archive, which is on `device`, lies on a drive of its own, as a year may."""
    found = set()
    with os.scandir(root) as entries:
        for entry in islice(entries, _MOST_YEARS):
            with suppress(OSError):
                if entry.is_dir() and entry.stat().st_dev != device:
                    found.add(entry.name)
    return found


def _problem_at(path: Path) -> str:
    """Why a directory looks like a mount point without its drive; "" where it does not."""
    try:
        return "is empty" if is_empty_directory(path) else ""
    except OSError as error:
        return _problem_of(path, error)


def is_empty_directory(path: Path) -> bool:
    """Whether a directory holds no more than system files. Raises `OSError`."""

    def holds_none() -> bool:
        with os.scandir(path) as entries:
            return all(is_system_file(entry.name) for entry in entries)

    return retry_transient(holds_none)


def unmounted_problem(root: Path, directory: str) -> str:
    """Why nothing can be said of the files in a directory: "" where they are there, or gone."""
    if os.path.isdir(root / directory):
        return ""
    top = root / directory.partition("/")[0]
    problem = _problem_at(top)
    return f"{top} {problem}: is the drive mounted?" if problem else ""


def _is_among(path: Path, names: Iterable[str]) -> bool:
    """Whether `path` is among the names of its directory; a share may show them in another case."""
    return path.name in names or os.path.lexists(path)


def _names(path: Path) -> set[str] | str:
    """What a directory holds, or why it looks unmounted; whoever else cannot read it is told."""
    try:
        return set(retry_transient(os.listdir, path))
    except OSError as error:
        return _problem_of(path, error) or {""}


def _problem_of(path: Path, error: OSError) -> str:
    """What is told of a directory that cannot be read; "" where that is no sign of a drive."""
    if isinstance(error, FileNotFoundError):
        return _NOWHERE if os.path.islink(path) else "is not there"
    if error.errno in _UNREACHABLE:
        return f"cannot be reached ({error.strerror})"
    return ""  # another owner's, or a file


def _tree(catalog: Catalog) -> _Tree:
    """The directories that the catalogue knows, each with those in it; none in a date directory."""
    tree: _Tree = {}
    for directory in catalog.directories():
        place = tree
        for name in directory.split("/"):
            place = place.setdefault(name, {})
    return tree


def _part(catalog: Catalog, root: Path, directory: str, problem: str) -> MissingPart:
    return MissingPart(root, directory, problem, catalog.archived_below(directory))
