"""Odd things where the program's own files should be: links, pipes, junk, names in no encoding."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support import (
    assert_archive_equals,
    catalog_path,
    clean_environment,
    cli_here,
    command,
    plain_args,
    relative_path,
    run_cli,
    run_here,
    states,
)
from support.service import Serve

from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.disk.flushing import boot_id
from g2a_archive.archive.disk.hashing import hash_file
from g2a_archive.demo import SimulatedService, faults
from g2a_archive.errors import CatalogError, ExitCode
from g2a_archive.models import FileKind


@pytest.fixture
def service(serve: Serve) -> SimulatedService:
    return serve(3)


def partial(root: Path) -> Path:
    directory = root / ".g2a-archive" / "partial"
    directory.mkdir(parents=True)
    return directory


def test_a_link_in_partial_is_not_followed(
    service: SimulatedService, root: Path, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    first, second, third = service.recordings
    directory = partial(root)
    (directory / f"{first}.mp4.part").symlink_to(precious)
    (directory / f"{second}.mp4.part").hardlink_to(precious)
    os.mkfifo(directory / f"{third}.mp4.part")
    for id_ in service.recordings:
        note = json.dumps({**NOTE, "boot": boot_id()})
        (directory / f"{id_}.mp4.json").write_text(note)
    assert run_here(service, root, service.recordings).exit_code == 0
    assert precious.read_text() == "precious"
    assert not (root / relative_path(service.recordings[first], "mp4")).is_symlink()
    assert_archive_equals(service, root)


NOTE = {
    "total": 5000, "etag": '"e"', "modified": None, "flushed": 0, "size": None, "extents": [],
}  # fmt: skip
NOTES: list[dict[str, Any]] = [
    {"size": float("inf")},
    {"flushed": float("inf"), "boot": "another"},
    {"flushed": -5, "boot": "another"},
    {"size": -5},
    {"extents": [[float("inf"), 1]]},
    {"extents": 7},
    {"etag": '"€"'},
    {"etag": '"a\r\nX: y"'},
    {"etag": None, "modified": "\ud800" * 20},
    {"total": [1]},
]


def test_a_note_that_makes_no_sense(serve: Serve, root: Path) -> None:
    """Each of them is one recording's."""
    service, directory = serve(len(NOTES)), partial(root)
    for id_, note in zip(service.recordings, NOTES, strict=True):
        (directory / f"{id_}.mp4.part").write_bytes(bytes(2000))
        text = json.dumps({**NOTE, "boot": boot_id(), **note})
        (directory / f"{id_}.mp4.json").write_text(text)
    report = run_here(service, root, service.recordings)
    assert [*report.failed] == []
    assert report.exit_code == 0
    assert_archive_equals(service, root)


def test_a_pipe_as_a_note(service: SimulatedService, root: Path) -> None:
    id_ = next(iter(service.recordings))
    directory = partial(root)
    (directory / f"{id_}.mp4.part").write_bytes(bytes(2000))
    os.mkfifo(directory / f"{id_}.mp4.json")
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_archive_equals(service, root)


def test_a_pipe_as_checksums(service: SimulatedService, root: Path) -> None:
    recording = next(iter(service.recordings.values()))
    day = (root / relative_path(recording, "mp4")).parent
    day.mkdir(parents=True)
    os.mkfifo(day / "SHA256SUMS")
    report = run_here(service, root, service.recordings)
    assert report.exit_code == ExitCode.FAILED
    assert "SHA256SUMS" in report.abort_messages[0]
    (day / "SHA256SUMS").unlink()
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_archive_equals(service, root)


@pytest.mark.parametrize(
    ("name", "args", "told"),
    [
        (".g2a-archive/removed.csv", ["verify", "--rebuild"], "removed.csv: it is no plain file"),
        ("index.html", ["browse"], "index.html is not a page of g2a-archive"),
    ],
)
def test_a_pipe_in_place_of_a_file_is_not_waited_for(
    name: str, args: list[str | int | Path], told: str, service: SimulatedService, root: Path
) -> None:
    assert run_here(service, root, service.recordings).exit_code == 0
    os.mkfifo(root / name)
    result = run_cli([*args, "--dest", root])
    assert (result.returncode, result.stderr.count("\n")) == (ExitCode.STORAGE, 1)
    assert told in result.stderr


def test_a_file_that_cannot_be_read_is_fetched_again(
    service: SimulatedService, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_here(service, root, service.recordings)
    catalog_path(root).unlink()
    broken = next(iter(service.recordings.values()))

    def bad_sector(path: str) -> tuple[int, str]:
        if path.endswith(relative_path(broken, "mp4")):
            raise OSError(errno.EIO, "Input/output error", path)
        return hash_file(path)

    monkeypatch.setattr("g2a_archive.download.transfer.adoption.hash_file", bad_sector)
    report = run_here(service, root, service.recordings)
    assert (report.exit_code, report.archived) == (0, 3)
    assert report.kept_aside == [relative_path(broken, "mp4") + ".kept-1"]


def test_a_run_for_other_kinds_leaves_damage_owed(service: SimulatedService, root: Path) -> None:
    run_here(service, root, service.recordings)
    id_ = next(iter(service.recordings))
    (root / relative_path(service.recordings[id_], "mp4")).write_bytes(b"bad")
    assert cli_here(["verify", "-d", root]).returncode == 1
    thumbnails = (FileKind.THUMBNAIL,)
    assert run_here(service, root, [], owed=True, kinds=thumbnails).exit_code == 0
    assert states(root)[id_] == "damaged"
    assert run_here(service, root, [], owed=True).exit_code == 0
    assert states(root)[id_] == "archived"
    assert (root / f"{relative_path(service.recordings[id_], 'mp4')}.kept-1").exists()


def test_what_is_not_recorded_is_not_counted(
    service: SimulatedService, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise CatalogError("cannot write the catalogue")

    monkeypatch.setattr(Catalog, "record_results", refuse)
    report = run_here(service, root, service.recordings)
    assert report.exit_code == ExitCode.STORAGE
    assert report.archived == 0
    assert sorted(report.unfinished) == sorted(service.recordings)


@pytest.mark.parametrize("name", [b"u\xff", "dé".encode()])
def test_a_destination_in_no_encoding(
    service: SimulatedService, tmp_path: Path, name: bytes
) -> None:
    root = tmp_path / os.fsdecode(name)
    commands: list[list[str | int | Path]] = [
        plain_args(root, *service.recordings),
        ["status", "-d", root],
    ]
    for arguments in commands:
        result = run_cli(arguments, service.environment())
        assert (result.returncode, result.stderr) == (0, "")
    assert_archive_equals(service, root)


@pytest.mark.parametrize("location", ["http://[", "http://x/\xff", "//"])
def test_a_redirect_of_the_service(service: SimulatedService, root: Path, location: str) -> None:
    service.fail(faults.redirect(location), call="links")
    report = run_here(service, root, service.recordings)
    assert report.exit_code == ExitCode.SERVICE
    assert "302" in next(iter(report.failed)).reason


CLOSED = "import os, sys; os.close(1); sys.stdout = sys.__stdout__ = None"
"""What Python makes of it at its start."""


def test_a_closed_stdout(service: SimulatedService, root: Path) -> None:
    run_here(service, root, service.recordings)
    lines = ("export --csv", "export --json", "status --by year --csv")
    results = [
        run_cli([*line.split(), "-d", root], before=CLOSED, stdout=subprocess.DEVNULL)
        for line in lines
    ]
    really = ["sh", "-c", '"$@" >&-', "sh", *command([*lines[0].split(), "-d", root])]
    env = clean_environment()
    results.append(subprocess.run(really, env=env, capture_output=True, text=True, check=False))
    for result in results:
        assert result.returncode == ExitCode.STORAGE
        assert result.stderr.count("\n") == 1
        assert "standard output" in result.stderr


def test_config_alone_shows_its_help() -> None:
    result = cli_here(["config"])
    assert result.returncode == 0
    assert "show" in result.stdout


def test_a_rehearsal_without_the_drive(service: SimulatedService, root: Path) -> None:
    report = run_here(service, root, service.recordings, dry_run=True, no_create=True)
    assert report.exit_code == ExitCode.STORAGE
    assert not root.exists()


def test_a_link_to_nowhere_in_place_of_a_file_is_mended(
    service: SimulatedService, root: Path, tmp_path: Path
) -> None:
    assert run_here(service, root, service.recordings).exit_code == 0
    recording = next(iter(service.recordings.values()))
    path = root / relative_path(recording, "mp4")
    path.unlink()
    path.symlink_to(tmp_path / "nowhere.mp4")
    assert cli_here(["verify", "--dest", root]).returncode == ExitCode.FAILED
    assert run_here(service, root, [], owed=True).exit_code == 0
    assert not path.is_symlink()
    path.with_name(f"{path.name}.kept-1").unlink()
    assert_archive_equals(service, root)
    assert not (tmp_path / "nowhere.mp4").exists()
    assert cli_here(["verify", "--dest", root]).returncode == 0


def test_a_directory_in_place_of_a_file_is_kept_aside(
    service: SimulatedService, root: Path
) -> None:
    assert run_here(service, root, service.recordings).exit_code == 0
    path = root / relative_path(next(iter(service.recordings.values())), "mp4")
    path.unlink()
    (path / "of-mine").mkdir(parents=True)
    assert run_here(service, root, service.recordings).archived == 1
    aside = path.with_name(f"{path.name}.kept-1")
    (aside / "of-mine").rmdir()
    aside.rmdir()
    assert_archive_equals(service, root)


def test_a_file_larger_than_a_word_counts(serve: Serve, root: Path, tmp_path: Path) -> None:
    """As one of 2 GiB is where words have 32 bits: it is whole all the same."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.maxsize = 9_999")
    service = serve(1, rate_limit=None)
    env = {**service.environment(), "PYTHONPATH": str(tmp_path)}
    assert run_cli(plain_args(root, *service.recordings), env).returncode == 0
    result = run_cli(["verify", "--dest", root], env)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    catalog_path(root).unlink()
    result = run_cli(["verify", "--rebuild", "--dest", root], env)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    assert_archive_equals(service, root)


@pytest.mark.parametrize("name", ["lock", "lock.lease", "catalog.sqlite3"])
def test_a_directory_where_a_file_is_needed(
    name: str, service: SimulatedService, root: Path
) -> None:
    path = root / ".g2a-archive" / name
    path.mkdir(parents=True)
    result = cli_here(plain_args(root, *service.recordings), service.environment())
    assert result.returncode == ExitCode.STORAGE
    assert f"{path}: Is a directory (a directory stands where a file" in result.stderr
    path.rmdir()
    assert run_here(service, root, service.recordings).exit_code == 0


def test_a_directory_in_place_of_sums_is_told_until_it_is_moved(
    service: SimulatedService, root: Path
) -> None:
    """The recordings of that day are archived all the same."""
    first = next(iter(service.recordings.values()))
    path = (root / relative_path(first, "mp4")).with_name("SHA256SUMS")
    path.mkdir(parents=True)
    args = plain_args(root, *service.recordings)
    for _ in range(2):
        result = cli_here(args, service.environment())
        assert result.returncode == ExitCode.FAILED
        assert f"{path}: Is a directory (a directory stands where a file" in result.stderr
    path.rmdir()
    assert cli_here(args, service.environment()).returncode == 0
    assert_archive_equals(service, root)
