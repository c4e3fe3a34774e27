"""The threads of a run: reactor, workers and finishers for files, callers that ask for links."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from g2a_archive.download.finish import Finisher
from g2a_archive.download.reactor import Begun, Reactor
from g2a_archive.download.results import Outcome, Transfer, Whole
from g2a_archive.download.transfer import Fetcher
from g2a_archive.models import LinkAnswer


class Attempted(NamedTuple):
    """An attempt at a file ended; `outcome` may be an exception that ends the run."""

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


class Broken(NamedTuple):
    """A thread that the run cannot do without is at its end."""

    error: BaseException


Event = Attempted | Assisted | Linked | Broken | None


class Events:
    """What the threads tell the main thread, which alone may `get`. None only wakes it up."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Sequence[Event]] = queue.SimpleQueue()
        self._here: deque[Event] = deque()

    def put(self, *events: Event) -> None:
        """Tell of these together, which wakes the main thread up once."""
        self._queue.put(events)

    def get(self, timeout: float | None = None) -> Event:
        """The next one; raises `queue.Empty` where none comes in `timeout` seconds."""
        while not self._here:
            self._here.extend(self._queue.get(timeout=timeout))
        return self._here.popleft()

    @property
    def waiting(self) -> bool:
        """Whether `get` has one at once."""
        return bool(self._here) or not self._queue.empty()


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
        *,
        set_mtime: bool = False,
    ) -> None:
        """`fetchers`: one for the reactor, and one for each of as many workers as jobs."""
        self._events = events
        first, *others = fetchers
        self._connections = first.connections
        self._ask = ask
        self._tasks: queue.SimpleQueue[Begun | Transfer | None] = queue.SimpleQueue()
        self._chunks: queue.SimpleQueue[Sequence[int] | None] = queue.SimpleQueue()
        self._workers = len(others)
        self._callers = callers
        self._finisher = Finisher(
            first.storage,
            ended=lambda some: self._events.put(*(Attempted(*one) for one in some)),
            flushed=lambda transfers: self._reactor.flushed(transfers),
            jobs=self._workers,
            set_mtime=set_mtime,
        )
        self._reactor = Reactor(
            first,
            self._workers,
            hand_over=self._tasks.put,
            whole=self._finisher.put,
            name=self._finisher.name,
            ended=self._ended,
            broken=lambda error: self._events.put(Broken(error)),
        )
        self._busy = 1 + self._workers
        self._busy_lock = threading.Lock()
        works: list[tuple[Callable[..., None], tuple[Fetcher, ...]]] = [(self._react, ())]
        works += [(self._work, (fetcher,)) for fetcher in others]
        works += [(self._call, ())] * callers
        self._threads = [
            threading.Thread(target=work, args=args, daemon=True) for work, args in works
        ]

    def start(self) -> None:
        """Start the threads. Raises `StorageError`."""
        self._finisher.start()
        for thread in self._threads:
            thread.start()

    @property
    def ahead(self) -> int:
        """How many files should be handed out at least, as long as there are any."""
        return self._finisher.ahead

    def fetch(self, transfer: Transfer) -> None:
        """Have a file fetched, as soon as one of the jobs is free."""
        self._reactor.put(transfer)

    def assist(self, transfer: Transfer) -> None:
        """Have the next worker that is free help with a file that is being fetched."""
        self._tasks.put(transfer)

    def ask(self, ids: Sequence[int]) -> None:
        """Hand a chunk of IDs to the next caller that is free."""
        self._chunks.put(ids)

    def abort(self) -> None:
        """End transfers that wait for the network; the stop event must be set before."""
        self._connections.abort()
        self._reactor.look()

    def close(self) -> None:
        """Let the threads end once they are through with what they have."""
        self._reactor.close()
        for _ in range(self._workers):
            self._tasks.put(None)
        for _ in range(self._callers):
            self._chunks.put(None)
        self._finisher.close()

    def _ended(self, transfer: Transfer, outcome: Outcome | BaseException) -> None:
        self._events.put(Attempted(transfer, outcome))

    def _react(self) -> None:
        self._reactor.run()
        self._over()

    def _work(self, fetcher: Fetcher) -> None:
        while (task := self._tasks.get()) is not None:
            if isinstance(task, Begun):
                self._fetch(fetcher, task)
                self._reactor.freed()
                continue
            try:
                self._events.put(Assisted(task, fetcher.receiver.assist(task)))
            except BaseException as error:
                self._events.put(Assisted(task, error))
        self._over()

    def _fetch(self, fetcher: Fetcher, begun: Begun) -> None:
        transfer = begun.transfer
        try:
            outcome = fetcher.fetch(transfer, begun.wire, begun.came)
        except BaseException as error:
            self._ended(transfer, error)
            return
        if isinstance(outcome, Whole):
            self._finisher.put([transfer])
        else:
            self._ended(transfer, outcome)

    def _over(self) -> None:
        """The last of the threads that have connections closes them."""
        with self._busy_lock:
            self._busy -= 1
            last = not self._busy
        if last:
            self._connections.close()

    def _call(self) -> None:
        while (ids := self._chunks.get()) is not None:
            try:
                answer: LinkAnswer | BaseException = self._ask(ids)
            except BaseException as error:
                answer = error
            self._events.put(Linked(ids, answer))
