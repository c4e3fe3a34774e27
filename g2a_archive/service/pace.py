"""How fast: calls a second, bytes a second, and how long to wait between two tries."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from g2a_archive.errors import Interrupted, ServiceError
from g2a_archive.models import Shard

_T = TypeVar("_T")

CALLS_A_SECOND = 10

CALL_INTERVAL = 0.11
"""Seconds between two calls: the service allows 10 a second, and the network may bunch them."""

_LATE = 0.03
"""Seconds by which a shard's call may miss its instant: a machine with much to do wakes late."""

_SLOWEST_INTERVAL = 2.0
_LONGEST_WAIT = 30.0
_LONGEST_RETRY_AFTER = 600.0


def backoff(attempt: int, retry_after: float | None = None) -> float:
    """Seconds to wait before retry number `attempt` (from 1): exponential, with jitter.

    A server's `Retry-After` (seconds) is honoured, up to ten minutes.
    """
    wait: float = min(_LONGEST_WAIT, 0.5 * 2.0 ** min(attempt - 1, 10)) * random.uniform(0.75, 1.25)
    if retry_after is not None:
        return max(wait, min(retry_after, _LONGEST_RETRY_AFTER))
    return wait


class RetryableError(Exception):
    """This call may be tried again, `wait` seconds later at the earliest."""

    def __init__(self, error: ServiceError, wait: float | None = None) -> None:
        super().__init__()
        self.error = error
        self.wait = wait


def call_with_retries(
    call: Callable[[], _T],
    retries: int,
    *,
    tell: Callable[[str], object],
    wait: Callable[[float], bool],
) -> _T:
    """What `call` returns; where it raises `RetryableError`, it is made again, so often at most.

    `tell` hears of each failure; `wait(seconds)` returns True when the run should stop. Raises the
    error of the last `RetryableError`, whatever else `call` raises, and `Interrupted`.
    """
    attempt = 0
    while True:
        try:
            return call()
        except RetryableError as again:
            error, after = again.error, again.wait
        attempt += 1
        if attempt > retries:
            raise error
        seconds = backoff(attempt, after)
        tell(f"{error.message}, retry {attempt}/{retries} in {seconds:.1f} s")
        if wait(seconds):
            raise Interrupted


def sleep_or_interrupt(stop: threading.Event, seconds: float) -> None:
    """Wait, unless the run is asked to stop: then `Interrupted` is raised at once."""
    if stop.wait(max(0.0, seconds)):
        raise Interrupted


class CallPacer:
    """Spaces the calls of all threads; slower after a 429, and back to normal by and by.

    A call counts for a second from its end, not from its beginning: it may take long to get
    through to the service, with a new connection for example, while later calls don't.

    With `--shard K/N`, N machines ask at the same time, and each makes its calls N times slower.
    They take turns by the time of day, each at instants of its own: N that know nothing of each
    other would now and then make too many calls in one second.
    """

    def __init__(self, stop: threading.Event, shard: Shard | None = None) -> None:
        self._stop = stop
        self._lock = threading.Lock()
        self._share = shard.count if shard else 1
        # An instant of this shard's own, by the monotonic clock.
        behind = time.time() - time.monotonic()
        self._mine = ((shard.number if shard else 0) * CALL_INTERVAL - behind) % self._usual
        self._interval = self._usual
        self._next = 0.0
        self._free_at = [0.0] * CALLS_A_SECOND

    @property
    def _usual(self) -> float:
        """Seconds between two calls when all is well."""
        return CALL_INTERVAL * self._share

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Make a call in this block: it is entered when that may be. Raises `Interrupted`."""
        place = self._take_place()
        try:
            yield
        finally:
            # Instants of one's own are apart anyway; and nine of two machines are two seconds.
            many = CALLS_A_SECOND - (self._share > 1)
            with self._lock:
                self._free_at[place] = time.monotonic() + many * self._usual

    def _take_place(self) -> int:
        while not self._stop.is_set():
            with self._lock:
                now = time.monotonic()
                place = min(range(CALLS_A_SECOND), key=self._free_at.__getitem__)
                begin = max(self._next, self._free_at[place])
                if self._share > 1:
                    begin = self._own(max(begin, now - _LATE))
                if begin <= now:
                    self._next = (now if self._share == 1 else begin) + self._interval
                    self._interval = max(self._usual, self._interval * 0.9)
                    self._free_at[place] = math.inf
                    return place
            sleep_or_interrupt(self._stop, min(begin - now, 0.1))
        raise Interrupted

    def _own(self, begin: float) -> float:
        """The next instant that is this shard's own, from `begin` on."""
        passed = (begin - self._mine) / self._usual
        return self._mine + math.ceil(passed - 1e-6) * self._usual

    def slow_down(self) -> None:
        """The service answered 429: leave more room between calls."""
        with self._lock:
            self._interval = min(_SLOWEST_INTERVAL * self._share, self._interval * 3)
            self._next = max(self._next, time.monotonic() + self._interval)


class RateLimiter:
    """One bucket of bytes for all threads (`--limit-rate`)."""

    def __init__(
        self,
        rate: int,
        stop: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rate = rate
        self._stop = stop
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at = clock()

    def step(self, jobs: int) -> int:
        """How many bytes to read at once, so that the bucket is fair and the rate smooth."""
        return max(1024, min(256 * 1024, self.rate // (8 * jobs)))

    def take(self, count: int) -> float:
        """Account for `count` bytes that arrived, and wait until the next may.

        Returns the seconds waited; a run that is asked to stop waits no longer.
        """
        with self._lock:
            now = self._clock()
            # A tenth of a second of credit smooths over a slow moment without a burst.
            self._free_at = max(self._free_at, now - 0.1) + count / self.rate
            wait = self._free_at - now
        if wait > 0:
            self._stop.wait(wait)
        return max(0.0, wait)
