"""Workers with more before them than they get through take turns, and hold up nobody else."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import assert_archive_equals, run_here
from support.service import Serve

from g2a_archive.archive.partial import Partial
from g2a_archive.demo import SimulatedService, faults, sample_recordings
from g2a_archive.demo.faults import Fault
from g2a_archive.download import turns
from g2a_archive.download.receive import BUFFER
from g2a_archive.download.segments import Pieces
from g2a_archive.download.turns import Turn, Turns
from g2a_archive.models import FileKind
from g2a_archive.service.pace import RateLimiter
from g2a_archive.transport.wire import Wire

SIZE = 2 * BUFFER
"""Bytes: more than comes at once, with a turn that is still taken at the end."""

JOBS = 4


FAULTS = {
    "reset": faults.reset(300_000),
    "close": faults.close(300_000),
    "web page": faults.html(),
    "empty": faults.empty(),
    "chunked": faults.chunked(),
    "gzip": faults.gzipped(),
    "no length": faults.no_length(),
    "another length": faults.lying_length(10),
}


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two turns, without which nobody goes on; afterwards both are free again."""
    made: list[Turns] = []
    init = Turns.__init__

    def note(self: Turns) -> None:
        init(self)
        made.append(self)

    monkeypatch.setattr(Turns, "__init__", note)
    monkeypatch.setattr(turns, "_processors", lambda: 1)
    monkeypatch.setattr(turns, "_LONGEST_WAIT", 60.0)
    yield
    for one in made:
        assert one.free == 2


@pytest.fixture
def large(serve: Serve) -> SimulatedService:
    """Recordings that come in several pieces."""
    return serve(sample_recordings(8, mp4_size=SIZE))


@pytest.mark.parametrize(("processors", "count"), [(1, 2), (2, 2), (3, 3), (64, 4)])
def test_how_many(processors: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_processors", lambda: processors)
    assert Turns().free == count


def meanwhile(turn: Turn, shared: Turns) -> threading.Thread:
    """Have another thread wait for a turn."""
    thread = threading.Thread(target=turn.take)
    thread.start()
    while not shared.wanted:
        pass
    return thread


@pytest.mark.usefixtures("two")
def test_a_turn_ends_when_its_time_is_over_and_others_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = Turns()
    first, second, third = (Turn(shared) for _ in range(3))
    first.take()
    second.take()
    monkeypatch.setattr(turns, "_LENGTH", -1.0)
    first.look()
    assert first.taken
    waiting = meanwhile(third, shared)
    monkeypatch.setattr(turns, "_LENGTH", math.inf)
    first.look()
    assert first.taken
    monkeypatch.setattr(turns, "_LENGTH", -1.0)
    first.look()
    waiting.join(60)
    assert (first.taken, second.taken, third.taken) == (False, True, True)
    for turn in (first, second, third):
        turn.give()


@pytest.mark.usefixtures("two")
def test_who_gave_a_turn_comes_after_those_who_wait() -> None:
    shared = Turns()
    first, second, third = (Turn(shared) for _ in range(3))
    first.take()
    second.take()
    waiting = meanwhile(third, shared)
    first.give()
    assert shared.free == 0  # it is the third's, whether it has noticed or not
    waiting.join(60)
    again = meanwhile(first, shared)
    third.give()
    again.join(60)
    assert first.taken
    for turn in (first, second):
        turn.give()


def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_processors", lambda: 1)
    monkeypatch.setattr(turns, "_LONGEST_WAIT", 0.01)
    shared = Turns()
    three = [Turn(shared) for _ in range(3)]
    for turn in three:
        turn.take()
    assert not shared.wanted
    three[2].give()  # which was none of the two
    assert shared.free == 0
    for turn in three:
        turn.give()
    assert shared.free == 2


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each time that a thread waited for something else, whether it had a turn."""
    having: set[int] = set()
    seen: list[bool] = []
    take, give = Turn.take, Turn.give

    def note_taken(self: Turn) -> None:
        take(self)
        having.add(threading.get_ident())

    def note_given(self: Turn) -> None:
        having.discard(threading.get_ident())
        give(self)

    def noted(method: Callable[..., Any]) -> Callable[..., Any]:
        def note(*args: Any) -> Any:
            seen.append(threading.get_ident() in having)
            return method(*args)

        return note

    monkeypatch.setattr(Turn, "take", note_taken)
    monkeypatch.setattr(Turn, "give", note_given)
    monkeypatch.setattr(Wire, "wait", noted(Wire.wait))
    monkeypatch.setattr(RateLimiter, "take", noted(RateLimiter.take))
    monkeypatch.setattr(Pieces, "wait", noted(Pieces.wait))
    monkeypatch.setattr(Partial, "flush", noted(Partial.flush))
    return seen


@pytest.mark.usefixtures("two")
def test_who_waits_for_the_network_has_no_turn(serve: Serve, root: Path, waits: list[bool]) -> None:
    service = serve(sample_recordings(8, mp4_size=SIZE), rate=4_000_000.0)
    assert run_here(service, root, service.recordings, jobs=JOBS).exit_code == 0
    assert_archive_equals(service, root)
    assert waits
    assert not any(waits)


@pytest.mark.usefixtures("two")
def test_who_waits_for_the_rate_limit_has_no_turn(
    large: SimulatedService, root: Path, waits: list[bool]
) -> None:
    assert run_here(large, root, large.recordings, jobs=JOBS, limit_rate=8 << 20).exit_code == 0
    assert_archive_equals(large, root)
    assert waits
    assert not any(waits)


@pytest.mark.usefixtures("two")
def test_who_waits_for_helpers_has_no_turn(serve: Serve, root: Path, waits: list[bool]) -> None:
    """One file over several connections."""
    service = serve(sample_recordings(1, mp4_size=20_000_000))
    assert run_here(service, root, service.recordings, jobs=JOBS).exit_code == 0
    assert_archive_equals(service, root)
    assert waits
    assert not any(waits)


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(("count", "segments"), [(8, 1), (1, 8)])
def test_who_waits_for_a_flush_has_no_turn(
    count: int,
    segments: int,
    serve: Serve,
    root: Path,
    waits: list[bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("g2a_archive.archive.partial._NOTE_AFTER_BYTES", 0)
    monkeypatch.setattr("g2a_archive.archive.partial._FLUSH_EVERY", 1)
    flush = Partial.flush
    flushed: list[tuple[str, bool]] = []

    def note(self: Partial) -> None:
        flush(self)
        flushed.append((self.name, self.sparse))

    monkeypatch.setattr(Partial, "flush", note)
    service = serve(sample_recordings(count, mp4_size=20_000_000 // count))
    report = run_here(service, root, service.recordings, jobs=JOBS, segments=segments)
    assert report.exit_code == 0
    assert_archive_equals(service, root)
    assert {name for name, _ in flushed} == {f"{id_}.mp4" for id_ in service.recordings}
    assert any(sparse for _, sparse in flushed) == (segments > 1)
    assert not any(waits)


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_every_turn_comes_back(fault: Fault, large: SimulatedService, root: Path) -> None:
    large.fail_files(fault, "mp4", times=8)
    assert run_here(large, root, large.recordings, jobs=JOBS, retries=8).exit_code == 0
    assert_archive_equals(large, root)


@pytest.mark.usefixtures("two")
def test_on_a_slow_disk_all_write_at_once(
    large: SimulatedService, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("g2a_archive.download.receive._SLOW_DISK", -1.0)
    meeting, met = threading.Barrier(JOBS), threading.Event()
    append = Partial.append

    def meet(self: Partial, data: memoryview) -> None:
        if not met.is_set():
            meeting.wait(60)
            met.set()
        append(self, data)

    monkeypatch.setattr(Partial, "append", meet)
    kinds = (FileKind.MP4,)
    assert run_here(large, root, large.recordings, jobs=JOBS, kinds=kinds).exit_code == 0
    assert met.is_set()
