"""Whole nights on file systems that are odd: no renaming over files, no flush, folded names."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from support import (
    archive_files,
    assert_archive_equals,
    assert_nothing_false,
    leftovers,
    relative_path,
    run_here,
    states,
)
from support.cli import Say
from support.merging import shards
from support.mounts import ext4
from support.odd_mount import ALL, odd_mount
from support.service import Serve

from g2a_archive.console.outputs import atomic_write
from g2a_archive.demo import SimulatedService
from g2a_archive.errors import ExitCode


@pytest.fixture
def service(serve: Serve) -> SimulatedService:
    return serve(5, rate_limit=None)


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """Where a test mounts its odd file system."""
    return tmp_path / "drive"


@pytest.fixture
def root(drive: Path) -> Path:
    """The archive's place, on it."""
    return drive / "archive"


def test_two_nights_where_nothing_is_as_it_should_be(
    service: SimulatedService,
    drive: Path,
    root: Path,
    say: Say,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, *rest = service.recordings
    with odd_mount(drive, *ALL):
        assert run_here(service, root, [first], set_mtime=True).exit_code == 0
        assert run_here(service, root, service.recordings).archived == len(rest)
        for what in ("files", "directories"):
            assert caplog.text.count(f"this file system cannot flush {what}") == 2  # once a night
        assert_archive_equals(service, root)
        assert leftovers(root) == []
        for _ in range(2):
            with atomic_write(str(drive / "metrics"), option="--metrics-file") as out:
                out.write("new\n")
        assert say("verify")[0] == 0
        assert say("browse")[0] == 0
        (drive / "case").mkdir()
        assert say("bag", drive / "case", first)[::2] == (0, "")
        assert say("remove", "--yes", first)[0] == 0
        assert say("browse")[0] == 0
        assert states(root)[first] == "removed"
        left = (".old", ".new", ".g2a-bag")
        assert [path for path in drive.rglob("*") if path.name.endswith(left)] == []


def test_an_ext4_whose_inodes_are_used_up(
    service: SimulatedService, drive: Path, root: Path
) -> None:
    with ext4(drive, drive.with_name("image"), 16 << 20, inodes=64):
        others = [drive / f"other-{number}" for number in range(30)]
        for path in others:
            path.touch()
        for _ in range(2):
            report = run_here(service, root, service.recordings)
            assert report.exit_code == ExitCode.STORAGE
            assert "its inodes are used up" in report.abort_messages[0]
            assert_nothing_false(service, root)
        for path in others:
            path.unlink()
        few = [*service.recordings][:4]
        assert run_here(service, root, few).exit_code == 0
        assert {id_ for id_, state in states(root).items() if state == "archived"} >= {*few}


def test_archives_are_brought_together_there(
    service: SimulatedService, drive: Path, root: Path, tmp_path: Path, say: Say
) -> None:
    parts = shards(service, tmp_path, 2)
    with odd_mount(drive, *ALL):
        assert say("merge", "--min-free", "0", "--move", *parts)[0] == 0
        assert_archive_equals(service, root)
        assert say("verify")[0] == 0


def test_what_was_linked_there_has_another_size_for_a_while(
    service: SimulatedService, drive: Path, root: Path, say: Say
) -> None:
    with odd_mount(drive, "links"):
        parts = shards(service, drive, 2)
        assert say("merge", "--min-free", "0", "--move", *parts)[0] == 0
        assert [name for part in parts for name in archive_files(part)] == []
        assert_archive_equals(service, root)
        assert say("verify")[0] == 0


def test_names_are_kept_in_lower_case(
    service: SimulatedService, drive: Path, root: Path, say: Say
) -> None:
    with odd_mount(drive, "fold"):
        for archived in (len(service.recordings), 0):
            report = run_here(service, root, service.recordings, layout="%Y/%B/Day-%d")
            assert (report.exit_code, report.archived) == (0, archived)
        assert all(name == name.lower() for name in archive_files(root))
        assert say("verify")[0] == 0
        os.unlink(root / ".g2a-archive/catalog.sqlite3")
        assert run_here(service, root, service.recordings, layout="%Y/%B/Day-%d").files == 0
        os.unlink(root / ".g2a-archive/catalog.sqlite3")
        assert say("verify", "--rebuild")[0] == 0
        assert say("verify")[0] == 0


def test_letters_are_kept_apart_from_their_accents(
    service: SimulatedService, drive: Path, root: Path, say: Say
) -> None:
    """One directory never counts as two, whichever of its names a listing or a layout gives."""
    layout = "f\u00fcr %Y/%m"
    *ids, last = service.recordings
    with odd_mount(drive, "decompose"):
        assert run_here(service, root, ids, layout=layout).exit_code == 0
        assert {name[:4] for name in archive_files(root)} == {"fu\u0308r"}
        assert say("verify")[0] == 0
        os.unlink(root / ".g2a-archive/catalog.sqlite3")
        assert say("verify", "--rebuild")[0] == 0
        report = run_here(service, root, [*ids, last], layout=layout)
        assert (report.exit_code, report.files) == (0, 3)
        assert say("verify")[0] == 0
        assert report.fingerprint is not None
        assert report.fingerprint.files == len(archive_files(root))


def test_a_file_too_large_for_it(serve: Serve, drive: Path, root: Path) -> None:
    """FAT's largest is known beforehand: here only the attempt tells. The others are archived."""
    service = serve(4, rate_limit=None)
    large, *others = service.recordings
    service.set_recordings(
        replace(one, mp4_size=1_200_000) if one.id == large else one
        for one in service.recordings.values()
    )
    with odd_mount(drive, "largest=1000000"):
        for night in range(2):
            report = run_here(service, root, service.recordings)
            assert report.exit_code == 1
            assert [(one.id, one.file) for one in report.failed] == [(large, "mp4")], night
            assert "File too large" in next(iter(report.failed)).reason
            assert (report.archived, report.already_archived) == ((3, 0) if not night else (0, 3))
        assert set(states(root)) == {large, *others}
        assert states(root)[large] == "failed"
        assert_nothing_false(service, root)
        path = root / relative_path(service.recordings[large], "mp4")
        assert not path.exists()


def test_what_is_missing_is_told_though_inodes_have_other_numbers_at_each_look(
    service: SimulatedService, drive: Path, root: Path, tmp_path: Path, say: Say
) -> None:
    catalog = str(tmp_path / "catalog.sqlite3")  # SQLite itself goes by them
    with odd_mount(drive, "newnumbers"):
        assert run_here(service, root, service.recordings, catalog=catalog).exit_code == 0
        gone = relative_path(next(iter(service.recordings.values())), "mp4")
        (root / gone).unlink()
        code, out, err = say("verify", "--catalog", catalog)
        assert (code, err, out.splitlines()[0]) == (1, "", f"{gone}: missing")
        assert run_here(service, root, [], catalog=catalog, owed=True).archived == 1
        assert say("verify", "--catalog", catalog)[0] == 0


def test_files_whose_inodes_have_no_numbers_are_not_all_the_same(
    service: SimulatedService, drive: Path, root: Path, say: Say
) -> None:
    with odd_mount(drive, "nonumbers"):
        other = drive / "other"
        assert run_here(service, other, service.recordings).exit_code == 0
        name = relative_path(next(iter(service.recordings.values())), "mp4")
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(bytes((other / name).stat().st_size))
        code, out, _ = say("merge", "--move", other)
        assert (code, "another file stands in its place here" in out) == (1, True)
        assert (other / name).exists()
        assert say("verify")[1].splitlines()[:-1] == [f"{name}: unknown: not in the catalogue"]
