"""Drives and shares that answer as few file systems do: a preloaded library plays them."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support import (
    PATIENCE,
    assert_archive_equals,
    catalog_path,
    cli_here,
    download_args,
    mounts,
    plain_args,
    relative_path,
    report_of,
    run_cli,
    run_here,
    start_cli,
    states,
)
from support.odd_drive import NFS, ODD, Fault, playing
from support.service import Serve

from g2a_archive.archive.disk.lock import RunLock, is_locked
from g2a_archive.archive.disk.renaming import recover, replace
from g2a_archive.demo import SimulatedRecording, SimulatedService, sample_recordings
from g2a_archive.demo.faults import status
from g2a_archive.demo.recordings import KINDS
from g2a_archive.errors import ExitCode

Faults = list[Fault]


@pytest.fixture
def service(serve: Serve) -> SimulatedService:
    return serve(sample_recordings(5, mp4_size=2000, events_size=300, thumbnail_size=700))


def odd_run(
    service: SimulatedService, root: Path, *faults: Fault, args: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """A run of all recordings on a drive that plays `faults`."""
    env = {**service.environment(), **playing(faults)}
    return run_cli(download_args(root, *args, *service.recordings), env)


# --- no flush ---------------------------------------------------------------------------------

NO_FLUSH = ["EINVAL", "ENOTSUP", "ENOSYS", "ENOTTY"]
NO_DIRECTORY_FLUSH = [*NO_FLUSH, "EBADF", "EACCES"]


def one_each(call: str, patterns: Iterable[str], names: Iterable[str], times: int = -1) -> Faults:
    """A fault of another name for each pattern."""
    pairs = zip(patterns, names, strict=True)
    return [Fault(call, pattern, getattr(errno, name), times=times) for pattern, name in pairs]


def test_directories_that_cannot_be_flushed(service: SimulatedService, root: Path) -> None:
    """Each answers in another way; the catalogue's own commits agree with that, too."""
    ends = ("", "/20??", "/20??/??", "/2013/12/31", "/2014/01/01", "/2016/02/29")
    faults = one_each("fsync", (f"{root}{end}" for end in ends), NO_DIRECTORY_FLUSH)
    for name in NO_DIRECTORY_FLUSH:  # one commit each
        own = Fault("fsync", f"{root}/.g2a-archive", getattr(errno, name), times=1)
        faults.append(own)
    result = odd_run(service, root, *faults)
    assert report_of(result)["archived"] == 5, result.stderr
    assert result.stderr.count("cannot flush directories to disk") == 1, result.stderr
    told = [os.strerror(getattr(errno, name)) for name in NO_DIRECTORY_FLUSH]
    assert any(f"({text})" in result.stderr for text in told)
    assert_archive_equals(service, root)


def test_files_that_cannot_be_flushed(service: SimulatedService, root: Path) -> None:
    """Those of each kind answer in another way, and all others."""
    patterns = ("*.mp4.part", "*.events.part", "*.thumbnail.part", f"{root}*")
    faults = [*one_each("fsync", patterns, NO_FLUSH), Fault("syncfs", f"{root}*", errno.ENOTSUP)]
    result = odd_run(service, root, *faults)
    assert report_of(result)["archived"] == 5, result.stderr
    assert result.stderr.count("cannot flush files to disk") == 1, result.stderr
    assert result.stderr.count("cannot flush directories to disk") == 1, result.stderr
    assert_archive_equals(service, root)


def test_a_flush_that_fails_is_no_flush_that_is_missing(
    service: SimulatedService, root: Path
) -> None:
    faults = [Fault("fsync", "*.part", errno.EIO), Fault("syncfs", "*", errno.EIO)]
    report = report_of(odd_run(service, root, *faults))
    assert (report["exit_code"], report["archived"]) == (ExitCode.FAILED, 0)
    assert "Input/output error" in report["failed"][0]["reason"]
    assert set(states(root).values()) == {"failed"}
    assert report_of(odd_run(service, root))["exit_code"] == 0
    assert_archive_equals(service, root)


def test_a_share_that_tells_of_its_quota_at_a_close_too(
    service: SimulatedService, root: Path
) -> None:
    """It is one file's failure all the same, as others can be written."""
    bad = min(service.recordings)
    part = f"*/partial/{bad}.mp4.part"
    faults = [Fault("write", part, errno.EDQUOT), Fault("close", part, errno.EDQUOT)]
    report = report_of(odd_run(service, root, *faults))
    assert (report["exit_code"], report["archived"]) == (ExitCode.FAILED, 4)
    assert [(one["id"], one["file"]) for one in report["failed"]] == [(bad, "mp4")]
    assert "the quota is used up" in report["failed"][0]["reason"]


def test_a_drive_that_takes_less_at_a_time_than_is_written(
    service: SimulatedService, root: Path
) -> None:
    result = odd_run(service, root, Fault("write", "*/partial/*.part", ODD))
    assert report_of(result)["exit_code"] == 0
    assert_archive_equals(service, root)


def test_one_directory_that_fails_to_be_flushed(service: SimulatedService, root: Path) -> None:
    """What was named in it is not claimed; the others are."""
    bad = [i for i, r in service.recordings.items() if f"{r.start:%Y/%m/%d}" == "2016/02/29"]
    result = odd_run(service, root, Fault("fsync", f"{root}/2016/02/29", errno.EIO))
    report = report_of(result)
    assert report["exit_code"] == ExitCode.FAILED
    assert report["archived"] == 5 - len(bad)
    assert {one["id"] for one in report["failed"]} == set(bad)
    assert f"cannot flush the directory {root}/2016/02/29" in report["failed"][0]["reason"]
    assert {i for i, state in states(root).items() if state == "failed"} == set(bad)
    service.requests.clear()
    again = report_of(odd_run(service, root))
    assert (again["exit_code"], again["files"]) == (0, 0)  # adopted
    assert not service.requests.file_requests("mp4")
    assert_archive_equals(service, root)


def test_a_whole_file_that_gets_no_name_is_not_fetched_again(
    service: SimulatedService, root: Path
) -> None:
    bad = [i for i, r in service.recordings.items() if f"{r.start:%Y/%m/%d}" == "2016/02/29"]
    fault = Fault("rename", f"{root}/2016/02/29/*", errno.EROFS)
    assert len(report_of(odd_run(service, root, fault))["failed"]) == 3 * len(bad) > 0
    report = report_of(odd_run(service, root))
    assert (report["exit_code"], report["archived"], report["bytes"]) == (0, len(bad), 0)
    assert_archive_equals(service, root)


def test_what_failed_is_told_once_where_its_directory_fails_too(serve: Serve, root: Path) -> None:
    service = serve([SimulatedRecording(i, datetime(2016, 2, 29, tzinfo=UTC)) for i in (7, 8)])
    bad = 7
    service.fail_files(status(402), recording_id=bad)
    result = odd_run(service, root, Fault("fsync", f"{root}/2016/02/29", errno.EIO))
    failed = [one["file"] for one in report_of(result)["failed"] if one["id"] == bad]
    assert sorted(failed) == sorted(KINDS)


# --- what a container's filter forbids --------------------------------------------------------


def test_calls_that_are_forbidden_where_others_do(
    service: SimulatedService, root: Path, tmp_path: Path
) -> None:
    """An old Docker answers EPERM to each call that it has never heard of."""
    env = {
        **service.environment(),
        **playing([Fault("syncfs", "*", errno.EPERM), Fault("access", f"{root}*", errno.EPERM)]),
    }
    assert run_cli(plain_args(root, *service.recordings), env).returncode == 0
    assert_archive_equals(service, root)
    other, bag = tmp_path / "other", tmp_path / "bag"
    assert run_cli(["merge", root, "--dest", other], env).returncode == 0
    assert_archive_equals(service, other)
    assert run_cli(["bag", bag, *service.recordings, "--dest", root], env).returncode == 0
    catalog_path(root).unlink()
    assert run_cli(["verify", "--rebuild", "--dest", root], env).returncode == 0
    assert_archive_equals(service, root)


# --- space ------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [ODD, errno.ENOSYS, errno.EIO])
def test_a_drive_that_does_not_tell_its_space(
    code: int, service: SimulatedService, root: Path
) -> None:
    faults = Fault("statvfs", f"{root}*", code)
    result = odd_run(service, root, faults, args=("--min-free", "1T"))
    assert report_of(result)["archived"] == 5, result.stderr
    assert_archive_equals(service, root)


@pytest.mark.parametrize("night", ["first", "second"])
def test_a_quota_that_is_used_up(night: str, service: SimulatedService, root: Path) -> None:
    """The second night it is the catalogue that has no room; SQLite calls that anything."""
    ids = list(service.recordings)
    calls = ("write", "create") if night == "first" else ("write",)
    where = "*/partial/*" if night == "first" else f"{root}*"
    if night == "second":
        run_here(service, root, ids[:2])
    result = odd_run(service, root, *(Fault(call, where, errno.EDQUOT) for call in calls))
    assert result.returncode == ExitCode.STORAGE, result.stderr
    assert "Disk quota exceeded" in result.stderr
    assert "the quota is used up" in result.stderr
    assert "Traceback" not in result.stderr
    assert report_of(odd_run(service, root))["exit_code"] == 0
    assert_archive_equals(service, root)


def test_the_other_commands_on_such_a_drive(service: SimulatedService, root: Path) -> None:
    """No flush, no free space told, no renaming over a file."""
    run_here(service, root, list(service.recordings)[:2])
    assert cli_here(["browse", "--dest", root]).returncode == 0
    run_here(service, root, service.recordings)
    faults = [
        Fault("fsync", f"{root}*", errno.EINVAL),
        Fault("statvfs", f"{root}*", ODD),
        Fault("replace", f"{root}*", errno.EEXIST),
    ]
    env = {**service.environment(), **playing(faults)}
    for command in ("check", "browse", "verify"):
        result = run_cli([command, "--dest", root], env)
        assert result.returncode == 0, result.stdout + result.stderr
        if command == "check":
            assert "it does not tell its free space" in result.stdout
    assert not list(root.rglob("*.tmp"))


def test_inodes_that_are_used_up_both_nights(service: SimulatedService, root: Path) -> None:
    """The second night it is the catalogue's journal that can't be made."""
    with mounts.tmpfs(root, "64m,nr_inodes=30"):
        for night in ("first", "second"):
            if night == "second":
                for number in range(30):
                    with suppress(OSError):
                        (root / str(number)).touch()
            result = cli_here(download_args(root, *service.recordings), service.environment())
            assert result.returncode == ExitCode.STORAGE, result.stderr
            assert "its inodes are used up" in result.stderr, night
            assert "Traceback" not in result.stderr
        for number in range(30):
            (root / str(number)).unlink(missing_ok=True)
        mounts.grow(root, "64m,nr_inodes=500")
        assert run_here(service, root, service.recordings).exit_code == 0
        assert_archive_equals(service, root)


# --- what passes by itself --------------------------------------------------------------------


def test_errors_that_pass(service: SimulatedService, root: Path) -> None:
    """Each once for each of these calls; where that is no good, the report has the path."""
    names = ["EBUSY", "EAGAIN", "ESTALE", "ETXTBSY", "EINTR"]
    places = {
        "rename": [f"{root}/20*/{id_}.mp4" for id_ in service.recordings],
        "mkdir": [f"{root}/{place}" for place in ("2013", "2014", "2016", "2013/12", "2014/01")],
        "create": [f"{root}/*/partial/{id_}.*.part" for id_ in service.recordings],
    }
    faults = [one for call in places for one in one_each(call, places[call], names, times=1)]
    result = odd_run(service, root, *faults)
    assert report_of(result)["failed"] == [], result.stderr
    assert report_of(result)["archived"] == 5, result.stderr
    assert_archive_equals(service, root)


# --- names ------------------------------------------------------------------------------------


def test_a_share_that_keeps_names_in_lower_case(service: SimulatedService, root: Path) -> None:
    root.mkdir()
    env = {**service.environment(), **playing(fold=root)}
    args = download_args(root, "--layout", "%Y/%B/%d", *service.recordings)
    assert report_of(run_cli(args, env))["archived"] == 5
    assert {path.name for path in root.glob("20*/*")} <= {
        *("january", "february", "december"),
    }
    assert list(root.rglob("sha256sums"))
    service.requests.clear()
    again = report_of(run_cli(args, env))
    assert (again["exit_code"], again["already_archived"], service.requests.count) == (0, 5, 0)
    verified = run_cli(["verify", "--dest", root], env)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_a_share_that_does_not_rename_over_a_file(serve: Serve, root: Path) -> None:
    """`SHA256SUMS` of days that come in two nights, each refused in another way."""
    names = ["EEXIST", "EPERM", "EACCES"]
    starts = [datetime(2015, 3, 1 + number // 2, tzinfo=UTC) for number in range(2 * len(names))]
    service = serve(SimulatedRecording(n, start) for n, start in enumerate(starts, 1))
    run_here(service, root, [1, 3, 5])
    days = [f"{root}/{start:%Y/%m/%d}/*" for start in starts[::2]]
    others = Fault("replace", f"{root}*", errno.EEXIST)
    result = odd_run(service, root, *one_each("replace", days, names), others)
    assert report_of(result)["archived"] == 3, result.stderr
    for id_ in (2, 4, 6):
        path = root / relative_path(service.recordings[id_], "mp4")
        assert path.name in (path.parent / "SHA256SUMS").read_text()
    assert_archive_equals(service, root)
    assert [p for p in root.rglob("*") if p.name.endswith((".tmp", ".old"))] == []


@pytest.mark.parametrize("refused", [False, True])
def test_a_replacement_that_is_cut_short(
    refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old file is there again, and the new one is not lost."""
    new, path = tmp_path / "new", tmp_path / "path"
    new.write_text("new")
    path.write_text("old")

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "refused")

    monkeypatch.setattr(os, "replace", refuse)
    rename = os.rename

    def second(source: str, target: str) -> None:
        if os.fspath(source) == os.fspath(new):
            raise PermissionError(errno.EPERM, "refused") if refused else KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", second)
    with pytest.raises(PermissionError if refused else KeyboardInterrupt):
        replace(new, path)
    assert path.exists() is refused
    recover(path)
    assert (path.read_text(), new.read_text()) == ("old", "new")
    monkeypatch.setattr(os, "rename", rename)
    replace(new, path)
    assert [p.name for p in tmp_path.iterdir()] == ["path"]
    assert path.read_text() == "new"


def test_what_a_replacement_left_is_in_no_other_one_s_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, path = tmp_path / "new", tmp_path / "path"
    for file in (new, path, tmp_path / "path.old"):
        file.write_text(file.name)
    rename = os.rename

    def nothing_over(source: str, target: str) -> None:
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "it is there")
        rename(source, target)

    monkeypatch.setattr(os, "rename", nothing_over)
    monkeypatch.setattr(os, "replace", nothing_over)
    replace(new, path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("path", "new")]


# --- the catalogue on a share -----------------------------------------------------------------


def test_a_share_without_working_locks(service: SimulatedService, root: Path) -> None:
    """As SMB without `nobrl`: it says early what it waits for, and leaves no broken catalogue."""
    env = {**service.environment(), **playing([Fault("lock", "*catalog.sqlite3", errno.EACCES)])}
    soon = "from g2a_archive.archive.database import connection; connection._WARN_AFTER = 0.1"
    with start_cli(plain_args(root, *service.recordings), env, before=soon) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert process.poll() is None
        assert f"waiting for the catalogue {catalog_path(root)}, which is locked" in line
        assert "--catalog" in line
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    assert catalog_path(root).stat().st_size == 0
    result = cli_here(["status", "--dest", root])
    assert result.returncode == ExitCode.STORAGE
    assert f"there is no archive at {root}: {catalog_path(root)} is empty" in result.stderr
    checked = cli_here(["check", "--dest", root, "--min-free", "0"], service.environment())
    assert checked.returncode == 0, checked.stdout
    assert "will be made" in checked.stdout
    dry = cli_here(plain_args(root, "--dry-run", *service.recordings), service.environment())
    assert dry.returncode == 0, dry.stderr
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_archive_equals(service, root)


def test_a_share_whose_locks_are_gone_has_its_pages(service: SimulatedService, root: Path) -> None:
    """Nobody else is writing them."""
    assert run_here(service, root, service.recordings).exit_code == 0
    assert cli_here(["browse", "--dest", root]).returncode == 0
    index = root / "index.html"
    index.unlink()
    gone = playing([Fault("lock", "*/.shelf.sqlite3", errno.ENOLCK)])
    soon = "from g2a_archive.browse import database; database._PATIENCE = 0.1"
    result = run_cli(["browse", "--dest", root], gone, before=soon)
    assert (result.returncode, result.stderr) == (0, "")
    assert index.is_file()


_KILLED_COMMIT = """
import os, signal
from g2a_archive.archive.database.catalog import Catalog
from pathlib import Path
catalog = Catalog(Path({path!r}))
db = catalog._db
db.execute("PRAGMA cache_size = 1")  # so that pages are written before the commit
db.execute("BEGIN IMMEDIATE")
for number in range(1, 5000):
    db.execute("INSERT INTO recording (id, state, reason) VALUES (?, 'queued', ?)",
               (number, "half done" * 20))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_read_only_snapshot_of_a_killed_run(service: SimulatedService, root: Path) -> None:
    """The journal is hot, and cannot be rolled back where it lies."""
    run_here(service, root, service.recordings)
    killed = _KILLED_COMMIT.format(path=str(catalog_path(root)))
    result = run_cli(["--version"], before=killed)
    assert result.returncode == -signal.SIGKILL
    journal = Path(f"{catalog_path(root)}-journal")
    assert journal.stat().st_size > 512
    before = catalog_path(root).read_bytes(), journal.read_bytes()
    read_only = [
        Fault(call, f"{root}*", errno.EROFS)
        for call in ("openw", "create", "unlink", "truncate", "write")
    ]
    status = run_cli(["status", "--json", "--dest", root], playing(read_only))
    assert status.returncode == 0, status.stderr
    assert '"archived": 5' in status.stdout
    assert "as it was before that" in status.stderr
    assert (catalog_path(root).read_bytes(), journal.read_bytes()) == before
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_archive_equals(service, root)


# --- the lock ---------------------------------------------------------------------------------


def test_the_lock_names_its_holder_to_other_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS sends a file's bytes when it is flushed or closed; the lock stays open."""
    sent: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda fd: sent.append(os.pread(fd, 100, 0)))
    lock = RunLock(tmp_path / "lock")
    lock.acquire()
    assert f"process {os.getpid()}".encode() in sent[0]
    assert is_locked(tmp_path / "lock")
    lock.release()
    assert not is_locked(tmp_path / "lock")


def test_verify_takes_no_drive_without_locks_for_one_that_a_run_works_on(
    service: SimulatedService, root: Path
) -> None:
    assert run_here(service, root, service.recordings).exit_code == 0
    (root / "2014/05/06").mkdir(parents=True, exist_ok=True)
    (root / "2014/05/06/77.mp4").write_bytes(b"nobody's")
    env = {**service.environment(), **playing([Fault("flock", "*", errno.ENOLCK)])}
    result = run_cli(["verify", "--dest", root], env)
    assert result.returncode == ExitCode.FAILED
    assert "2014/05/06/77.mp4" in result.stdout + result.stderr


def test_a_share_that_fails_under_the_lock(service: SimulatedService, root: Path) -> None:
    faults = [Fault("fsync", "*/lock", errno.EIO)]
    assert report_of(odd_run(service, root, *faults))["archived"] == 5


@pytest.mark.parametrize("reads", range(4))
def test_a_catalogue_that_the_drive_cannot_read_is_not_damaged(
    reads: int, service: SimulatedService, root: Path
) -> None:
    """SQLite says so, and whoever moves it away loses what is owed, and was removed."""
    assert run_here(service, root, service.recordings).exit_code == 0
    gone = [Fault("pread", "*.sqlite3", errno.EIO, reads), Fault("read", "*.sqlite3", errno.EIO)]
    once = [Fault("pread", "*.sqlite3", errno.EIO, reads, times=1)]
    for faults in (gone, once):
        env = {**service.environment(), **playing(faults)}
        for args in (("status", "--dest", root), ("verify", "--dest", root), plain_args(root, 7)):
            result = run_cli(args, env)
            assert result.returncode == ExitCode.STORAGE, result.stderr
            assert "damaged" not in result.stderr
            assert str(catalog_path(root)) in result.stderr
            assert "check the drive or the share" in result.stderr


def test_a_catalogue_that_another_machine_may_be_writing(
    service: SimulatedService, root: Path
) -> None:
    """On a share whose locks don't reach that far, it is read as half of a change."""
    assert run_here(service, root, service.recordings).exit_code == 0
    catalog_path(root).write_bytes(catalog_path(root).read_bytes()[:4096] + bytes(100_000))
    result = run_cli(("status", "--dest", root), playing([Fault("statfs", "*", NFS)]))
    assert result.returncode == ExitCode.STORAGE
    assert "is damaged" in result.stderr
    assert "does another machine work on this archive? Then wait for it" in result.stderr
    assert "another machine" not in run_cli(("status", "--dest", root)).stderr
