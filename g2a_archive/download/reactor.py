"""One thread that waits for the answers to many requests, and takes in small files by itself.

A thread a connection is fine for large files. For small ones, most of the time would go into
handing the interpreter's lock from thread to thread, a dozen times a file. So whatever a kept
connection answers at once and whole is dealt with here. All else gets a worker of its own: a file
of which there is something already, a connection to be made, an answer that is large, odd, late or
broken.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from g2a_archive.download.results import Outcome, Stopped, Transfer, Whole
from g2a_archive.download.transfer import Fetcher
from g2a_archive.transport.connection import REDIRECTS
from g2a_archive.transport.response import HEAD, Answer, plain_answer
from g2a_archive.transport.wire import Wire

_PATIENCE = 0.25
"""Seconds after which an answer that is not here whole gets a worker, who keeps the time-out."""

_DISTANT = 0.02
"""Seconds to an answer from which on the host is asked for the next file before this one is taken
in. A near host would answer at once, and each file would cost a turn."""

_SLOW_DISK = 0.003
"""Seconds to take in one small file. On a drive that is slower, as a share may be, several workers
get on better than one thread does."""


class Begun(NamedTuple):
    """A file that has been asked for on a connection; `came` are the first bytes of the answer."""

    transfer: Transfer
    wire: Wire | None = None
    came: bytes = b""


@dataclass(slots=True)
class _Request:
    transfer: Transfer
    wire: Wire
    sent_at: float
    came: bytes = b""
    whole: int = 0
    """Bytes that the answer has with its headers; 0 until these are known."""


class Reactor:
    """Hands out files to at most `slots` connections at a time. `run` is the thread's work.

    `hand_over` gives a file to a worker, who calls `freed` afterwards; `whole` hears of files that
    are to be flushed, and gives them to `flushed` for `name`; `ended` hears of all other outcomes;
    `broken` of a mistake that ends the thread. None of these may wait for anything but the disk.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        slots: int,
        *,
        hand_over: Callable[[Begun], None],
        whole: Callable[[Sequence[Transfer]], None],
        name: Callable[[Sequence[Transfer]], None],
        ended: Callable[[Transfer, Outcome | BaseException], None],
        broken: Callable[[BaseException], None],
    ) -> None:
        self._fetcher = fetcher
        self._connections = fetcher.connections
        self._free = slots
        self._hand_over = hand_over
        self._whole = whole
        self._name = name
        self._ended = ended
        self._broken = broken
        self._inbox: deque[Transfer] = deque()
        self._freed: deque[None] = deque()
        self._flushed: deque[Sequence[Transfer]] = deque()
        self._waiting: dict[int, _Request] = {}
        self._done: list[Transfer] = []
        self._buffer = memoryview(bytearray(HEAD))
        self._cost = 0.0
        self._closing = False
        self._asleep = False
        self._poll = select.poll()
        self._bell, self._button = socket.socketpair()
        self._button.setblocking(False)
        self._poll.register(self._bell, select.POLLIN)

    # --- for other threads --------------------------------------------------------------------

    def put(self, transfer: Transfer) -> None:
        """Have a file fetched."""
        self._inbox.append(transfer)
        self._wake()

    def freed(self) -> None:
        """A worker is through with what was handed over to it."""
        self._freed.append(None)
        self._wake()

    def flushed(self, transfers: Sequence[Transfer]) -> None:
        """Have files named that were flushed."""
        self._flushed.append(transfers)
        self._wake()

    def look(self) -> None:
        """Look whether the run is asked to stop."""
        self._asleep = True
        self._wake()

    def close(self) -> None:
        """Let `run` end once nothing is left to do."""
        self._closing = True
        self.look()

    def _wake(self) -> None:
        if self._asleep:
            self._asleep = False
            with suppress(OSError):  # where it is full, or `run` has ended
                self._button.send(b"!")

    # --- the thread ---------------------------------------------------------------------------

    def run(self) -> None:
        """Work until `close` is called."""
        try:
            while not self._closing or self._waiting or self._inbox or self._done or self._flushed:
                self._turn()
        except BaseException as error:
            self._broken(error)
        finally:
            self._bell.close()
            self._button.close()

    def _turn(self) -> None:
        if self._fetcher.stop.is_set():
            self._stop()
        while self._freed:
            self._freed.popleft()
            self._free += 1
        while self._flushed:
            self._name(self._flushed.popleft())
        self._ask_on()
        if self._done:
            done, self._done = self._done, []
            self._whole(done)
        for descriptor, _ in self._poll.poll(self._sleep()):
            if descriptor in self._waiting:
                self._readable(self._waiting[descriptor])
            else:
                self._bell.recv(4096)
        self._asleep = False
        self._hand_on_late()

    def _sleep(self) -> float | None:
        """Milliseconds until somebody must be handed on; None where nobody needs to."""
        self._asleep = True
        if self._freed or self._flushed or (self._inbox and self._free) or self._closing:
            return 0.0
        if not self._waiting:
            return None
        oldest = min(request.sent_at for request in self._waiting.values())
        return max(0.0, oldest + _PATIENCE - time.monotonic()) * 1000 + 1

    def _ask_on(self) -> None:
        while self._inbox and self._free > 0:
            self._free -= 1
            self._begin(self._inbox.popleft())

    def _begin(self, transfer: Transfer) -> None:
        try:
            quick = self._fetcher.quick(transfer)
        except BaseException as error:
            self._free += 1
            self._ended(transfer, error)
            return
        wire = self._connections.ask(transfer.link.address, {}) if quick else None
        if wire is None:
            self._hand_over(Begun(transfer))
            return
        descriptor = wire.fileno()
        self._waiting[descriptor] = _Request(transfer, wire, time.monotonic())
        self._poll.register(descriptor, select.POLLIN)

    def _readable(self, request: _Request) -> None:
        try:
            count = request.wire.read(self._buffer, wait=False)
        except OSError as error:
            request.wire.fail(error)
            count = 0
        if count is None:
            return
        if count == 0:
            self._closed(request)
            return
        came: bytes | memoryview = self._buffer[:count]
        if request.came:
            came = b"".join((request.came, came))
        answer = plain_answer(request.wire, came) if len(came) >= request.whole else None
        if answer is not None:
            request.whole = len(came) + (answer.missing or 0)
            if len(came) == request.whole and self._answered(request, answer):
                return
        request.came = bytes(came)
        more = len(came) < request.whole <= HEAD
        if not request.whole:
            more = len(came) < HEAD and b"\r\n\r\n" not in request.came
        if not more:
            self._hand_on(request)

    def _closed(self, request: _Request) -> None:
        """The host has closed the connection: as it may, where it was kept."""
        if request.came:
            self._hand_on(request)
            return
        self._forget(request)
        self._connections.drop(request.wire)
        self._hand_over(Begun(request.transfer))

    def _answered(self, request: _Request, answer: Answer) -> bool:
        """All of an answer is here; False where it is not to be taken in here."""
        if answer.status in REDIRECTS or answer.encoded or self._cost > _SLOW_DISK:
            self._cost *= 0.98  # so that by and by it is tried here again
            return False
        self._forget(request)
        self._connections.release(answer)
        self._free += 1
        began = time.monotonic()
        if began - request.sent_at > _DISTANT:  # the next file is on its way meanwhile
            self._ask_on()
            began = time.monotonic()
        try:
            outcome = self._fetcher.take(request.transfer, answer)
        except BaseException as error:
            self._ended(request.transfer, error)
            return True
        self._cost += 0.1 * (time.monotonic() - began - self._cost)
        if isinstance(outcome, Whole):
            self._done.append(request.transfer)
        else:
            self._ended(request.transfer, outcome)
        return True

    def _forget(self, request: _Request) -> None:
        descriptor = request.wire.fileno()
        self._poll.unregister(descriptor)
        del self._waiting[descriptor]

    def _hand_on(self, request: _Request) -> None:
        """A worker takes this over, with what has come of it."""
        self._forget(request)
        self._hand_over(Begun(request.transfer, request.wire, request.came))

    def _hand_on_late(self) -> None:
        until = time.monotonic() - _PATIENCE
        for request in [one for one in self._waiting.values() if one.sent_at < until]:
            self._hand_on(request)

    def _stop(self) -> None:
        """The run is asked to stop: what was not answered yet is left to the next one."""
        for request in list(self._waiting.values()):
            self._forget(request)
            self._connections.drop(request.wire)
            self._free += 1
            self._ended(request.transfer, Stopped())
        while self._inbox:
            self._ended(self._inbox.popleft(), Stopped())
