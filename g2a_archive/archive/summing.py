"""Keeps `SHA256SUMS` in step with the catalogue."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from g2a_archive.archive import checksums
from g2a_archive.archive.catalog import Catalog
from g2a_archive.models import StoredFile

_TOGETHER = 64
_WRITERS = 8
"""Threads that write: what takes long is waiting for the disk to flush."""


def write_checksums(catalog: Catalog, root: Path) -> None:
    """Bring `SHA256SUMS` of every directory that changed up to date. Raises `StorageError`."""
    stale = catalog.stale_directories()
    if not stale:
        return
    with ThreadPoolExecutor(min(_WRITERS, len(stale)), "checksums") as writers:
        for start in range(0, len(stale), _TOGETHER):
            some = stale[start : start + _TOGETHER]
            # The catalogue is read here, in its own thread.
            files = [catalog.files_in(directory) for directory in some]
            list(writers.map(lambda name, held: _write(root, name, held), some, files))
    catalog.fresh_directories(stale)


def _write(root: Path, directory: str, files: list[StoredFile]) -> None:
    if (root / directory).is_dir():
        checksums.update(root, directory, files)
