"""What runs leave: partial files, to be resumed or of no use; files that nobody recorded."""

from __future__ import annotations

import contextlib
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Set
from pathlib import Path

from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.database.lookup import known
from g2a_archive.archive.layout import ARCHIVE_DIR, FILE_NAME, is_system_file
from g2a_archive.models import FileKind, State, parse_id

PARTIAL_NAME = re.compile(r"([1-9]\d*)\.(mp4|events|thumbnail)\..+", re.ASCII)
"""What belongs to a download in flight: its bytes, and what is noted of them."""

RECORDING_NAME = re.compile(
    rf"(?:\.(?=.*\.g2a-part))?{FILE_NAME.pattern}(?:\.kept-[0-9]+|\.g2a-part)?", re.ASCII
)
"""What is named after a recording in its directory, also where it is kept aside, or half copied."""

_OVER = frozenset({State.REFUSED, State.LOST, State.REMOVED})
"""States whose files nobody asks for again."""


def partial_files(partial: Path) -> Iterator[tuple[int, FileKind, str]]:
    """The files in `partial/` that a run may have left: (recording, kind, path)."""
    with contextlib.suppress(OSError), os.scandir(partial) as entries:
        for entry in entries:
            if (match := PARTIAL_NAME.fullmatch(entry.name)) and (recording := parse_id(match[1])):
                yield recording, FileKind(match[2]), entry.path


def partial_usage(partial: Path) -> tuple[int, int]:
    """How many recordings have partial files, and the bytes of all of them together."""
    recordings, size = set(), 0
    for recording, _, path in partial_files(partial):
        recordings.add(recording)
        with contextlib.suppress(OSError):
            size += os.lstat(path).st_size
    return len(recordings), size


def remove_stale_partials(partial: Path, catalog: Catalog) -> None:
    """Remove partial files of recordings that were refused, lost, removed, or archived by now.

    The caller holds the archive's lock, and no transfer is under way. Partial files of recordings
    that the catalogue does not know stay: it may have been lost. Raises `CatalogError`.
    """
    found: dict[int, list[tuple[FileKind, str]]] = defaultdict(list)
    for recording, kind, path in partial_files(partial):
        found[recording].append((kind, path))
    for one in known(catalog, found.keys()):
        for kind, path in found[one.id]:
            archived = one.state is State.ARCHIVED and one.kinds & kind.bit
            if archived or one.state in _OVER:
                with contextlib.suppress(OSError):
                    os.unlink(path)


def find_unrecorded(root: Path, ids: Set[int]) -> Iterator[tuple[str, int]]:
    """Each directory of the archive at `root` that has a file named after one of `ids`, and which.

    For files that a killed run had named, and not recorded: no catalogue tells where they are.
    """
    seen = set()
    for path, folders, files in os.walk(root, followlinks=True):
        top = Path(path) == root
        folders[:] = [
            name
            for name in folders
            if not (is_system_file(name) or (top and name in (ARCHIVE_DIR, "browse")))
        ]
        real = os.path.realpath(path)
        if real in seen:  # a link leads back
            folders.clear()
        elif not top:
            its = {int(found[1]) for name in files if (found := RECORDING_NAME.fullmatch(name))}
            yield from ((os.path.relpath(path, root), id_) for id_ in its & ids)
        seen.add(real)
