"""What a run finds at its destination: another run, a broken catalogue, files of its own or not."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from itertools import product
from pathlib import Path

import pytest
from support import (
    archive_files,
    archives,
    assert_archive_equals,
    assert_nothing_false,
    catalog_path,
    catalog_rows,
    cli_here,
    download_args,
    plain_args,
    relative_path,
    run_cli,
    run_here,
    start_cli,
    states,
)
from support.cli import Args
from support.service import Serve

from g2a_archive.archive.database.copying import require_plain
from g2a_archive.archive.disk import strictpath
from g2a_archive.archive.storage import check_destination, has_catalog
from g2a_archive.console.outputs import is_replaced
from g2a_archive.demo import SimulatedService, faults
from g2a_archive.demo.recordings import KINDS
from g2a_archive.errors import ExitCode

original = archives.original
archive = archives.archive
service = archives.service

# --- two at once -----------------------------------------------------------------------------


def test_two_runs_at_once(serve: Serve, root: Path) -> None:
    service = serve(2)
    service.fail_files(faults.stall(10))
    args = download_args(root, "--timeout", "3600", "--jobs", 1, *service.recordings)
    with start_cli(args, service.environment()) as first:
        assert service.requests.wait_for_stall()
        before = service.requests.count
        second = cli_here(plain_args(root, *service.recordings), service.environment())
        assert second.returncode == ExitCode.LOCKED
        assert f"host {socket.gethostname()}, process {first.pid}" in second.stderr
        assert second.stderr.count("\n") == 1
        assert service.requests.count == before

        status = cli_here(["status", "--dest", root])
        assert status.returncode == 0, status.stderr
        first.kill()  # and the system lets go of the lock
        first.wait(timeout=30)
    service.on_request.clear()
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_archive_equals(service, root)


def test_two_archives_with_one_catalogue(serve: Serve, root: Path, tmp_path: Path) -> None:
    service = serve(2)
    catalog = tmp_path / "catalog.sqlite3"
    service.fail_files(faults.stall(10))
    args: list[str | int | Path] = ["--timeout", "3600", "--catalog", catalog]
    args += service.recordings
    with start_cli(download_args(root, *args), service.environment()):
        assert service.requests.wait_for_stall()
        other = tmp_path / "other"
        (other / ".g2a-archive").mkdir(parents=True)
        result = cli_here(plain_args(other, *args), service.environment())
        assert result.returncode == ExitCode.LOCKED
    assert not archive_files(other)


def test_a_run_beside_a_reader_of_the_catalogue(serve: Serve, root: Path) -> None:
    service = serve(2)
    run_here(service, root, [])
    readers: list[sqlite3.Connection] = []

    def begin(_: object) -> None:
        if not readers:
            db = sqlite3.connect(catalog_path(root), check_same_thread=False)
            readers.append(db)
            db.execute("BEGIN")
            db.execute("SELECT count(*) FROM recording").fetchall()

    service.on_links.append(begin)
    with start_cli(download_args(root, *service.recordings), service.environment()) as process:
        assert service.requests.wait_for(
            lambda log: sum(entry.finished for entry in log.calls("links")) == 1
        )
        assert process.poll() is None
        readers[0].rollback()
        readers[0].close()
        assert process.wait(timeout=60) == 0
    assert_archive_equals(service, root)


def test_a_catalogue_that_stays_locked(
    serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("g2a_archive.archive.database.connection._BUSY_TIMEOUT", 0.1)
    service = serve(2)
    ids = list(service.recordings)
    run_here(service, root, ids[:1])
    with closing(sqlite3.connect(catalog_path(root))) as other:
        other.execute("BEGIN EXCLUSIVE")
        report = run_here(service, root, ids)
    assert report.exit_code == ExitCode.STORAGE
    assert len(report.abort_messages) == 1
    assert "has been locked for" in report.abort_messages[0]
    assert "--catalog" in report.abort_messages[0]
    assert run_here(service, root, ids).exit_code == 0
    assert_archive_equals(service, root)


# --- catalogues that cannot be used ----------------------------------------------------------


def garbage(path: Path) -> None:
    path.write_bytes(b"\0garbage" * 4000)


def text(path: Path) -> None:
    path.write_text("This was the catalogue.\n" * 100)


def damaged_pages(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100:] = b"\xa5" * (len(content) - 100)
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE photos (name TEXT)")


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("spoil", "words", "hint"),
    [
        (garbage, "is damaged", "move it away; the next download adopts the files"),
        (text, "is damaged", "move it away; the next download adopts the files"),
        (damaged_pages, "is damaged", "move it away; the next download adopts the files"),
        (cut_short, "is damaged", "move it away; the next download adopts the files"),
        (foreign, "is not a catalogue of g2a-archive", "move it away; the next download adopts"),
        (newer, "is of a newer g2a-archive (schema 99", "upgrade g2a-archive on this machine"),
        (directory, "cannot open the catalogue", "a directory stands where a file is needed"),
        (pipe, "cannot open the catalogue", "a pipe, a device or the like stands where a file"),
        (device, "cannot open the catalogue", "a pipe, a device or the like stands where a file"),
    ],
)
def test_a_catalogue_that_cannot_be_used(
    spoil: Callable[[Path], None], words: str, hint: str, service: SimulatedService, archive: Path
) -> None:
    ids, root = list(service.recordings), archive
    before = {name: path.read_bytes() for name, path in archive_files(root).items()}
    catalog = catalog_path(root)
    spoil(catalog)
    service.requests.clear()
    result = cli_here(plain_args(root, *ids), service.environment())
    assert result.returncode == ExitCode.STORAGE
    assert str(catalog) in result.stderr
    assert words in result.stderr
    assert hint in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("\n") == 1
    assert service.requests.counts["file"] == 0
    assert {name: path.read_bytes() for name, path in archive_files(root).items()} == before

    # What the hint advises works.
    catalog.rename(root / "moved-away")
    report = run_here(service, root, ids)
    assert (report.exit_code, report.adopted, report.files) == (0, 24, 0)
    if (root / "moved-away").is_dir():
        (root / "moved-away").rmdir()
    else:
        (root / "moved-away").unlink()
    assert_archive_equals(service, root)
    assert service.requests.counts["file"] == 0


@pytest.mark.parametrize("name", ["catalog.sqlite3", "catalog.sqlite3-journal"])
@pytest.mark.parametrize("command", ["status", "verify", "export --json", "merge"])
def test_nobody_waits_for_a_pipe(name: str, command: str, archive: Path, tmp_path: Path) -> None:
    path = archive / ".g2a-archive" / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    args: Args = [*command.split(), "--dest", archive]
    if command == "merge":
        args = ["merge", "--dest", tmp_path / "new", archive]
    result = run_cli(args)
    assert result.returncode == ExitCode.STORAGE
    assert f"cannot open the catalogue {path}: it is no plain file" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_pipe_in_place_of_the_lock(service: SimulatedService, archive: Path) -> None:
    """`check` says so, as a run does."""
    path = archive / ".g2a-archive" / "lock"
    path.unlink()
    os.mkfifo(path)
    asking: list[Args] = [["check", "-d", archive], ["status", "-d", archive]]
    for args in (*asking, plain_args(archive, 1)):
        result = run_cli(args, service.environment())
        told = f"cannot open the lock {path}: it is no plain file: move it away"
        assert result.returncode == (0 if args[0] == "status" else ExitCode.STORAGE)
        assert (told in result.stdout + result.stderr) == (args[0] != "status")


def test_a_letter_that_flipped_in_the_catalogue(archive: Path, tmp_path: Path) -> None:
    """SQLite does not notice that."""
    with closing(sqlite3.connect(catalog_path(archive))) as db, db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        db.execute("UPDATE file SET kind = 'mp5' WHERE kind = 'mp4'")
        (id_,) = db.execute("SELECT min(id) FROM recording").fetchone()
    for command, *more in (
        ("verify", "--dest", archive),
        ("browse", "--dest", archive),
        ("bag", "--dest", archive, tmp_path / "bag", id_),
        ("merge", "--dest", tmp_path / "other", archive),
    ):
        result = cli_here([command, *map(str, more)])
        assert result.returncode == ExitCode.STORAGE
        assert "the catalogue is damaged: 'mp5' stands" in result.stderr


# --- files that are there, or are not --------------------------------------------------------


@pytest.mark.parametrize("with_sums", [True, False])
def test_a_lost_catalogue_costs_no_file(
    with_sums: bool, service: SimulatedService, archive: Path
) -> None:
    root = archive
    shutil.rmtree(root / ".g2a-archive")
    if not with_sums:
        for path in root.rglob("SHA256SUMS"):
            path.unlink()
    service.requests.clear()
    report = run_here(service, root, service.recordings)
    assert (report.exit_code, report.archived, report.adopted) == (0, 8, 24)
    assert (report.files, report.bytes) == (0, 0)
    # Where no sum proves them, the host is asked for the length of what is no MP4.
    assert service.requests.counts["file"] == (0 if with_sums else 16)
    assert not service.requests.file_requests("mp4")
    assert_archive_equals(service, root)


OTHER = {
    "other bytes": b"not what the service has",
    "an empty file": b"",
    "a web page": b"<!DOCTYPE html><html></html>",
}


def test_another_file_at_a_final_name_is_kept_aside(
    service: SimulatedService, archive: Path
) -> None:
    """Each of them in place of a file of each kind, twice."""
    root, ids = archive, list(service.recordings)
    others = {
        (ids[number % len(ids)], kind): content
        for number, (kind, content) in enumerate(product(KINDS, OTHER.values()))
    }
    names = {relative_path(service.recordings[i], kind): others[i, kind] for i, kind in others}
    for number in (1, 2):
        for name, content in names.items():
            (root / name).write_bytes(content)
        catalog_path(root).unlink()
        service.requests.clear()
        report = run_here(service, root, ids)
        assert report.exit_code == 0
        summary = "\n".join(line for _, line in report.summary())
        assert sorted(report.kept_aside) == sorted(f"{name}.kept-{number}" for name in names)
        for name, content in names.items():
            kept = f"{name}.kept-{number}"
            assert (root / kept).read_bytes() == content
            assert f"kept aside, as another file stood in its place: {kept}" in summary
        asked = [(entry.recording_id, entry.kind) for entry in service.requests.file_requests()]
        assert sorted(asked, key=str) == sorted(others, key=str)
        assert_nothing_false(service, root)


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "kept").touch()


def dangle(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def test_what_is_no_file_at_a_final_name_is_kept_aside(
    service: SimulatedService, archive: Path
) -> None:
    spoilt = list(archive_files(archive).values())[:6]
    catalog_path(archive).unlink()
    for path, spoil in zip(spoilt, 3 * [make_directory, dangle], strict=True):
        spoil(path)
    report = run_here(service, archive, service.recordings)
    assert report.exit_code == 0
    for path in spoilt:
        assert os.path.lexists(f"{path}.kept-1")
        assert path.is_file()
        assert not path.is_symlink()
    assert_nothing_false(service, archive)


def test_a_link_out_of_the_archive_is_not_adopted(
    service: SimulatedService, archive: Path, tmp_path: Path
) -> None:
    """Whatever it leads to: `verify` does not read it, so nothing may be claimed of it."""
    name, path = next(item for item in archive_files(archive).items() if item[0].endswith(".mp4"))
    path.rename(tmp_path / "elsewhere.mp4")
    path.symlink_to(tmp_path / "elsewhere.mp4")
    catalog_path(archive).unlink()
    report = run_here(service, archive, service.recordings)
    assert (report.exit_code, report.kept_aside) == (0, [f"{name}.kept-1"])
    assert cli_here(["verify", "--dest", archive]).returncode == 0
    assert (tmp_path / "elsewhere.mp4").read_bytes() == path.read_bytes()
    path.with_name(f"{path.name}.kept-1").unlink()
    assert_archive_equals(service, archive)


def test_a_file_deleted_by_hand_is_fetched_again(service: SimulatedService, archive: Path) -> None:
    """One of each kind."""
    root, ids = archive, list(service.recordings)
    deleted = list(zip(ids[2:], KINDS, strict=False))
    for id_, kind in deleted:
        (root / relative_path(service.recordings[id_], kind)).unlink()
    service.requests.clear()
    report = run_here(service, root, ids)
    assert (report.exit_code, report.already_archived, report.archived) == (0, 5, 3)
    asked = [(entry.recording_id, entry.kind) for entry in service.requests.file_requests()]
    assert sorted(asked, key=str) == sorted(deleted, key=str)
    assert_archive_equals(service, root)


@pytest.mark.parametrize("level", ["a day", "a month"])
def test_a_directory_deleted_by_hand_is_fetched_again(
    level: str, service: SimulatedService, archive: Path
) -> None:
    """A year may be a disk that is not mounted: see test_unmounted."""
    shutil.rmtree(archive / ("2014/01/01" if level == "a day" else "2014/01"))
    assert run_here(service, archive, service.recordings).exit_code == 0
    assert_archive_equals(service, archive)


def test_a_deleted_file_whose_link_fails_is_owed(serve: Serve, root: Path) -> None:
    service = serve(1)
    id_ = next(iter(service.recordings))
    run_here(service, root, [id_])
    (root / relative_path(service.recordings[id_], "mp4")).unlink()
    service.fail_files(faults.status(404))
    assert run_here(service, root, [id_]).exit_code == 1
    assert states(root) == {id_: "failed"}
    rows = catalog_rows(root, "SELECT kind, damage FROM file ORDER BY kind")
    assert rows == [("events", None), ("mp4", "missing"), ("thumbnail", None)]
    service.on_request.clear()
    assert run_here(service, root, [], owed=True).exit_code == 0
    assert_archive_equals(service, root, [id_])


def test_a_recording_whose_date_changed_stays_where_it_is(serve: Serve, root: Path) -> None:
    """Half of it is archived; a corrected start must not tear it in two."""
    service = serve(1)
    id_ = next(iter(service.recordings))
    service.fail_files(faults.status(404), "mp4")
    run_here(service, root, [id_])
    service.on_request.clear()
    service.on_links.append(
        lambda entries: [
            entry | {"recordingStartTime": "2020-01-01T00:00:00Z"} for entry in entries
        ]
    )
    assert run_here(service, root, [id_]).exit_code == 0
    assert_archive_equals(service, root, [id_])


def test_an_archive_that_another_run_makes_just_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two looks there was a directory, and so "a file"; or a catalogue, still empty."""
    looked = strictpath._stat

    def then_it_is_there(path: Path) -> os.stat_result | None:
        found = looked(path)
        if path.name == "archive":
            path.mkdir(exist_ok=True)
        else:
            path.touch()
        return found

    monkeypatch.setattr(strictpath, "_stat", then_it_is_there)
    check_destination(tmp_path / "archive")
    assert not has_catalog(tmp_path / "archive" / "catalog.sqlite3")
    assert not has_catalog(tmp_path / "archive" / "catalog.sqlite3")


def test_a_journal_comes_and_goes_with_each_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two looks it was gone, and so "no plain file": a reader beside a run ended with 6.

    Nor is a metrics file that another run makes just now to be written on at its end.
    """
    journal = tmp_path / "catalog.sqlite3-journal"
    journal.touch()
    looked = strictpath._stat

    def then_it_is_otherwise(path: Path) -> os.stat_result | None:
        found = looked(path)
        if path.name == journal.name:
            journal.unlink() if found else journal.touch()
        return found

    monkeypatch.setattr(strictpath, "_stat", then_it_is_otherwise)
    require_plain(tmp_path / "catalog.sqlite3")
    assert not journal.exists()
    assert is_replaced(str(journal))
