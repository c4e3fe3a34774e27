"""In which order files are fetched."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from typing import cast

import pytest

from g2a_archive.download.schedule import Schedule
from g2a_archive.download.transfer.results import Transfer
from g2a_archive.download.workers import Workers
from g2a_archive.models import FileKind, Link
from g2a_archive.transport.hosts import Hosts

START = datetime(2014, 5, 6, tzinfo=UTC)


class Taken:
    """Workers that take what they are given."""

    ahead = 0

    def __init__(self) -> None:
        self.recordings: list[int] = []

    def fetch(self, transfer: Transfer) -> None:
        self.recordings.append(transfer.recording)


def transfer(recording: int) -> Transfer:
    link = Link("https://host.example/a", 0.0, 0.0)
    return Transfer(recording, FileKind.MP4, "2014/05/06", START, link)


@pytest.mark.parametrize("waits_for", ["", "https://host.example", "https://other.example"])
def test_a_file_whose_hosts_are_down_asks_them_when_it_is_time(waits_for: str) -> None:
    """Be it the only one that is left, and its own host the one that it waits for."""
    hosts = Hosts(timeout=1.0, retries=1, pause=lambda *_: 60.0)
    for _ in range(3):
        hosts.unanswered(waits_for or "https://host.example", "connection refused")
    schedule = Schedule(hosts, jobs=2, segments=1)
    one = transfer(7)
    one.waits_for = waits_for
    schedule.add([one])
    taken = Taken()
    now = time.monotonic()
    schedule.hand_out(cast(Workers, taken), now, more=True)
    assert (taken.recordings, schedule.next_at) == ([], now + 1.0)
    schedule.hand_out(cast(Workers, taken), now + 61.0, more=True)
    assert (taken.recordings, schedule.next_at) == ([7], math.inf)


@pytest.mark.parametrize(("progress", "place"), [(True, 0), (False, 20)])
def test_what_never_worked_comes_after_what_nobody_tried_yet(progress: bool, place: int) -> None:
    hosts = Hosts(timeout=1.0, retries=1, pause=lambda tries, _: float(tries))
    schedule = Schedule(hosts, jobs=2, segments=1)
    schedule.add(map(transfer, range(1, 21)))
    schedule.delay(transfer(99), 5.0, first=progress)
    taken = Taken()
    while schedule.waiting or schedule.next_at < math.inf:
        schedule.hand_out(cast(Workers, taken), 6.0, more=True)
        schedule.active.clear()
    assert taken.recordings.index(99) == place
