"""Being stopped: by signals, by a terminal that goes away, by a reader that has seen enough."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from support import (
    assert_archive_equals,
    assert_nothing_false,
    download_args,
    plain_args,
    report_of,
    run_cli,
    run_here,
    start_cli,
    states,
)
from support.service import Serve

from g2a_archive.demo import (
    Fault,
    RequestLog,
    SimulatedService,
    faults,
    sample_recordings,
)
from g2a_archive.demo.messages import Call
from g2a_archive.download.stopping import StopSwitch
from g2a_archive.errors import ExitCode

SIZE = 200_000
PART = 50_000
SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)]
NEVER = ("--timeout", "3600", "--jobs", "1")
"""No time-out may be what ends these runs."""


@pytest.fixture
def service(serve: Serve) -> SimulatedService:
    return serve(sample_recordings(6, mp4_size=SIZE))


def stalled(service: SimulatedService) -> int:
    """Let the last recording's MP4 stall; returns which. One worker is through with all others."""
    id_ = list(service.recordings)[-1]
    service.fail_files(faults.stall(PART), "mp4", id_, times=1)
    service.fail_files(faults.stall(0), "mp4", id_)
    return id_


def stalled_twice(id_: int, log: RequestLog) -> bool:
    """A second stall: what came before the first one has arrived."""
    return sum(entry.stalled for entry in log.file_requests("mp4", id_)) >= 2


def test_a_signal_while_a_transfer_stalls(serve: Serve, tmp_path: Path) -> None:
    """Three runs side by side, each of which waits out a time-out, and gets another signal."""
    with ExitStack() as stack:
        running = []
        for number, code in SIGNALS:
            service = serve(sample_recordings(6, mp4_size=SIZE))
            id_, root = stalled(service), tmp_path / number.name
            args = download_args(root, "--timeout", "0.5", "--jobs", 1, *service.recordings)
            process = stack.enter_context(start_cli(args, service.environment()))
            running.append((service, root, id_, process, number, code))
        for service, _, id_, process, number, _ in running:
            assert service.requests.wait_for(partial(stalled_twice, id_))
            process.send_signal(number)
        for service, root, id_, process, _, code in running:
            out, err = process.communicate(timeout=30)
            report = report_of(subprocess.CompletedProcess([], process.returncode, out, err))
            assert "retry 1/5" in err
            assert (report["exit_code"], report["archived"], report["failed"]) == (code, 5, [])
            assert_stopped_in(id_, service, root)


def assert_stopped_in(id_: int, service: SimulatedService, root: Path) -> None:
    """A run was stopped in this MP4, and the next one goes on there."""
    assert_nothing_false(service, root)
    assert states(root) == dict.fromkeys(service.recordings, "archived") | {id_: "queued"}
    service.on_request.clear()
    service.requests.clear()
    assert run_here(service, root, service.recordings).exit_code == 0
    (request,) = service.requests.file_requests("mp4")
    assert request.headers["range"] == f"bytes={PART}-"
    assert_archive_equals(service, root)


def test_the_summary_of_a_stopped_run(
    service: SimulatedService, root: Path, tmp_path: Path
) -> None:
    id_ = stalled(service)
    errors = tmp_path / "errors"
    args = plain_args(root, *NEVER, "--error-file", errors, *service.recordings)
    with start_cli(args, service.environment()) as process:
        assert service.requests.wait_for_stall()
        process.terminate()
        stdout, _ = process.communicate(timeout=30)
    assert process.returncode == 143
    assert stdout.startswith("Archived 5 of 6 recordings: 15 files")
    assert "not finished: 1; run again to go on with them" in stdout
    assert errors.read_text() == f"{id_}  # not finished: the run ended before\n"


def test_one_file_failed_and_another_was_under_way(
    service: SimulatedService, root: Path, tmp_path: Path
) -> None:
    id_ = next(iter(service.recordings))
    service.fail_files(faults.status(418), "mp4")
    service.fail_files(faults.stall(10), "events")
    args = download_args(root, *NEVER, "--jobs", 1, "--error-file", tmp_path / "errors", id_)
    with start_cli(args, service.environment()) as process:
        assert service.requests.wait_for_stall()
        process.terminate()
        process.communicate(timeout=30)
    reason = "mp4: the file host answered 418"
    assert (tmp_path / "errors").read_text() == f"{id_}  # {reason}\n"


@pytest.mark.parametrize("call", ["links", "token"])
@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_while_a_call_stalls(
    call: str, number: signal.Signals, code: int, service: SimulatedService, root: Path
) -> None:
    service.fail(faults.stall(0), call=call)  # type: ignore[arg-type]
    args = download_args(root, *NEVER, *service.recordings)
    with start_cli(args, service.environment(renewable=True)) as process:
        assert service.requests.wait_for_stall()
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=30)
    report = report_of(subprocess.CompletedProcess([], process.returncode, stdout, stderr))
    assert report["exit_code"] == code
    assert report["failed"] == []
    assert states(root) == {}
    service.on_request.clear()
    assert run_here(service, root, service.recordings).exit_code == 0


def test_a_signal_between_two_calls_for_the_first_chunk(
    service: SimulatedService, root: Path
) -> None:
    """A half of it was accepted, so that all of them are owed, as `--owed` shows."""
    unknown = 999
    service.fail(faults.stall(0), call="links", skip=2)
    args = download_args(root, *NEVER, *service.recordings, unknown)
    with start_cli(args, service.environment()) as process:
        assert service.requests.wait_for_stall()
        process.terminate()
        process.communicate(timeout=30)
    assert states(root) == dict.fromkeys([*service.recordings, unknown], "queued")
    service.on_request.clear()
    report = run_here(service, root, [], owed=True)
    assert (report.archived, [*report.refused]) == (len(service.recordings), [unknown])


def test_a_signal_while_every_file_is_in_its_pause(service: SimulatedService, root: Path) -> None:
    service.fail_files(faults.status(503, retry_after="500"))
    args = download_args(root, "--retries", "9", *service.recordings)
    with start_cli(args, service.environment()) as process:
        assert service.requests.wait_for(lambda log: log.statuses["file", 503] >= 3)
        process.terminate()
        stdout, stderr = process.communicate(timeout=30)
    report = report_of(subprocess.CompletedProcess([], process.returncode, stdout, stderr))
    assert report["exit_code"] == 143
    assert report["failed"] == []
    assert states(root) == dict.fromkeys(service.recordings, "queued")


_WHILE_IT_IMPORTS = """
import signal, sys

class Callback:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "g2a_archive.cli.commands.download":
            Callback()

sys.modules.pop("g2a_archive.cli.commands.download", None)
sys.meta_path.insert(0, Finder())
"""


def test_a_signal_while_a_module_is_imported(service: SimulatedService, root: Path) -> None:
    """What is raised in one of Python's own callbacks is lost, and the run went on all night."""
    args = download_args(root, *service.recordings)
    with start_cli(args, service.environment(), before=_WHILE_IT_IMPORTS) as process:
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 143, stderr
    assert "ignored" not in stderr


_STUCK = """
import sys, threading
from g2a_archive.download import engine

def stuck(self):
    print("stuck", file=sys.stderr, flush=True)
    threading.Event().wait()

engine.Engine._drain = stuck
"""


def test_a_connect_that_hangs_is_not_waited_for(
    service: SimulatedService, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("g2a_archive.download.engine._STOP_SECONDS", 3600.0)
    switch = StopSwitch()
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        with ExitStack() as stack:  # its queue is full: what else connects gets no answer
            for _ in range(4):
                one = stack.enter_context(socket.socket())
                one.setblocking(False)
                one.connect_ex(address)
            service.fail_files(faults.redirect(f"http://127.0.0.1:{address[1]}/"), "mp4")
            run = ThreadPoolExecutor(1)
            ended = run.submit(
                run_here, service, root, service.recordings, switch=switch, timeout=3600.0
            )
            assert service.requests.wait_for(lambda log: len(log.file_requests("mp4")) >= 4)
            switch.stop(ExitCode.SIGINT)
            report = ended.result(timeout=30)
        run.shutdown()
    assert report.exit_code == ExitCode.SIGINT
    assert len(report.unfinished) == 6
    assert_nothing_false(service, root)


@pytest.mark.parametrize("call", ["token", "list", "links"])
def test_a_call_that_hangs_is_not_waited_for(
    call: Call, service: SimulatedService, root: Path
) -> None:
    service.fail(Fault(ending="stall", after=5), call=call)
    environment = service.environment(renewable=call == "token")
    args: list[str | int | Path] = ["sync", "--account-key", "1000", "--dest", root]
    args += ["--min-free", "0", "--timeout", "3600"]
    with start_cli(args, environment) as process:
        assert service.requests.wait_for_stall()
        process.terminate()
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 143, stderr
    assert "Traceback" not in stderr


def test_a_second_sigint_ends_at_once(service: SimulatedService, root: Path) -> None:
    stalled(service)
    args = download_args(root, *NEVER, *service.recordings)
    with start_cli(args, service.environment(), before=_STUCK) as process:
        assert service.requests.wait_for_stall()
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert process.stderr.readline() == "stuck\n"
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (stdout, "\x1b" in stderr) == ("", False)
    assert_nothing_false(service, root)
    service.on_request.clear()
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_archive_equals(service, root)


_SAYS_WHAT_IT_OPENS = """
import sys

def hook(event, args):
    if event == "open" and str(args[0]).endswith("a pipe"):
        print("opening", file=sys.stderr, flush=True)

sys.addaudithook(hook)
"""


@pytest.mark.parametrize("option", ["--log-file", "--error-file", "--metrics-file"])
@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_pipe_that_nobody_reads_is_not_waited_for(
    number: signal.Signals,
    code: int,
    option: str,
    service: SimulatedService,
    root: Path,
    tmp_path: Path,
) -> None:
    os.mkfifo(tmp_path / "a pipe")
    args = download_args(root, option, tmp_path / "a pipe", *service.recordings)
    with start_cli(args, service.environment(), before=_SAYS_WHAT_IT_OPENS) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "opening\n"
        process.send_signal(number)
        process.communicate(timeout=30)
    assert process.returncode == code
    assert root.exists() == (option != "--log-file")


def test_a_closed_pipe_as_stdout_loses_nothing(service: SimulatedService, root: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = run_cli(
            download_args(root, *service.recordings), service.environment(), stdout=writer
        )
    finally:
        os.close(writer)
    assert result.returncode == 6
    assert result.stderr.endswith("cannot write to standard output: Broken pipe\n")
    assert result.stderr.count("\n") == 1
    assert_archive_equals(service, root)


def test_closed_pipes_as_stdout_and_stderr_lose_nothing(
    service: SimulatedService, root: Path
) -> None:
    service.fail_files(faults.status(503), "mp4", times=2)  # so that there is something to say
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = run_cli(
            download_args(root, *service.recordings),
            service.environment(),
            stdout=writer,
            stderr=writer,
        )
    finally:
        os.close(writer)
    assert result.returncode == 6
    assert_archive_equals(service, root)


_OWN_TERMINAL = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
"""
"""In the process: makes its stdin the terminal that controls it."""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("controlling", [True, False])
def test_a_terminal_that_closes_loses_nothing(
    controlling: bool, unbuffered: str, service: SimulatedService, root: Path
) -> None:
    """Unbuffered, as containers have Python, even a write of nothing fails then."""
    id_ = stalled(service)
    master, slave = pty.openpty()
    args = plain_args(root, *NEVER, *service.recordings)
    streams = {"stdin": slave, "stdout": slave, "stderr": slave}
    with start_cli(
        args,
        {**service.environment(), "TERM": "xterm", "PYTHONUNBUFFERED": unbuffered},
        before=_OWN_TERMINAL if controlling else "",
        start_new_session=True,
        **streams,
    ) as process:
        os.close(slave)
        assert os.read(master, 1)  # the bars are there
        assert service.requests.wait_for_stall()
        os.close(master)
        if not controlling:  # nobody tells it: it goes on without a terminal
            process.terminate()
        assert process.wait(timeout=30) == 143
    assert_nothing_false(service, root)
    assert states(root)[id_] == "queued"
    service.on_request.clear()
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_archive_equals(service, root)


def test_max_duration_stops_tidily(service: SimulatedService, root: Path) -> None:
    stalled(service)
    args = download_args(root, *NEVER, "--max-duration", "1s", *service.recordings)
    report = report_of(run_cli(args, service.environment()))
    assert report["exit_code"] == 8
    assert_nothing_false(service, root)
    service.on_request.clear()
    service.requests.clear()
    assert run_here(service, root, service.recordings).exit_code == 0
    (request,) = service.requests.file_requests("mp4")
    assert request.headers["range"] == f"bytes={PART}-"


def test_what_was_hurried_and_came_in_time_is_left_alone() -> None:
    """An alarm that rings later would end the program, unheard, as would one that is set then."""
    switch = StopSwitch()
    with switch.alarm_after_signal(3600.0):
        switch.stop(ExitCode.SIGTERM)
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    switch.stop(ExitCode.SIGTERM)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_signals_are_given_back() -> None:
    """They end at once whatever holds up the last lines of a command that is through."""
    usual = [signal.getsignal(number) for number, _ in SIGNALS]
    with StopSwitch().signals():
        assert [signal.getsignal(number) for number, _ in SIGNALS] != usual
    assert [signal.getsignal(number) for number, _ in SIGNALS] == usual
