"""Small files on kept connections: one thread takes them in, and hands on what is not so simple."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import SplitResult

import pytest
from support import assert_archive_equals, assert_nothing_false, leftovers, run_here
from support.service import Serve

from g2a_archive.demo import SimulatedService, faults
from g2a_archive.download.reactor import Reactor
from g2a_archive.download.results import Outcome, Transfer, Whole
from g2a_archive.download.stopping import StopSwitch
from g2a_archive.download.transfer import Fetcher
from g2a_archive.errors import ExitCode
from g2a_archive.transport.connection import Connections
from g2a_archive.transport.response import Answer
from g2a_archive.transport.wire import Wire

JOBS = 2


@pytest.fixture(autouse=True)
def by_worker(monkeypatch: pytest.MonkeyPatch) -> list[bytes | None]:
    """What had come of each file that a worker took: None where it had to ask for it itself.

    However busy this machine is, nothing counts as late, nor its disk as slow, nor a host as far.
    """
    monkeypatch.setattr("g2a_archive.download.reactor._DISTANT", math.inf)
    monkeypatch.setattr("g2a_archive.download.reactor._PATIENCE", 3600.0)
    monkeypatch.setattr("g2a_archive.download.reactor._SLOW_DISK", math.inf)
    seen: list[bytes | None] = []
    fetch = Fetcher.fetch

    def note(
        self: Fetcher, transfer: Transfer, asked: Wire | None = None, came: bytes = b""
    ) -> Outcome | Whole:
        seen.append(None if asked is None else came)
        return fetch(self, transfer, asked, came)

    monkeypatch.setattr(Fetcher, "fetch", note)
    return seen


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many connections are made as there are jobs, before the first of them is used.

    Else the second worker may come so late that it finds the first one's.
    """
    meeting, connect = threading.Barrier(JOBS), Connections._connect
    met = threading.Event()

    def meet(self: Connections, parts: SplitResult, host: tuple[str, str]) -> Wire:
        if not met.is_set():
            meeting.wait(60)
            met.set()
        return connect(self, parts, host)

    monkeypatch.setattr(Connections, "_connect", meet)


@pytest.mark.usefixtures("at_once")
def test_a_worker_a_connection_and_no_more(
    service: SimulatedService, root: Path, by_worker: list[bytes | None]
) -> None:
    assert run_here(service, root, service.recordings, jobs=JOBS).exit_code == 0
    assert_archive_equals(service, root)
    assert by_worker == [None] * JOBS
    assert service.requests.counts["file"] == 24


@pytest.mark.usefixtures("at_once")
def test_answers_that_come_in_pieces(
    serve: Serve, root: Path, by_worker: list[bytes | None]
) -> None:
    service = serve(4, rate=200_000.0)
    assert run_here(service, root, service.recordings, jobs=JOBS).exit_code == 0
    assert_archive_equals(service, root)
    assert by_worker == [None] * JOBS


@pytest.mark.usefixtures("at_once")
def test_what_comes_late_gets_a_worker(
    serve: Serve, root: Path, by_worker: list[bytes | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("g2a_archive.download.reactor._PATIENCE", 0.01)
    service = serve(2, latency=0.1)
    assert run_here(service, root, service.recordings, jobs=JOBS).exit_code == 0
    assert_archive_equals(service, root)
    assert by_worker == [None] * JOBS + [b""] * (6 - JOBS)
    assert service.requests.counts["file"] == 6  # nothing is asked for twice


@pytest.mark.usefixtures("at_once")
def test_on_a_slow_disk_workers_write(
    service: SimulatedService,
    root: Path,
    by_worker: list[bytes | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("g2a_archive.download.reactor._SLOW_DISK", -1.0)
    assert run_here(service, root, service.recordings, jobs=JOBS).exit_code == 0
    assert_archive_equals(service, root)
    assert len(by_worker) == 24
    assert all(came and came.startswith(b"HTTP/1.1 200") for came in by_worker[JOBS:])
    assert service.requests.counts["file"] == 24


@pytest.mark.parametrize(("distant", "most"), [(-1.0, 2), (math.inf, 1)])
def test_a_distant_host_is_asked_for_the_next_file_first(
    distant: float,
    most: int,
    service: SimulatedService,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("g2a_archive.download.reactor._DISTANT", distant)
    open_ = [0, 0]  # now, and when an answer was taken in
    ask, take = Connections.ask, Fetcher.take

    def note_ask(self: Connections, parts: SplitResult, headers: Mapping[str, str]) -> Wire | None:
        wire = ask(self, parts, headers)
        open_[0] += wire is not None
        return wire

    def note_take(self: Fetcher, transfer: Transfer, answer: Answer) -> Outcome | Whole:
        open_[1] = max(open_[1], open_[0])
        open_[0] -= 1
        return take(self, transfer, answer)

    monkeypatch.setattr(Connections, "ask", note_ask)
    monkeypatch.setattr(Fetcher, "take", note_take)
    assert run_here(service, root, service.recordings, jobs=1).exit_code == 0
    assert_archive_equals(service, root)
    assert open_ == [0, most]
    assert service.requests.counts["file"] == 24


def test_a_kept_connection_that_was_closed_costs_no_retry(
    service: SimulatedService, root: Path
) -> None:
    service.fail_files(faults.hang_up())
    assert run_here(service, root, service.recordings, jobs=JOBS, retries=0).exit_code == 0
    assert_archive_equals(service, root)


def test_a_stop_ends_what_is_waited_for(service: SimulatedService, root: Path) -> None:
    switch = StopSwitch()
    last = list(service.recordings)[-1]
    service.fail_files(faults.stall(0), "mp4", last)
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(
            run_here, service, root, service.recordings, jobs=1, switch=switch, timeout=3600.0
        )
        assert service.requests.wait_for_stall()
        switch.stop(ExitCode.SIGINT)
        report = ended.result(timeout=30)
    assert report.exit_code == ExitCode.SIGINT
    assert last in report.unfinished
    assert leftovers(root) == []
    assert_nothing_false(service, root)


@pytest.mark.parametrize("step", ["_begin", "_readable", "_answered", "_sleep"])
def test_a_mistake_in_the_thread_ends_the_run(
    step: str, service: SimulatedService, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*_: object) -> None:
        raise AssertionError("a mistake")

    monkeypatch.setattr(Reactor, step, stumble)
    ended: queue.SimpleQueue[str] = queue.SimpleQueue()

    def run() -> None:
        try:
            run_here(service, root, service.recordings, jobs=JOBS)
        except AssertionError as error:
            ended.put(str(error))

    threading.Thread(target=run, daemon=True).start()
    assert ended.get(timeout=30) == "a mistake"
    assert_nothing_false(service, root)
