"""Standard error, written to by a thread of its own: whoever reads it may stop reading.

A terminal takes nothing after Ctrl-S, nor does a pipe whose reader sleeps. A run waits for them as
any program does; but once it is asked to stop, it ends, whatever is still to be shown.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from io import TextIOWrapper
from math import inf
from typing import TextIO

from g2a_archive.threads import spawn

PATIENCE = 2.0
"""Seconds without anything taken after which a run that is to stop waits no longer."""

_MOST = 1 << 20
"""Bytes that may wait before whoever writes has to."""


class BackgroundWriter:
    """Writes text to a stream. A reader that has gone away is no error; `stopping` says whether
    the run is to stop."""

    def __init__(self, stream: TextIO, stopping: Callable[[], bool] = lambda: False) -> None:
        self._stream = stream
        self._stopping = stopping
        self._change = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._taken = time.monotonic()
        self._asked: float | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    @property
    def idle(self) -> bool:
        """Whether all that was written has been taken."""
        return self._size == 0

    def write(self, text: str) -> None:
        """Write `text`, soon; wait only where very much waits already."""
        number = self._number()
        if number is None:  # no file of the system's
            with suppress(OSError, ValueError):
                self._stream.write(text)
                self._stream.flush()
            return
        data = text.encode(self._stream.encoding or "utf-8", "backslashreplace")
        with self._change:
            while self._size > _MOST and not self._given_up():
                self._change.wait(0.1)
            if self._size > _MOST or self._closed:
                return
            self._thread = self._thread or spawn(self._work, number)
            if self._thread is None:  # then nothing waits, either: this is the next to be shown
                self._put(number, data)
                return
            if not self._size:
                self._taken = time.monotonic()
            self._waiting.append(data)
            self._size += len(data)
            self._change.notify_all()

    def flush(self, patience: float = inf) -> None:
        """Wait until all is written, or nobody reads any more: nothing in `patience` seconds."""
        with self._change:
            while self._size and not self._given_up():
                if time.monotonic() - self._taken > patience:
                    return
                self._change.wait(0.1)

    def _number(self) -> int | None:
        try:
            return self._stream.fileno() if isinstance(self._stream, TextIOWrapper) else None
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        """Wait as `flush` does; nothing is written from then on."""
        self.flush()
        with self._change:
            self._closed = True
            self._change.notify_all()

    def _given_up(self) -> bool:
        if not self._stopping():
            return self._closed
        now = time.monotonic()
        self._asked = self._asked or now
        return now - max(self._taken, self._asked) > PATIENCE

    def _put(self, number: int, data: bytes) -> None:
        rest = memoryview(data)
        with suppress(OSError):
            while rest:
                rest = rest[os.write(number, rest) :]
                self._taken = time.monotonic()

    def _work(self, number: int) -> None:
        while True:
            with self._change:
                while not self._waiting:
                    if self._closed:
                        return
                    self._change.wait()
                data = self._waiting.popleft()
            self._put(number, data)
            with self._change:
                self._size -= len(data)
                self._change.notify_all()
