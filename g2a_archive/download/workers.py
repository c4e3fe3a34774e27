"""The threads of a run: workers and finishers for files, one for each call that asks for links."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from g2a_archive.download.link_queue import MAX_LINK_CALLS
from g2a_archive.download.transfer.attempt import fetch
from g2a_archive.download.transfer.finish import Finisher
from g2a_archive.download.transfer.receive import Tools
from g2a_archive.download.transfer.results import Complete, Result, Transfer
from g2a_archive.download.transfer.sharing import help_fetch
from g2a_archive.models import LinkResult, pluralize
from g2a_archive.threads import has_memory, no_threads_error, spawn

log = logging.getLogger("g2a_archive")

_SPARE = 40 << 20
"""Bytes for one more worker, and for what all of them do, where memory is limited."""


class Attempted(NamedTuple):
    """An attempt at a file ended; `outcome` may be an exception that ends the run."""

    transfer: Transfer
    outcome: Result | BaseException


class Linked(NamedTuple):
    """A link call ended; `answer` may be an exception."""

    ids: Sequence[int]
    answer: LinkResult | BaseException


class Assisted(NamedTuple):
    """A worker's help with another's file ended; `outcome` tells whether it worked."""

    transfer: Transfer
    outcome: bool | BaseException


Event = Attempted | Assisted | Linked | None
"""What the threads tell the main thread; None only wakes it up."""


_Task = Callable[[], None]
_S = TypeVar("_S")


class Workers:
    """Daemon threads that take work from queues and put what became of it into `events`.

    They are daemons because a name look-up or a connect that hangs cannot be interrupted, and
    must not keep a stopped run from ending.
    """

    def __init__(
        self,
        events: queue.SimpleQueue[Event],
        tools: Tools,
        ask: Callable[[Sequence[int]], LinkResult],
        *,
        set_mtime: bool,
    ) -> None:
        """There are as many workers as `tools` has jobs; `ask` makes a link call."""
        self._events = events
        self._tools = tools
        self._ask = ask
        self._files: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._finisher = Finisher(
            tools.storage,
            ended=lambda transfer, outcome: events.put(Attempted(transfer, outcome)),
            jobs=tools.jobs,
            set_mtime=set_mtime,
        )
        self._running = 0

    def start(self) -> None:
        """Start the threads; fewer than asked for where the system gives no more, with a warning.

        Raises `StorageError` where there is not even one.
        """
        self._finisher.start()
        # Each call takes two: the workers must not take all that there are.
        started = threading.Event()
        kept_free = [spawn(started.wait) for _ in range(2 * MAX_LINK_CALLS)]
        while self._running < self._tools.jobs and spawn(_work, self._files):
            self._running += 1
            if not has_memory(_SPARE):
                break
        started.set()
        for thread in filter(None, kept_free):
            thread.join()
        if not self._running:
            raise no_threads_error()
        if self._running < self._tools.jobs:
            log.warning(
                "the system gives no more threads: only %s at a time, not %d",
                pluralize(self._running, "download"),
                self._tools.jobs,
            )

    @property
    def prefetch(self) -> int:
        """How many files should be handed out at least, as long as there are any."""
        return self._finisher.prefetch

    def fetch(self, transfer: Transfer) -> None:
        """Have a file fetched, as soon as one of the workers is free."""
        self._files.put(partial(self._do, Attempted, self._attempt, transfer))

    def assist(self, transfer: Transfer) -> None:
        """Have the next worker that is free help with a file that is being fetched."""
        self._files.put(partial(self._do, Assisted, partial(help_fetch, self._tools), transfer))

    def ask(self, ids: Sequence[int]) -> None:
        """Have a link call made. Raises `StorageError` where there is no thread for it."""
        if spawn(self._do, Linked, self._ask, ids) is None:
            raise no_threads_error()

    def close(self) -> None:
        """Let the threads end once they are through with what they have, and connections close."""
        for _ in range(self._running):
            self._files.put(None)
        self._finisher.close()
        self._tools.downloads.close()

    def _do(
        self, event: Callable[[_S, Any], Event], act: Callable[[_S], object], subject: _S
    ) -> None:
        """Have the main thread hear what `act` returns or raises, unless that is None."""
        try:
            outcome = act(subject)
        except BaseException as error:
            outcome = error
        if outcome is not None:
            self._events.put(event(subject, outcome))

    def _attempt(self, transfer: Transfer) -> Result | None:
        """None where the finisher has it now."""
        found = fetch(self._tools, transfer)
        if not isinstance(found, Complete):
            return found
        self._finisher.put(transfer, found)
        return None


def _work(tasks: queue.SimpleQueue[_Task | None]) -> None:
    while (task := tasks.get()) is not None:
        task()
