"""Reading bodies into partial files: from one connection, or together with other workers.

Transfers know progress only as a number that grows: whoever wants to see it looks at it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from g2a_archive.archive import content
from g2a_archive.archive.disk.space import NOT_FULL, CrowdedError, Space
from g2a_archive.archive.partial import Partial
from g2a_archive.download.transfer import decisions
from g2a_archive.download.transfer.decisions import Verdict, validator_of
from g2a_archive.download.transfer.results import Transfer
from g2a_archive.download.transfer.segments import Pieces
from g2a_archive.errors import StorageError
from g2a_archive.service.pace import RateLimiter
from g2a_archive.transport.answer import Answer
from g2a_archive.transport.downloads import Downloads
from g2a_archive.transport.errors import NetworkError

log = logging.getLogger("g2a_archive")

BUFFER = 256 * 1024
SLOWEST = 1024
"""Bytes a second: a transfer slower than this for the whole time-out counts as stalled."""

_NOTE_EVERY = 0.5
"""Seconds between two notes of what has arrived out of order."""

_LOOK_FOR_ROOM = 0.2
"""Seconds between two looks whether the disk has room for a file beside those under way."""

_CLAIM = 1 << 20
"""Bytes of free space that a body of no announced length claims at a time."""


@dataclass(slots=True)
class Receiver:
    """What one worker reads with, and what all workers share."""

    downloads: Downloads
    stop: threading.Event
    space: Space
    timeout: float
    jobs: int = 1
    limiter: RateLimiter | None = None
    _buffer: memoryview | None = None

    @property
    def buffer(self) -> memoryview:
        """Room for a file's own bytes, made when it is needed: few files are resumed or shared."""
        if self._buffer is None:
            self._buffer = memoryview(bytearray(BUFFER))
        return self._buffer

    def _step(self) -> int:
        """Bytes to read at once: fewer where a rate limit should stay smooth."""
        return BUFFER if self.limiter is None else self.limiter.step(self.jobs)

    def has_room(self, transfer: Transfer) -> bool:
        """Wait while files under way will need the room; False where the run is to stop."""
        need = transfer.wants
        if need is None and transfer.expected is not None:
            need = max(0, transfer.expected - transfer.size)
        while need is not None:
            try:
                self._claim(transfer, need)
                break
            except CrowdedError:
                if self.stop.wait(_LOOK_FOR_ROOM):
                    return False
            except StorageError:
                break  # it is the answer's length that counts
        transfer.wants = None
        return True

    def claim(self, transfer: Transfer, need: int) -> None:
        """So many bytes more are announced. Raises `StorageError`; of them, a `CrowdedError` once
        what is here is put away for later."""
        self._claim(transfer, need, try_only=transfer.claims_as_it_comes)

    def _claim(self, transfer: Transfer, need: int, *, try_only: bool = False) -> None:
        try:
            self.space.claim(
                transfer,
                need,
                here=transfer.size,
                try_only=try_only,
                directory=transfer.directory,
            )
        except CrowdedError:
            transfer.wants = need
            if transfer.part is not None:
                transfer.part.suspend()
            raise

    def compare(
        self, transfer: Transfer, part: Partial, answer: Answer, floor: Floor, begin: int
    ) -> tuple[int, bytes]:
        """Hold a body, whose first byte is at `begin` of the file, against the bytes that are here.

        Returns where it ends, shows another byte, or goes on beyond them, and what was read from
        there on; early when the run is asked to stop. Raises `NetworkError`, `OSError`.
        """
        position = begin
        while position < part.size:
            data = answer.read(self._step())
            if not data or self.stop.is_set():
                break
            here = part.read(position, min(len(data), part.size - position))
            if not data.startswith(here):
                same = next(n for n, (a, b) in enumerate(zip(data, here, strict=False)) if a != b)
                return position + same, data[same:]
            position += len(here)
            transfer.received += len(here)
            floor.add(len(here))
            if len(data) > len(here):
                return position, data[len(here) :]
            self._slow_down(len(here), floor)
        return position, b""

    def receive(
        self, transfer: Transfer, part: Partial, answer: Answer, floor: Floor, first: bytes = b""
    ) -> Verdict | None:
        """Read a body to its end, and write it after what is here; `first` was read already.

        A verdict where the content is wrong. Returns early when the run is asked to stop, and
        where helpers are to share the rest. Raises `NetworkError`, `OSError`.
        """
        checked, claimed = part.size >= content.HEAD, part.size
        most = decisions.largest(transfer.kind, transfer.expected)
        bounded = part.total is None or answer.encoded or not answer.announced
        while first or not (transfer.pieces and checked and part.total is not None):
            data, first = first or answer.read(self._step()), b""
            if self.stop.is_set():  # what was read may come from a connection that was shut
                return None
            ahead = bounded or transfer.claims_as_it_comes
            if ahead and part.size + len(data) > claimed:
                more = _CLAIM if bounded else min(_CLAIM, transfer.missing)
                claimed = part.size + more
                self._claim(transfer, more)
                if transfer.held().known is None and self._endless(transfer, part):
                    return decisions.too_much(None, part.size)
            if data:
                part.append(data)
            self._count(transfer, len(data), floor)
            if not data or part.size >= content.HEAD:
                wrong = None if checked else self._wrong(transfer, part, answer)
                if wrong is None and part.size > most and (bounded or transfer.expected):
                    wrong = decisions.too_much(transfer.expected, most)
                if wrong is not None or not data:
                    return wrong
                checked = True
            self._slow_down(len(data), floor)
        return None

    def _endless(self, transfer: Transfer, part: Partial) -> bool:
        """Whether a body, of which nobody told the length, has taken half of the disk's room.

        It may have no end; others' files need the rest.
        """
        if part.size < NOT_FULL:
            return False
        try:
            self.space.claim(transfer, part.size, try_only=True, directory=transfer.directory)
        except StorageError:
            return True
        return False

    @staticmethod
    def _wrong(transfer: Transfer, part: Partial, answer: Answer) -> Verdict | None:
        kind = answer.header("Content-Type")
        return decisions.wrong_content(transfer.kind, part.head, kind)

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

    def share(self, transfer: Transfer, part: Partial, answer: Answer, pieces: Pieces) -> None:
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
            part.advance(pieces.position, self.buffer)
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
                self.downloads.release(stream)
        part.advance(pieces.position, self.buffer)

    def assist(self, transfer: Transfer) -> bool:
        """Help with a file that another worker has; False where that did not work."""
        pieces, part = transfer.pieces, transfer.part
        if pieces is None or part is None:
            return True
        stream: Answer | None = None
        at = -1
        try:
            while not self.stop.is_set() and (piece := pieces.claim(prefer=at)) is not None:
                stream, at = self._fetch(transfer, pieces, piece, stream, at, lambda: None)
        except (NetworkError, OSError) as error:
            log.info("recording %d: a helping connection failed: %s", transfer.recording, error)
            return False
        finally:
            if stream is not None:
                self.downloads.release(stream)
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
        try:
            if stream is None or position != at or stream.ended:
                if stream is not None:
                    self.downloads.release(stream)
                stream = _request_piece(self.downloads, transfer.link.url, part, *piece)
            while position < end and not pieces.closed:
                data = stream.read(min(self._step(), end - position))
                if self.stop.is_set():
                    break
                if not data:
                    raise NetworkError("the connection was closed early")
                part.write_at(data, position)
                pieces.arrived(position, len(data))
                position += len(data)
                self._count(transfer, len(data), floor)
                self._slow_down(len(data), floor)
                look_around()
        except BaseException:
            if stream is not None:  # its body is not at an end: nothing else can use it
                self.downloads.release(stream)
            raise
        finally:
            pieces.release(position, end)
        return stream, position


def splittable(answer: Answer, part: Partial) -> bool:
    """Whether other connections can fetch parts of this file, and prove that it is the same."""
    ranges = answer.status == 206 or (answer.header("Accept-Ranges") or "").lower() == "bytes"
    return ranges and part.total is not None and part.validator.condition is not None


def _request_piece(downloads: Downloads, url: str, part: Partial, begin: int, end: int) -> Answer:
    """Ask for the bytes from `begin` up to `end`. Raises `NetworkError` where others may come."""
    condition = part.validator.condition
    if condition is None:
        raise NetworkError("the file host no longer names the file's version")
    headers = {"Range": f"bytes={begin}-{end - 1}", "If-Range": condition}
    answer = downloads.get(url, headers)
    same = not part.validator.contradicts(validator_of(answer))
    right = answer.content_range() == (begin, end - 1, part.total)
    if answer.status == 206 and right and same and not answer.encoded:
        return answer
    downloads.release(answer)
    if answer.status != 206:
        raise NetworkError(f"the file host answered {answer.status} to a part of the file")
    if not same:
        raise NetworkError("the file host names another version of the file for a part of it")
    raise NetworkError("the file host sent another part than was asked for")


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
            raise NetworkError(f"less than 1 kB/s for {self._timeout:g} s", timed_out=True)
        self._since, self._bytes = now, 0
