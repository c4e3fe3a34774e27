"""The local disk fails: full, read-only, gone, forbidden. Exit code 6, and one clear line."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import (
    archive_files,
    assert_archive_equals,
    assert_nothing_false,
    catalog_rows,
    cli_here,
    mounts,
    plain_args,
    relative_path,
    report_of,
    run_cli,
    run_here,
    start_cli,
    states,
)
from support.host import Host, answer
from support.odd import ID, Answers, act
from support.service import Serve

from g2a_archive.archive.storage import Storage
from g2a_archive.console.report import Report
from g2a_archive.demo import SimulatedService, faults, sample_recordings
from g2a_archive.demo.recordings import Kind
from g2a_archive.download.transfer import finish
from g2a_archive.errors import ExitCode

SIZE = 50_000


@pytest.fixture
def service(serve: Serve) -> SimulatedService:
    return serve(sample_recordings(5, mp4_size=SIZE, events_size=500))


def assert_stopped(report: Report, *words: str) -> None:
    """The run was ended by the disk, and says so once."""
    assert report.exit_code == ExitCode.STORAGE
    assert len(report.abort_messages) == 1
    for word in words:
        assert word in report.abort_messages[0]
    assert len(report.failed) == 0


def assert_one_line(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == ExitCode.STORAGE
    assert result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr


# --- full ------------------------------------------------------------------------------------


@pytest.mark.parametrize("announced", [True, False])
def test_a_full_disk(announced: bool, serve: Serve, root: Path) -> None:
    """With announced lengths it is seen before; without, by and by."""
    service = serve(sample_recordings(5, mp4_size=1_200_000, events_size=500))
    if not announced:
        service.fail_files(faults.no_length())
    with mounts.tmpfs(root, "4m"):
        report = run_here(service, root, service.recordings, jobs=1)
        assert_stopped(report, "not enough space")
        assert 1 <= report.archived <= 4
        assert_nothing_false(service, root)
        assert sum(state == "archived" for state in states(root).values()) == report.archived
        assert run_here(service, root, service.recordings).exit_code == ExitCode.STORAGE
        mounts.grow(root, "64m")
        final = {path.stem for path in archive_files(root).values() if path.suffix == ".mp4"}
        service.requests.clear()
        assert run_here(service, root, service.recordings).exit_code == 0
        assert_archive_equals(service, root)
        again = {str(e.recording_id) for e in service.requests.file_requests("mp4")}
        assert final.isdisjoint(again)


def test_a_disk_too_full_for_the_catalogue(service: SimulatedService, root: Path) -> None:
    with mounts.tmpfs(root, "8k"):
        result = cli_here(plain_args(root, *service.recordings), service.environment())
        assert result.returncode == ExitCode.STORAGE
        assert "Traceback" not in result.stderr
        assert service.requests.counts["file"] == 0
        mounts.grow(root, "64m")
        assert run_here(service, root, service.recordings).exit_code == 0
        assert_archive_equals(service, root)


def test_a_full_disk_of_a_catalogue_elsewhere(
    service: SimulatedService, root: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    with mounts.tmpfs(small, "64k"):
        (small / "others").write_bytes(bytes(64 << 10))
        args = [*plain_args(root, *service.recordings), "--catalog", str(small / "c.sqlite3")]
        result = cli_here(args, service.environment())
        assert result.returncode == ExitCode.STORAGE
        assert "choose another --catalog" in result.stderr
        assert "--dest" not in result.stderr


def test_min_free_is_kept(service: SimulatedService, root: Path) -> None:
    with mounts.tmpfs(root, "64m"):
        report = run_here(service, root, service.recordings, min_free=1 << 30)
        assert_stopped(report, "not enough space", "--min-free", "lower")
        assert archive_files(root) == {}
        assert report.bytes == 0
        assert service.requests.count == 0  # it is looked at before anything is asked for
        assert run_here(service, root, service.recordings, min_free=32 << 20).exit_code == 0
        assert_archive_equals(service, root)


def test_without_min_free_the_catalogue_keeps_its_own(serve: Serve, root: Path) -> None:
    service = serve(sample_recordings(4, mp4_size=600_000))
    with mounts.tmpfs(root, "2m"):
        report = run_here(service, root, service.recordings, min_free=0)
        assert_stopped(report, "not enough space", "the catalogue may need 1.0 MB", "free some")
        assert "--min-free" not in report.abort_messages[0]


def test_a_time_that_cannot_be_set_is_a_warning_unless_the_disk_fails(
    service: SimulatedService,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    code = errno.EIO

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "utime", refuse)
    report = run_here(service, root, service.recordings, set_mtime=True)
    assert report.exit_code == ExitCode.FAILED
    assert {"Input/output" in failure.reason for failure in report.failed} == {True}
    assert report.failed_recordings == 5
    assert "cannot set the time" not in caplog.text
    code = errno.EPERM
    assert run_here(service, root, service.recordings, set_mtime=True).exit_code == 0
    told = "cannot set the time of its file: Operation not permitted (told once)"
    assert caplog.text.count(told) == 1


def test_small_files_that_are_flushed_together_get_their_time_too(
    service: SimulatedService, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finish, "_MANY", 1)
    assert run_here(service, root, service.recordings, set_mtime=True).exit_code == 0
    times = {one.start.timestamp() for one in service.recordings.values()}
    assert {path.stat().st_mtime for path in archive_files(root).values()} == times


def test_one_file_that_has_no_room_keeps_no_others_out(
    serve: Serve, root: Path, plain_host: Host
) -> None:
    """A disk that is not full is no matter of the archive, whatever a host says of one length."""
    service = serve(sample_recordings(5, mp4_size=SIZE))
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n"
    odd: dict[int, tuple[Kind, Answers]] = {
        id_: ("events", lambda _, body: answer(body)) for id_ in service.recordings
    }
    act(service, plain_host, {**odd, ID: ("events", lambda *_: head)})
    with mounts.tmpfs(root, "128m"):
        result = run_cli(
            plain_args(root, *service.recordings, "--min-free", "64M", "--json"),
            service.environment(),
        )
        assert result.returncode == 1, result.stderr
        ((id_, kind, reason),) = (one.values() for one in report_of(result)["failed"])
        assert (id_, kind) == (ID, "events")
        assert re.search(r"not enough space on .*: .* free, 100.0 MB still to come", reason)
        assert sum(state == "archived" for state in states(root).values()) == 4


def test_min_free_counts_what_is_still_to_come(serve: Serve, root: Path) -> None:
    """Eight files that fit one by one, but not together."""
    size = 1 << 20
    service = serve(sample_recordings(8, mp4_size=size, events_size=None, thumbnail_size=None))
    with mounts.tmpfs(root, "16m"):
        report = run_here(service, root, service.recordings, min_free=11 << 20, jobs=8)
        assert_stopped(report, "not enough space")
        free = os.statvfs(root)
        assert free.f_bavail * free.f_frsize >= 11 << 20


# --- read-only, gone ---------------------------------------------------------------------------


def end_stall(service: SimulatedService) -> None:
    """Cut what hangs; who asks again is answered."""
    service.stop()
    service.start()


def test_a_disk_that_becomes_read_only_in_mid_run(
    service: SimulatedService, root: Path, tmp_path: Path
) -> None:
    id_ = list(service.recordings)[-1]
    with mounts.ext4(root, tmp_path / "image", 32 << 20):
        service.fail_files(faults.stall(1000), "mp4", id_, times=1)
        args = plain_args(root, "--jobs", 1, *service.recordings)
        with start_cli(args, service.environment()) as process:
            assert service.requests.wait_for_stall(30)
            mounts.fail(root)
            end_stall(service)
            stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == ExitCode.STORAGE, stderr
        # The latter where it happens under the flush of a file.
        assert re.search(r"Read-only file system|Input/output error", stderr)
        assert re.search("remount it writable|check the drive", stderr)
        assert "Traceback" not in stderr
        assert stderr.count("ERROR") == 1
        # As many as the catalogue knew by then: what it could not record is not claimed.
        assert re.match(r"Archived [0-4] of 5 ", stdout)
        again = cli_here(plain_args(root, *service.recordings), service.environment())
        assert_one_line(again, "read-only")
    # Of another name: the kernel may not be through with the first one's device yet.
    image = tmp_path / "image-again"
    shutil.copyfile(tmp_path / "image", image)
    subprocess.run(["fsck.ext4", "-fy", image], check=False, capture_output=True)
    subprocess.run(["mount", "-o", "loop", image, root], check=True)
    try:
        assert_nothing_false(service, root)
        # Of another mount, as this is, nobody knows at once that its run is gone: a minute's watch.
        (root / ".g2a-archive" / "lock.lease").unlink(missing_ok=True)
        assert run_here(service, root, service.recordings).exit_code == 0
        assert_archive_equals(service, root)
    finally:
        mounts.unmount(root)


@pytest.mark.parametrize("stalled_at", [0, -1])
@pytest.mark.parametrize("below", [False, True])
def test_a_mount_that_goes_away_in_mid_run(
    below: bool, stalled_at: int, service: SimulatedService, root: Path, tmp_path: Path
) -> None:
    if below:  # an archive was begun at the bare mount point once
        in_flight(root).mkdir(parents=True)
    id_ = list(service.recordings)[stalled_at]
    with mounts.tmpfs(tmp_path / "store", "64m") as store:
        with mounts.bind(store, root):
            service.fail_files(faults.stall(1000), "mp4", id_, times=1)
            args = plain_args(root, "--jobs", 1, *service.recordings)
            with start_cli(args, service.environment()) as process:
                assert service.requests.wait_for_stall(30)
                mounts.unmount(root)
                end_stall(service)
                _, stderr = process.communicate(timeout=60)
        assert process.returncode == ExitCode.STORAGE, stderr
        assert stderr.count("ERROR") == 1
        assert "mounted?" in stderr
        assert "Traceback" not in stderr
        # Nothing went to the disk below the mount point.
        assert archive_files(root) == {}
        assert [path.name for path in root.iterdir()] == [".g2a-archive"] * below
        with mounts.bind(store, root):
            assert_nothing_false(service, root)
            assert run_here(service, root, service.recordings).exit_code == 0
            assert_archive_equals(service, root)


def test_a_mount_that_goes_away_before_a_directory_is_made(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Just then: the directory is made on the drive that went away, not below its mount point."""
    mkdir = os.mkdir
    with mounts.tmpfs(tmp_path / "store", "64m") as store, mounts.bind(store, root):
        storage = Storage(root)
        storage.open()

        def go_away(path: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
            mounts.unmount(root)
            mkdir(path, mode, dir_fd=dir_fd)

        monkeypatch.setattr(os, "mkdir", go_away)
        storage.make_directory("2014/05/06")
        storage.close()
        assert (store / "2014/05/06").is_dir()
    assert list(root.iterdir()) == []


def test_an_unmounted_archive_is_not_begun_anew(service: SimulatedService, root: Path) -> None:
    root.mkdir()
    result = cli_here(plain_args(root, "--no-create", *service.recordings), service.environment())
    assert_one_line(result, "--no-create", "is the drive mounted?")
    assert list(root.iterdir()) == []
    assert service.requests.count == 0


# --- forbidden, in the way ---------------------------------------------------------------------


def nowhere(root: Path) -> Path:
    root.mkdir()
    return root


def own_corner(root: Path) -> Path:
    return root / ".g2a-archive"


def in_flight(root: Path) -> Path:
    return root / ".g2a-archive" / "partial"


def forbidden(
    service: SimulatedService, root: Path, place: Path, mode: int = 0o555
) -> subprocess.CompletedProcess[str]:
    """A run of all while `place` may not be written, or has another `mode`."""
    place.chmod(mode)
    try:
        args = plain_args(root, *service.recordings)
        return run_cli(args, service.environment(), before=mounts.need_modes())
    finally:
        place.chmod(0o755)


@pytest.mark.parametrize("where", [nowhere, own_corner, in_flight])
def test_permission_denied(
    where: Callable[[Path], Path], service: SimulatedService, root: Path
) -> None:
    if where is not nowhere:
        run_here(service, root, list(service.recordings)[:2])
    result = forbidden(service, root, where(root))
    assert_one_line(result, "permission to write there")
    assert_nothing_false(service, root)
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_archive_equals(service, root)


def directory_of(service: SimulatedService, id_: int) -> str:
    return relative_path(service.recordings[id_], "mp4").rpartition("/")[0]


def test_a_directory_of_another_owner_keeps_nothing_else_out(
    service: SimulatedService, root: Path
) -> None:
    """The root of the archive, too: what needs no new directory there goes on. What cannot be
    stored is not fetched, tonight or any night."""
    ids = list(service.recordings)
    place = root / directory_of(service, ids[4])
    place.mkdir(parents=True)
    result = forbidden(service, root, place)
    assert result.returncode == ExitCode.FAILED, result.stderr
    assert {entry.recording_id for entry in service.requests.file_requests()} == set(ids[:4])
    assert states(root) == {id_: "failed" if id_ == ids[4] else "archived" for id_ in ids}
    ((reason,),) = catalog_rows(root, "SELECT reason FROM recording WHERE state = 'failed'")
    assert f"cannot make the directory {place}: Permission denied" in reason
    assert "permission to write there" in result.stderr
    assert_nothing_false(service, root)
    service.requests.clear()
    assert run_here(service, root, ids).exit_code == 0
    assert_archive_equals(service, root)


def test_a_directory_that_cannot_be_read_keeps_nothing_else_out(
    service: SimulatedService, root: Path
) -> None:
    """What the catalogue says of it may be right: it is told each night, and not fetched again."""
    ids = list(service.recordings)
    run_here(service, root, ids[2:])
    service.requests.clear()
    result = forbidden(service, root, root / directory_of(service, ids[4]), 0)
    assert result.returncode == ExitCode.FAILED, result.stderr
    assert f"recording {ids[4]}: cannot read the directory" in result.stderr
    assert "Archived 2 of 5 recordings" in result.stdout
    assert {entry.recording_id for entry in service.requests.file_requests()} == set(ids[:2])
    assert set(states(root).values()) == {"archived"}
    assert run_here(service, root, ids).exit_code == 0
    assert_archive_equals(service, root)


def test_an_archive_that_takes_no_new_directory(service: SimulatedService, root: Path) -> None:
    """What needs none goes on."""
    ids = list(service.recordings)
    run_here(service, root, ids[:4])
    for id_ in ids[:4]:
        (root / relative_path(service.recordings[id_], "mp4")).unlink()
    result = forbidden(service, root, root)
    assert result.returncode == ExitCode.FAILED, result.stderr
    assert {states(root)[id_] for id_ in ids[:4]} == {"archived"}
    assert run_here(service, root, ids).exit_code == 0
    assert_archive_equals(service, root)


def test_a_file_where_a_date_directory_is_needed(service: SimulatedService, root: Path) -> None:
    """It keeps out what belongs there, and nothing else."""
    ids = list(service.recordings)
    path = root / directory_of(service, ids[4])
    path.parent.mkdir(parents=True)
    path.write_text("in the way")
    report = run_here(service, root, ids)
    assert report.exit_code == ExitCode.FAILED
    assert {failure.id for failure in report.failed} == {ids[4]}
    for failure in report.failed:
        assert f"{path}: Not a directory (a file stands where a directory" in failure.reason
    assert path.read_text() == "in the way"
    path.unlink()
    assert run_here(service, root, ids).exit_code == 0
    assert_archive_equals(service, root)


@pytest.mark.parametrize("name", [".g2a-archive", ".g2a-archive/partial"])
def test_a_file_where_a_directory_is_needed(
    name: str, service: SimulatedService, root: Path
) -> None:
    path = root / name
    path.parent.mkdir(parents=True)
    path.write_text("in the way")
    result = cli_here(plain_args(root, *service.recordings), service.environment())
    assert_one_line(result, str(path), "a file stands where a directory is needed")
    assert path.read_text() == "in the way"
    path.unlink()
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_archive_equals(service, root)


def test_a_destination_that_is_a_file(service: SimulatedService, root: Path) -> None:
    root.write_text("a file")
    result = cli_here(plain_args(root, *service.recordings), service.environment())
    assert result.returncode == ExitCode.USAGE
    assert "is a file" in result.stderr
    assert service.requests.count == 0


def test_partial_files_that_vanish_in_mid_run(service: SimulatedService, root: Path) -> None:
    """Somebody tidies up in `.g2a-archive` while a run works."""

    def tidy(_: object) -> None:
        if not gone:
            gone.append(True)
            shutil.rmtree(in_flight(root))

    gone: list[bool] = []
    service.on_links.append(tidy)
    report = run_here(service, root, service.recordings)
    assert_stopped(report, "cannot write", "No such file or directory")
    assert_nothing_false(service, root)
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_archive_equals(service, root)


def test_all_files_in_the_way_are_kept_and_named(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    storage.open()
    for name in ("7.jpg", "7.png"):
        (tmp_path / "day").mkdir(exist_ok=True)
        (tmp_path / "day" / name).write_text(name)
    part = storage.partial / "7.thumbnail.part"
    part.write_text("new")
    kept = storage.publish(str(part), "day", ("7.jpg", "7.png", "7.gif"), "7.png")
    storage.close()
    assert sorted(kept) == ["7.jpg.kept-1", "7.png.kept-1"]
    found = {path.name: path.read_text() for path in (tmp_path / "day").iterdir()}
    assert found == {"7.jpg.kept-1": "7.jpg", "7.png.kept-1": "7.png", "7.png": "new"}
