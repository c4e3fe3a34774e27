"""What a flush did not bring to the disk, or a share's server never got, is not resumed."""

from __future__ import annotations

import errno
import json
import signal
import time
from pathlib import Path

import pytest
from support import PATIENCE, assert_archive_equals, download_args, report_of, run_cli, start_cli
from support.odd_drive import NFS, Fault, playing
from support.service import Serve

from g2a_archive.archive.content import has_holes
from g2a_archive.demo import SimulatedService, sample_recordings
from g2a_archive.demo.faults import stall
from g2a_archive.errors import ExitCode

SIZE = 900_000
SHARE = Fault("statfs", "*", NFS)


@pytest.fixture
def service(serve: Serve) -> SimulatedService:
    return serve(sample_recordings(1, mp4_size=SIZE))


def lose(root: Path) -> None:
    """What came since the last flush reads as zeros, as far as anything is there."""
    for path in (root / ".g2a-archive/partial").glob("*.mp4.part"):
        begin = json.loads(path.with_suffix(".json").read_text())["flushed"]
        with open(path, "r+b") as file:
            size = file.seek(0, 2)
            file.seek(begin)
            file.write(bytes(max(0, size - begin)))


@pytest.mark.parametrize("flushed", [0, 1])
def test_a_flush_that_failed(flushed: int, service: SimulatedService, root: Path) -> None:
    """An NFS server that was away for a moment is told so, once; what it lost are zeros then."""
    often = "from g2a_archive.archive import partial; partial._FLUSH_EVERY = 500_000"
    fault = Fault("fsync", "*.mp4.part", errno.EIO, after=flushed, times=1)
    env = {**service.environment(), **playing([fault, Fault("syncfs", "*", errno.EIO)])}
    args = download_args(root, *service.recordings)
    report = report_of(run_cli(args, env, before=often))
    assert report["exit_code"] == ExitCode.FAILED
    assert "Input/output error" in report["failed"][0]["reason"]
    lose(root)
    report = report_of(run_cli(args, service.environment()))
    assert report["exit_code"] == 0
    assert (report["bytes"] < SIZE) == bool(flushed)
    assert_archive_equals(service, root)


TOO_LARGE = Fault("statfs32", "*", errno.EOVERFLOW)
"""What a machine of 32 bits hears of a share that has more blocks or files than 2**32."""


@pytest.mark.parametrize("faults", [(SHARE,), (SHARE, TOO_LARGE)], ids=["", "32 bits"])
def test_killed_on_a_share(faults: tuple[Fault, ...], serve: Serve, root: Path) -> None:
    """The machine goes on, and yet what the server did not get may be lost."""
    service = serve(sample_recordings(1, mp4_size=SIZE), rate=400_000.0)
    env = {**service.environment(), **playing(faults)}
    args = download_args(root, *service.recordings)
    with start_cli(args, env) as process:
        until = time.monotonic() + PATIENCE
        while not [*(root / ".g2a-archive/partial").glob("*.mp4.json")]:
            assert time.monotonic() < until
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    lose(root)
    assert report_of(run_cli(args, env))["exit_code"] == 0
    assert_archive_equals(service, root)


@pytest.mark.parametrize("shared", [False, True])
def test_a_drive_that_came_back_without_what_it_had_not_written(
    shared: bool, serve: Serve, root: Path
) -> None:
    """Pulled out, and put in again without a restart: what it was not told is a hole."""
    service = serve(sample_recordings(1, mp4_size=20_000_000), rate=4_000_000.0)
    args = [*download_args(root, *service.recordings), "--jobs", "8" if shared else "1"]
    with start_cli(args, service.environment()) as process:
        until = time.monotonic() + PATIENCE
        while not (found := [*(root / ".g2a-archive/partial").glob("*.mp4.part")]) or (
            found[0].stat().st_size < 4_000_000
        ):
            assert time.monotonic() < until
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    content = found[0].read_bytes()
    note = json.loads(found[0].with_suffix(".json").read_text())
    here = [(0, len(content) if note["size"] is None else note["size"]), *note["extents"]]
    begin, end = max(here, key=lambda one: int(one[1]) - int(one[0]))
    begin, end = (begin + end) // 3 & -65536, end & -65536
    assert begin < end
    found[0].unlink()
    with open(found[0], "wb") as file:
        file.write(content[:begin])
        file.seek(end)
        file.write(content[end:])
        file.flush()
        if not has_holes(file.fileno(), len(content)):
            pytest.skip("this file system does not tell of holes")
    service.behaviour.rate = None
    assert report_of(run_cli(args, service.environment()))["exit_code"] == 0
    assert_archive_equals(service, root)


def test_a_directory_that_cannot_be_flushed_when_the_run_is_stopped(
    serve: Serve, root: Path
) -> None:
    """Of its recording, half of which was under way, it is told once."""
    service = serve(sample_recordings(1, mp4_size=SIZE, thumbnail_size=700))
    (id_,) = service.recordings
    service.fail_files(stall(1000), "mp4", id_)
    errors = root.with_name("errors")
    args = [*download_args(root, id_), "--error-file", errors]
    env = {**service.environment(), **playing([Fault("fsync", f"{root}/20??/??/??", errno.EIO)])}
    with start_cli(args, env) as process:
        until = time.monotonic() + PATIENCE
        while not [*root.glob("20??/??/??/*.jpg")] or not service.requests.wait_for_stall():
            assert time.monotonic() < until
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.communicate()
    (told,) = errors.read_text().splitlines()
    assert told.startswith(f"{id_}  # ")
    assert "Input/output error" in told
