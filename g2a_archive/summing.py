"""Keeps `SHA256SUMS` in step with the catalogue."""

from __future__ import annotations

from pathlib import Path

from g2a_archive import checksums
from g2a_archive.catalog import Catalog


def write_checksums(catalog: Catalog, root: Path) -> None:
    """Bring `SHA256SUMS` of every directory that changed up to date. Raises `StorageError`."""
    stale = catalog.stale_directories()
    for directory in stale:
        if (root / directory).is_dir():
            checksums.update(root, directory, catalog.files_in(directory))
    if stale:
        catalog.fresh_directories(stale)
