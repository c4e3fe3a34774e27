"""`remove` where files stay, disks go, others work, signals come: nothing is forgotten."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import (
    archive_files,
    catalog_path,
    plain_args,
    removal,
    run_cli,
    run_here,
    states,
)
from support.cli import Args, Say
from support.odd_drive import Fault, playing
from support.removal import assert_removed, files_of

from g2a_archive.archive.disk.lock import RunLock
from g2a_archive.curation import remove as removing
from g2a_archive.demo import SimulatedService

original = removal.original
service = removal.service
ids = removal.ids


def test_a_file_that_cannot_be_deleted_is_told_and_the_others_go(
    service: SimulatedService, root: Path, ids: list[int], say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = root / next(name for name in files_of(root, ids[0]) if name.endswith(".mp4"))
    gone = root / files_of(root, ids[1])[0]
    gone.unlink()
    real = os.unlink

    def refuse(path: Any, **more: Any) -> None:
        if str(path) == str(stuck):
            raise PermissionError(1, "Operation not permitted")
        real(path, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        code, out, err = say("remove", "--yes", *ids[:2])
    assert code == 1
    assert f"{ids[0]}  not deleted yet: {stuck.relative_to(root)}: Operation not permitted" in out
    assert f"gone already: {gone.relative_to(root)}" in out
    assert "could not be deleted" in err
    assert files_of(root, ids[0]) == [str(stuck.relative_to(root))]
    assert states(root)[ids[0]] == "removed"
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        code, out, _ = say("remove", "--yes", *ids[:2])
    assert (code, out.splitlines()[0][:18]) == (1, "Nothing to remove:")
    assert f"{ids[0]}  not deleted yet: {stuck.relative_to(root)}" in out
    assert run_here(service, root, [ids[3]]).exit_code == 0  # tries again
    assert_removed(root, *ids[:2])
    assert say("verify")[0] == 0


def test_what_was_moved_out_and_back_into_another_layout_goes(root: Path, ids: list[int]) -> None:
    """Where it lay before, which is gone, is no drive that is not mounted."""
    other = root.with_name("other")
    for target, source, layout in ((other, root, "%Y"), (root, other, "y%Y")):
        moved: Args = ["merge", "--move", "--min-free", "0", "-d", target, source]
        assert run_cli([*moved, "--layout", layout]).returncode == 0
    result = run_cli(["remove", "-d", root, "--yes", *ids[:2]])
    assert (result.returncode, result.stderr) == (0, "")
    assert_removed(root, *ids[:2])


def test_sums_and_pages_that_cannot_be_written_are_when_it_is_said_again(
    root: Path, ids: list[int], say: Say
) -> None:
    assert say("browse")[0] == 0
    sums = root / Path(files_of(root, ids[0])[0]).parent / "SHA256SUMS"
    page = root / "index.html"
    in_the_way = [one.with_name(f"{one.name}.away") for one in (sums, page)]
    for one, away in zip((sums, page), in_the_way, strict=True):
        one.rename(away)
        (one / "in the way").mkdir(parents=True)
    assert say("remove", "--yes", ids[0])[0] == 1
    for one, away in zip((sums, page), in_the_way, strict=True):
        shutil.rmtree(one)
        away.rename(one)
    code, out, err = say("remove", "--yes", ids[0])
    assert (code, out, err) == (
        *(0, "Nothing to remove: no recording was chosen; 1 removed already.\n", ""),
    )
    assert_removed(root, ids[0])


def test_what_is_fetched_again_before_it_could_be_deleted_stays(
    service: SimulatedService, root: Path, ids: list[int], say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.unlink

    def refuse(path: Any, **more: Any) -> None:
        if Path(path).name.startswith(f"{ids[0]}.") and "partial" not in str(path):
            raise OSError(16, "Device or resource busy")
        real(path, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        patch.setattr("g2a_archive.archive.disk.domains._FIRST_WAIT", 0.0)
        assert say("remove", "--yes", ids[0])[0] == 1
        assert run_here(service, root, [ids[0]], again=True).exit_code == 0
    assert run_here(service, root, ids).already_archived == len(ids)
    assert len(files_of(root, ids[0])) == 3
    assert say("verify")[0] == 0


def test_a_directory_in_a_file_s_place_is_told_once(root: Path, ids: list[int], say: Say) -> None:
    stands = root / next(name for name in files_of(root, ids[0]) if name.endswith(".mp4"))
    stands.unlink()
    (stands / "of-mine").mkdir(parents=True)
    code, _, err = say("remove", "--yes", ids[0])
    name = stands.relative_to(root)
    assert (code, err.count("\n")) == (0, 1)
    assert f"recording {ids[0]}: a directory was left: {name}" in err
    assert (stands / "of-mine").is_dir()
    code, _, err = say("remove", "--yes", ids[1])
    assert (code, err) == (0, "")
    (stands / "of-mine").rmdir()
    stands.rmdir()
    assert_removed(root, *ids[:2])


@pytest.mark.parametrize("levels", [1, 3], ids=["a year", "a day"])
def test_a_disk_that_is_not_mounted_keeps_what_is_on_it(
    levels: int, root: Path, ids: list[int], say: Say
) -> None:
    part = root.joinpath(*Path(files_of(root, ids[0])[0]).parts[:levels])
    away = root.parent / "away"
    part.rename(away)
    part.mkdir()
    before = catalog_path(root).read_bytes()
    code, _, err = say("remove", "--yes", *ids)
    assert code == 6
    assert "is the drive mounted?" in err
    assert catalog_path(root).read_bytes() == before
    part.rmdir()
    away.rename(part)
    assert say("remove", "--yes", *ids)[0] == 0
    assert_removed(root, *ids)


@pytest.mark.parametrize("mount_point", [True, False])
def test_a_disk_that_goes_before_the_removal_is_over(
    mount_point: bool,
    root: Path,
    ids: list[int],
    say: Say,
    service: SimulatedService,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What could not be deleted is not forgotten while nobody can see it."""
    with monkeypatch.context() as patch:
        patch.setattr("g2a_archive.archive.database.tombstones._delete", lambda *_: None)
        assert say("remove", "--yes", *ids)[0] == 0
    year, away = root / "2014", root.parent / "away"
    year.rename(away)
    if mount_point:
        year.mkdir()
    assert "is the drive mounted?" in say("remove", "--yes", ids[0])[2]
    if mount_point:
        year.rmdir()
    away.rename(year)
    assert files_of(root, ids[0])
    assert run_here(service, root, ids).exit_code == 0
    assert_removed(root, *ids)


def test_not_without_the_lock(root: Path, ids: list[int], say: Say) -> None:
    lock = RunLock(root / ".g2a-archive" / "lock")
    lock.acquire()
    try:
        code, out, err = say("remove", "--yes", ids[0])
        assert (code, out) == (5, "")
        assert "another run is working on this archive" in err
        assert say("remove", ids[0])[0] == 0  # to ask what would go is no harm
    finally:
        lock.release()
    assert len(files_of(root, ids[0])) == 3


def test_a_signal_before_the_first_step_and_one_after_it(
    root: Path, ids: list[int], say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, nothing is removed; what has begun is done to its end, and is told."""
    for name, gone in (("choose_ids", 0), ("remove", 1)):
        with monkeypatch.context() as patch:
            real = getattr(removing, name)

            def signalled(*args: object, real: Callable[..., object] = real) -> object:
                os.kill(os.getpid(), signal.SIGTERM)
                return real(*args)

            patch.setattr(removing, name, signalled)
            code, out, _ = say("remove", "--yes", ids[0])
        assert (code, out[:7]) == (143, "Removed" if gone else "")
        assert list(states(root).values()).count("removed") == gone
    assert_removed(root, ids[0])


BAD = "not a recording ID: "


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--yes"], "no recordings were named"),
        (["--yes", "--before", "2999-01-01"], "--before is in the future"),
        (["--yes", "--before", "soon"], "--before: 'soon' is no date, time or age"),
        (["--yes", "4711"], "has never heard of 4711; nothing was removed"),
        (["--yes", "--before", "10d", "FIRST"], "--before removes by date, IDs by name"),
        (["--yes", "--before", "10d", "--except", "BAD"], BAD),
        (["--yes", "FIRST", "--except", "nowhere"], "cannot read the IDs from nowhere"),
        (["--yes", "FIRST", "x"], BAD),
        (["--yes", "FIRST", "--reason", ""], "--reason: it must not be empty"),
    ],
)
def test_bad_input_changes_nothing(
    args: list[str], words: str, root: Path, ids: list[int], say: Say, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_text("1\n1.23457E+18\n")
    before = catalog_path(root).read_bytes(), archive_files(root)
    given = [{"FIRST": str(ids[0]), "BAD": str(bad)}.get(arg, arg) for arg in args]
    code, out, err = say("remove", *given)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert (catalog_path(root).read_bytes(), archive_files(root)) == before


def test_there_must_be_an_archive(root: Path, say: Say) -> None:
    code, _, err = say("remove", "--yes", "1")
    assert code == 6
    assert "there is no archive at" in err
    assert not root.exists()


def test_an_archive_of_nothing_but_tombstones(
    root: Path, ids: list[int], say: Say, service: SimulatedService
) -> None:
    assert say("remove", "--yes", *ids)[0] == 0
    assert_removed(root, *ids)
    assert archive_files(root) == {}
    assert say("verify")[0] == 0
    assert say("status", "--fingerprint")[1].split()[2] == "0"
    assert run_here(service, root, ids).exit_code == 0
    shutil.rmtree(root / ".g2a-archive" / "partial")
    assert run_here(service, root, ids, again=True).archived == len(ids)


def test_a_list_of_what_was_removed_that_cannot_be_read_is_said(
    service: SimulatedService, root: Path, ids: list[int], say: Say
) -> None:
    """A run goes on, with the catalogue's word; an older catalogue would not know of a removal."""
    say("remove", "--yes", ids[0])
    run = plain_args(root, *ids)
    assert "removed.csv" not in run_cli(run, service.environment()).stderr
    fault = Fault("open", "*/removed.csv", errno.EIO)
    result = run_cli(run, {**service.environment(), **playing([fault])})
    assert result.returncode == 0, result.stderr
    assert "cannot read" in result.stderr
    assert "removed.csv: Input/output error" in result.stderr
    assert_removed(root, ids[0])
