"""The main job where nothing goes wrong: the helpers that all tests of faults lean on work."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest
from support import (
    archive_files,
    assert_archive_equals,
    catalog_rows,
    clean_environment,
    cli_here,
    command,
    download_args,
    report_of,
    run_cli,
    run_here,
)
from support.host import Authority, Host, answer, cut_off
from support.memory import peak_of
from support.odd import answer_for, bytes_of
from support.service import Serve

from g2a_archive.console.progress import Display, Snapshot
from g2a_archive.demo import Request, SimulatedService, sample_recordings
from g2a_archive.demo.faults import drop, reset, trickle
from g2a_archive.demo.recordings import Kind
from g2a_archive.download.stopping import StopSwitch
from g2a_archive.errors import ExitCode
from g2a_archive.models import FileKind


@pytest.mark.parametrize(("limit", "warned"), [("-n", True), ("-Sn", False)])
def test_a_low_limit_of_open_files(limit: str, warned: bool, serve: Serve, root: Path) -> None:
    """What may be raised is raised; else fewer downloads run at a time."""
    # Where more may be open at a time than the limit was, they are.
    service = serve(16, latency=0.05) if warned else serve(30, latency=0.3)
    args = command(download_args(root, "--jobs", 64, *service.recordings))
    result = subprocess.run(
        ["bash", "-c", f'ulimit {limit} 64 && exec "$@"', "bash", *args],
        env=clean_environment(service.environment()),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert report_of(result)["exit_code"] == 0
    assert ("with 64 open files (ulimit -n), only" in result.stderr) == warned
    assert_archive_equals(service, root)


def test_everything_is_archived_once(service: SimulatedService, root: Path) -> None:
    ids = list(service.recordings)
    result = run_cli(download_args(root, *ids), service.environment())
    report = report_of(result)
    assert result.returncode == 0
    assert result.stderr == ""
    assert report["archived"] == report["requested"] == 8
    assert report["files"] == 24
    assert report["bytes"] == service.requests.file_bytes_sent
    assert_archive_equals(service, root)
    assert service.requests.leaks == []

    service.requests.clear()
    again = report_of(cli_here(download_args(root, *ids), service.environment()))
    assert (again["exit_code"], again["already_archived"], again["bytes"]) == (0, 8, 0)
    assert service.requests.count == 0


def test_a_run_in_this_process_does_the_same(service: SimulatedService, root: Path) -> None:
    report = run_here(service, root, service.recordings)
    assert report.exit_code == 0
    assert_archive_equals(service, root)


def test_the_proof_notices_what_is_wrong(service: SimulatedService, root: Path) -> None:
    run_here(service, root, service.recordings)
    name, path = next(iter(archive_files(root).items()))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(AssertionError, match=name):
        assert_archive_equals(service, root)
    path.unlink()
    with pytest.raises(AssertionError):
        assert_archive_equals(service, root)


def test_files_that_are_too_large_for_the_disk_leave_nothing_open(serve: Serve, root: Path) -> None:
    """As of some file systems and quotas, which tell it only as the bytes come."""
    service = serve(sample_recordings(100, mp4_size=600_000))
    args = command(download_args(root, *service.recordings))
    result = subprocess.run(
        ["bash", "-c", 'ulimit -n 80 && ulimit -f 500 && exec "$@"', "bash", *args],
        env=clean_environment(service.environment()),
        capture_output=True,
        text=True,
        timeout=60,
    )
    report = report_of(result)
    assert (report["exit_code"], report["files"]) == (1, 200)
    assert {one["file"] for one in report["failed"]} == {"mp4"}
    assert all("File too large" in one["reason"] for one in report["failed"])


def test_what_is_adopted_day_by_day_takes_little_memory(serve: Serve, root: Path) -> None:
    """Each file's sum is looked for in its day's list, which is not kept to the run's end."""
    service = serve(sample_recordings(50, days=80, mp4_size=5_000, events_size=None))
    assert run_here(service, root, service.recordings).exit_code == 0
    (root / ".g2a-archive/catalog.sqlite3").unlink()
    days = [*root.glob("*/*/*/SHA256SUMS")]
    assert len(days) == 48
    for day in days:
        others = "".join(f"{number:064x}  {number}.mp4\n" for number in range(1_500))
        day.write_text(day.read_text() + others)

    def adopt() -> None:
        assert run_here(service, root, service.recordings).adopted == 100

    assert peak_of(adopt) < 12 << 20


def test_what_a_run_had_only_begun_goes_where_the_next_one_says(
    service: SimulatedService, root: Path
) -> None:
    """As after Ctrl-C, since the layout was not the right one."""
    switch = StopSwitch()

    def stop(request: Request) -> None:
        if request.call == "file":
            switch.stop(ExitCode.SIGINT)

    service.fail_files(drop())
    service.on_request.insert(0, stop)
    report = run_here(service, root, service.recordings, switch=switch, layout="wrong/%Y")
    assert report.exit_code == ExitCode.SIGINT
    assert archive_files(root) == {}
    service.on_request.clear()
    report = run_here(service, root, service.recordings, dry_run=True)
    assert "wrong" not in str(report.dry_run_sample)
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_archive_equals(service, root)
    days = "SELECT day FROM day_count WHERE recordings = 0 AND day <> ''"
    assert catalog_rows(root, days) == []


def test_what_waits_for_another_try_is_not_shown_as_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a line was down, there were bars of files that stood still, more than jobs."""
    first, second = recordings = list(sample_recordings(2, mp4_size=400_000))
    seen: list[list[str]] = []

    @contextmanager
    def watch(_: Display, look: Callable[[], Snapshot]) -> Iterator[None]:
        def work() -> None:
            while not over.wait(0.01):
                seen.append([file.name for file in look().files])

        over, thread = threading.Event(), threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    monkeypatch.setattr(Display, "watch", watch)
    with SimulatedService(recordings) as service:
        service.fail_files(reset(after=200_000), recording_id=first.id, times=1)
        service.fail_files(trickle(200_000), recording_id=second.id)
        report = run_here(service, tmp_path, service.recordings, jobs=1, kinds=(FileKind.MP4,))
    assert report.archived == 2
    assert [f"{second.id}.mp4"] in seen
    # A look may fall between one file's end and the next one's beginning: twice, at most.
    assert sum(len(names) > 1 for names in seen) <= 2


def test_an_mp4_without_length_that_ends_below_tls(
    serve: Serve, authority: Authority, root: Path
) -> None:
    """Its `recordingSize` tells that no byte is missing."""
    service = serve(1)
    (id_,) = service.recordings
    host = Host(authority.context())

    def script(sock: socket.socket) -> None:
        kind = cast(Kind, host.head.split(b"?")[0].rpartition(b"/")[2].decode())
        sock.sendall(answer(bytes_of(service, kind, id_), length=kind != "mp4"))
        if kind == "mp4":
            cut_off(sock)
            raise OSError

    host.script = script
    answer_for(service, host)
    assert run_here(service, root, [id_], retries=0).exit_code == 0
    host.close()
    assert_archive_equals(service, root)
