"""What the simulated service was asked: counters always, every request if wanted."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from g2a_archive.demo.messages import Call, Request
from g2a_archive.demo.recordings import Kind

API_CALLS: frozenset[Call] = frozenset({"links", "list", "transcode", "archived"})


class RequestLog:
    """The requests that a service got. All of it may be read while the service works."""

    def __init__(self, keep: bool = True) -> None:
        """Keep every request, or only count them."""
        self._keep = keep
        self._changed = threading.Condition(threading.RLock())
        self._reset()

    def _reset(self) -> None:
        self._entries: list[Request] = []
        self._api_times: list[float] = []
        self._leaks: list[Request] = []
        self._active_files = 0
        self.count = 0
        """All requests."""
        self.counts: Counter[Call] = Counter()
        """Requests by what they were for."""
        self.statuses: Counter[tuple[Call, int]] = Counter()
        """Answers by what they were for and their status."""
        self.bytes_sent = 0
        """Bytes of all bodies."""
        self.file_bytes_sent = 0
        """Bytes of the bodies of files."""
        self.connections = 0
        """Connections that were opened."""
        self.peak_files = 0
        """The most files that were in flight at once."""

    def clear(self) -> None:
        """Forget everything; files in flight are not counted again."""
        with self._changed:
            active = self._active_files
            self._reset()
            self._active_files = active

    @property
    def all(self) -> list[Request]:
        """Every request in the order in which they came."""
        with self._changed:
            return list(self._entries)

    def calls(self, name: Call) -> list[Request]:
        """Return the requests that were for one thing, such as "links"."""
        return [request for request in self.all if request.call == name]

    def file_requests(
        self, kind: Kind | None = None, recording_id: int | None = None
    ) -> list[Request]:
        """Return the requests for files, those of a kind or a recording if wanted."""
        return [
            request
            for request in self.calls("file")
            if kind in (None, request.kind) and recording_id in (None, request.recording_id)
        ]

    @property
    def leaks(self) -> list[Request]:
        """Requests for files that carried an Authorization header or a cookie (always kept)."""
        with self._changed:
            return list(self._leaks)

    def peak_rate(self, window: float = 1.0) -> int:
        """Return the most calls of the API that came within any `window` seconds."""
        with self._changed:
            times = sorted(self._api_times)
        first = peak = 0
        for last, at in enumerate(times):
            while times[first] <= at - window:
                first += 1
            peak = max(peak, last - first + 1)
        return peak

    def wait_for(self, predicate: Callable[[RequestLog], object], timeout: float = 10.0) -> bool:
        """Wait until something holds of this log; return whether it came to that in time."""
        with self._changed:
            return bool(self._changed.wait_for(lambda: predicate(self), timeout))

    def wait_for_stall(self, timeout: float = 10.0) -> bool:
        """Wait until a kept request's answer has stalled, and no client has gone from it."""
        return self.wait_for(
            lambda log: any(r.stalled and not r.finished for r in log._entries), timeout
        )

    # What follows is for the service alone.

    def connected(self) -> None:
        """Count a connection."""
        with self._changed:
            self.connections += 1

    def begin(self, request: Request, at: float) -> None:
        """Note a request."""
        with self._changed:
            request.started = at
            self.count += 1
            self.counts[request.call] += 1
            if self._keep:
                self._entries.append(request)
            if request.call in API_CALLS:
                self._api_times.append(at)
            elif request.call == "file":
                self._active_files += 1
                self.peak_files = max(self.peak_files, self._active_files)
                if {"authorization", "cookie"} & request.headers.keys():
                    self._leaks.append(request)
            self._changed.notify_all()

    def answered(self, request: Request, status: int) -> None:
        """Note that an answer begins."""
        with self._changed:
            request.status = status
            self.statuses[request.call, status] += 1
            self._changed.notify_all()

    def progress(self, request: Request, sent: int) -> None:
        """Note more bytes of a body."""
        with self._changed:
            request.sent += sent
            self.bytes_sent += sent
            if request.call == "file":
                self.file_bytes_sent += sent
            self._changed.notify_all()

    def stalled(self, request: Request) -> None:
        """Note that an answer has come to its stall."""
        with self._changed:
            request.stalled = True
            self._changed.notify_all()

    def end(self, request: Request) -> None:
        """Note that a request is over, however it ended."""
        with self._changed:
            request.finished = True
            if request.call == "file":
                self._active_files -= 1
            self._changed.notify_all()
