"""A drive that is not mounted is no loss: `verify` says so, and goes on with all others."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import run_cli
from support.archive import Archive, video
from support.odd_drive import playing

from g2a_archive.archive.disk import hashing
from g2a_archive.cli import main
from g2a_archive.errors import ExitCode, StorageError
from g2a_archive.fixity import check
from g2a_archive.fixity.selection import VerifyOptions


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """Three years with a recording in each of two months."""
    made = Archive(tmp_path / "recordings")
    for number, year in enumerate((2013, 2014, 2015)):
        for month in (3, 4):
            made.add(10 * number + month, f"{year}/0{month}/01")
    yield made
    made.catalog.close()


def absent(place: Path) -> None:
    """Made and removed with the mount."""
    shutil.rmtree(place)


def empty(place: Path) -> None:
    """An empty mount point, but for what systems leave about."""
    shutil.rmtree(place)
    place.mkdir()
    (place / "lost+found").mkdir()


def dangling(place: Path) -> None:
    """A link to a drive that is not there."""
    shutil.rmtree(place)
    place.symlink_to("/nowhere/at/all")


@pytest.mark.parametrize("unmount", [absent, empty, dangling])
@pytest.mark.parametrize(
    "options", [VerifyOptions(), VerifyOptions(ids=[13, 24]), VerifyOptions(oldest_first=True)]
)
def test_a_year_that_is_not_mounted_is_no_loss(
    archive: Archive, unmount: Callable[[Path], None], options: VerifyOptions
) -> None:
    unmount(archive.root / "2014")
    (archive.root / "2015/04/01/24.mp4").write_bytes(video("changed"))
    outcome = archive.verify(options)
    assert [one.path for one in outcome.findings] == ["2015/04/01/24.mp4"]
    assert [part.directory for part in outcome.unmounted] == ["2014"]
    assert outcome.left == (3 if options.ids else 6)
    assert [*archive.catalog.owed()] == [24]


def test_a_month_or_a_day_that_is_an_empty_mount_point_is_no_loss(archive: Archive) -> None:
    empty(archive.root / "2013/03")
    empty(archive.root / "2014/04/01")
    outcome = archive.verify()
    assert outcome.findings == []
    assert [part.directory for part in outcome.unmounted] == ["2013/03", "2014/04/01"]
    assert [*archive.catalog.owed()] == []


def test_a_date_directory_that_somebody_removed_is_a_loss(archive: Archive) -> None:
    archive.add(99, "2014/04/02")
    shutil.rmtree(archive.root / "2014/04/01")
    assert len(archive.problems()) == 3
    assert [*archive.catalog.owed()] == [14]


@pytest.mark.parametrize("what", ["", "2014"])
def test_a_drive_that_goes_away_meanwhile_loses_nothing(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    real = hashing.hash_file
    place = archive.root / what

    def unplugged(path: str, **options: Callable[..., object]) -> tuple[int, str]:
        result = real(path, **options)  # type: ignore[arg-type]
        if not (tmp_path / "unplugged").exists():
            os.rename(place, tmp_path / "unplugged")
            place.mkdir()
        return result

    monkeypatch.setattr(check, "hash_file", unplugged)
    if what:
        outcome = archive.verify(VerifyOptions(jobs=1))
        assert [part.directory for part in outcome.unmounted] == ["2014"]
        assert outcome.findings == []
    else:
        with pytest.raises(StorageError, match="mounted"):
            archive.verify(VerifyOptions(jobs=1))
    assert [*archive.catalog.owed()] == []


def test_the_command_says_it_and_ends_with_6(archive: Archive) -> None:
    (archive.root / "2013/03/01/3.mp4").write_bytes(video("changed"))
    empty(archive.root / "2014")
    run = run_cli(["verify", "-d", archive.root, "--json"])
    assert run.returncode == ExitCode.STORAGE
    assert f"{archive.root}/2014 is empty: nothing is there of its 2 archived" in run.stderr
    assert [one["path"] for one in json.loads(run.stdout)["findings"]] == ["2013/03/01/3.mp4"]
    assert [*archive.catalog.owed()] == [3]
    run = run_cli(["verify", "-d", archive.root, "--rebuild"])
    assert run.returncode == ExitCode.STORAGE
    assert f"{archive.root}/2014 is empty: nothing is there of its 2 archived" in run.stderr
    run = run_cli(["browse", "-d", archive.root])
    assert run.returncode == ExitCode.STORAGE
    assert "is the drive mounted?" in run.stderr
    assert not (archive.root / "browse").exists()


@pytest.mark.parametrize(
    ("content", "more", "hint"),
    [
        (b"", [], "is empty (`verify --rebuild`, or the next download, makes a catalogue"),
        (None, [], "does not exist (`verify --rebuild`, or the next download, makes a"),
        (None, ["--catalog", "nowhere"], "(check --catalog; is its drive mounted?)"),
        (None, ["--dest", "nowhere"], "(check --dest; is the drive mounted?)"),
    ],
)
def test_without_a_catalogue_it_is_said_what_helps(
    archive: Archive,
    content: bytes | None,
    more: list[str],
    hint: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    archive.catalog.close()
    archive.database.unlink()
    if content is not None:
        archive.database.write_bytes(content)
    for command in ("status", "verify", "browse"):
        assert main.run([command, "--dest", str(archive.root), *more]) == ExitCode.STORAGE
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert hint in err


def test_a_share_that_shows_all_names_in_lower_case(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "recordings")
    archive.add(1, "2014/May/06")
    archive.add(2, "2014/May/06")
    archive.catalog.close()
    env = playing(fold=archive.root)
    day = archive.root / "2014/May/06"
    (day / "SHA256SUMS").rename(day / "sha256sums")
    day.parent.rename(archive.root / "2014/may")
    run = run_cli(["verify", "-d", archive.root], env)
    assert (run.returncode, run.stderr) == (0, ""), run.stdout
    (archive.root / "2014/may/06/1.jpg").write_bytes(b"changed")
    archive.database.unlink()
    run = run_cli(["verify", "--rebuild", "-d", archive.root], env)
    assert run.stdout.startswith("2014/may/06/1.jpg: changed: not what SHA256SUMS lists\n")
    archive.write("2014/may/06/notes.txt", b"a note")
    run = run_cli(["verify", "-d", archive.root], env)
    assert "notes.txt: unknown" in run.stdout
    assert "sha256sums" not in run.stdout
