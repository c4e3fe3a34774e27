"""One file, several connections: fetching its pieces together with whoever helps."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from g2a_archive.archive.partial import Partial
from g2a_archive.download.transfer.decisions import validator_of
from g2a_archive.download.transfer.receive import Tools
from g2a_archive.download.transfer.results import Transfer
from g2a_archive.download.transfer.segments import Pieces
from g2a_archive.transport.answer import Answer
from g2a_archive.transport.errors import NetworkError

log = logging.getLogger("g2a_archive")

_NOTE_EVERY = 0.5
"""Seconds between two notes of what has arrived out of order."""


def splittable(answer: Answer, part: Partial) -> bool:
    """Whether other connections can fetch parts of this file, and prove that it is the same."""
    ranges = answer.status == 206 or (answer.header("Accept-Ranges") or "").lower() == "bytes"
    return ranges and part.total is not None and part.validator.condition is not None


def share(tools: Tools, transfer: Transfer, part: Partial, answer: Answer, pieces: Pieces) -> None:
    """Fetch the rest piece by piece, together with whoever helps. Raises `NetworkError`."""
    assert part.total is not None
    # From here on the file has holes: the note must say so before the first one is made.
    part.sparse = True
    part.write_note()
    pieces.open(part.size, part.total, part.extents)
    noted = time.monotonic()

    def look_around() -> None:
        nonlocal noted
        part.advance(pieces.position)
        if time.monotonic() - noted > _NOTE_EVERY:
            noted = time.monotonic()
            part.extents = pieces.extents
            part.write_note()

    helper = _Helper(tools, transfer, part, pieces, look_around, answer, part.size)
    try:
        while not pieces.wait(0.2) and not tools.stop.is_set():
            helper.fetch_next()
            look_around()
    finally:
        pieces.close()
        pieces.join()
        part.extents = pieces.extents
        if helper.answer is not answer:
            helper.close()
    part.advance(pieces.position)


def assist(tools: Tools, transfer: Transfer) -> bool:
    """Help with a file that another worker has; False where that did not work."""
    pieces, part = transfer.pieces, transfer.part
    if pieces is None or part is None:
        return True
    helper = _Helper(tools, transfer, part, pieces, lambda: None)
    try:
        while not tools.stop.is_set() and helper.fetch_next():
            pass
    except (NetworkError, OSError) as error:
        log.info("recording %d: a helping connection failed: %s", transfer.recording, error)
        return False
    finally:
        helper.close()
    return True


@dataclass(slots=True)
class _Helper:
    """One worker's part in it: its connection, and the next byte of the file that comes on it."""

    tools: Tools
    transfer: Transfer
    part: Partial
    pieces: Pieces
    look_around: Callable[[], None]
    answer: Answer | None = None
    at: int = -1

    def fetch_next(self) -> bool:
        """Fetch a piece, on the open connection where that is at its beginning.

        False where there is none. Raises `NetworkError`, `OSError`.
        """
        piece = self.pieces.claim()
        if piece is None:
            return False
        position, end = piece
        try:
            answer = self.answer
            if answer is None or position != self.at or answer.ended:
                self.close()
                answer = self.answer = self._request(position, end)
            while position < end and not self.pieces.closed:
                data = answer.read(min(self.tools.step, end - position))
                if self.tools.stop.is_set():
                    break
                if not data:
                    raise NetworkError("the connection was closed early")
                self.part.write_at(data, position)
                self.pieces.arrived(position, len(data))
                position += len(data)
                self.at = position
                self.tools.came(self.transfer, answer, len(data))
                self.look_around()
        finally:
            self.pieces.release(position, end)
        return True

    def _request(self, begin: int, end: int) -> Answer:
        """Ask for the bytes from `begin` up to `end`. Raises `NetworkError` where others come."""
        part = self.part
        condition = part.validator.condition  # which it has, or `splittable` would not say so
        headers = {"Range": f"bytes={begin}-{end - 1}", "If-Range": condition or ""}
        answer = self.tools.downloads.get(self.transfer.link.url, headers)
        same = not part.validator.contradicts(validator_of(answer))
        right = answer.content_range() == (begin, end - 1, part.total)
        if answer.status == 206 and right and same and not answer.encoded:
            return answer
        answer.close()
        if answer.status != 206:
            raise NetworkError(f"the file host answered {answer.status} to a part of the file")
        if not same:
            raise NetworkError("the file host names another version of the file for a part of it")
        raise NetworkError("the file host sent another part than was asked for")

    def close(self) -> None:
        """Be done with the connection."""
        if self.answer is not None:
            self.answer.close()
            self.answer = None
