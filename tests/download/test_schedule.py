"""In which order files are fetched."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from itertools import pairwise
from types import SimpleNamespace
from typing import cast

import pytest

from g2a_archive.archive.partial import Partial
from g2a_archive.download import schedule as schedules
from g2a_archive.download.schedule import Schedule
from g2a_archive.download.transfer.finish import SMALL
from g2a_archive.download.transfer.results import Transfer
from g2a_archive.download.transfer.segments import MIN_SPLIT_SIZE
from g2a_archive.download.workers import Workers
from g2a_archive.models import FileKind, Link
from g2a_archive.transport.hosts import CircuitBreaker

START = datetime(2014, 5, 6, tzinfo=UTC)


class Taken:
    """Workers that take what they are given."""

    prefetch = 0

    def __init__(self) -> None:
        self.recordings: list[int] = []
        self.helped: list[int] = []

    def assist(self, transfer: Transfer) -> None:
        self.helped.append(transfer.recording)

    def fetch(self, transfer: Transfer) -> None:
        self.recordings.append(transfer.recording)


def transfer(recording: int) -> Transfer:
    link = Link("https://host.example/a", 0.0, 0.0)
    return Transfer(recording, FileKind.MP4, "2014/05/06", START, link)


@pytest.mark.parametrize("waits_for", ["", "https://host.example", "https://other.example"])
def test_a_file_whose_hosts_are_down_asks_them_when_it_is_time(waits_for: str) -> None:
    """Be it the only one that is left, and its own host the one that it waits for."""
    hosts = CircuitBreaker(timeout=1.0, retries=1, pause=lambda *_: 60.0)
    for _ in range(3):
        hosts.record_failure(waits_for or "https://host.example", "connection refused")
    schedule = Schedule(hosts, jobs=2, segments=1)
    one = transfer(7)
    one.failed_host = waits_for
    schedule.add([one])
    taken = Taken()
    now = time.monotonic()
    schedule.hand_out(cast(Workers, taken), now, more=True)
    assert (taken.recordings, schedule.next_at) == ([], now + 1.0)
    schedule.hand_out(cast(Workers, taken), now + 61.0, more=True)
    assert (taken.recordings, schedule.next_at) == ([7], math.inf)


@pytest.mark.parametrize(("progress", "place"), [(True, 0), (False, 20)])
def test_what_never_worked_comes_after_what_nobody_tried_yet(progress: bool, place: int) -> None:
    hosts = CircuitBreaker(timeout=1.0, retries=1, pause=lambda tries, _: float(tries))
    schedule = Schedule(hosts, jobs=2, segments=1)
    schedule.add(map(transfer, range(1, 21)))
    schedule.delay(transfer(99), 5.0, first=progress)
    taken = Taken()
    while schedule.waiting or schedule.next_at < math.inf:
        schedule.hand_out(cast(Workers, taken), 6.0, more=True)
        schedule.active.clear()
    assert taken.recordings.index(99) == place


def plain(*, jobs: int = 1, segments: int = 1) -> Schedule:
    hosts = CircuitBreaker(timeout=1.0, retries=1, pause=lambda *_: 1.0)
    return Schedule(hosts, jobs=jobs, segments=segments)


def large(recording: int, missing: int, *, splittable: bool = True) -> Transfer:
    one = transfer(recording)
    one.splittable = splittable
    one.part = cast(Partial, SimpleNamespace(size=0, total=missing, extents=()))
    return one


def test_idle_workers_help_with_what_misses_most() -> None:
    """Once nothing else is still to come; 11 jobs, and at most 4 connections a file."""
    schedule = plain(jobs=11, segments=4)
    most, less = large(1, 4 * MIN_SPLIT_SIZE), large(2, 2 * MIN_SPLIT_SIZE)
    small, whole = large(3, MIN_SPLIT_SIZE - 1), large(4, 9 * MIN_SPLIT_SIZE, splittable=False)
    schedule.add([less, small, most, whole])
    taken = Taken()
    schedule.hand_out(cast(Workers, taken), 0.0, more=True)
    assert (len(taken.recordings), taken.helped) == (4, [])
    schedule.hand_out(cast(Workers, taken), 0.0, more=False)
    assert taken.helped == [1, 1, 1, 2, 2, 2]
    schedule.add([large(5, MIN_SPLIT_SIZE)])
    schedule.hand_out(cast(Workers, taken), 0.0, more=False)
    assert (len(taken.recordings), len(taken.helped)) == (5, 6)  # all have something to do
    schedule.helped(most, well=False)
    schedule.helped(less, well=True)
    schedule.hand_out(cast(Workers, taken), 0.0, more=False)
    assert taken.helped[6:] == [2, 5]  # not where help has failed


def test_nothing_is_fetched_before_it_is_due() -> None:
    schedule = plain()
    schedule.delay(transfer(1), 5.0)
    schedule.delay(transfer(2), 4.0)
    taken = Taken()
    for now, fetched in ((3.9, []), (4.0, [2]), (4.9, [2])):
        schedule.hand_out(cast(Workers, taken), now, more=False)
        assert taken.recordings == fetched
    schedule.add([transfer(3)])
    schedule.hand_out(cast(Workers, taken), 5.0, more=False)
    assert taken.recordings == [2, 3, 1]  # what has failed comes after what nobody tried yet
    assert schedule.next_at == math.inf


def test_what_waits_for_dead_hosts_keeps_no_links_from_being_asked_for_up_to_a_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(schedules, "_MOST_DELAYED", 3)
    schedule = plain()
    schedule.add(map(transfer, range(10, 15)))
    for number, waiting in enumerate((5, 5, 5, 6, 7)):
        schedule.delay(transfer(number), 9.0)
        assert schedule.waiting == waiting
    schedule.hand_out(cast(Workers, Taken()), 0.0, more=True)
    assert (len(schedule.active), schedule.waiting) == (4, 3)  # one that waits, two too many


def sized(recording: int, expected: int | None) -> Transfer:
    one = transfer(recording)
    one.expected = expected
    return one


def test_more_are_handed_out_than_there_are_jobs_and_more_yet_of_small_ones() -> None:
    """So that none waits for the main thread; small ones are flushed together."""
    for expected, count in ((SMALL + 1, 4), (SMALL, 6), (None, 6)):
        schedule, taken = plain(), Taken()
        taken.prefetch = 6
        schedule.add(sized(number, expected) for number in range(9))
        assert (schedule.idle, schedule.waiting) == (False, 9)
        schedule.hand_out(cast(Workers, taken), 0.0, more=True)
        assert taken.recordings == [*range(count)]
        assert schedule.waiting == 9 - count + max(0, count - 4)


def test_large_ones_are_taken_back() -> None:
    schedule, taken = plain(), Taken()
    sizes = SMALL + 1, SMALL, None, 2 * SMALL, 0
    schedule.add(sized(number, size) for number, size in enumerate(sizes))
    assert [one.recording for one in schedule.pop_large()] == [0, 3]
    schedule.add_first(transfer(7))
    schedule.hand_out(cast(Workers, taken), 0.0, more=True)
    assert taken.recordings == [7, 1, 2, 4]


def test_whether_there_is_anything_to_do() -> None:
    schedule, taken, one = plain(), Taken(), transfer(1)

    def state() -> tuple[bool, bool]:
        return schedule.pending, schedule.idle

    assert state() == (False, True)
    schedule.add([one])
    assert state() == (True, False)
    one.answered, one.failed_host = True, "https://host.example"
    schedule.hand_out(cast(Workers, taken), 0.0, more=True)
    assert state() == (True, False)
    assert (one.answered, one.failed_host) == (False, "")  # of an attempt before
    schedule.active.remove(one)
    schedule.delay(one, 5.0)
    assert state() == (True, True)


def test_a_file_is_divided_once() -> None:
    schedule, taken, one = plain(jobs=2, segments=8), Taken(), large(1, 2 * MIN_SPLIT_SIZE)
    schedule.add([one])
    schedule.hand_out(cast(Workers, taken), 0.0, more=False)
    segments = one.segments
    assert segments is not None
    schedule.helped(one, well=True)
    schedule.hand_out(cast(Workers, taken), 0.0, more=False)
    assert (taken.helped, one.segments) == ([1, 1], segments)


def test_a_host_that_refuses_one_more_gets_no_more_at_a_time() -> None:
    """Until what came says that it may take more; and nothing is lost meanwhile."""
    hosts = CircuitBreaker(timeout=1.0, retries=1, pause=lambda tries, _: float(tries))
    schedule = Schedule(hosts, jobs=8, segments=1)
    schedule.add(map(transfer, range(1, 31)))
    taken = Taken()

    def hand_out() -> int:
        schedule.hand_out(cast(Workers, taken), 1.0, more=True)
        return len(schedule.active)

    def end(one: Transfer, *, whole: bool) -> None:
        one.sending = False
        schedule.returned(one, whole=whole)

    assert hand_out() == 30
    two = sorted(schedule.active, key=lambda one: one.recording)[:2]
    for one in two:
        one.sending = True
    for one in schedule.active - {*two}:
        end(one, whole=False)
        schedule.refused(one)
        schedule.add([one])
    assert (hand_out(), schedule.pending) == (2, True)
    came = 0
    while schedule.pending:
        for one in sorted(schedule.active, key=lambda one: one.recording):
            end(one, whole=True)
            came += 1
        assert hand_out() <= (2 if came < 5 else 2 + came // 5)
    assert (came, len({*taken.recordings})) == (30, 30)


def test_a_host_that_is_asked_too_often_is_asked_for_one_after_the_other() -> None:
    """The sooner, the more has come; and nothing is lost meanwhile."""
    schedule = Schedule(
        CircuitBreaker(timeout=1.0, retries=1, pause=lambda *_: 1.0), jobs=8, segments=1
    )
    schedule.add(map(transfer, range(1, 31)))
    taken = Taken()
    schedule.hand_out(cast(Workers, taken), 0.0, more=True)
    assert len(schedule.active) == 30
    for one in [*schedule.active]:
        schedule.returned(one, whole=False)
        schedule.refused(one, often=True)
        schedule.add([one])
    taken.recordings.clear()
    schedule.hand_out(cast(Workers, taken), 0.0, more=True)
    assert (taken.recordings, schedule.pending) == ([], True)
    times = []
    while schedule.pending:
        times.append(schedule.next_at)
        schedule.hand_out(cast(Workers, taken), times[-1], more=True)
        assert len(schedule.active) == 1 or len(times) > 10
        for one in [*schedule.active]:
            schedule.returned(one, whole=True)
    assert sorted(taken.recordings) == [*range(1, 31)]
    apart = [after - before for before, after in pairwise(times)]
    assert apart[0] > 0.04
    assert apart == sorted(apart, reverse=True)


def test_a_file_that_never_works_does_not_slow_a_host_down_that_sent_more() -> None:
    hosts = CircuitBreaker(timeout=1.0, retries=1, pause=lambda tries, _: float(tries))
    schedule = Schedule(hosts, jobs=8, segments=1)
    schedule.add(map(transfer, range(1, 9)))
    taken = cast(Workers, Taken())
    schedule.hand_out(taken, 1.0, more=True)
    good = [*schedule.active]
    for one in good:
        one.sending = True
    bad = transfer(9)
    schedule.refused(bad)  # the first time that it is seen how many it sends
    schedule.returned(good[0], whole=True)
    for _ in range(10):
        schedule.refused(bad)
        schedule.returned(transfer(10), whole=True)
    schedule.add(map(transfer, range(11, 30)))
    schedule.hand_out(taken, 1.0, more=True)
    assert len(schedule.active) >= 8


def test_nobody_helps_while_files_wait_for_room_at_their_host() -> None:
    schedule = Schedule(
        CircuitBreaker(timeout=1.0, retries=1, pause=lambda *_: 1.0), jobs=8, segments=4
    )
    taken = Taken()
    sent = large(1, 9 * MIN_SPLIT_SIZE)
    schedule.add([sent])
    schedule.hand_out(cast(Workers, taken), 0.0, more=True)
    sent.sending = True
    waits = transfer(2)
    schedule.refused(waits)
    schedule.add([waits])
    schedule.hand_out(cast(Workers, taken), 0.0, more=False)
    assert (taken.recordings, taken.helped) == ([1], [])
    schedule.returned(large(3, 1), whole=True)
    for _ in range(5):  # what came says that the host may take one more
        schedule.returned(large(3, 1), whole=True)
    schedule.hand_out(cast(Workers, taken), 0.0, more=False)
    assert (taken.recordings, taken.helped) == ([1, 2], [1, 1, 1])
