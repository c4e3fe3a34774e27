"""Pauses, rates and ages, with clocks that the tests move: forward, back, and by leaps."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from g2a_archive.demo import ManualClock
from g2a_archive.errors import Interrupted
from g2a_archive.models import Link, Shard
from g2a_archive.service import pace
from g2a_archive.service.pace import CallPacer, RateLimiter, backoff, sleep_or_interrupt
from g2a_archive.transport.answer import SLOWEST, LowSpeedLimit


class Watched(threading.Event):
    """An event whose waiting takes no time; a clock shows it instead."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self.clock = clock
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits.append(timeout)
        self.clock.advance(timeout)
        return self.is_set()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    clock = ManualClock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


@pytest.mark.parametrize("attempt", range(1, 12))
def test_backoff_doubles_up_to_half_a_minute(attempt: int) -> None:
    middle = min(30.0, 0.5 * 2 ** (attempt - 1))
    for _ in range(50):
        assert middle * 0.75 <= backoff(attempt) <= middle * 1.25


def test_backoff_has_jitter_and_survives_any_attempt() -> None:
    assert len({backoff(1) for _ in range(20)}) > 1
    assert backoff(10_000) <= 30 * 1.25


@pytest.mark.parametrize(
    ("said", "least", "most"), [(0.0, 0.375, 0.625), (7.0, 7.0, 7.0), (1e9, 600.0, 600.0)]
)
def test_backoff_honours_retry_after(said: float, least: float, most: float) -> None:
    assert least <= backoff(1, said) <= most


def test_a_pause_ends_with_the_run() -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        sleep_or_interrupt(stop, 3600)


def make_calls(pacer: CallPacer, clock: ManualClock, count: int, takes: float = 0.0) -> list[float]:
    """Make calls one after the other; returns when each began."""
    begun = []
    for _ in range(count):
        with pacer.turn():
            begun.append(clock())
            clock.advance(takes)
    return begun


def test_calls_are_spaced(clock: ManualClock) -> None:
    begun = make_calls(CallPacer(Watched(clock)), clock, 40)
    for first, eleventh in zip(begun, begun[10:], strict=False):
        assert eleventh - first > 1.0
    assert begun[-1] - begun[0] < 40 * 0.12


@pytest.mark.parametrize("share", [2, 7, 100])
def test_shards_share_the_pace(
    share: int, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: clock() - 0.001)
    start, interval = clock(), share * pace.CALL_INTERVAL
    begun = make_calls(CallPacer(Watched(clock), Shard(2, share)), clock, 20)
    gaps = [after - before for before, after in itertools.pairwise(begun)]
    assert gaps == pytest.approx([interval] * 19)
    assert start <= begun[0] <= start + interval
    pacer = CallPacer(Watched(clock), Shard(2, share))
    pacer.slow_down()
    first, second = make_calls(pacer, clock, 2)
    assert second - first > interval


@pytest.mark.parametrize("count", [2, 3, 4, 7, 8, 16])
def test_all_shards_together_keep_the_limit(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever each of them starts."""
    begun = []
    for number in range(1, count + 1):
        clock = ManualClock(1000.0 + number * 0.37 % 1.0)
        monkeypatch.setattr(time, "monotonic", clock)
        monkeypatch.setattr(time, "time", lambda clock=clock: clock() + 1_800_000_000.0)
        begun += make_calls(CallPacer(Watched(clock), Shard(number, count)), clock, 30)
    begun.sort()
    for first, eleventh in zip(begun, begun[10:], strict=False):
        assert eleventh - first > 1.0
    assert begun[-1] - begun[0] < 31 * count * pace.CALL_INTERVAL


def test_a_call_that_takes_long_to_get_through_counts_from_its_end(clock: ManualClock) -> None:
    """It may reach the service only just before its answer, together with later calls."""
    pacer = CallPacer(Watched(clock))
    with pacer.turn():
        arrived = make_calls(pacer, clock, 9)
        arrived.append(clock())
    arrived += make_calls(pacer, clock, 20)
    for first, eleventh in zip(arrived, arrived[10:], strict=False):
        assert eleventh - first > 1.0


def test_after_a_429_calls_are_slower_for_a_while(clock: ManualClock) -> None:
    pacer = CallPacer(Watched(clock))
    make_calls(pacer, clock, 1)
    pacer.slow_down()
    begun = make_calls(pacer, clock, 40)
    gaps = [after - before for before, after in itertools.pairwise(begun)]
    assert gaps[0] == pytest.approx(0.33)
    assert gaps[-1] == pytest.approx(pace.CALL_INTERVAL)
    assert gaps == pytest.approx(sorted(gaps, reverse=True))
    for _ in range(20):
        pacer.slow_down()
    first, second = make_calls(pacer, clock, 2)
    assert second - first == pytest.approx(2.0)


def test_an_idle_pacer_gives_no_burst(clock: ManualClock) -> None:
    pacer = CallPacer(Watched(clock))
    make_calls(pacer, clock, 1)
    clock.advance(3600)
    idle = clock()
    first, second = make_calls(pacer, clock, 2)
    assert first == idle
    assert second - first == pytest.approx(pace.CALL_INTERVAL)


def test_a_pacer_that_is_stopped() -> None:
    stop = threading.Event()
    pacer = CallPacer(stop)
    with pacer.turn():
        pass
    stop.set()
    with pytest.raises(Interrupted), pacer.turn():
        pytest.fail("no call may begin now")
    with pytest.raises(Interrupted), CallPacer(stop).turn():
        pytest.fail("no call may begin now")


@pytest.mark.parametrize("piece", [1_000, 10_000, 100_000])
def test_the_rate_is_kept(piece: int) -> None:
    clock = ManualClock()
    stop = Watched(clock)
    limiter = RateLimiter(100_000, stop, clock)
    begun = clock()
    for _ in range(1_000_000 // piece):
        limiter.take(piece)
    assert 1_000_000 / (clock() - begun) == pytest.approx(100_000, rel=0.02)


def test_a_pause_gives_no_burst_beyond_a_tenth_of_a_second() -> None:
    clock = ManualClock()
    stop = Watched(clock)
    limiter = RateLimiter(100_000, stop, clock)
    clock.advance(3600)
    assert limiter.take(10_000) == 0.0
    assert limiter.take(10_000) == pytest.approx(0.1)


def test_a_stopped_limiter_lets_all_through() -> None:
    stop = threading.Event()
    stop.set()
    limiter = RateLimiter(1, stop)
    assert limiter.take(10**9) > 0


@pytest.mark.parametrize("jobs", [1, 8, 64])
@pytest.mark.parametrize("rate", [1, 1000, 10**6, 10**10])
def test_steps_are_neither_tiny_nor_huge(rate: int, jobs: int) -> None:
    assert 1024 <= RateLimiter(rate, threading.Event()).step(jobs) <= 256 * 1024


@pytest.mark.parametrize(
    ("wall", "monotonic", "age"),
    [
        (1000.0, 50.0, 0.0),
        (1060.0, 110.0, 60.0),
        (1060.0 - 86400, 110.0, 60.0),  # the wall clock was set back
        (1060.0 + 86400, 110.0, 86460.0),  # set forward, or the machine slept: rather renew
        (1000.0 + 48 * 3600, 50.0, 48 * 3600),
        (900.0, 40.0, -10.0),
    ],
)
def test_the_age_of_a_link(wall: float, monotonic: float, age: float) -> None:
    assert Link("https://host/x", 1000.0, 50.0).age(wall, monotonic) == age


def test_the_floor(clock: ManualClock) -> None:
    floor = LowSpeedLimit(60.0)
    clock.advance(59)
    floor.add(1)
    floor.check()
    clock.advance(2)
    floor.add(1)
    with pytest.raises(Exception, match="less than 1 kB/s for 60 s"):
        floor.check()


def test_the_floor_looks_at_each_stretch(clock: ManualClock) -> None:
    floor = LowSpeedLimit(60.0)
    floor.add(10**9)  # much at first does not excuse a trickle later on
    floor.check()
    clock.advance(60)
    floor.add(1)
    floor.check()
    assert not floor.slow
    clock.advance(60)
    floor.add(1)
    with pytest.raises(Exception, match="less than 1 kB/s"):
        floor.check()


def test_the_floor_excuses_what_the_rate_limit_took(clock: ManualClock) -> None:
    floor = LowSpeedLimit(60.0)
    for _ in range(10):
        clock.advance(50)
        floor.excuse(50)
        floor.add(1)
        floor.check()
    assert not floor.slow


@pytest.mark.parametrize(("count", "slow"), [(60 * SLOWEST, False), (60 * SLOWEST - 1, True)])
def test_a_slow_attempt(count: int, slow: bool, clock: ManualClock) -> None:
    floor = LowSpeedLimit(100.0)
    floor.add(count)
    floor.check()
    clock.advance(60)
    assert floor.slow is slow
