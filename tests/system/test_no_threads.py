"""Where the system gives few threads or none, or no memory: a limit of either is reached."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support import (
    assert_archive_equals,
    assert_nothing_false,
    clean_environment,
    plain_args,
    run_cli,
)
from support.cli import Args
from support.service import Serve

from g2a_archive.auth.redirect import RedirectListener
from g2a_archive.errors import StorageError
from g2a_archive.threads import pool

AT_MOST = """
import threading

def start(self, usual=threading.Thread.start):
    if threading.active_count() > {}:
        raise RuntimeError("can't start new thread")
    usual(self)

threading.Thread.start = start
"""
"""`before` of a process that gets so many threads beside its first."""


@pytest.mark.parametrize("more", range(13))
def test_a_run_ends_and_says_why(more: int, serve: Serve, root: Path) -> None:
    service = serve(4, rate_limit=None)
    args = plain_args(root, "-v", "--jobs", "4", *service.recordings)
    result = run_cli(args, service.environment(), before=AT_MOST.format(more))
    if result.returncode == 0:
        assert_archive_equals(service, root)
        assert len(re.findall(r" INFO recording \d+: ", result.stderr)) == 12
        return
    assert result.returncode == 6
    assert "at a time" not in result.stderr  # with fewer workers than asked for it goes on
    said = result.stderr.splitlines()
    assert "ERROR the system gives this program no threads" in said[-1]
    assert_nothing_false(service, root)


def test_a_pool_makes_do_with_one_thread_that_is_to_be_had_in_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where a run's workers were told to end, and are still about to."""
    asked = []
    usual = threading.Thread.start

    def start(self: threading.Thread) -> None:
        asked.append(self)
        if len(asked) != 3:
            raise RuntimeError("can't start new thread")
        usual(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    go_on = threading.Event()
    with pool(4) as made:
        waiting = made.submit(go_on.wait)
        others = [made.submit(str, n) for n in range(3)]
        go_on.set()
        assert [waiting.result(), *(one.result() for one in others)] == [True, "0", "1", "2"]


def test_other_commands_do_without_or_say_so(serve: Serve, root: Path) -> None:
    service = serve(2, rate_limit=None)
    run_cli(plain_args(root, *service.recordings), service.environment())
    none = AT_MOST.format(0)
    found = run_cli(["status", "--dest", root], before=none)
    assert (found.returncode, found.stderr) == (0, "")
    found = run_cli(["verify", "--dest", root], before=none)
    assert found.returncode == 6
    assert "the system gives this program no threads" in found.stderr
    found = run_cli(["merge", root, "--dest", root.with_name("other")], before=none)
    assert found.returncode == 6
    assert "the system gives this program no threads" in found.stderr


LITTLE = """
import resource
import threading

def start(self, usual=threading.Thread.start):
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        with open("/proc/self/statm") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + {}, resource.RLIM_INFINITY))
    usual(self)

threading.stack_size(1 << 20)
threading.Thread.start = start
"""
"""`before` of a process that gets so many bytes beside what it has as its first thread begins."""


@pytest.mark.skipif(sys.platform != "linux", reason="no such limit, or no /proc")
@pytest.mark.parametrize("megabytes", [32, 50])
def test_too_little_memory_means_fewer_jobs(megabytes: int, serve: Serve, root: Path) -> None:
    """The threads must not take all that there is."""
    service = serve(4, rate_limit=None)
    args = plain_args(root, "--jobs", "64", *service.recordings)
    before = LITTLE.format(megabytes << 20)
    result = run_cli(args, service.environment(), before=before)
    assert (result.returncode, result.stderr.count("\n")) == (0, 1), result.stderr
    assert re.search(r"only \d+ downloads? at a time, not 64", result.stderr)
    assert_archive_equals(service, root)


PEAK = """
import atexit
import threading

def tell():
    with open("/proc/self/status") as file:
        print(*(line.split()[1] for line in file if line.startswith("VmPeak")))

threading.stack_size(1 << 20)
atexit.register(tell)
from g2a_archive.cli.main import main
main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="no /proc")
def test_threads_share_what_memory_they_are_given(serve: Serve, root: Path) -> None:
    """Else the first one, which makes a list call, takes 64 MB more of what may be had."""
    service = serve(2)
    peaks = []
    for args in (
        ["sync", "--account-key", "1", "--jobs", "2", "--min-free", "0", "-q"],
        ["status"],
    ):
        line = [sys.executable, "-c", PEAK, *args, "--dest", str(root)]
        env = clean_environment(service.environment())
        told = subprocess.run(line, env=env, capture_output=True, text=True, check=True).stdout
        peaks.append(int(told.split()[-1]))
    assert peaks[0] - peaks[1] < 180_000  # one arena, and as much again while it is made


def test_memory_that_is_not_to_be_had_is_no_bug(serve: Serve, root: Path) -> None:
    service = serve(1)
    args = plain_args(root, *service.recordings)
    assert run_cli(args, service.environment()).returncode == 0
    none = """
import sqlite3

real = sqlite3.connect

def connect(path, *args, **more):
    if "catalog" in str(path):  # not the figures of what the tests cover
        raise MemoryError
    return real(path, *args, **more)

sqlite3.connect = connect
"""
    asked: Args = ["status", "--dest", root]
    left = "Archived none of 1 recording\n  not finished: 1; run again to go on with them\n"
    for command, said in ((args, left), (asked, "")):
        found = run_cli(command, service.environment(), before=none)
        assert (found.returncode, found.stdout) == (6, said)
        assert "the system gives this program no more memory (raise its limit" in found.stderr
        assert found.stderr.count("\n") == 1
    assert_archive_equals(service, root)


def test_without_a_thread_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", start)
    listener = RedirectListener("http://127.0.0.1:0/", "state")
    with pytest.raises(StorageError, match="no threads"), listener:
        pass
