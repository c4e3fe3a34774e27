"""Refresh tokens in real processes: killed at any step, and renewing at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support import auth as auth_support
from support import start_cli
from support.auth import Watch, accepted, once_only, refreshing

from g2a_archive.auth import secretfile
from g2a_archive.auth.credentials import AuthSettings
from g2a_archive.demo import (
    Request,
    SimulatedService,
)

service = auth_support.service
client = auth_support.client
refresh_file = auth_support.refresh_file
watch = auth_support.watch


# Real processes.


@pytest.mark.parametrize("command", ["list", "sync", "download"])
def test_a_stop_while_the_endpoint_answers_loses_no_token(
    command: str, service: SimulatedService, refresh_file: Path, tmp_path: Path
) -> None:
    """The old token is spent with the call: its successor must be kept."""
    asked, signalled, ended = threading.Event(), threading.Event(), threading.Event()
    service.behaviour.rotate_refresh_tokens = True
    old = refresh_file.read_text()

    def hold(request: Request) -> None:
        if request.call == "token":
            asked.set()
            signalled.wait(30)
            ended.wait(1.0)  # by then, who does not wait for the answer is gone

    service.on_request.append(hold)
    environment = service.environment(renewable=True)
    del environment["G2A_ARCHIVE_PAT"]
    environment["G2A_ARCHIVE_REFRESH_TOKEN_FILE"] = str(refresh_file)
    args: list[str | int | Path] = [command]
    args += [4711] if command == "download" else ["--account-key", "1000"]
    args += ["--dest", tmp_path / "archive", "--min-free", "0"] if command != "list" else []
    with start_cli(args, environment) as process:
        assert asked.wait(30)
        process.send_signal(signal.SIGINT)
        signalled.set()
        process.communicate(timeout=30)
        ended.set()
    assert process.returncode == 130
    assert refresh_file.read_text() not in ("", old)


PREAMBLE = """
import itertools, os, signal, sys, threading
import requests
from g2a_archive.auth.credentials import AuthSettings, credentials_from
from g2a_archive.auth import secretfile
token_url, path = sys.argv[1:3]

def credentials():
    return credentials_from(
        AuthSettings(client_id="simulated-client", client_secret="simulated-client-secret",
                     token_url=token_url, refresh_token_file=path, retries=0),
        warn=print, wait=threading.Event().wait)
"""

KILLED = """
NAMES = "open write pwrite ftruncate fsync replace unlink close fchown stat".split()

def kill_at(step):
    count = itertools.count()
    def wrap(function):
        def wrapped(*args, **kwargs):
            for when in (0, 1):
                if when:
                    result = function(*args, **kwargs)
                if next(count) == step:
                    os.kill(os.getpid(), signal.SIGKILL)
            return result
        return wrapped
    for name in NAMES:
        setattr(os, name, wrap(getattr(os, name)))

for step in itertools.count():
    sys.stdin.readline()
    child = os.fork()
    if not child:
        print("child", os.getpid(), flush=True)
        if sys.argv[3] == "steps":
            kill_at(step)
        credentials().authorization()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    print("killed" if killed else f"exit {os.waitstatus_to_exitcode(status)}", flush=True)
"""

RENEWING = """
mine = credentials()
print("ready", flush=True)
sys.stdin.readline()
header = mine.authorization()
for _ in range(8):
    assert mine.renew(header)
    header = mine.authorization()
"""


def python(program: str, *arguments: str) -> subprocess.Popen[str]:
    root = Path(secretfile.__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )


class Victim:
    """A process that makes others, each of which renews once and is killed at another step."""

    def __init__(self, service: SimulatedService, path: Path, *, at: str) -> None:
        self.process = python(KILLED, service.token_url, str(path), at)

    def next(self) -> int:
        """Start the next; return its process ID."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline().split()[1])

    def fate(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def __enter__(self) -> Victim:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def test_a_kill_at_any_step_leaves_a_refresh_token_that_works(
    service: SimulatedService, client: AuthSettings, refresh_file: Path, watch: Watch
) -> None:
    service.behaviour.rotate_refresh_tokens = True
    kills = 0
    with Victim(service, refresh_file, at="steps") as victim:
        while True:
            victim.next()
            fate = victim.fate()
            assert accepted(service, refreshing(client, refresh_file, watch).authorization())
            assert not refresh_file.with_name("refresh_token.new").exists()
            if fate != "killed":
                break
            kills += 1
    assert fate == "exit 0"
    assert kills >= 20


def test_a_kill_while_the_endpoint_answers_leaves_a_refresh_token_that_works(
    service: SimulatedService, client: AuthSettings, refresh_file: Path, watch: Watch
) -> None:
    service.behaviour.rotate_refresh_tokens = True
    victims: list[int] = []
    known = threading.Event()

    def kill(request: Request) -> None:
        if request.call == "token" and known.wait(10) and victims:
            os.kill(victims.pop(), signal.SIGKILL)

    service.on_request.append(kill)
    with Victim(service, refresh_file, at="requests") as victim:
        for _ in range(5):
            known.clear()
            victims.append(victim.next())
            known.set()
            assert victim.fate() == "killed"
            assert accepted(service, refreshing(client, refresh_file, watch).authorization())


def test_two_processes_that_renew_at_once_lose_no_token(
    service: SimulatedService, client: AuthSettings, refresh_file: Path, watch: Watch
) -> None:
    service.behaviour.rotate_refresh_tokens = True
    used: set[str] = set()
    both_at_once = threading.Event()  # never set: a moment for the other to come between

    def linger(request: Request) -> None:
        both_at_once.wait(0.01)

    service.on_request += [linger, once_only(used)]
    processes = [python(RENEWING, service.token_url, str(refresh_file)) for _ in range(2)]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
    assert [process.returncode for process in processes] == [0, 0]
    assert len(used) == 18
    assert accepted(service, refreshing(client, refresh_file, watch).authorization())
