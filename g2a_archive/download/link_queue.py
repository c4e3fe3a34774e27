"""When to ask for links: just before they are needed, and never a call too many."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from g2a_archive.download.transfer.results import Transfer
from g2a_archive.service.client import Service

MAX_LINK_CALLS = 2
"""Link calls in flight at most; the pace of ten a second holds for all of them together."""

_GATHER = 0.5
"""Seconds in which renewals gather, so that they go into one call."""


class LinkQueue:
    """The IDs still to be asked for, the calls under way, and the files that want a new link."""

    def __init__(
        self, todo: Sequence[int], service: Service, ask: Callable[[Sequence[int]], None]
    ) -> None:
        self._todo = todo
        self._service = service
        self._ask = ask
        self._next = 0
        self._calls = 0
        self._asking: set[int] = set()
        self._since = 0.0
        self.renewals: dict[int, list[Transfer]] = {}

    @property
    def pending(self) -> bool:
        """Whether anything is still to be asked for, or being asked for."""
        return bool(self._calls or self.renewals or self._next < len(self._todo))

    @property
    def due_at(self) -> float:
        """When renewals have gathered (monotonic seconds); never where there are none."""
        return self._since + _GATHER if self.renewals else math.inf

    def pump(self, now: float, waiting: int, *, idle: bool) -> None:
        """Make the calls that are due; `waiting` counts recordings whose files wait for a worker.

        About one chunk is kept ahead of the workers. Before the first call was accepted there
        is only one in flight, as it shows whether the credentials are good.
        """
        limit = self._service.chunk_limit
        callers = MAX_LINK_CALLS if self._service.ever_answered else 1
        ripe = idle or now - self._since >= _GATHER
        if self.renewals and ripe and self._calls < MAX_LINK_CALLS:
            wanted = [i for i in self.renewals if i not in self._asking][:limit]
            if wanted:
                self._send(wanted)
        while (
            self._next < len(self._todo)
            and self._calls < callers
            and waiting + len(self._asking) <= limit
        ):
            chunk = self._todo[self._next : self._next + limit]
            self._next += len(chunk)
            self._send(chunk)

    def _send(self, ids: Sequence[int]) -> None:
        self._calls += 1
        self._asking.update(ids)
        self._ask(ids)

    def answered(self, ids: Sequence[int]) -> None:
        """A call for `ids` ended, however it did."""
        self._calls -= 1
        self._asking.difference_update(ids)

    def want_new_link(self, transfer: Transfer, now: float) -> None:
        """Ask for a new link to this file, together with others."""
        if not self.renewals:
            self._since = now
        self.renewals.setdefault(transfer.recording, []).append(transfer)

    def requeue(self, ids: Sequence[int]) -> None:
        """Ask for these, once all others were asked for."""
        self._todo, self._next = ids, 0

    def close(self) -> Sequence[int]:
        """Ask for no more chunks; returns the IDs that were never asked for."""
        rest = self._todo[self._next :]
        self._next = len(self._todo)
        return rest
