"""Reading bodies into partial files: from one connection, or together with other workers.

Transfers know progress only as a number that grows: whoever wants to see it looks at it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import SplitResult

from g2a_archive.archive import content
from g2a_archive.archive.partial import Partial, Validator
from g2a_archive.archive.space import Space
from g2a_archive.download import decisions as decide
from g2a_archive.download.decisions import Action, Verdict
from g2a_archive.download.results import Transfer
from g2a_archive.download.segments import Pieces
from g2a_archive.download.turns import Turn
from g2a_archive.errors import storage_error
from g2a_archive.service.pace import RateLimiter
from g2a_archive.transport.connection import Connections
from g2a_archive.transport.response import Answer, NetworkError, explain

log = logging.getLogger("g2a_archive")

BUFFER = 256 * 1024
SLOWEST = 1024
"""Bytes a second: a transfer slower than this for the whole time-out counts as stalled."""

_MOMENT = 0.05
"""Seconds in which bytes gather that are written together."""

_SLOW_DISK = 0.003
"""Seconds to store a buffer. Where it takes longer, all workers write at once."""

_NOTE_EVERY = 0.5
"""Seconds between two notes of what has arrived out of order."""


@dataclass(slots=True)
class Receiver:
    """One worker's connections and buffer, and what all workers share."""

    connections: Connections
    stop: threading.Event
    space: Space
    timeout: float
    turn: Turn
    jobs: int = 1
    limiter: RateLimiter | None = None
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(BUFFER)))
    _cost: float = 0.0
    _spare: memoryview | None = None

    def view(self) -> memoryview:
        """The buffer for one read: smaller where a rate limit should stay smooth."""
        if self.limiter is None:
            return self.buffer
        return self.buffer[: self.limiter.step(self.jobs)]

    def at_once(self, answer: Answer) -> bool:
        """Whether all of the body is here as it is, and `receive` writes it in one go."""
        return self.limiter is None and answer.waits and answer.missing == 0

    def receive(
        self, transfer: Transfer, part: Partial, answer: Answer, floor: Floor
    ) -> Verdict | None:
        """Read a body to its end; a verdict where the content is wrong. Raises `NetworkError`.

        Returns early when the run is asked to stop.
        """
        checked = part.size >= content.HEAD
        over = False
        if self.at_once(answer) and (body := answer.take()) is not None:
            part.append(body)
            self._count(transfer, len(body), floor)
            return self._found_wrong(transfer, part, answer, checked=checked)
        try:
            while not over and not self.stop.is_set():
                if transfer.pieces is not None and checked and part.total is not None:
                    self.turn.give()
                    self._share(transfer, part, answer, transfer.pieces)
                    return None
                over = self._gather(transfer, part, answer, floor)
                if over or part.size >= content.HEAD:
                    wrong = self._found_wrong(transfer, part, answer, checked=checked)
                    if wrong is not None:
                        return wrong
                    checked = True
        finally:
            self.turn.give()
        return None

    @staticmethod
    def _found_wrong(
        transfer: Transfer, part: Partial, answer: Answer, *, checked: bool
    ) -> Verdict | None:
        wrong = None if checked else _check_head(transfer, part, answer)
        if wrong is None and part.size > (transfer.expected or part.size):
            return Verdict(Action.AGAIN, "more bytes came than recordingSize tells")
        return wrong

    def _gather(self, transfer: Transfer, part: Partial, answer: Answer, floor: Floor) -> bool:
        """Write and hash at once what comes within a moment; True at the body's end.

        One write for several reads: what bytes cost is mostly the number of calls.
        """
        view = self.view()
        filled, over, until = 0, False, 0.0
        try:
            while not over and filled < len(view):
                count = self._read(answer, view[filled:], until)
                if count is None:
                    break
                filled += count
                over = count == 0 or answer.exhausted
                now = time.monotonic()
                until = until or now + _MOMENT
                if now > until:
                    break
        finally:
            if filled:
                self._store(part, view[:filled])
                self._count(transfer, filled, floor)
            if filled < len(view) or self.limiter is not None:
                self.turn.give()
            else:
                self.turn.look()
        self._slow_down(filled, floor)
        return over

    def _read(self, answer: Answer, view: memoryview, until: float) -> int | None:
        """Wait for bytes, and for a turn, and read; None where none come `until` then.

        An `until` of 0 is the time-out. Raises `NetworkError`.
        """
        if not answer.waits:
            return answer.read_now(view) if until else answer.read_into(view)
        self.turn.take()
        deadline = until or time.monotonic() + self.timeout
        while (count := answer.read_now(view)) is None:
            self.turn.give()
            if not answer.wait(deadline - time.monotonic()):
                if until:
                    break
                raise NetworkError(explain(TimeoutError()))
            self.turn.take()
        return count

    def _store(self, part: Partial, data: memoryview) -> None:
        if self._cost > _SLOW_DISK:
            self.turn.give()
        began = time.monotonic()
        part.append(data)
        self._cost += 0.1 * (time.monotonic() - began - self._cost)
        if part.flush_due:
            self.turn.give()
            part.flush()

    def _count(self, transfer: Transfer, count: int, floor: Floor) -> None:
        transfer.received += count
        self.space.wrote(transfer, count)
        floor.add(count)

    def _slow_down(self, count: int, floor: Floor) -> None:
        """Keep to `--limit-rate`, and give up on a host that trickles. Raises `NetworkError`."""
        if self.limiter is not None:
            floor.excuse(self.limiter.take(count))
        floor.check()

    # --- one file, several connections --------------------------------------------------------

    def _share(self, transfer: Transfer, part: Partial, answer: Answer, pieces: Pieces) -> None:
        """Fetch the rest piece by piece, together with whoever helps. Raises `NetworkError`."""
        assert part.total is not None
        # From here on the file has holes: the note must say so before the first one is made.
        part.sparse = True
        part.write_note()
        pieces.open(part.size, part.total, part.extents)
        at, stream = part.size, answer
        noted = time.monotonic()

        def look_around() -> None:
            nonlocal noted
            part.advance(pieces.position, self._second_buffer())
            if part.flush_due:
                part.flush()
            if time.monotonic() - noted > _NOTE_EVERY:
                noted = time.monotonic()
                part.extents = pieces.extents
                part.write_note()

        try:
            while not pieces.wait(0.2) and not self.stop.is_set():
                piece = pieces.claim(prefer=at)
                if piece is not None:
                    stream, at = self._fetch(transfer, pieces, piece, stream, at, look_around)
                look_around()
        finally:
            pieces.close()
            pieces.join()
            part.extents = pieces.extents
            if stream is not answer:
                self.connections.release(stream)
        part.advance(pieces.position, self._second_buffer())

    def _second_buffer(self) -> memoryview:
        if self._spare is None:
            self._spare = memoryview(bytearray(1 << 20))
        return self._spare

    def assist(self, transfer: Transfer) -> bool:
        """Help with a file that another worker has; False where that did not work.

        Raises `StorageError`.
        """
        pieces, part = transfer.pieces, transfer.part
        if pieces is None or part is None:
            return True
        stream: Answer | None = None
        at = -1
        try:
            while not self.stop.is_set() and (piece := pieces.claim(prefer=at)) is not None:
                stream, at = self._fetch(transfer, pieces, piece, stream, at, lambda: None)
        except NetworkError as error:
            log.info("recording %d: a helping connection failed: %s", transfer.recording, error)
            return False
        except OSError as error:
            raise storage_error(error, "write", part.path) from error
        finally:
            if stream is not None:
                self.connections.release(stream)
        return True

    def _fetch(
        self,
        transfer: Transfer,
        pieces: Pieces,
        piece: tuple[int, int],
        stream: Answer | None,
        at: int,
        look_around: Callable[[], None],
    ) -> tuple[Answer, int]:
        """Fetch a piece, from the open stream where that is at its beginning.

        Returns the stream and where it is.
        """
        part = transfer.part
        assert part is not None
        position, end = piece
        floor = Floor(self.timeout)
        view = self.view()
        try:
            if stream is None or position != at or stream.drained:
                if stream is not None:
                    self.connections.release(stream)
                stream = _request_piece(self.connections, transfer.link.address, part, *piece)
            while position < end and not (self.stop.is_set() or pieces.closed):
                count = stream.read_into(view[: end - position])
                if count == 0:
                    raise NetworkError("the connection was closed early")
                part.write_at(view[:count], position)
                pieces.arrived(position, count)
                position += count
                self._count(transfer, count, floor)
                self._slow_down(count, floor)
                look_around()
        except BaseException:
            if stream is not None:  # its body is not at an end: nothing else can use it
                self.connections.release(stream)
            raise
        finally:
            pieces.release(position, end)
        return stream, position


def _check_head(transfer: Transfer, part: Partial, answer: Answer) -> Verdict | None:
    return decide.wrong_content(transfer.kind, part.head, answer.header("Content-Type"))


def splittable(answer: Answer, part: Partial) -> bool:
    """Whether other connections can fetch parts of this file, and prove that it is the same."""
    ranges = answer.status == 206 or (answer.header("Accept-Ranges") or "").lower() == "bytes"
    return ranges and part.total is not None and part.validator.condition is not None


def _request_piece(
    connections: Connections, address: SplitResult, part: Partial, begin: int, end: int
) -> Answer:
    """Ask for the bytes from `begin` up to `end`. Raises `NetworkError` where others come."""
    headers = {"Range": f"bytes={begin}-{end - 1}", "If-Range": part.validator.condition or ""}
    answer = connections.get(address, headers)
    same = Validator.of(answer).etag in (None, part.validator.etag)
    right = answer.content_range() == (begin, end - 1, part.total)
    if answer.status != 206 or not right or not same or answer.encoded:
        connections.release(answer)
        raise NetworkError(f"the file host answered {answer.status} to a part of the file")
    return answer


class Floor:
    """Fails a transfer that trickles: too few bytes in a whole time-out."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._began = self._since = time.monotonic()
        self._bytes = self._all = 0

    def excuse(self, seconds: float) -> None:
        """Time that `--limit-rate` took is not the host's fault."""
        self._since += seconds
        self._began += seconds

    @property
    def slow(self) -> bool:
        """Whether the transfer as a whole, a stall at its end included, was below the floor."""
        return self._all < SLOWEST * (time.monotonic() - self._began)

    def add(self, count: int) -> None:
        """Count bytes that came."""
        self._bytes += count
        self._all += count

    def check(self) -> None:
        """Raises `NetworkError` at the end of a time-out in which too few bytes came."""
        now = time.monotonic()
        if now - self._since < self._timeout:
            return
        if self._bytes < SLOWEST * self._timeout:
            raise NetworkError(f"less than 1 kB/s for {self._timeout:g} s")
        self._since, self._bytes = now, 0
