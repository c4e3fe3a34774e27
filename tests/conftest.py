"""Fixtures for tests of whole runs."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from support import cores, scratch
from support.bodies import downloads_of
from support.cli import Say
from support.host import Authority, Host
from support.odd import ID, Answers, act
from support.service import Serve

from g2a_archive.cli import main
from g2a_archive.demo import (
    Behaviour,
    SimulatedRecording,
    SimulatedService,
    sample_recordings,
)
from g2a_archive.demo.recordings import Kind
from g2a_archive.transport.downloads import Downloads

SLOW = (
    *(f"{folder}/*" for folder in ("system", "browse", "curation", "demo", "sync", "console")),
    "archive/test_archive_state.py",
    "archive/test_domains.py",
    "archive/test_flushing.py",
    "archive/test_group.py",
    "archive/test_layout.py",
    "archive/test_leftovers.py",
    "archive/test_lookup.py",
    "archive/test_odd_*.py",
    "archive/test_storage.py",
    "archive/test_two_disks.py",
    "archive/test_unmounted.py",
    "auth/test_refresh_processes.py",
    "cli/test_docs.py",
    "cli/test_ids.py",
    "cli/test_options.py",
    "cli/test_shard.py",
    "cli/test_shown.py",
    "cli/test_startup.py",
    "download/test_*fault*.py",
    "download/test_download.py",
    "download/test_hostile_answers.py",
    "download/test_hosts.py",
    "download/test_lost_writes.py",
    "download/test_room.py",
    "fixity/test_fingerprint.py",
    "fixity/test_mounts.py",
    "fixity/test_selection.py",
    "fixity/test_time_stamp.py",
    "service/test_link_calls.py",
    "service/test_odd_answers.py",
    "*/test_*_failures.py",
    "*/test_*_kill.py",
    "test_architecture.py",
)
"""What takes long, and is the same with any Python: `-m "not slow"` leaves it out."""


def pytest_unconfigure() -> None:
    """Leave nothing of this process behind."""
    scratch.remove()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow tests."""
    for item in items:
        path = item.path.relative_to(Path(__file__).parent).as_posix()
        if any(fnmatch(path, pattern) for pattern in SLOW):
            item.add_marker(pytest.mark.slow)


if "PYTEST_XDIST_WORKER" in os.environ:
    cores.keep_to_one(os.environ["PYTEST_XDIST_WORKER"])

_MEMORY = Path("/dev/shm")
if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 4 << 30:
    # Thousands of archives, each flushed as it should be: a file system in memory has no disk to
    # wait for, and is a file system like another.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))

# What this machine trusts, and how this user runs the program, are nobody's concern here.
for _name in [*os.environ]:
    if _name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") or _name.startswith("G2A_ARCHIVE_"):
        del os.environ[_name]

for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    # Tests that are started by `nohup`, or in the background, would hand on what these ignore.
    if signal.getsignal(_number) is signal.SIG_IGN:
        _usual = signal.default_int_handler if _number is signal.SIGINT else signal.SIG_DFL
        signal.signal(_number, _usual)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts services: `serve(recordings or their number, latency=0.1, ...)`."""
    with ExitStack() as stack:

        def start(
            recordings: int | Iterable[SimulatedRecording] = 8, **behaviour: Any
        ) -> SimulatedService:
            if isinstance(recordings, int):
                recordings = sample_recordings(recordings)
            service = SimulatedService(recordings, Behaviour(**behaviour))
            return stack.enter_context(service)

        yield start


@pytest.fixture
def service(serve: Serve) -> SimulatedService:
    """A simulated service with eight small recordings."""
    return serve()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the archive of a test is to be."""
    return tmp_path / "archive"


@pytest.fixture
def say(root: Path, capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command on the archive in this process: exit code, stdout, stderr."""

    def run(command: str, *args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main.run([command, "--dest", str(root), *map(str, args)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries of runs in this process wait no time, unless the server names one."""

    def at_once(attempt: int, retry_after: float | None = None) -> float:
        return retry_after or 0.0

    monkeypatch.setattr("g2a_archive.download.engine.backoff", at_once)
    # A host that is down has some, so that its files can take turns.
    monkeypatch.setattr("g2a_archive.download.assembly.backoff", lambda *_: 0.2)
    monkeypatch.setattr("g2a_archive.transport.hosts._LOOK_AGAIN", 0.1)
    monkeypatch.setattr("g2a_archive.service.pace.backoff", at_once)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch, no_backoff: None) -> None:
    """No pace: these tests count calls, and the service of theirs has no rate limit."""
    monkeypatch.setattr("g2a_archive.service.pace.CALL_INTERVAL", 1e-9)


# --- hosts that act out a script ----------------------------------------------------------------


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine's network settings."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def authority(no_proxies: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """An authority that is trusted by way of REQUESTS_CA_BUNDLE."""
    made = Authority(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(made.bundle))
    return made


@pytest.fixture(params=["plain", "tls"])
def host(request: pytest.FixtureRequest, authority: Authority) -> Iterator[Host]:
    server = Host(authority.context() if request.param == "tls" else None)
    yield server
    server.close()


@pytest.fixture
def plain_host(no_proxies: None) -> Iterator[Host]:
    server = Host()
    yield server
    server.close()


@pytest.fixture
def odd(service: SimulatedService, plain_host: Host) -> Callable[[Kind, Answers], None]:
    """Have the files of a kind, of the test's one recording, answered by a host that acts oddly."""
    return lambda kind, answers: act(service, plain_host, {ID: (kind, answers)})


@pytest.fixture
def downloads() -> Iterator[Downloads]:
    made = downloads_of(2.0, jobs=4)
    yield made
    made.close()
