"""Keeps `SHA256SUMS` in step with the catalogue."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from g2a_archive.archive import checksums
from g2a_archive.archive.catalog import Catalog
from g2a_archive.archive.revisions import DirectorySums
from g2a_archive.models import StoredFile

_TOGETHER = 64
_WRITERS = 8
"""Threads that write: what takes long is waiting for the disk to flush."""


def write_checksums(catalog: Catalog, root: Path) -> None:
    """Bring `SHA256SUMS` of every directory that changed up to date. Raises `StorageError`."""
    stale = catalog.stale_directories()
    if not stale:
        return
    written: list[DirectorySums] = []
    with ThreadPoolExecutor(min(_WRITERS, len(stale)), "checksums") as writers:
        for start in range(0, len(stale), _TOGETHER):
            some = stale[start : start + _TOGETHER]
            # The catalogue is read here, in its own thread.
            files = [catalog.files_in(directory) for directory in some]
            sums = writers.map(lambda name, held: _write(root, name, held), some, files)
            written += [one for one in sums if one is not None]
    catalog.summed(written)


def _write(root: Path, directory: str, files: list[StoredFile]) -> DirectorySums | None:
    if (root / directory).is_dir():
        return checksums.update(root, directory, files)
    # Gone with all that was in it; or only out of sight, and then it stays to be done.
    return None if files else DirectorySums(directory)
