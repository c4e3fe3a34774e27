"""The command `check`: it ends as the next run would, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import archives, catalog_path, cli_here, plain_args, run_cli
from support.cli import FIRST, Args, tree
from support.clocks import YEAR, clock_off_by
from support.sync import change

from g2a_archive.archive.database import connection
from g2a_archive.archive.disk.lock import RunLock
from g2a_archive.cli.setup import check
from g2a_archive.demo import SimulatedService, faults
from g2a_archive.errors import ExitCode

LOG_LINE = re.compile(r"\S+Z WARNING the access token in \S+\\x1b\[31m token can be read .*\n")

archive = archives.archive
original = archives.original
service = archives.service


def checked(service: SimulatedService, root: Path, *more: str | Path) -> tuple[int, list[str]]:
    """The exit code of `check`, and what it finds wrong, or all where that is nothing."""
    before = tree(root)
    args = ["check", "--dest", root, "--min-free", "0", *more]
    result = cli_here(args, service.environment())
    assert tree(root) == before
    assert "Traceback" not in result.stderr
    lines = result.stdout.splitlines()
    return result.returncode, [line for line in lines if line.startswith("FAIL")] or lines


def next_run(service: SimulatedService, root: Path, *more: str | Path) -> int:
    args = plain_args(root, *more, "--again", FIRST, FIRST + 1)
    return cli_here(args, service.environment()).returncode


def damaged(root: Path) -> None:
    with open(catalog_path(root), "r+b") as file:
        file.seek(2 * 4096)
        file.write(b"\xff" * 2 * 4096)


def dangling(root: Path) -> None:
    catalog_path(root).unlink()
    catalog_path(root).symlink_to("/nowhere/at/all")


def directory(root: Path) -> None:
    catalog_path(root).unlink()
    catalog_path(root).mkdir()


def partial(root: Path) -> None:
    shutil.rmtree(root / ".g2a-archive" / "partial")
    (root / ".g2a-archive" / "partial").touch()


def lock(root: Path) -> None:
    (root / ".g2a-archive" / "lock").unlink(missing_ok=True)
    (root / ".g2a-archive" / "lock").mkdir()


def dangling_lock(root: Path) -> None:
    (root / ".g2a-archive" / "lock").unlink()
    (root / ".g2a-archive" / "lock").symlink_to("/nowhere/at/all")


def test_quiet_tells_only_what_is_wrong(service: SimulatedService, archive: Path) -> None:
    assert checked(service, archive, "-q") == (0, [])
    args: Args = ["check", "-q", "--dest", archive, "--min-free", "900T"]
    result = cli_here(args, service.environment())
    assert result.returncode == ExitCode.STORAGE
    assert result.stdout.startswith("FAIL  destination: ")
    assert (result.stdout.count("\n"), result.stderr) == (1, "")


def test_its_warnings_are_log_lines(
    service: SimulatedService, archive: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "a\x1b[31m token"
    secret.write_text(service.token)
    secret.chmod(0o644)
    env = {**service.environment(), "G2A_ARCHIVE_TOKEN": "", "G2A_ARCHIVE_TOKEN_FILE": str(secret)}
    args: Args = ["check", "--dest", archive, "--min-free", "0"]
    result = run_cli(args, env)
    assert result.returncode == 0, result.stdout
    assert LOG_LINE.fullmatch(result.stderr), result.stderr
    assert run_cli([*args, "-q"], env).stderr == ""


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (damaged, "is damaged: "),
        (dangling, "cannot open the catalogue"),
        (directory, "cannot open the catalogue"),
        (partial, "partial: Not a directory"),
        (lock, "cannot open the lock"),
        (dangling_lock, "cannot open the lock"),
    ],
)
def test_what_would_stop_the_next_run(
    service: SimulatedService, archive: Path, harm: Callable[[Path], None], words: str
) -> None:
    harm(archive)
    code, wrong = checked(service, archive)
    assert code == ExitCode.STORAGE
    assert len(wrong) == 1
    assert words in wrong[0]
    assert next_run(service, archive) == ExitCode.STORAGE


@pytest.mark.parametrize(
    "name", ["catalog.sqlite3", "catalog.sqlite3-journal", "lock", "partial", ""]
)
def test_what_this_user_may_not_write(
    service: SimulatedService, archive: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    place = archive / ".g2a-archive" / name
    if name.endswith("-journal"):
        place.touch()
    real = os.open

    def refusing(path: Any, flags: int, *args: Any, **more: Any) -> int:
        writing = flags & (os.O_WRONLY | os.O_RDWR)
        if writing and str(place) in (str(path), os.path.dirname(str(path))):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, flags, *args, **more)

    monkeypatch.setattr(os, "open", refusing)
    code, wrong = checked(service, archive)
    assert code == ExitCode.STORAGE
    assert "Permission denied (give the user that runs this permission" in wrong[0]


def test_a_catalogue_elsewhere_in_a_place_that_cannot_be(
    service: SimulatedService, archive: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    code, wrong = checked(service, archive, "--catalog", tmp_path / "file" / "catalog")
    assert code == ExitCode.STORAGE
    assert "Not a directory" in wrong[0]
    assert next_run(service, archive, "--catalog", tmp_path / "file" / "catalog") == code
    new = tmp_path / "new" / "catalog"
    assert checked(service, archive, "--catalog", new)[0] == ExitCode.OK
    assert not new.parent.exists()
    catalog_path(archive).rename(tmp_path / "catalog")
    code, wrong = checked(service, tmp_path / "another", "--catalog", tmp_path / "catalog")
    assert code == ExitCode.STORAGE
    assert "is not the archive that the catalogue" in wrong[0]


@pytest.mark.parametrize("off", [YEAR, -YEAR])
def test_clocks_that_differ(service: SimulatedService, archive: Path, off: float) -> None:
    with clock_off_by(off):
        code, wrong = checked(service, archive)
    assert code == ExitCode.FAILED
    (line,) = wrong
    assert re.fullmatch(
        r"FAIL  clock: differs by 87\d\d h \d\d min from the service's: set this machine's", line
    )
    with clock_off_by(off / 1e6):  # half a minute
        code, lines = checked(service, archive)
    assert (code, "ok    clock: agrees with the service's" in lines) == (0, True)


@pytest.mark.parametrize(("off", "fine"), [(0.0, True), (-10 * YEAR, False)])
def test_a_service_that_tells_no_time(
    service: SimulatedService, archive: Path, off: float, fine: bool
) -> None:
    service.fail(faults.undated())
    with clock_off_by(off):
        code, lines = checked(service, archive)
    assert code == (ExitCode.OK if fine else ExitCode.FAILED)
    (line,) = [line for line in lines if "clock: " in line]
    assert re.fullmatch(r"(ok|FAIL) +clock: 20\d\d-\d\d-\d\d \d\d:\d\d UTC", line)


LONG = "n" * 300
"""No file system has names of that length."""


@pytest.mark.parametrize("option", ["--log-file", "--error-file", "--metrics-file"])
@pytest.mark.parametrize(
    ("place", "code", "words"),
    [
        ("there", 0, "can be written"),
        ("new", 0, "can be written"),
        ("nowhere/new", 2, "there is no directory"),
        (".", 2, "is a directory"),
        ("archive/.g2a-archive/catalog.sqlite3", 2, "is the archive's own"),
        ("archive/.g2a-archive/catalog.sqlite3-journal", 2, "is the archive's own"),
        ("archive/.g2a-archive/catalog.sqlite3.schema-1", 2, "is the archive's own"),
        ("archive/.g2a-archive/lock.lease", 2, "is the archive's own"),
        ("archive/9.mp4", 2, "is the archive's own"),
        ("archive/SHA256SUMS", 2, "is the archive's own"),
        ("archive/.g2a-archive/removed.csv", 2, "is the archive's own"),
        ("archive/errors.txt", 0, "can be written"),
        (f"{LONG}/new", 6, f"{LONG}/new: File name too long"),
    ],
)
def test_files_beside_the_archive(
    service: SimulatedService,
    archive: Path,
    tmp_path: Path,
    option: str,
    place: str,
    code: int,
    words: str,
) -> None:
    (tmp_path / "there").write_text("what was there")
    before = sorted(tmp_path.iterdir())
    found, lines = checked(service, archive, option, tmp_path / place)
    assert found == code
    assert words in lines[-1]
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "there").read_text() == "what was there"
    assert next_run(service, archive, option, tmp_path / place) == code


@pytest.mark.parametrize("name", ["lock", "lock.lease"])
def test_the_lock_beside_a_link_to_the_catalogue(
    service: SimulatedService, archive: Path, tmp_path: Path, name: str
) -> None:
    """It is not beside what the link leads to."""
    (tmp_path / "far").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "far/catalog")
    args: list[str | Path] = [
        "--catalog",
        tmp_path / "linked",
        "--log-file",
        tmp_path / f"linked.{name}",
    ]
    assert next_run(service, archive, *args) == ExitCode.USAGE


def test_one_file_for_two_things(service: SimulatedService, archive: Path, tmp_path: Path) -> None:
    """Which of both would be in it at the end?"""
    (tmp_path / "link").symlink_to(tmp_path / "x")
    both: list[str | Path] = ["--error-file", tmp_path / "x", "--log-file", tmp_path / "link"]
    code, wrong = checked(service, archive, *both)
    assert code == ExitCode.USAGE
    assert f"--log-file: {tmp_path / 'link'} is the file for --error-file, too" in wrong[0]
    assert next_run(service, archive, *both) == code
    assert not (tmp_path / "x").exists()
    (tmp_path / "config").write_text("quiet = true\n")
    both = ["--config", tmp_path / "config", "--metrics-file", tmp_path / "config"]
    code, wrong = checked(service, archive, *both)
    assert f"--metrics-file: {tmp_path / 'config'} is the file for --config, too" in wrong[0]
    assert next_run(service, archive, *both) == code == ExitCode.USAGE
    assert (tmp_path / "config").read_text() == "quiet = true\n"
    for device in (os.devnull, "/dev/stderr"):
        nowhere = ["--error-file", device, "--metrics-file", device, "--log-file", device]
        assert checked(service, archive, *nowhere)[0] == ExitCode.OK
        assert next_run(service, archive, *nowhere) == ExitCode.OK


@pytest.mark.parametrize("name", ["catalog.sqlite3", "lock", "{}.mp4", "SHA256SUMS"])
def test_an_export_takes_the_place_of_nothing_archived(
    service: SimulatedService, archive: Path, name: str
) -> None:
    target = next(archive.rglob(name.format(FIRST)))
    before = tree(archive)
    args: Args = ["export", "--csv", "--dest", archive, "--output", target]
    result = cli_here(args, service.environment())
    assert result.returncode == ExitCode.USAGE
    assert "is the archive's own (name another file)" in result.stderr
    assert tree(archive) == before


def test_a_log_that_this_user_may_not_write(
    service: SimulatedService, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log").touch()
    monkeypatch.setattr(os, "access", lambda *_: False)
    code, wrong = checked(service, archive, "--log-file", tmp_path / "log")
    assert code == ExitCode.STORAGE
    assert "cannot open the log file" in wrong[0]


def test_a_destination_that_cannot_be_looked_at(service: SimulatedService, tmp_path: Path) -> None:
    args: list[str | Path] = ["check", "--json", "--dest", tmp_path / LONG]
    result = cli_here(args, service.environment())
    report = json.loads(result.stdout)
    assert result.returncode == report["exit_code"] == ExitCode.STORAGE
    wrong = [one for one in report["checks"] if not one["ok"]]
    assert [one["check"] for one in wrong] == ["destination", "lock", "catalogue"]
    assert all(LONG in one["message"] for one in wrong)
    assert result.stderr == ""


def test_beside_a_run_it_waits_for_nothing(
    service: SimulatedService, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object) -> bool:
        raise AssertionError("a run would have to wait for this")

    monkeypatch.setattr(connection.Database, "check_integrity", read)
    held = RunLock(archive / ".g2a-archive" / "lock")
    held.acquire()
    code, wrong = checked(service, archive)
    held.release()
    assert code == ExitCode.LOCKED
    assert "another run is working on this archive: host " in wrong[0]
    catalog_path(archive).rename(tmp_path / "catalog")
    held = RunLock(tmp_path / "catalog.lock")
    held.acquire()
    assert checked(service, archive, "--catalog", tmp_path / "catalog")[0] == ExitCode.LOCKED
    held.release()


def test_a_large_catalogue_is_read_for_some_seconds(
    service: SimulatedService, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, lines = checked(service, archive)
    assert (code, "8 recordings archived, 0 owed" in lines[-1]) == (0, True)
    assert "not to its end" not in lines[-1]
    change(archive, "UPDATE recording SET state = 'failed' WHERE id = ?", FIRST)
    assert "7 recordings archived, 1 owed" in checked(service, archive)[1][-1]
    monkeypatch.setattr(check, "_READING", -1.0)
    real = sqlite3.connect

    def connect(*args: Any, **more: Any) -> Any:
        return real(*args, **{**more, "factory": Hasty})

    monkeypatch.setattr(sqlite3, "connect", connect)
    code, lines = checked(service, archive)
    assert code == 0
    assert "not to its end" in lines[-1]


class Hasty(sqlite3.Connection):
    """Asks after each step whether to go on, as else only a long query does."""

    def set_progress_handler(self, handler: Any, n: int) -> None:
        super().set_progress_handler(handler, 1)
