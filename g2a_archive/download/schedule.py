"""Which file is fetched when: those that wait, those on their way, those that come later."""

from __future__ import annotations

import heapq
import math
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count

from g2a_archive.download.transfer.finish import SMALL
from g2a_archive.download.transfer.results import Transfer
from g2a_archive.download.transfer.segments import MIN_SPLIT_SIZE, Segments
from g2a_archive.download.workers import Workers
from g2a_archive.transport.address import origin_of
from g2a_archive.transport.hosts import CircuitBreaker

_MOST_DELAYED = 30_000
"""Files that may wait for their host before no more links are asked for: 1 kB each."""

_MORE = 0.2
"""By how much each file that came raises how many a host is asked for at a time."""


_APART, _FARTHEST = 0.05, 1.0
"""Seconds between two files, at least and at most, that a host is asked for which wants less."""

_JUDGED_AFTER = 4
"""Files that are asked for at a new pace before it may be slower still."""


@dataclass(slots=True)
class _HostLimit:
    """How many files a host is asked for at a time, and how many it sent at most; and how far
    `apart` in time, the next one not before `next_at` (monotonic seconds)."""

    most: float = math.inf
    sent: float = 0
    apart: float = 0.0
    next_at: float = 0.0
    judged_at: float = 0.0
    sending: bool = True

    def too_often(self, now: float) -> None:
        """It wants to be asked less often; what was under way is refused with the first one.

        One that sends nothing at all is down, or its limit is another one.
        """
        if self.sending and now >= self.judged_at:
            self.sending = False
            self.apart = min(_FARTHEST, max(_APART, 2 * self.apart))
            self.judged_at = now + _JUDGED_AFTER * self.apart
            self.next_at = now + self.apart

    def came(self) -> None:
        """A file of it came: a little more may be asked for."""
        self.sending = True
        self.most += _MORE
        self.apart *= 0.9 if self.apart > _APART / 10 else 0

    def refused(self, count: int) -> None:
        """It refused one more while it sent so many."""
        if count >= self.sent:
            self.most = self.sent = count
        else:
            self.sent -= _MORE  # may have been seen while one was just ending


class Schedule:
    """Hands files to the workers. Kept by the run's main thread; others may look at `active`."""

    def __init__(self, hosts: CircuitBreaker, *, jobs: int, segments: int) -> None:
        self._jobs = jobs
        self._segments = segments
        self._ready: deque[Transfer] = deque()
        self._delayed: list[tuple[float, int, Transfer, bool]] = []
        self._serial = count()
        self._helping = 0
        # More than there are jobs, so that none waits for the main thread.
        self._max_active = jobs * 4
        self.active: set[Transfer] = set()
        self._hosts = hosts
        # Hosts that refused a file while they sent others, and who waits for them.
        self._crowded: dict[str, _HostLimit] = defaultdict(_HostLimit)
        self._parked: dict[str, deque[Transfer]] = defaultdict(deque)

    @property
    def pending(self) -> bool:
        """Whether any file is still to come, or on its way."""
        return bool(self._ready or self._delayed or self.active or self._parked)

    @property
    def idle(self) -> bool:
        """Whether the workers have nothing to do, now and next."""
        return not self._ready and not self.active

    @property
    def waiting(self) -> int:
        """Files that wait for a worker; of those that wait for a while, as many as are too many."""
        waiting = len(self._delayed) + sum(map(len, self._parked.values()))
        too_many = max(0, waiting - _MOST_DELAYED)
        return len(self._ready) + max(0, len(self.active) - self._max_active) + too_many

    @property
    def next_at(self) -> float:
        """When the next file is due (monotonic seconds) that waits for a while, or till its host
        may be asked; never where there is none."""
        paced = (self._crowded[one].next_at for one in self._parked if not self._is_full(one))
        return min((self._delayed[0][0] if self._delayed else math.inf), *paced, math.inf)

    def add(self, transfers: Iterable[Transfer]) -> None:
        """These are to be fetched, after what waits already."""
        self._ready.extend(transfers)

    def add_first(self, transfer: Transfer) -> None:
        """This one is to be fetched next."""
        self._ready.appendleft(transfer)

    def returned(self, transfer: Transfer, *, whole: bool) -> None:
        """This one is on its way no longer."""
        self.active.discard(transfer)
        host = origin_of(transfer.link.url)
        if (limit := self._crowded.get(host)) is not None:
            limit.sent = max(limit.sent, self._sent_by(host) + whole)
            if whole:
                limit.came()

    def refused(self, transfer: Transfer, *, often: bool = False) -> None:
        """Its host had no answer to this one: where it never sent more at a time, it takes no more.

        Some hosts answer 503, or close, where one connection more comes than they allow; or say so
        where they are asked too `often`. Then each file would be refused till it has failed.
        """
        host = origin_of(transfer.link.url)
        if often:
            self._crowded[host].too_often(time.monotonic())
        if sent := self._sent_by(host):
            self._crowded[host].refused(sent)

    def _sent_by(self, host: str) -> int:
        return sum(one.sending for one in self._of(host))

    def _is_full(self, host: str) -> bool:
        found = self._crowded.get(host)
        return found is not None and len(self._of(host)) + 1 > found.most

    def _takes_one(self, host: str, now: float) -> bool:
        return not self._is_full(host) and (
            host not in self._crowded or now >= self._crowded[host].next_at
        )

    def _of(self, host: str) -> Sequence[Transfer]:
        return [one for one in self.active if origin_of(one.link.url) == host]

    def pop_large(self) -> Sequence[Transfer]:
        """Those that wait for a worker and are large: they are no longer to be fetched."""
        large = [one for one in self._ready if (one.expected or 0) > SMALL]
        self._ready = deque(one for one in self._ready if (one.expected or 0) <= SMALL)
        return large

    def delay(self, transfer: Transfer, due: float, *, first: bool = False) -> None:
        """This one is to be fetched at `due` (monotonic seconds): `first`, or after what waits.

        What never works must not keep those out that nobody tried yet.
        """
        self._hosts.tried(transfer.failed_host, transfer.attempts)
        heapq.heappush(self._delayed, (due, next(self._serial), transfer, first))

    def hand_out(self, workers: Workers, now: float, *, more: bool) -> None:
        """Have files fetched, as many as there is room for; `more`: others are still to come."""
        while self._delayed and self._delayed[0][0] <= now:
            _, _, transfer, first = heapq.heappop(self._delayed)
            (self._ready.appendleft if first else self._ready.append)(transfer)
        for host, parked in [*self._parked.items()]:
            while parked and self._takes_one(host, now) and self._has_capacity(parked[0], workers):
                self._begin(parked.popleft(), workers, now)
            if not parked:
                del self._parked[host]
        while self._ready and self._has_capacity(self._ready[0], workers):
            self._begin(self._ready.popleft(), workers, now)
        if not (more or self._parked):
            self._assign_helpers(workers)

    def _begin(self, transfer: Transfer, workers: Workers, now: float) -> None:
        """Have a file fetched, unless a host that it needs is down."""
        host = origin_of(transfer.link.url)
        if not self._takes_one(host, now):
            self._parked[host].append(transfer)
            return
        hosts = host, transfer.failed_host
        due = max(self._hosts.due(host, now, tries=transfer.attempts) for host in hosts)
        if due > now:
            self.delay(transfer, due)
            return
        if host in self._crowded:
            self._crowded[host].next_at = now + self._crowded[host].apart
        transfer.answered, transfer.failed_host = False, ""
        self.active.add(transfer)
        workers.fetch(transfer)

    def _has_capacity(self, transfer: Transfer, workers: Workers) -> bool:
        """Whether one more file can be handed out; of small ones, as many as flush together."""
        small = (transfer.expected or 0) <= SMALL
        return len(self.active) < max(self._max_active, workers.prefetch if small else 0)

    def _assign_helpers(self, workers: Workers) -> None:
        """Nothing else is left to fetch: idle workers help with the largest files on their way."""
        idle = self._jobs - len(self.active) - self._helping
        for transfer in sorted(self.active, key=lambda t: -t.missing) if idle > 0 else ():
            if not transfer.splittable or transfer.missing < MIN_SPLIT_SIZE:
                continue
            most = self._segments - 1 - transfer.helper_failures
            while idle > 0 and transfer.helpers < most:
                if transfer.segments is None:
                    transfer.segments = Segments(self._segments)
                transfer.helpers += 1
                self._helping += 1
                idle -= 1
                workers.assist(transfer)

    def helped(self, transfer: Transfer, *, well: bool) -> None:
        """A worker's help with a file ended."""
        self._helping -= 1
        transfer.helpers -= 1
        transfer.helper_failures += not well
