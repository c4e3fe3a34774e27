"""What lies in `partial/`: halves that a later run resumes, and those that nobody will ask for."""

from __future__ import annotations

import contextlib
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.database.lookup import known
from g2a_archive.models import FileKind, State

_NAME = re.compile(r"(\d{1,19})\.(mp4|events|thumbnail)\.(?:part|json|json\.new)")
_OVER = frozenset({State.REFUSED, State.LOST, State.REMOVED})
"""States whose files nobody asks for again."""


def halves(partial: Path) -> Iterator[tuple[int, FileKind, str]]:
    """The files in `partial/` that a run may have left: (recording, kind, path)."""
    with contextlib.suppress(OSError), os.scandir(partial) as entries:
        for entry in entries:
            if match := _NAME.fullmatch(entry.name):
                yield int(match[1]), FileKind(match[2]), entry.path


def lying(partial: Path) -> tuple[int, int]:
    """How many recordings have a half in `partial/`, and the bytes of all of them together."""
    recordings, size = set(), 0
    for recording, _, path in halves(partial):
        recordings.add(recording)
        with contextlib.suppress(OSError):
            size += os.lstat(path).st_size
    return len(recordings), size


def sweep(partial: Path, catalog: Catalog) -> None:
    """Remove the halves of recordings that were refused, lost or removed, or are archived by now.

    The caller holds the archive's lock, and no transfer is under way. Halves of recordings that the
    catalogue does not know stay: it may have been lost. Raises `CatalogError`.
    """
    found: dict[int, list[tuple[FileKind, str]]] = defaultdict(list)
    for recording, kind, path in halves(partial):
        found[recording].append((kind, path))
    for one in known(catalog, found.keys()):
        for kind, path in found[one.id]:
            archived = one.state is State.ARCHIVED and one.kinds & kind.bit
            if archived or one.state in _OVER:
                with contextlib.suppress(OSError):
                    os.unlink(path)
