"""What tests of removals share: an archive, and that a tombstone is all that is left of some."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import archive_files, archives, assert_checksums, catalog_rows, leftovers, states


def files_of(root: Path, id_: int) -> list[str]:
    """The recording's files in the archive, those kept aside included."""
    return [name for name in archive_files(root) if Path(name).name.startswith(f"{id_}.")]


def tombstones(root: Path) -> list[dict[str, str]]:
    """The rows of `removed.csv`."""
    with open(root / ".g2a-archive" / "removed.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def assert_removed(root: Path, *gone: int) -> None:
    """Nothing of these is left but a tombstone, and nothing of them is still to be done."""
    for id_ in gone:
        assert files_of(root, id_) == []
        assert states(root)[id_] == "removed"
        assert not [name for name in leftovers(root) if name.startswith(f"{id_}.")]
    assert catalog_rows(root, "SELECT * FROM removal") == []
    assert catalog_rows(root, "SELECT * FROM stale_directory") == []
    assert {int(row["id"]) for row in tombstones(root)} >= set(gone)
    _assert_sums(root, gone)
    empty = [d for d, folders, names in os.walk(root) if not folders and not names]
    assert [d for d in empty if ".g2a-archive" not in d] == []


def _assert_sums(root: Path, gone: tuple[int, ...]) -> None:
    for sums in root.rglob("SHA256SUMS"):
        for id_ in gone:
            assert f"  {id_}." not in sums.read_text()
    if not (root / "browse").is_dir():  # whose pages are in no list of sums
        assert_checksums(root)


# --- fixtures, which a test module takes by name ---------------------------------------------


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[archives.Made]:
    """A service with five recordings of three days, and an archive of them all."""
    with archives.made(tmp_path_factory, 5) as both:
        yield both


service = archives.service


@pytest.fixture
def ids(original: archives.Made, root: Path) -> list[int]:
    """The IDs of an archive that holds all of them."""
    shutil.copytree(original[1], root)
    return list(original[0].recordings)
