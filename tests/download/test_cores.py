"""Threads share one core while many small files come, and only then."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import run_here
from support.cores import EVERY, on_every_core
from support.service import Serve

from g2a_archive.download import cores as module
from g2a_archive.download.cores import SMALL, CpuAffinity

pytestmark = pytest.mark.skipif(len(EVERY) < 2, reason="needs two cores, and Linux")
NOW, LATER, LATER_STILL = 100.0, 101.0, 102.0
MANY = 1_000


@pytest.fixture(autouse=True)
def everywhere() -> Iterator[None]:
    with on_every_core():
        yield


@pytest.fixture
def tid() -> Iterator[int]:
    """A thread that waits, as workers do."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    yield thread.native_id or 0
    end.set()
    thread.join()


@pytest.fixture
def cores() -> Iterator[CpuAffinity]:
    made = CpuAffinity()
    made.update(NOW, 0, 0)
    yield made
    made.release()


def test_while_many_small_files_come_all_threads_share_a_core(cores: CpuAffinity, tid: int) -> None:
    everywhere = os.sched_getaffinity(0)
    cores.update(LATER, MANY, MANY * 6_000)
    assert len(os.sched_getaffinity(tid)) == 1
    assert os.sched_getaffinity(0) == os.sched_getaffinity(tid) < everywhere


@pytest.mark.parametrize(
    ("files", "received"), [(MANY, MANY * SMALL + 1), (20, 20 * 6_000), (0, 0)]
)
def test_large_or_few_files_are_spread_again(
    cores: CpuAffinity, tid: int, files: int, received: int
) -> None:
    everywhere = os.sched_getaffinity(0)
    cores.update(LATER, MANY, MANY * 6_000)
    cores.update(LATER_STILL, MANY + files, MANY * 6_000 + received)
    assert os.sched_getaffinity(tid) == os.sched_getaffinity(0) == everywhere


def test_a_thread_that_begins_meanwhile_is_let_go_with_the_others(cores: CpuAffinity) -> None:
    everywhere = os.sched_getaffinity(0)
    cores.update(LATER, MANY, MANY * 6_000)
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    cores.release()
    found = os.sched_getaffinity(thread.native_id or 0)
    end.set()
    thread.join()
    assert found == os.sched_getaffinity(0) == everywhere


def test_a_run_looks_and_lets_go_in_the_end(
    serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everywhere = os.sched_getaffinity(0)
    monkeypatch.setattr(module, "_SECONDS", 0.0)
    monkeypatch.setattr(module, "_MANY", 1)
    set_to, seen = os.sched_setaffinity, []

    def record(thread: int, wanted: set[int]) -> None:
        seen.append(len(wanted))
        set_to(thread, wanted)

    monkeypatch.setattr(os, "sched_setaffinity", record)
    service = serve(30)
    report = run_here(service, root, service.recordings)
    assert len(report.failed) == 0
    assert 1 in seen
    assert os.sched_getaffinity(0) == everywhere
