"""A circuit breaker for file hosts: one that is down is probed now and then, not for each file.

A host is down where it cannot be reached, or takes connections and never answers: then each attempt
holds a worker for a whole time-out, and other hosts' files would wait behind them. It is down, too,
where it closes them at once, or answers everything with a fault of its own (503, say). A file that
stalls once it has begun says nothing of its host.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from g2a_archive.transport.errors import NetworkError

_DOWN = 3
"""Attempts in a row, of any files, without an answer of a host, after which it counts as down."""

_FAULTY = 40
"""The same of faults that come at once, if it ever had an answer: what is left in the end may be
the files that never work."""

_STILL_DOWN = 60.0
"""Seconds between two attempts at a host that was given up."""

_LOOK_AGAIN = 1.0
"""Seconds after which a file looks what came of another's attempt at a host that is down."""


@dataclass(slots=True)
class _Host:
    failures: int = 0
    faults: int = 0  # that came at once
    probes: int = 0  # those of them that began when it was down already, one after another
    probing: bool = False
    most_tries: int = 0  # of one file
    reason: str = ""
    given_up: bool = False
    next_at: float = 0.0


class CircuitBreaker:
    """What the run's requests found out about the file hosts. Every method is for any thread.

    `host` is a link's, or a redirect's, with its scheme and port. Times are monotonic seconds.
    """

    def __init__(
        self, *, timeout: float, retries: int, pause: Callable[[int, float | None], float]
    ) -> None:
        """`timeout` of a request in seconds, `pause(n, wait)` the seconds before its n-th
        repetition, where the host asked for a `wait` of some.

        After as many repetitions as `retries` a host that is down is given up, after twice as many
        where it has faults at once.
        """
        self._timeout = timeout
        self._most = max(_DOWN, retries)
        self._pause = pause
        self._hosts: dict[str, _Host] = {}
        self._good: set[str] = set()
        self._lock = threading.Lock()

    def record_success(self, host: str) -> None:
        """The host answered, and not with a fault of its own."""
        with self._lock:
            self._hosts.pop(host, None)
            self._good.add(host)

    def record_failure(
        self, host: str, reason: str, *, at_once: bool = False, wait: float | None = None
    ) -> None:
        """A request got no answer from the host, or a fault, which it need not wait for `at_once`.

        Nobody asks a host that is down again before a pause; `wait` is its own `Retry-After`.
        """
        now = time.monotonic()
        with self._lock:
            found = self._hosts.setdefault(host, _Host())
            found.failures += not at_once
            found.faults += at_once
            found.reason = reason
            found.probes += found.probing
            found.probing = False
            # Of faults, every other one is a new file's: one is tried as often as any may be.
            turns = 1 if found.failures >= _DOWN else 2
            found.given_up = found.probes >= self._most * turns
            found.next_at = now + self._pause(found.probes // turns + 1, wait)
            if found.given_up:
                found.next_at = max(found.next_at, now + _STILL_DOWN)

    def check(self, host: str) -> None:
        """Raise `NetworkError` where the host is not to be asked now: else one has to ask it.

        Who asks a host that is down does so for all: others wait for what comes of it.
        """
        with self._lock:
            found = self._down(host)
            if found is None:
                return
            now = time.monotonic()
            if now >= found.next_at:
                found.next_at = now + self._timeout + _STILL_DOWN  # it will be told before
                found.probing = True
            else:
                text, final = f"the file host is down: {found.reason}", found.given_up
                raise NetworkError(text, final=final, failed_host=host, not_sent=not final)

    def tried(self, host: str, times: int) -> None:
        """A file failed so often by now, the last time by this host."""
        with self._lock:
            if (found := self._hosts.get(host)) is not None:
                found.most_tries = max(found.most_tries, times)

    def due(self, host: str, now: float, *, tries: int) -> float:
        """When a file of the host, which failed so often by now, is to be handed out, or to look
        again.

        The file that failed most often and new ones ask a host that is down by turns: neither those
        that never work, nor those whose first requests are always lost, are to speak for all.
        """
        found = self._down(host)
        if found is None or found.given_up:  # which is soon told
            return now
        others = tries > 0 if found.probes % 2 else tries < found.most_tries
        return min(found.next_at + others * _LOOK_AGAIN, now + _LOOK_AGAIN)

    def _down(self, host: str) -> _Host | None:
        found = self._hosts.get(host)
        if found is None:
            return None
        faulty = found.faults >= (_FAULTY if host in self._good else _DOWN)
        return found if faulty or found.failures >= _DOWN else None
