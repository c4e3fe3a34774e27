"""Processes as people start and end them: nohup, Ctrl-S, a log that is lost, a bug in mid-run."""

from __future__ import annotations

import errno
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from support import (
    IMPATIENT,
    assert_archive_equals,
    assert_nothing_false,
    catalog_rows,
    clean_environment,
    plain_args,
    relative_path,
    report_of,
    run_cli,
    run_here,
    start_cli,
    states,
)
from support.cli import FIRST, Args
from support.service import Serve

from g2a_archive.cli.main import run
from g2a_archive.demo import Behaviour, SimulatedService, sample_recordings
from g2a_archive.demo.faults import stall, status

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)]


# --- signals that are not for us -------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_was_ignored_at_the_start_stays_ignored(
    number: signal.Signals, serve: Serve, root: Path
) -> None:
    """As `nohup` does with SIGHUP, and a shell without job control with SIGINT behind `&`."""
    service = serve(2, rate_limit=None)
    gate = service.fail_files(status(503), kind="mp4", recording_id=FIRST)
    args = plain_args(root, "--retries", "50", *service.recordings)
    before = f"import signal\nsignal.signal({number:d}, signal.SIG_IGN)"
    with start_cli(args, service.environment(), before=before) as process:
        assert service.requests.wait_for(lambda _: gate.applied >= 1)
        process.send_signal(number)
        assert service.requests.wait_for(lambda _: gate.applied >= 2)
        service.on_request.clear()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert_archive_equals(service, root)


# --- one sentence ----------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("name", ["check", "list"])
def test_a_call_that_is_interrupted(
    name: str, number: signal.Signals, code: int, service: SimulatedService, tmp_path: Path
) -> None:
    service.fail(stall(0))
    key: Args = ["--account-key", 1] if name == "list" else []
    args: Args = [name, "--timeout", 3600, *key]
    with start_cli(args, service.environment(), cwd=tmp_path) as process:
        assert service.requests.wait_for_stall()
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, "g2a-archive: interrupted\n")


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux' /proc")
@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_person_who_is_asked_interrupts(
    number: signal.Signals, code: int, service: SimulatedService, tmp_path: Path
) -> None:
    env = {**service.environment(renewable=True), "XDG_CONFIG_HOME": str(tmp_path)}
    with start_cli(["login", "--paste"], env, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        shown(process.stdout.fileno(), lambda seen: b"the code in it" in seen)
        while "S (sleeping)" not in Path(f"/proc/{process.pid}/status").read_text():
            time.sleep(0.01)  # not between the question and the waiting for its answer
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, "g2a-archive: interrupted\n")


def test_ctrl_c_before_the_program_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("print('loading', flush=True)\nimport time\ntime.sleep(60)")
    path = f"{tmp_path}:{clean_environment()['PYTHONPATH']}"
    with start_cli(["status"], {"PYTHONPATH": path}) as process:
        assert process.stdout is not None
        shown(process.stdout.fileno(), lambda seen: b"loading" in seen)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (-signal.SIGINT, "")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive whose pages have to be made anew, as one recording more is owed."""
    root = tmp_path_factory.mktemp("original") / "archive"
    with SimulatedService(sample_recordings(2), Behaviour(rate_limit=None)) as service:
        run_here(service, root, service.recordings)
        mp4 = root / relative_path(service.recordings[FIRST], "mp4")
    assert run(["browse", "-d", str(root)]) == 0
    mp4.unlink()
    assert run(["verify", "-d", str(root)]) == 1
    return root


_AT_A_PAGE = """
import time
from g2a_archive.browse.write import Writer

def write_text(self, name, content):
    print("at a page", flush=True)
    time.sleep(60)

Writer.write_text = write_text
"""


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_browse_interrupted(number: signal.Signals, code: int, original: Path, root: Path) -> None:
    shutil.copytree(original, root)
    with start_cli(["browse", "-d", root], before=_AT_A_PAGE) as process:
        assert process.stdout is not None
        shown(process.stdout.fileno(), lambda seen: b"at a page" in seen)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, "g2a-archive: interrupted\n")


# --- a reader that takes nothing -------------------------------------------------------------

CTRL_S = b"\x13"


def fill(path: str) -> None:
    """Write to a terminal or a pipe until it takes nothing more, as nobody reads."""
    filler = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        while True:
            os.write(filler, b"x")
    except BlockingIOError:
        os.close(filler)


def shown(master: int, until: Callable[[bytes], bool]) -> bytes:
    """What the terminal shows up to then."""
    seen = b""
    while not until(seen):
        assert select.select([master], [], [], 60)[0], seen
        seen += os.read(master, 65536)
    return seen


@pytest.mark.parametrize("held", ["Ctrl-S", "nobody reads"])
def test_sigterm_while_the_terminal_takes_nothing(held: str, serve: Serve, tmp_path: Path) -> None:
    kinds = ("-v", "-q", "--json")
    services = [serve(4, rate_limit=None) for _ in kinds]
    with ThreadPoolExecutor() as pool:  # each waits a second for its terminal
        list(pool.map(partial(_terminate, held, tmp_path), kinds, services))


def _terminate(held: str, tmp_path: Path, more: str, service: SimulatedService) -> None:
    root = tmp_path / more
    gate = service.fail_files(status(503), kind="mp4", recording_id=FIRST)
    args = plain_args(root, "--retries", "1000", "-d", root, more, *service.recordings)
    master, slave = pty.openpty()
    streams = {"stdin": slave, "stdout": slave, "stderr": slave}
    env = {**service.environment(), "TERM": "xterm"}
    with start_cli(args, env, before=IMPATIENT, **streams) as process:
        name = os.ttyname(slave)
        os.close(slave)
        try:
            if more != "-q":
                shown(master, lambda seen: b"503" in seen)
            if held == "Ctrl-S":
                os.write(master, CTRL_S)
            else:
                fill(name)
            at = gate.applied
            assert service.requests.wait_for(lambda _: gate.applied >= at + 2)
            process.terminate()
            assert process.wait(timeout=60) == 143
        finally:
            os.close(master)
    assert states(root)[FIRST] == "queued"
    assert catalog_rows(root, "SELECT exit_code FROM run") == [(143,)]


def test_sigterm_while_a_pipe_is_full(serve: Serve, root: Path) -> None:
    """`g2a-archive ... 2>&1 | less`, and nobody turns the page."""
    service = serve(4, rate_limit=None)
    gate = service.fail_files(status(503), kind="mp4", recording_id=FIRST)
    args = plain_args(root, "--retries", "1000", "-vv", *service.recordings)
    reader, writer = os.pipe()
    with start_cli(
        args, service.environment(), stdout=writer, stderr=writer, before=IMPATIENT
    ) as process:
        fill(f"/dev/fd/{writer}")
        assert service.requests.wait_for(lambda _: gate.applied >= 3)
        process.terminate()
        assert process.wait(timeout=60) == 143
    for number in (reader, writer):
        os.close(number)
    assert catalog_rows(root, "SELECT exit_code FROM run") == [(143,)]


# --- the log ---------------------------------------------------------------------------------


def test_a_log_file_that_cannot_be_opened_anew_ends_nothing(serve: Serve, tmp_path: Path) -> None:
    service = serve(3, rate_limit=None)
    gate = service.fail_files(status(503), kind="mp4", recording_id=FIRST)
    path, root = tmp_path / "run.log", tmp_path / "archive"
    args = plain_args(root, "--retries", "50", "--log-file", path, "--json", *service.recordings)
    with start_cli(args, service.environment(), cwd=tmp_path) as process:
        assert service.requests.wait_for(lambda _: gate.applied >= 2)
        path.rename(tmp_path / "run.log.1")
        path.mkdir()
        assert service.requests.wait_for(lambda _: gate.applied >= 4)
        service.on_request.clear()
        out, err = process.communicate(timeout=60)
    assert "503" in (tmp_path / "run.log.1").read_text()
    assert process.returncode == 6
    assert json.loads(out)["archived"] == 3
    assert err.count(f"cannot write the log file {path}: Is a directory") == 1
    assert "Traceback" not in err
    assert_archive_equals(service, root)


# --- a bug -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    [
        "run.Download._run",
        "engine.Engine._handle",
        "workers.Workers.ask",
        "transfer.attempt._attempt",
        "transfer.finish.Finisher.put",
        "transfer.finish.Finisher._apply_mtime",
        "transfer.finish.Finisher._publish",
    ],
)
def test_a_run_that_breaks_is_recorded_as_broken(
    place: str,
    serve: Serve,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    service = serve(4, rate_limit=None)
    for name, value in {**service.environment(), "XDG_CONFIG_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    args = ["download", "--min-free=0", "--metrics-file=m", "--error-file=e", "--json"]
    assert run([*args, str(FIRST)]) == 0
    capfd.readouterr()

    def broken(*_: object) -> None:
        raise KeyError("what nobody expected")

    monkeypatch.setattr(f"g2a_archive.download.{place}", broken)
    assert run([*args, *map(str, service.recordings)]) == 1
    out, err = capfd.readouterr()
    assert err.count("unexpected KeyError at ") == 1
    report = json.loads(out)
    assert (report["exit_code"], report["already_archived"]) == (1, 1)
    metrics = (tmp_path / "m").read_text()
    assert "g2a_archive_last_run_exit_code 1\n" in metrics
    root = tmp_path / "recordings"
    (good, bad) = catalog_rows(root, "SELECT exit_code, finished_at FROM run ORDER BY id")
    assert (good[0], bad[0]) == (0, 1)
    lines = (tmp_path / "e").read_text().splitlines()
    assert {int(line.split()[0]) for line in lines} == service.recordings.keys() - {FIRST}
    assert len(lines) == 3

    monkeypatch.undo()
    again = [*plain_args(root, "--json"), "-f", tmp_path / "e"]
    assert report_of(run_cli(again, service.environment()))["archived"] == 3


@pytest.mark.parametrize(
    ("place", "recorded"),
    [
        ("download.run.remove_stale_partials", 1),
        ("archive.database.catalog.Catalog.fingerprint", 1),
        ("console.outputs.write_error_file", 0),  # as the run was over
        ("archive.database.catalog.Catalog.last_success", 0),
    ],
)
def test_what_breaks_after_the_last_recording_takes_no_report_away(
    place: str,
    recorded: int,
    service: SimulatedService,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name, value in {**service.environment(), "XDG_CONFIG_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)

    def broken(*_: object) -> None:
        raise KeyError("what nobody expected")

    monkeypatch.setattr(f"g2a_archive.{place}", broken)
    args = ["download", "--min-free=0", "--metrics-file=m", "--error-file=e", "--json"]
    assert run([*args, *map(str, service.recordings)]) == 1
    out, err = capfd.readouterr()
    assert err.count("unexpected KeyError at ") == 1
    report = json.loads(out)
    assert (report["exit_code"], report["archived"]) == (1, len(service.recordings))
    metrics = (tmp_path / "m").read_text()
    assert "g2a_archive_last_run_exit_code 1\n" in metrics
    assert [*catalog_rows(tmp_path / "recordings", "SELECT exit_code FROM run")] == [(recorded,)]
    assert ("last_success" in metrics) is (place == "console.outputs.write_error_file")


def test_a_lock_file_that_fails_when_it_is_closed(
    serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = serve(2, rate_limit=None)
    close = os.close

    def failing(number: int) -> None:
        try:
            lock = os.readlink(f"/proc/self/fd/{number}").endswith("/lock")
        except OSError:
            lock = False
        close(number)
        if lock:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "close", failing)
    report = run_here(service, root, service.recordings)
    assert (report.exit_code, report.archived) == (0, 2)


_HELD_UP = """
import sys, threading
from g2a_archive.download import engine, stopping
stopping.SHUTDOWN_TIMEOUT = 0.5

def held_up(self):
    print("held up", file=sys.stderr, flush=True)
    threading.Event().wait()

engine.Engine._drain = held_up
"""


def test_a_signal_ends_the_program_whatever_holds_it_up(
    service: SimulatedService, root: Path
) -> None:
    service.fail_files(stall(1000), "mp4", FIRST)
    args = plain_args(root, *service.recordings)
    with start_cli(args, service.environment(), before=_HELD_UP) as process:
        assert service.requests.wait_for_stall()
        process.terminate()
        assert process.stderr is not None
        assert process.stderr.readline().endswith("held up\n")
        assert process.wait(timeout=60) == 143
    service.on_request.clear()
    assert_nothing_false(service, root)
