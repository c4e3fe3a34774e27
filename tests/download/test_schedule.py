"""In which order files are fetched."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import cast

import pytest

from g2a_archive.download.hosts import Hosts
from g2a_archive.download.schedule import Schedule
from g2a_archive.download.transfer.results import Transfer
from g2a_archive.download.workers import Workers
from g2a_archive.models import FileKind, Link

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


@pytest.mark.parametrize(("progress", "place"), [(True, 0), (False, 20)])
def test_what_never_worked_comes_after_what_nobody_tried_yet(progress: bool, place: int) -> None:
    hosts = Hosts(timeout=1.0, retries=1, pause=float)
    schedule = Schedule(hosts, jobs=2, segments=1, unreachable=lambda one, why: None)
    schedule.add(map(transfer, range(1, 21)))
    schedule.delay(transfer(99), 5.0, first=progress)
    taken = Taken()
    while schedule.waiting or schedule.next_at is not None:
        schedule.hand_out(cast(Workers, taken), 6.0, more=True)
        schedule.active.clear()
    assert taken.recordings.index(99) == place
