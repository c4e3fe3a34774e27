"""The threads of a run: workers that make attempts at files, callers that ask for links."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from g2a_archive.models import LinkAnswer
from g2a_archive.outcomes import Outcome, Transfer, Whole
from g2a_archive.transfer import Fetcher


class Attempted(NamedTuple):
    """A worker's attempt ended; `outcome` may be an exception that ends the run."""

    transfer: Transfer
    outcome: Outcome | BaseException


class Linked(NamedTuple):
    """A link call ended; `answer` may be an exception."""

    ids: Sequence[int]
    answer: LinkAnswer | BaseException


class Assisted(NamedTuple):
    """A worker's help with another's file ended; `outcome` tells whether it worked."""

    transfer: Transfer
    outcome: bool | BaseException


Event = Attempted | Assisted | Linked | None
_FINISHERS = 2
_SMALL = 1 << 20
"""Bytes from which on a file is flushed by another thread, while its worker fetches the next."""

Events = queue.SimpleQueue[Event]


class Pool:
    """Daemon threads that take work from queues and put what became of it into `events`.

    They are daemons because a name look-up or a connect that hangs cannot be interrupted, and
    must not keep a stopped run from ending.
    """

    def __init__(
        self,
        events: Events,
        fetchers: Sequence[Fetcher],
        ask: Callable[[Sequence[int]], LinkAnswer],
        callers: int,
    ) -> None:
        self._events = events
        self._fetchers = fetchers
        self._ask = ask
        self._callers = callers
        self._transfers: queue.SimpleQueue[tuple[Transfer, bool] | None] = queue.SimpleQueue()
        self._chunks: queue.SimpleQueue[Sequence[int] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, args=(fetcher,), daemon=True, name=f"file-{n}")
            for n, fetcher in enumerate(fetchers)
        ]
        self._whole: queue.SimpleQueue[tuple[Fetcher, Transfer] | None] = queue.SimpleQueue()
        self._threads += [
            threading.Thread(target=self._finish, daemon=True, name=f"whole-{n}")
            for n in range(_FINISHERS)
        ]
        self._threads += [
            threading.Thread(target=self._call, daemon=True, name=f"links-{n}")
            for n in range(callers)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def fetch(self, transfer: Transfer) -> None:
        """Hand a file to the next worker that is free."""
        self._transfers.put((transfer, False))

    def assist(self, transfer: Transfer) -> None:
        """Have the next worker that is free help with a file that is being fetched."""
        self._transfers.put((transfer, True))

    def ask(self, ids: Sequence[int]) -> None:
        """Hand a chunk of IDs to the next caller that is free."""
        self._chunks.put(ids)

    def abort(self) -> None:
        """End transfers that wait for the network; the stop event must be set before."""
        for fetcher in self._fetchers:
            fetcher.connections.abort()

    def close(self) -> None:
        """Let the threads end once they are through with what they have."""
        for _ in self._fetchers:
            self._transfers.put(None)
        for _ in range(_FINISHERS):
            self._whole.put(None)
        for _ in range(self._callers):
            self._chunks.put(None)

    def _work(self, fetcher: Fetcher) -> None:
        while (task := self._transfers.get()) is not None:
            transfer, helping = task
            try:
                if helping:
                    self._events.put(Assisted(transfer, fetcher.receiver.assist(transfer)))
                    continue
                outcome = fetcher.fetch(transfer)
                if not isinstance(outcome, Whole):
                    self._events.put(Attempted(transfer, outcome))
                elif transfer.size < _SMALL:
                    self._events.put(Attempted(transfer, fetcher.store(transfer)))
                else:
                    self._whole.put((fetcher, transfer))
            except BaseException as error:
                kind = Assisted if helping else Attempted
                self._events.put(kind(transfer, error))
        fetcher.connections.close()

    def _finish(self) -> None:
        while (task := self._whole.get()) is not None:
            fetcher, transfer = task
            try:
                self._events.put(Attempted(transfer, fetcher.store(transfer)))
            except BaseException as error:
                self._events.put(Attempted(transfer, error))

    def _call(self) -> None:
        while (ids := self._chunks.get()) is not None:
            try:
                answer: LinkAnswer | BaseException = self._ask(ids)
            except BaseException as error:
                answer = error
            self._events.put(Linked(ids, answer))
