"""What passes by itself is tried again, wherever it is met; what stays is told as what it is."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest
from support import (
    assert_archive_equals,
    clean_environment,
    command,
    download_args,
    report_of,
    run_cli,
    run_here,
)
from support.odd_drive import Fault, playing
from support.service import Serve

from g2a_archive.demo import SimulatedService, sample_recordings
from g2a_archive.errors import ExitCode

DAY = "2016/02/29"


@pytest.fixture
def service(serve: Serve) -> SimulatedService:
    return serve(sample_recordings(5, mp4_size=2000, events_size=300, thumbnail_size=700))


def each_once(root: Path, *faults: tuple[str, str]) -> dict[str, str]:
    """The environment of a process that meets a stale handle at the first of each of these."""
    return playing(Fault(call, f"{root}{path}", errno.ESTALE, times=1) for call, path in faults)


def test_a_night_that_adds_to_an_archive(service: SimulatedService, root: Path) -> None:
    *old, new = [i for i, r in service.recordings.items() if f"{r.start:%Y}" != "2016"]
    leap = next(i for i in service.recordings if i not in (*old, new))
    run_here(service, root, [*old, leap])
    night = each_once(
        root,
        *(("stat", path) for path in ("", "/.g2a-archive", "/.g2a-archive/partial")),
        *(("list", path) for path in ("", "/.g2a-archive/partial", "/2014", f"/{DAY}")),
        ("openw", "/.g2a-archive/lock"),
        ("truncate", "/.g2a-archive/lock"),
        ("write", "/.g2a-archive/lock"),
        ("openw", "/.g2a-archive/catalog.sqlite3"),
        ("open", "/20*/SHA256SUMS"),
        ("create", "/20*/.SHA256SUMS.tmp"),
        ("write", "/20*/.SHA256SUMS.tmp"),
    )
    result = run_cli(download_args(root, *service.recordings), {**service.environment(), **night})
    report = report_of(result)
    assert (report["exit_code"], result.stderr) == (ExitCode.OK, "")
    assert report["archived"] == 1
    assert_archive_equals(service, root)


def test_reading_what_is_there(service: SimulatedService, root: Path, tmp_path: Path) -> None:
    run_here(service, root, service.recordings)
    moments = each_once(
        root,
        *(("list", path) for path in ("", "/2014", "/2014/01", f"/{DAY}")),
        ("stat", f"/{DAY}/*.mp4"),
        ("open", f"/{DAY}/*.events"),
        ("read", f"/{DAY}/*.jpg"),
    )
    for words in (["verify", "--dest"], ["merge", "--dest", tmp_path / "one"]):
        result = run_cli([*words, root], moments)
        assert (result.returncode, result.stderr) == (ExitCode.OK, ""), result.stdout
    assert_archive_equals(service, tmp_path / "one")


def test_a_journal_that_a_run_elsewhere_deletes_while_it_is_copied(
    service: SimulatedService, root: Path
) -> None:
    """On a share whose locks are not seen; a reader beside such a run ended with 6."""
    run_here(service, root, service.recordings)
    own = root / ".g2a-archive"
    (own / "lock.lease").write_text("host nas2, process 1\nits-boot/42\n")
    (own / "catalog.sqlite3-journal").write_bytes(bytes(512))
    moments = each_once(root, ("read", "/.g2a-archive/catalog.sqlite3-journal"))
    result = run_cli(["status", "--dest", root], moments)
    assert (result.returncode, result.stderr) == (ExitCode.OK, "")


def test_the_program_s_own_files_cannot_be_opened(service: SimulatedService, root: Path) -> None:
    """Parts of it are read when they are needed; it was called a bug."""
    fault = playing([Fault("open", "*/download/*engine.*", errno.EMFILE)])
    env = clean_environment({**service.environment(), **fault})
    words = command(download_args(root, *service.recordings))  # not of a process that has it all
    result = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert report_of(result)["exit_code"] == ExitCode.STORAGE
    assert "Too many open files (lower --jobs, or raise the limit" in result.stderr
    assert "bug" not in result.stderr


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault("close", "*/.trial-*", errno.EDQUOT), ExitCode.STORAGE),  # as a share tells
        (Fault("unlink", "*/.trial-*", errno.EBUSY, times=1), ExitCode.OK),
        (Fault("create", "*/.trial-*", errno.ESTALE, times=1), ExitCode.OK),
    ],
)
def test_a_try_leaves_nothing(
    service: SimulatedService, root: Path, fault: Fault, code: ExitCode
) -> None:
    assert run_here(service, root, service.recordings).exit_code == ExitCode.OK
    beside = ("--error-file", root.parent / "errors")
    env = {**service.environment(), **playing([fault])}
    result = run_cli(["check", "--dest", root, *beside], env)
    assert result.returncode == code, result.stdout
    assert (os.strerror(fault.code) in result.stdout) == (code != ExitCode.OK)
    assert not list(root.parent.rglob(".trial-*"))


@pytest.mark.parametrize("call", ["list", "stat"])
def test_a_directory_that_cannot_be_looked_at_gets_its_sums_the_next_night(
    service: SimulatedService, root: Path, call: str
) -> None:
    """That it has none is told; it was passed over, or called a bug."""
    first = next(iter(service.recordings))
    day = f"{root}/{service.recordings[first].start:%Y/%m/%d}"
    fault = playing([Fault(call, day, errno.EIO)])
    result = run_cli(download_args(root, *service.recordings), {**service.environment(), **fault})
    assert report_of(result)["exit_code"] == ExitCode.FAILED
    assert f"cannot read the directory {day}: Input/output error" in result.stderr
    assert "bug" not in result.stderr
    assert run_here(service, root, service.recordings).exit_code == ExitCode.OK
    assert_archive_equals(service, root)
