"""Silence with -q, log lines, the log file, exit codes, and standard streams that fail."""

from __future__ import annotations

import errno
import logging
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support import clean_environment, command, report_of, run_cli, start_cli
from support.cli import FIRST, Args
from support.odd_drive import Fault, playing
from support.service import Serve
from test_output import IDS, RUN, mixed

from g2a_archive.cli import main
from g2a_archive.console.report import PRECEDENCE, Report, exit_code_of
from g2a_archive.demo import SimulatedService
from g2a_archive.demo.faults import status
from g2a_archive.errors import ExitCode
from g2a_archive.models import Failure, FileKind

LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (DEBUG|INFO|WARNING|ERROR) \S.*")


# --- quiet, verbose --------------------------------------------------------------------------


def test_quiet_is_silent_on_success_and_while_something_is_not_ready(
    serve: Serve, tmp_path: Path
) -> None:
    service = mixed(serve)
    for ids, code in (([FIRST], 0), ([FIRST], 0), ([FIRST, FIRST + 1], 3)):
        result = run_cli([*RUN, "-q", *ids], service.environment(), cwd=tmp_path)
        assert (result.returncode, result.stdout, result.stderr) == (code, "", "")


def test_quiet_is_silent_whatever_the_log_file_is_to_hold(serve: Serve, tmp_path: Path) -> None:
    service = mixed(serve)
    args: Args = [*RUN, "-q", "-vv", "--log-file", "log", FIRST]
    result = run_cli(args, service.environment(), cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert f" INFO recording {FIRST}: mp4: " in (tmp_path / "log").read_text()


def test_quiet_is_silent_when_the_time_is_over(serve: Serve, tmp_path: Path) -> None:
    service = serve(4, rate=2_000.0, rate_limit=None)
    args: Args = [*RUN, "-q", "--max-duration", "0.5s", *service.recordings]
    result = run_cli(args, service.environment(), cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (8, "", "")
    service.behaviour.rate = None
    assert run_cli([*RUN, *service.recordings], service.environment(), cwd=tmp_path).returncode == 0


def test_quiet_speaks_of_what_was_refused_before_the_time_was_over(
    serve: Serve, tmp_path: Path
) -> None:
    service = serve(4, rate=200.0, rate_limit=None)
    args: Args = [*RUN, "-q", "--max-duration", "3s", *service.recordings, 99]
    result = run_cli(args, service.environment(), cwd=tmp_path)
    assert result.returncode == 8
    assert "\n  99  refused: the service calls this ID invalid\n" in result.stdout


def test_quiet_speaks_when_something_failed(serve: Serve, tmp_path: Path) -> None:
    service = mixed(serve)
    result = run_cli([*RUN, "-q", *IDS], service.environment(), cwd=tmp_path)
    assert result.returncode == 1
    assert result.stdout.startswith("Archived 1 of 4 recordings: ")
    assert f"  {FIRST + 2}  mp4: " in result.stdout


def test_quiet_speaks_when_the_run_could_not_go_on(serve: Serve, tmp_path: Path) -> None:
    service = serve(2, rate_limit=None)
    service.revoke()
    result = run_cli([*RUN, "-q", FIRST], service.environment(), cwd=tmp_path)
    assert result.returncode == 4
    (line,) = result.stderr.splitlines()
    assert re.fullmatch(r"\S+Z ERROR the service refused the credentials, or every one .*", line)


def test_verbose_is_a_line_a_file(service: SimulatedService, tmp_path: Path) -> None:
    result = run_cli([*RUN, FIRST, "-v"], service.environment(), cwd=tmp_path)
    lines = result.stderr.splitlines()
    assert all(LOG_LINE.fullmatch(line) for line in lines)
    start = service.recordings[FIRST].start
    assert sorted(line.split(" ", 1)[1] for line in lines) == [
        f"INFO recording {FIRST}: {kind}: {start:%Y/%m/%d}/{FIRST}.{ending}"
        for kind, ending in (("events", "events"), ("mp4", "mp4"), ("thumbnail", "jpg"))
    ]


def test_without_verbose_a_good_run_says_nothing_on_stderr(
    service: SimulatedService, tmp_path: Path
) -> None:
    result = run_cli([*RUN, FIRST], service.environment(), cwd=tmp_path)
    assert result.stderr == ""
    assert len(result.stdout.splitlines()) == 2  # what was done, and the fingerprint


# --- the log file ----------------------------------------------------------------------------


def test_the_log_file_is_appended_to(serve: Serve, tmp_path: Path) -> None:
    service = mixed(serve)
    path = tmp_path / "run.log"
    path.write_text("2026-11-22T02:00:00Z INFO the night before\n")
    for _ in range(2):
        run_cli([*RUN, *IDS, "-q", "--log-file", path], service.environment(), cwd=tmp_path)
    lines = path.read_text().splitlines()
    assert lines[0].endswith("the night before")
    assert all(LOG_LINE.fullmatch(line) for line in lines)
    assert sum("refused by the service" in line for line in lines) == 2
    # What the file has does not depend on -q.
    assert sum(f"recording {FIRST}: mp4: " in line for line in lines) == 1


def test_the_log_survives_logrotate(serve: Serve, tmp_path: Path) -> None:
    service = serve(3, rate_limit=None)
    gate = service.fail_files(status(503), kind="mp4", recording_id=FIRST + 2)
    path = tmp_path / "run.log"
    args: Args = [*RUN, "--retries", "50", "--log-file", path, *service.recordings]
    with start_cli(args, service.environment(), cwd=tmp_path) as process:
        assert service.requests.wait_for(lambda _: gate.applied >= 2, 30)
        path.rename(tmp_path / "run.log.1")
        service.on_request.clear()
        assert process.wait(60) == 0
    old, new = (tmp_path / "run.log.1").read_text(), path.read_text()
    assert "503" in old
    assert f"recording {FIRST + 2}: mp4: " in new
    assert all(LOG_LINE.fullmatch(line) for line in (old + new).splitlines())


def test_the_levels_of_the_log_file(service: SimulatedService, tmp_path: Path) -> None:
    run_cli([*RUN, FIRST, "--log-file", "a"], service.environment(), cwd=tmp_path)
    assert "DEBUG" not in (tmp_path / "a").read_text()
    assert (tmp_path / "a").read_text().count(" INFO recording ") == 3


# --- exit codes ------------------------------------------------------------------------------


def test_the_precedence_of_exit_codes_is_the_design_s() -> None:
    order = [ExitCode(code) for code in (6, 4, 8, 7, 1, 3)]
    assert [code for code in PRECEDENCE if code in order] == order
    assert set(PRECEDENCE[:2]) == {ExitCode.SIGINT, ExitCode.SIGTERM}
    for n, code in enumerate(order):
        assert exit_code_of(order[n:]) is code
        assert exit_code_of(reversed(order[n:])) is code
        assert exit_code_of([*order, ExitCode.SIGTERM]) is ExitCode.SIGTERM
    assert exit_code_of([]) is ExitCode.OK


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, 0),
        ({"unavailable": [1]}, 3),
        ({"unavailable": [1], "refused": [2]}, 1),
        ({"failed": [Failure(1, FileKind.MP4, "x")], "unavailable": [2]}, 1),
        ({"failed": [Failure(1, None, "x")], "abort_codes": {ExitCode.SERVICE}}, 7),
        ({"refused": [1], "abort_codes": {ExitCode.MAX_DURATION, ExitCode.SERVICE}}, 8),
        ({"unfinished": [1], "abort_codes": {ExitCode.SIGINT, ExitCode.STORAGE}}, 130),
    ],
)
def test_the_exit_code_of_a_report(change: dict[str, Any], code: int) -> None:
    assert Report("", **change).exit_code == code


def test_a_service_that_never_answers_as_it_should(serve: Serve, tmp_path: Path) -> None:
    service = serve(2, rate_limit=None)
    service.fail(status(500), call="links")
    result = run_cli([*RUN, FIRST, "--json"], service.environment(), cwd=tmp_path)
    assert report_of(result)["exit_code"] == 7
    assert result.returncode == 7


# --- standard streams ------------------------------------------------------------------------


def shell(line: str, service: SimulatedService, cwd: Path, **env: str) -> tuple[int, str, str]:
    """Run the program through a shell that redirects; exit code, and both outputs."""
    args: Args = [*RUN, FIRST]
    done = subprocess.run(
        ["sh", "-c", f'"$@" {line}', "sh", *command(args)],
        env=clean_environment({**service.environment(), **env}),
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_stdout_that_takes_nothing(service: SimulatedService, tmp_path: Path) -> None:
    code, _, err = shell(">&-", service, tmp_path)
    with open("/dev/full", "w") as full:
        result = run_cli([*RUN, FIRST], service.environment(), cwd=tmp_path, stdout=full)
    assert (code, result.returncode) == (6, 6)
    for said, reason in ((err, "closed"), (result.stderr, "No space left on device")):
        assert said.endswith(f"ERROR cannot write to standard output: {reason}\n")
        assert said.count("\n") == 1


def test_a_stderr_that_takes_nothing(service: SimulatedService, tmp_path: Path) -> None:
    code, out, _ = shell("2>&-", service, tmp_path)
    assert (code, out[:35]) == (0, "Archived 1 of 1 recording: 3 files,")
    with open("/dev/full", "w") as full:
        args: Args = [*RUN, FIRST + 1, "-v", "-v"]
        result = run_cli(args, service.environment(), cwd=tmp_path, stderr=full)
    assert (result.returncode, result.stdout[:35]) == (0, "Archived 1 of 1 recording: 3 files,")


def test_all_three_closed_harms_no_file_of_the_archive(
    service: SimulatedService, tmp_path: Path
) -> None:
    assert shell("<&- >&- 2>&- -q", service, tmp_path)[0] == 0
    assert run_cli([*RUN, FIRST], service.environment(), cwd=tmp_path).stdout.startswith(
        "Nothing to do"
    )


def test_a_system_whose_null_device_is_not_for_everybody(
    service: SimulatedService, tmp_path: Path
) -> None:
    env = {**service.environment(), **playing([Fault("open", "/dev/null", errno.EACCES)])}
    result = run_cli([*RUN, FIRST], env, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_log_file_on_a_full_disk_is_said_everywhere(
    service: SimulatedService, tmp_path: Path
) -> None:
    args: Args = [*RUN, FIRST, "--json", "--log-file", "/dev/full"]
    result = run_cli(args, service.environment(), cwd=tmp_path)
    assert report_of(result)["exit_code"] == 6
    told = "cannot write the log file /dev/full: No space left on device"
    assert told in result.stderr

    # Also where the run ended with the same code for another reason.
    args = ["download", FIRST, "--dest", "none", "--no-create", "--log-file", "/dev/full"]
    result = run_cli(args, service.environment(), cwd=tmp_path)
    assert result.returncode == 6
    assert "none is not an archive yet" in result.stderr
    assert told in result.stderr


def test_the_log_is_left_as_it_was(tmp_path: Path) -> None:
    """Else a command that another program runs would have it hear of every file from then on."""
    log = logging.getLogger("g2a_archive")
    before = log.level, log.propagate, [*log.handlers]
    assert main.run(["verify", "-v", "--dest", str(tmp_path / "none")]) == 6
    assert (log.level, log.propagate, [*log.handlers]) == before
