"""Refresh tokens in real processes: killed at any step, and renewing at once."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support import auth as auth_support
from support import start_cli
from support.auth import Watch, accepted, once_only, refreshing

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
            ended.wait(0.4)  # by then, who does not wait for the answer is gone

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
from g2a_archive.auth.credentials import AuthSettings, credentials_from
token_url, path, at = {arguments!r}

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
        if at == "steps":
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
os._exit(0)
"""


@contextmanager
def python(program: str, url: str, path: Path, at: str = "") -> Iterator[subprocess.Popen[str]]:
    """A process of its own that has the package imported, and runs this instead of a command."""
    before = PREAMBLE.replace("{arguments!r}", repr((url, str(path), at))) + program
    with start_cli([], before=before, stdin=subprocess.PIPE) as process:
        yield process


class Victim:
    """A process that makes others, each of which renews once and is killed at another step."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

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


def test_a_kill_at_any_step_leaves_a_refresh_token_that_works(
    service: SimulatedService, client: AuthSettings, refresh_file: Path, watch: Watch
) -> None:
    service.behaviour.rotate_refresh_tokens = True
    kills = 0
    with python(KILLED, service.token_url, refresh_file, "steps") as process:
        victim = Victim(process)
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
    with python(KILLED, service.token_url, refresh_file, "requests") as process:
        victim = Victim(process)
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
    with ExitStack() as stack:
        processes = [
            stack.enter_context(python(RENEWING, service.token_url, refresh_file)) for _ in range(2)
        ]
        for process in processes:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
        for process in processes:
            _, err = process.communicate(timeout=60)
            assert process.returncode == 0, err
    assert len(used) == 18
    assert accepted(service, refreshing(client, refresh_file, watch).authorization())
