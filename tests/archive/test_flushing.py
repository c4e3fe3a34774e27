"""Many small files are flushed together, where that is safe; else each by itself."""

from __future__ import annotations

import errno
import math
import os
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support import (
    PATIENCE,
    archive_files,
    assert_archive_equals,
    catalog_path,
    download_args,
    report_of,
    run_cli,
    run_here,
    states,
)
from support.odd_drive import ODD, Fault, playing
from support.service import Serve

from g2a_archive.archive.disk.flushing import GroupFlush, flush_directory
from g2a_archive.archive.disk.libc import c_call
from g2a_archive.archive.disk.space import file_system_type
from g2a_archive.demo import Request, SimulatedRecording
from g2a_archive.download.transfer.finish import Finisher
from g2a_archive.download.transfer.results import Complete, Transfer
from g2a_archive.errors import ExitCode

FEW = 6
"""Recordings, of three files each."""

linux = pytest.mark.skipif(sys.platform != "linux", reason="syncfs is a call of Linux")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files in `partial/` that were flushed by themselves."""
    flushed: list[str] = []
    fsync = os.fsync

    def note(fd: int) -> None:
        fsync(fd)
        path = os.readlink(f"/proc/self/fd/{fd}")
        if path.endswith(".part"):
            flushed.append(path)

    monkeypatch.setattr(os, "fsync", note)
    return flushed


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The common flushes, and that a few files are enough for one."""
    calls: list[int] = []
    flush = GroupFlush.flush

    def note(self: GroupFlush) -> None:
        calls.append(len(calls))
        flush(self)

    monkeypatch.setattr(GroupFlush, "flush", note)
    for name, value in {"_MANY": 1, "_LONG": math.inf}.items():
        monkeypatch.setattr(f"g2a_archive.download.transfer.finish.{name}", value)
    return calls


@linux
def test_small_files_are_flushed_together(
    serve: Serve,
    root: Path,
    alone: list[str],
    together: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those that come while a flush goes on make up the next one."""
    here = threading.Semaphore(0)
    put, flush = Finisher.put, GroupFlush.flush

    def count(self: Finisher, transfer: Transfer, whole: Complete) -> None:
        put(self, transfer, whole)
        here.release()

    def wait_for_all(self: GroupFlush) -> None:
        if not together:
            assert all(here.acquire(timeout=60) for _ in range(60))
        flush(self)

    monkeypatch.setattr(Finisher, "put", count)
    monkeypatch.setattr(GroupFlush, "flush", wait_for_all)
    service = serve(20)  # of fewer, not all are on their way before some are named
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_archive_equals(service, root)
    assert alone == []
    assert 1 <= len(together) <= 2


@linux
@pytest.mark.parametrize("obstacle", ["old kernel", "unknown file system"])
def test_where_it_is_not_safe_each_file_is_flushed_by_itself(
    obstacle: str,
    serve: Serve,
    root: Path,
    alone: list[str],
    together: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if obstacle == "old kernel":
        uname = os.uname()
        old = os.uname_result((uname[0], uname[1], "5.7.19-generic", uname[3], uname[4]))
        monkeypatch.setattr(os, "uname", lambda: old)
    else:
        monkeypatch.setattr(
            "g2a_archive.archive.disk.flushing._MAGIC", {0x6969}
        )  # as if this were NFS only
    service = serve(FEW)
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_archive_equals(service, root)
    assert len(alone) == 3 * FEW
    assert together == []


@linux
def test_a_directory_that_is_gone_is_not_flushed(tmp_path: Path) -> None:
    """It is no file system's lack of a flush, after which what is named counts."""
    with pytest.raises(FileNotFoundError):
        flush_directory(tmp_path / "gone")


def test_a_file_system_that_is_none() -> None:
    assert GroupFlush.of("/proc") is None


@linux
def test_a_common_flush_that_fails_tells_nothing_of_any_file(
    serve: Serve, root: Path, alone: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program's file may be the one that could not be written."""

    def fail(self: GroupFlush) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(GroupFlush, "flush", fail)
    monkeypatch.setattr("g2a_archive.download.transfer.finish._MANY", 1)
    service = serve(FEW)
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_archive_equals(service, root)
    assert len(alone) == 3 * FEW


@linux
def test_a_common_flush_that_waits_for_others_is_not_repeated(
    serve: Serve,
    root: Path,
    alone: list[str],
    together: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("g2a_archive.download.transfer.finish._LONG", -1.0)
    service = serve(FEW)
    assert run_here(service, root, service.recordings, jobs=1).exit_code == 0
    assert_archive_equals(service, root)
    assert together == [0]
    assert alone


@linux
def test_then_several_files_are_flushed_at_a_time(
    serve: Serve, root: Path, together: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("g2a_archive.download.transfer.finish._LONG", -1.0)
    meeting, met = threading.Barrier(4), threading.Event()
    fsync = os.fsync

    def meet(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(".part") and not met.is_set():
            with suppress(threading.BrokenBarrierError):
                meeting.wait(30)
                met.set()
        fsync(fd)

    monkeypatch.setattr(os, "fsync", meet)
    service = serve(24)
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_archive_equals(service, root)
    assert together == [0]
    assert met.is_set()


@linux
@pytest.mark.usefixtures("together")
def test_files_that_wait_closed_are_opened_again(
    serve: Serve, root: Path, alone: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("g2a_archive.archive.disk.flushing._MAGIC", set())
    monkeypatch.setattr("g2a_archive.download.transfer.finish._MOST_OPEN", 0)
    service = serve(FEW)
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_archive_equals(service, root)
    assert len(alone) == 3 * FEW


@linux
def test_a_python_without_ctypes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctypes", None)
    c_call.cache_clear()
    try:
        assert GroupFlush.of(str(tmp_path)) is None
        assert file_system_type(str(tmp_path)) == 0
    finally:
        c_call.cache_clear()


@linux
def test_the_errno_of_a_failing_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = GroupFlush(str(tmp_path))
    failing = "g2a_archive.archive.disk.flushing._syncfs"
    monkeypatch.setattr(failing, lambda: lambda _: -errno.EDQUOT)
    with pytest.raises(OSError, match=os.strerror(errno.EDQUOT)):
        group.flush()
    group.close()


@linux
def test_a_call_of_the_c_library_that_fails() -> None:
    syncfs = c_call("syncfs")
    assert syncfs is not None
    assert syncfs(-1) == -errno.EBADF
    assert c_call("no_such_call") is None


@linux
def test_on_fat_no_name_is_claimed_before_all_is_written(serve: Serve, root: Path) -> None:
    """There, flushing a directory tells of the name alone, and not where the file's bytes are."""
    service = serve(FEW)
    faults = [Fault("statfs", "*", ODD), Fault("syncfs", f"{root}/20*", errno.EIO)]
    args = download_args(root, *service.recordings)
    report = report_of(run_cli(args, {**service.environment(), **playing(faults)}))
    assert (report["exit_code"], report["archived"]) == (1, 0)
    assert "cannot flush the directory" in report["failed"][0]["reason"]
    assert "archived" not in states(root).values()
    report = report_of(run_cli(args, {**service.environment(), **playing(faults[:1])}))
    assert (report["exit_code"], report["files"]) == (0, 0)
    assert_archive_equals(service, root)


@linux
def test_the_archive_s_own_name_is_on_disk_before_anything_is_claimed(
    serve: Serve, root: Path
) -> None:
    """A power cut could take all that the first night had archived."""
    service = serve(2)
    fault = playing([Fault("fsync", str(root.parent), errno.EIO)])
    result = run_cli(download_args(root, *service.recordings), {**service.environment(), **fault})
    assert report_of(result)["archived"] == 0
    assert f"cannot flush the directory {root.parent}: Input/output error" in result.stderr
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_archive_equals(service, root)


def test_what_was_just_copied_here_is_on_disk_before_a_rebuilt_catalogue_claims_it(
    serve: Serve, root: Path
) -> None:
    """Whatever copied it may have left it in memory."""
    service = serve(FEW)
    assert run_here(service, root, service.recordings).exit_code == 0
    catalog_path(root).unlink()
    args = ("verify", "--rebuild", "--dest", root)
    result = run_cli(args, playing([Fault("syncfs", f"{root}*", errno.EIO, times=1)]))
    assert result.returncode == 6
    assert "cannot flush the directory" in result.stderr
    assert states(root) == {}
    assert run_cli(args, playing([Fault("syncfs", "*", errno.ENOSYS)])).returncode == 0
    assert len(archive_files(root)) == 3 * FEW
    assert_archive_equals(service, root)


def test_what_was_named_in_a_directory_whose_flush_failed_is_not_claimed_later(
    serve: Serve, root: Path
) -> None:
    """Be it of a recording whose other files come only after that, into a flush that works."""
    service = serve([SimulatedRecording(i, datetime(2016, 2, 29, tzinfo=UTC)) for i in (7, 8)])
    day = root / "2016/02/29"

    def ready(recording: int | None) -> bool:
        """7 ends once the others of 8 are named, and 8 once what came of 7 is recorded."""
        return states(root)[7] != "queued" if recording == 8 else len([*day.glob("8.*")]) == 2

    def late(request: Request) -> None:
        until = time.monotonic() + PATIENCE / 2
        while request.kind == "events" and not ready(request.recording_id):
            assert time.monotonic() < until
            time.sleep(0.02)

    service.on_request.insert(0, late)
    env = {**service.environment(), **playing([Fault("fsync", str(day), errno.EIO, times=1)])}
    report = report_of(run_cli(download_args(root, *service.recordings), env))
    assert (report["exit_code"], report["archived"]) == (ExitCode.FAILED, 0)
    assert {one["id"] for one in report["failed"]} == {7, 8}
    assert states(root) == {7: "failed", 8: "failed"}
    service.on_request.clear()
    assert run_cli(download_args(root, *service.recordings), service.environment()).returncode == 0
    assert_archive_equals(service, root)
