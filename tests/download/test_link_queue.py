"""When links are asked for: by whom, how many, and what for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import cast

from g2a_archive.download.link_queue import LinkQueue
from g2a_archive.download.transfer.results import Transfer
from g2a_archive.models import FileKind, Link
from g2a_archive.service.client import Service

START = datetime(2014, 5, 6, tzinfo=UTC)


def transfer(recording: int, kind: FileKind = FileKind.MP4) -> Transfer:
    return Transfer(recording, kind, "2014/05/06", START, Link("https://host.example/a", 0.0, 0.0))


class Asked:
    """A link queue, and the calls that it has made."""

    def __init__(self, todo: Sequence[int], *, limit: int = 3, answered: bool = True) -> None:
        self.calls: list[list[int]] = []
        self.service = SimpleNamespace(chunk_limit=limit, ever_answered=answered)
        service = cast(Service, self.service)
        self.queue = LinkQueue(todo, service, lambda ids: self.calls.append([*ids]))

    def pump(self, waiting: int = 0, *, now: float = 0.0, idle: bool = False) -> list[list[int]]:
        """The calls that are made now."""
        before = len(self.calls)
        self.queue.pump(now, waiting, idle=idle)
        return self.calls[before:]

    def pending(self) -> bool:
        """Whether it has more to do."""
        return self.queue.pending


def test_about_one_chunk_is_kept_ahead() -> None:
    """Two calls at most are in flight; those that wait for a worker, or are asked for, count."""
    asked = Asked(range(1, 12))
    assert asked.pump(waiting=4) == []
    assert asked.pump(waiting=3) == [[1, 2, 3]]
    assert asked.pump(waiting=1) == []
    assert asked.pump(waiting=0) == [[4, 5, 6]]
    assert asked.pump(waiting=0) == []
    asked.queue.answered([1, 2, 3])
    assert asked.pump(waiting=1) == []
    assert asked.pump(waiting=0) == [[7, 8, 9]]
    asked.queue.answered([4, 5, 6])
    assert [*asked.queue.close()] == [10, 11]
    assert asked.pending()
    asked.queue.answered([7, 8, 9])
    assert not asked.pending()
    assert asked.pump() == []


def test_until_one_was_accepted_a_single_call_is_in_flight() -> None:
    asked = Asked(range(1, 12), answered=False)
    assert asked.pump() == [[1, 2, 3]]
    assert asked.pump() == []
    asked.service.ever_answered = True
    assert asked.pump() == [[4, 5, 6]]


def test_new_links_are_asked_for_together() -> None:
    """Half a second after the first of them is wanted, or as soon as nobody has anything to do."""
    asked = Asked([])
    assert asked.queue.due_at == math.inf
    for number, now in enumerate((10.0, 10.1, 10.2, 10.3)):
        asked.queue.want_new_link(transfer(number), now)
    asked.queue.want_new_link(transfer(0, FileKind.EVENTS), 10.3)
    assert asked.queue.due_at == 10.5
    assert asked.pump(now=10.4) == []
    assert asked.pump(now=10.5) == [[0, 1, 2]]
    assert asked.pump(now=10.6) == [[3]]
    asked.queue.want_new_link(transfer(4), 10.6)
    assert asked.pump(now=19.0) == []  # two are in flight
    asked.queue.answered([3])
    del asked.queue.renewals[3]
    assert asked.pump(now=19.0) == [[4]]  # and not those that are asked for already
    asked.queue.answered([4])
    del asked.queue.renewals[4]
    assert asked.pump(now=29.0) == []
    assert [one.kind for one in asked.queue.renewals[0]] == [FileKind.MP4, FileKind.EVENTS]
    asked = Asked([])
    asked.queue.want_new_link(transfer(7), 10.0)
    assert asked.pump(now=10.0, idle=True) == [[7]]
    asked.queue.answered([7])
    assert asked.pending()  # its files wait
    asked.queue.renewals.clear()
    assert not asked.pending()


def test_what_is_to_come_again_comes_after_all_others() -> None:
    asked = Asked([1, 2], limit=5)
    assert asked.pump() == [[1, 2]]
    asked.queue.answered([1, 2])
    asked.queue.requeue([2])
    assert asked.pending()
    assert asked.pump() == [[2]]
