"""Reading an answer's body into a partial file.

Transfers know progress only as a number that grows: whoever wants to see it looks at it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from g2a_archive.archive import content
from g2a_archive.archive.disk.space import NOT_FULL, SpaceReservedError
from g2a_archive.archive.partial import Partial
from g2a_archive.archive.storage import Storage
from g2a_archive.download.transfer import decisions
from g2a_archive.download.transfer.decisions import Verdict
from g2a_archive.download.transfer.results import Transfer
from g2a_archive.errors import Interrupted, StorageError
from g2a_archive.service.pace import RateLimiter
from g2a_archive.transport.answer import Answer
from g2a_archive.transport.downloads import Downloads

BUFFER = 256 * 1024

_LOOK_FOR_ROOM = 0.2
"""Seconds between two looks whether the disk has room for a file beside those under way."""

_RESERVE_STEP = 1 << 20
"""Bytes of free space that a body of no announced length reserves at a time."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What all workers share. `stop` is set when the run is asked to stop."""

    storage: Storage
    downloads: Downloads
    stop: threading.Event
    jobs: int
    limiter: RateLimiter | None
    sums: Callable[[str], dict[str, str]]  # of a directory's `SHA256SUMS`, by name

    @property
    def step(self) -> int:
        """Bytes to read at once: fewer where a rate limit should stay smooth."""
        return BUFFER if self.limiter is None else self.limiter.step(self.jobs)

    def slow_down(self, answer: Answer, count: int) -> None:
        """Keep to `--limit-rate`, now that so many bytes of an answer came."""
        if self.limiter is not None:
            answer.low_speed.excuse(self.limiter.take(count))

    def count_received(self, transfer: Transfer, answer: Answer, count: int) -> None:
        """So many bytes of an answer were written."""
        transfer.received += count
        self.storage.space.wrote(transfer, count)
        self.slow_down(answer, count)

    def wait_for_space(self, transfer: Transfer) -> bool:
        """Wait while files under way will need the room; False where the run is to stop."""
        need = transfer.space_needed
        if need is None and transfer.expected is not None:
            need = max(0, transfer.expected - transfer.size)
        while need is not None:
            try:
                self.reserve(transfer, need)
                break
            except SpaceReservedError:
                if self.stop.wait(_LOOK_FOR_ROOM):
                    return False
            except StorageError:
                break  # it is the answer's length that counts
        transfer.space_needed = None
        return True

    def reserve(self, transfer: Transfer, need: int, *, try_only: bool = False) -> None:
        """So many bytes more are to be written. Raises `StorageError`."""
        try:
            self.storage.space.reserve(
                transfer,
                need,
                here=transfer.size,
                try_only=try_only,
                directory=transfer.directory,
            )
        except SpaceReservedError:
            transfer.space_needed = need
            raise


@dataclass(frozen=True, slots=True)
class Body:
    """An answer's body, on its way into the partial file."""

    tools: Tools
    transfer: Transfer
    part: Partial
    answer: Answer

    def reserve(self, need: int) -> None:
        """So many bytes more are announced. Raises what `Tools.reserve` does."""
        self.tools.reserve(self.transfer, need, try_only=self.transfer.reserves_incrementally)

    def read(self) -> bytes:
        """The next bytes; none at the end. Raises `NetworkError`, and `Interrupted` where the run
        is asked to stop: what was read may then come from a connection that was shut."""
        data = self.answer.read(self.tools.step)
        if self.tools.stop.is_set():
            raise Interrupted
        return data

    def compare(self, begin: int) -> tuple[int, bytes]:
        """Hold the body, whose first byte is at `begin` of the file, against the bytes that are
        here.

        Returns a position up to which all is the same, and what was read from there on. Raises
        `OSError`, and as `read`.
        """
        position, part = begin, self.part
        while position < part.size:
            data = self.read()
            if not data:
                break
            here = part.read(position, min(len(data), part.size - position))
            if not data.startswith(here):
                return position, data
            position += len(here)
            self.transfer.received += len(here)
            if len(data) > len(here):
                return position, data[len(here) :]
            self.tools.slow_down(self.answer, len(here))
        return position, b""

    def receive(self, first: bytes) -> Verdict | None:
        """Read the body to its end, and write it after what is here; `first` was read already.

        A verdict where the content is wrong. Returns early where helpers are to share the rest.
        Raises `OSError`, and as `read`.
        """
        tools, transfer, part, answer = self.tools, self.transfer, self.part, self.answer
        checked, reserved = part.size >= content.HEAD_SIZE, part.size
        most = decisions.largest(transfer.kind, transfer.expected)
        unannounced = part.total is None or answer.encoded or not answer.is_delimited
        while first or not (transfer.segments and checked and part.total is not None):
            data, first = first or self.read(), b""
            ahead = unannounced or transfer.reserves_incrementally
            if ahead and part.size + len(data) > reserved:
                more = _RESERVE_STEP if unannounced else min(_RESERVE_STEP, transfer.missing)
                reserved = part.size + more
                tools.reserve(transfer, more)
                if transfer.partial_state().known is None and self._endless():
                    return decisions.too_much(None, part.size)
            if data:
                part.append(data)
                tools.count_received(transfer, answer, len(data))
            if not data or part.size >= content.HEAD_SIZE:
                wrong = None if checked else self.wrong(part.head)
                if wrong is None and part.size > most and (unannounced or transfer.expected):
                    wrong = decisions.too_much(transfer.expected, most)
                if wrong is not None or not data:
                    return wrong
                checked = True
        return None

    def _endless(self) -> bool:
        """Whether a body, of which nobody told the length, has taken half of the disk's room.

        It may have no end; others' files need the rest.
        """
        if self.part.size < NOT_FULL:
            return False
        transfer = self.transfer
        try:
            self.tools.storage.space.reserve(
                transfer, self.part.size, try_only=True, directory=transfer.directory
            )
        except StorageError:
            return True
        return False

    def wrong(self, head: bytes) -> Verdict | None:
        """A verdict where a file that begins like this is not what it should be."""
        content_type = self.answer.header("Content-Type")
        return decisions.wrong_content(self.transfer.kind, head, content_type)
