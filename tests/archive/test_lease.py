"""Runs on two machines that mount one share, and do not see each other's locks."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from support import (
    assert_archive_equals,
    catalog_path,
    plain_args,
    run_cli,
    start_cli,
    states,
)
from support.cli import Args
from support.crash import crash
from support.odd_drive import Fault, playing
from support.odd_mount import odd_mount

from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.database.copying import copy_in_memory
from g2a_archive.archive.disk import lease
from g2a_archive.archive.disk.lease import Lease, this_run
from g2a_archive.demo import Behaviour, SimulatedService, sample_recordings
from g2a_archive.demo.messages import Request
from g2a_archive.errors import CatalogError, LockedError

OFTEN = """
from g2a_archive.archive.disk import lease
lease._RENEWED, lease._WATCHED, lease._LOOKS, lease._STEP = 0.05, {watched}, 0.02, 0.01
"""

ELSEWHERE = """
import fcntl, sqlite3
from g2a_archive.archive.disk import lease
lease.boot_id = lambda: "another-machine"
fcntl.flock = lambda fd, how: None  # which the first machine's server does not hear of
connect = sqlite3.connect
def unlocked(database, *args, **kwargs):
    if str(database).startswith("file:"):
        database += "&vfs=unix-none"
    return connect(database, *args, **kwargs)
sqlite3.connect = unlocked
"""
"""What makes of a process one on another machine."""

OTHER = "host nas2, process 1, since 2026-11-23T02:00:00Z\nits-boot/42\n"


@pytest.fixture
def service() -> Iterator[SimulatedService]:
    with SimulatedService(sample_recordings(3), Behaviour(rate_limit=None)) as running:
        yield running


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "archive"


def lease_of(root: Path) -> Path:
    return root / ".g2a-archive" / "lock.lease"


def download(service: SimulatedService, root: Path) -> Args:
    return plain_args(root, *service.recordings)


@contextmanager
def held_up(service: SimulatedService) -> Iterator[threading.Event]:
    """Files come only after the block; the event tells that the first was asked for."""
    asked, go = threading.Event(), threading.Event()

    def hold(request: Request) -> None:
        if request.call == "file":
            asked.set()
            go.wait(60)

    service.on_request.append(hold)
    try:
        yield asked
    finally:
        go.set()
        service.on_request.remove(hold)


def test_a_second_machine_ends_with_5(service: SimulatedService, root: Path) -> None:
    often = OFTEN.format(watched=60)
    with start_cli(download(service, root), service.environment(), before=often) as first:
        with held_up(service) as asked:
            assert asked.wait(30)
            second = run_cli(
                download(service, root), service.environment(), before=often + ELSEWHERE
            )
            assert second.returncode == 5, second.stderr
            assert f"another run is working on this archive: host {os.uname().nodename}" in (
                second.stderr
            )
        _, err = first.communicate(timeout=60)
    assert first.returncode == 0, err
    assert_archive_equals(service, root)
    assert not lease_of(root).exists()


def test_two_mounts_of_one_directory(service: SimulatedService, tmp_path: Path) -> None:
    """Two real mounts, whose locks the kernel keeps apart."""
    behind = tmp_path / "behind"
    often = OFTEN.format(watched=60)
    with (
        odd_mount(tmp_path / "a", behind=behind) as a,
        odd_mount(tmp_path / "b", behind=behind) as b,
    ):
        env = service.environment()
        with start_cli(download(service, a / "archive"), env, before=often) as first:
            with held_up(service) as asked:
                assert asked.wait(30)
                second = run_cli(download(service, b / "archive"), env, before=often)
                assert second.returncode == 5, second.stderr
            _, err = first.communicate(timeout=60)
        assert first.returncode == 0, err
    assert_archive_equals(service, behind / "archive")


def test_what_a_run_that_was_killed_elsewhere_has_left(
    service: SimulatedService, root: Path
) -> None:
    """Nobody renews it: the next run goes on, wherever it is, and says what it waited for."""
    lease_of(root).parent.mkdir(parents=True)
    lease_of(root).write_text(OTHER)
    result = run_cli(
        download(service, root), service.environment(), before=OFTEN.format(watched=0.1)
    )
    assert result.returncode == 0, result.stderr
    assert "or was killed: host nas2, process 1" in result.stderr
    assert_archive_equals(service, root)
    assert not lease_of(root).exists()


def test_what_a_run_that_was_killed_here_has_left_is_not_waited_for(
    service: SimulatedService, root: Path
) -> None:
    crash("Catalog.record_results", "before", 1, download(service, root), service.environment())
    assert lease_of(root).exists()
    result = run_cli(
        download(service, root), service.environment(), before=OFTEN.format(watched=1e6)
    )
    assert result.returncode == 0, result.stderr
    assert "or was killed" not in result.stderr
    assert not lease_of(root).exists()


def test_a_signal_while_a_lease_is_watched(service: SimulatedService, root: Path) -> None:
    lease_of(root).parent.mkdir(parents=True)
    lease_of(root).write_text(OTHER)
    args, env = download(service, root), service.environment()
    with start_cli(args, env, before=OFTEN.format(watched=1e6)) as process:
        assert process.stderr is not None
        assert "watching" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 143
    assert lease_of(root).read_text() == OTHER


@pytest.mark.parametrize("faults", [[], [Fault("openw", "*/lock.lease", errno.EACCES, after=1)]])
def test_a_run_that_loses_its_lease_stops(
    faults: list[Fault], service: SimulatedService, root: Path
) -> None:
    """It stood still for so long that another machine, or user, took the archive over."""
    args, env = download(service, root), {**service.environment(), **playing(faults)}
    often = OFTEN.format(watched=60)
    with start_cli(args, env, before=often) as process, held_up(service) as asked:
        assert asked.wait(30)
        before = catalog_path(root).read_bytes()
        lease_of(root).unlink()
        lease_of(root).write_text(OTHER)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 5, err
    assert "stopping, as another run works on this archive: host nas2" in err
    assert "not finished: 3" in out
    assert lease_of(root).read_text() == OTHER
    assert catalog_path(root).read_bytes() == before
    assert "archived" not in states(root).values()


def test_a_check_that_watches_a_lease_keeps_no_run_out(
    service: SimulatedService, root: Path
) -> None:
    assert run_cli(download(service, root), service.environment()).returncode == 0
    lease_of(root).write_text(OTHER)
    check: Args = ["check", "--dest", root]
    env = service.environment()
    with start_cli(check, env, before=OFTEN.format(watched=1e6)) as process:
        assert process.stderr is not None
        assert "watching" in process.stderr.readline()
        quick = OFTEN.format(watched=0.1)
        result = run_cli(download(service, root), env, before=quick)
        assert result.returncode == 0, result.stderr
        process.communicate(timeout=30)
    assert process.returncode in {0, 5}  # it may have seen the run's own lease


def test_no_longer_than_max_duration_is_watched(service: SimulatedService, root: Path) -> None:
    assert run_cli(download(service, root), service.environment()).returncode == 0
    lease_of(root).write_text(OTHER)
    args: Args = ["verify", "--rebuild", "--dest", root, "--max-duration", "1s"]
    result = run_cli(args, before=OFTEN.format(watched=1e6))
    assert result.returncode == 8, result.stderr
    assert lease_of(root).read_text() == OTHER


@pytest.mark.parametrize("kind", ["unreadable", "link", "fifo", "garbage"])
def test_an_odd_thing_in_the_place_of_a_lease(
    kind: str, service: SimulatedService, root: Path
) -> None:
    """It keeps nobody out for longer than a lease that nobody renews."""
    path = lease_of(root)
    path.parent.mkdir(parents=True)
    if kind == "link":
        path.symlink_to("nowhere")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.write_bytes(os.urandom(5000))
    faults = [Fault("open", "*/lock.lease", errno.EACCES)] if kind == "unreadable" else []
    often = OFTEN.format(watched=0.1)
    env = {**service.environment(), **playing(faults)}
    result = run_cli(download(service, root), env, before=often)
    assert result.returncode == 0, result.stderr
    assert "its holder cannot be read" in result.stderr
    assert_archive_equals(service, root)
    assert not os.path.lexists(path)


def test_of_two_that_watched_a_lease_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one, which is a little later, removes ours for the one that was left."""
    monkeypatch.setattr(lease, "_WATCHED", 0.01)
    monkeypatch.setattr(lease, "_LOOKS", 0.5)
    monkeypatch.setattr(lease, "_STEP", 0.01)
    own, path = Lease(tmp_path / "lock"), tmp_path / "lock.lease"
    path.write_text(OTHER)
    later = OTHER.replace("nas2", "nas3")

    def meanwhile() -> bool:
        if path.read_text().startswith(this_run()[:20]):
            path.unlink()
            path.write_text(later)
        return False

    with pytest.raises(LockedError, match="nas3"):
        own.take(lease.LockCallbacks(meanwhile, lambda: None))
    own.release()
    assert path.read_text() == later


def test_one_that_the_other_removed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, path = Lease(tmp_path / "lock"), tmp_path / "lock.lease"
    monkeypatch.setattr(own, "watch", lambda _: OTHER.replace("its-boot/42", own._machine()))
    own.take(lease.NO_CALLBACKS)
    assert path.read_text().startswith(this_run()[:20])
    own.release()


def test_a_run_that_stood_still_looks_first(tmp_path: Path) -> None:
    """Before its lease is renewed again, another run may have taken it over."""
    own, path = Lease(tmp_path / "lock"), tmp_path / "lock.lease"
    own.take(lease.NO_CALLBACKS)
    own.require()
    path.unlink()
    path.write_text(OTHER)
    own.require()  # it was renewed just now
    own._renewed_at -= 45
    with pytest.raises(LockedError, match="nas2"):
        own.require()
    own.release()
    assert path.read_text() == OTHER


def test_what_was_begun_before_a_run_stood_still_is_not_committed(tmp_path: Path) -> None:
    lost: list[LockedError] = []

    def held() -> None:
        for error in lost:
            raise error

    def stand_still(catalog: Catalog) -> None:
        with catalog.transaction() as db:
            db.execute("INSERT INTO recording (id, state) VALUES (1, 'queued')")
            lost.append(lease.locked_error(OTHER))

    with Catalog(tmp_path / "catalog.sqlite3", held=held) as catalog:
        with pytest.raises(LockedError):
            stand_still(catalog)
        lost.clear()
        assert catalog.scalar("SELECT count(*) FROM recording") == 0


def test_a_lease_that_is_gone_is_made_again(tmp_path: Path) -> None:
    """Somebody removed it, or the share lost a page of it: neither is another run's."""
    own, path = Lease(tmp_path / "lock"), tmp_path / "lock.lease"
    own.take(lease.NO_CALLBACKS)
    try:
        text = path.read_text()
        path.unlink()
        assert own._renewed() == ""
        assert path.read_text() == text
        path.write_bytes(bytes(100))
        assert own._renewed() == ""
        assert path.read_text().startswith(text)
    finally:
        own.release()
    assert not path.exists()


def test_a_disk_that_takes_no_lease(service: SimulatedService, root: Path) -> None:
    """The lock is enough; half a lease would have the next run wait."""
    fault = Fault("write", "*/lock.lease", errno.ENOSPC)
    result = run_cli(download(service, root), {**service.environment(), **playing([fault])})
    assert result.returncode == 0, result.stderr
    assert_archive_equals(service, root)
    assert not lease_of(root).exists()


# --- what only reads ---------------------------------------------------------------------------


@contextmanager
def half_written(root: Path) -> Iterator[None]:
    """A run elsewhere is in the middle of a change, whose pages have come to the share."""
    path = f"file:{catalog_path(root)}?vfs=unix-none"
    lease_of(root).write_text(OTHER)
    with closing(sqlite3.connect(path, uri=True, isolation_level=None)) as db:
        db.execute("PRAGMA cache_size = 1")  # so that pages are written before the commit
        db.execute("BEGIN IMMEDIATE")
        db.executemany(
            "INSERT INTO recording (id, state, reason) VALUES (?, 'queued', ?)",
            ((number, "half done" * 20) for number in range(1, 5000)),
        )
        yield
        db.execute("COMMIT")
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT count(*) FROM recording WHERE id < 5000").fetchone() == (4999,)
    lease_of(root).unlink()


@pytest.mark.parametrize("command", [["status"], ["verify"], ["export", "--csv"], ["browse"]])
def test_a_reader_leaves_a_change_of_another_machine_alone(
    command: list[str], service: SimulatedService, root: Path
) -> None:
    """SQLite sees no lock, and would undo it: the other run then damages its own catalogue."""
    assert run_cli(download(service, root), service.environment()).returncode == 0
    with half_written(root):
        journal = Path(f"{catalog_path(root)}-journal")
        before = catalog_path(root).read_bytes(), journal.read_bytes()
        assert len(before[1]) > 512
        result = run_cli([*command, "--dest", root])
        assert result.returncode == 0, result.stderr
        assert (catalog_path(root).read_bytes(), journal.read_bytes()) == before
    assert "half done" not in result.stdout


def test_a_reader_that_was_there_before_goes_on_with_a_copy(
    service: SimulatedService, root: Path
) -> None:
    assert run_cli(download(service, root), service.environment()).returncode == 0
    with Catalog(catalog_path(root), readonly=True) as catalog:
        assert catalog.scalar("SELECT count(*) FROM recording") == 3
        with half_written(root):
            before = catalog_path(root).read_bytes()
            assert catalog.scalar("SELECT count(*) FROM recording") == 3
            assert catalog_path(root).read_bytes() == before


def test_a_check_records_nothing_once_another_machine_works(
    service: SimulatedService, root: Path
) -> None:
    assert run_cli(download(service, root), service.environment()).returncode == 0
    damaged = next(root.rglob("*.mp4"))
    damaged.write_bytes(b"damaged")
    with Catalog(catalog_path(root), beside=True) as catalog:
        assert catalog.scalar("SELECT count(*) FROM recording") == 3
        with half_written(root):
            before = catalog_path(root).read_bytes()
            assert catalog.scalar("SELECT count(*) FROM recording") == 3
            with pytest.raises(CatalogError, match="read-only"), catalog.transaction():
                pass
            assert catalog_path(root).read_bytes() == before
            assert run_cli(["verify", "--dest", root]).returncode == 1
    assert set(states(root).values()) >= {"archived"}
    assert "lost" not in states(root).values()


def test_a_signal_while_a_copy_changes_all_the_time(service: SimulatedService, root: Path) -> None:
    """As at the end of a run that found another one elsewhere at work on a large catalogue."""
    assert run_cli(download(service, root), service.environment()).returncode == 0
    lease_of(root).write_text(OTHER)
    never = "from g2a_archive.archive.database import copying\ncopying._copied = lambda *_: False"
    stopping = "from g2a_archive.archive.disk import lease\nlease.Lease.take = "
    refuse = "lambda *_: (_ for _ in ()).throw(lease.locked_error('host nas2, process 1'))"
    before = f"{never}\n{stopping}{refuse}"
    args, env = download(service, root), service.environment()
    with start_cli(args, env, before=before) as process:
        assert process.stderr is not None
        assert "another run is working" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert process.returncode == 5


@pytest.mark.parametrize("command", [["status"], ["verify"], ["export", "--csv"]])
def test_no_copy_where_the_locks_of_another_machine_are_seen(
    command: list[str], service: SimulatedService, root: Path
) -> None:
    """As over NFS: SQLite's are seen, too, and a large catalogue may change while it is copied."""
    often = OFTEN.format(watched=60)
    elsewhere = f"{often}lease.boot_id = lambda: 'another-machine'"
    env = service.environment()
    with start_cli(download(service, root), env, before=elsewhere) as first:
        with held_up(service) as asked:
            assert asked.wait(30)
            assert lease_of(root).exists()
            fault = Fault("create", "*/g2a-archive-*/catalog.sqlite3", errno.ENOSPC)
            result = run_cli([*command, "--dest", root], playing([fault]))
            assert result.returncode == 0, result.stderr
        _, err = first.communicate(timeout=60)
    assert first.returncode == 0, err


def test_a_copy_is_made_again_if_something_was_committed_meanwhile(
    service: SimulatedService, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_cli(download(service, root), service.environment()).returncode == 0
    copyfile, copied = shutil.copyfile, []

    def and_commit(source: str | Path, target: str | Path) -> None:
        copyfile(source, target)
        copied.append(source)
        if len(copied) == 1:
            with closing(sqlite3.connect(catalog_path(root))) as db, db:
                db.execute("UPDATE recording SET reason = 'later'")

    monkeypatch.setattr(shutil, "copyfile", and_commit)
    with closing(copy_in_memory(catalog_path(root), lambda: None, seconds=30)) as copy:
        assert copy.execute("SELECT DISTINCT reason FROM recording").fetchall() == [("later",)]
    assert copied.count(catalog_path(root)) == 2


def test_no_room_for_a_copy(service: SimulatedService, root: Path) -> None:
    """It is not the archive's disk that is full."""
    assert run_cli(download(service, root), service.environment()).returncode == 0
    with half_written(root):
        fault = Fault("create", "*/g2a-archive-*/catalog.sqlite3", errno.ENOSPC)
        result = run_cli(["status", "--dest", root], playing([fault]))
        assert result.returncode == 6
        assert "or set TMPDIR" in result.stderr
        assert "--dest" not in result.stderr


def test_whoever_may_undo_what_a_killed_run_left_needs_no_copy(
    service: SimulatedService, root: Path
) -> None:
    assert run_cli(download(service, root), service.environment()).returncode == 0
    args, env = download(service, root), service.environment()
    fault = Fault("create", "*/g2a-archive-*/catalog.sqlite3", errno.ENOSPC)
    with half_written(root):
        names = [catalog_path(root), Path(f"{catalog_path(root)}-journal")]
        killed = [name.read_bytes() for name in names]
    for name, was in zip(names, killed, strict=True):
        name.write_bytes(was)
    result = run_cli(["remove", "--yes", "--dest", root, "1400000001"], playing([fault]))
    assert result.returncode == 0, result.stderr
    assert run_cli(args, env).returncode == 0


def test_what_is_half_done_in_a_catalogue_behind_a_link(
    service: SimulatedService, root: Path, tmp_path: Path
) -> None:
    """Its journal is where the file itself is."""
    assert run_cli(download(service, root), service.environment()).returncode == 0
    catalog_path(root).rename(tmp_path / "elsewhere.sqlite3")
    catalog_path(root).symlink_to(tmp_path / "elsewhere.sqlite3")
    with (
        half_written(root),
        closing(copy_in_memory(catalog_path(root), lambda: None, seconds=30)) as copy,
    ):
        assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert copy.execute("SELECT count(*) FROM recording").fetchone() == (3,)
