"""A catalogue that lies elsewhere than in the archive: its disk may be away, and it is no fault."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support import archives, cli_here, plain_args, report_of
from support.cli import Args

from g2a_archive.demo import SimulatedService

original = archives.original
archive = archives.archive
service = archives.service


@pytest.fixture
def catalog(archive: Path) -> Path:
    """Where the archive's catalogue lies: on a disk of its own."""
    disk = archive.parent / "disk"
    disk.mkdir()
    return (archive / ".g2a-archive" / "catalog.sqlite3").rename(disk / "catalog.sqlite3")


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_its_disk_is_not_mounted(
    archive: Path, catalog: Path, service: SimulatedService, more: list[str]
) -> None:
    """A new one made there would know nothing of what is owed, night after night."""
    catalog.unlink()
    args = plain_args(archive, "--no-create", "--catalog", catalog, *more, *service.recordings)
    result = cli_here(args, service.environment())
    assert result.returncode == 6
    assert f"the catalogue {catalog} does not exist, and --no-create is set" in result.stderr
    assert not any(catalog.parent.iterdir())


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_the_archive_s_own_disk_is_not_mounted(
    archive: Path, catalog: Path, service: SimulatedService, more: list[str]
) -> None:
    another = archive.parent / "another"
    args = plain_args(another, "--catalog", catalog, *more, *service.recordings)
    result = cli_here(args, service.environment())
    assert result.returncode == 6
    assert f"{another} is not the archive that the catalogue {catalog} speaks of" in result.stderr
    assert not another.exists()


def test_a_directory_is_no_catalogue(root: Path, service: SimulatedService) -> None:
    args = plain_args(root, "--catalog", root.parent, next(iter(service.recordings)))
    result = cli_here(args, service.environment())
    assert result.returncode == 6
    assert f"cannot open the catalogue {root.parent}: Is a directory (" in result.stderr
    assert not root.exists()


@pytest.mark.parametrize("place", [".", "/"])
@pytest.mark.parametrize("command", ["download", "check", "status"])
def test_a_catalogue_without_a_name(
    command: str, place: str, root: Path, service: SimulatedService
) -> None:
    """What would lie beside it had none, either: a ValueError, which was a bug to report."""
    args: Args = [command, "--dest", root, "--catalog", place]
    args += [next(iter(service.recordings))] if command == "download" else []
    result = cli_here(args, service.environment())
    assert result.returncode == 2
    told = f"g2a-archive: the catalogue {place} is a directory (name a file in it)\n"
    assert result.stderr == told
    assert not root.exists()


def test_without_no_create_a_new_one_is_said(
    archive: Path, catalog: Path, service: SimulatedService
) -> None:
    catalog.unlink()
    args = plain_args(archive, "--catalog", catalog, "--json", *service.recordings)
    for warned in (True, False):
        result = cli_here(args, service.environment())
        assert report_of(result)["files"] == 0  # all are adopted
        assert (f"the catalogue {catalog} is new, and knows nothing" in result.stderr) == warned


def test_a_new_archive_is_no_surprise(root: Path, service: SimulatedService) -> None:
    args = plain_args(root, "--catalog", root / "../c.sqlite3", next(iter(service.recordings)))
    result = cli_here(args, service.environment())
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("place", [".", "2014", "catalogues"])
def test_in_the_archive_but_not_in_its_place(archive: Path, catalog: Path, place: str) -> None:
    (archive / place).mkdir(exist_ok=True)
    moved = catalog.rename(archive / place / "mine.db")
    for name in ("mine.db-journal", "mine.db.schema-1"):
        (archive / place / name).touch()
    for more in ([], ["--rebuild"], []):
        result = cli_here(["verify", "--dest", archive, "--catalog", moved, *more])
        assert (result.returncode, result.stderr) == (0, ""), result.stdout
    (archive / place / "mine.db.txt").touch()
    result = cli_here(["verify", "--dest", archive, "--catalog", moved])
    assert (result.returncode, result.stdout.count("unknown")) == (1, 1)


def test_all_of_the_archives_own_corner_is_lost(archive: Path) -> None:
    """Years that were copied from a backup, say; but an empty mount point is no archive."""
    shutil.rmtree(archive / ".g2a-archive")
    assert cli_here(["verify", "--dest", archive, "--rebuild"]).returncode == 0
    assert cli_here(["verify", "--dest", archive]).returncode == 0
    (empty := archive.parent / "empty").mkdir()
    (empty / "7.mp4").touch()  # nor is one with a file where none of an archive's lie
    result = cli_here(["verify", "--dest", empty, "--rebuild"])
    assert result.returncode == 6
    assert f"there is no archive at {empty}, nor a file of a recording" in result.stderr
    assert [path.name for path in empty.iterdir()] == ["7.mp4"]
