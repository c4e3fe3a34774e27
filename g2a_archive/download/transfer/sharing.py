"""One file, several connections: fetching its segments together with whoever helps."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from g2a_archive.archive.partial import Partial
from g2a_archive.download.transfer.decisions import validator_of
from g2a_archive.download.transfer.receive import Tools
from g2a_archive.download.transfer.results import Transfer
from g2a_archive.download.transfer.segments import Segments
from g2a_archive.transport.answer import Answer
from g2a_archive.transport.errors import NetworkError

log = logging.getLogger("g2a_archive")

_SAVE_EVERY = 0.5
"""Seconds between two saves of the control file while bytes arrive out of order."""


def splittable(answer: Answer, part: Partial) -> bool:
    """Whether other connections can fetch parts of this file, and prove that it is the same."""
    ranges = answer.status == 206 or (answer.header("Accept-Ranges") or "").lower() == "bytes"
    return ranges and part.total is not None and part.validator.condition is not None


def fetch_segments(
    tools: Tools, transfer: Transfer, part: Partial, answer: Answer, segments: Segments
) -> None:
    """Fetch the rest in segments, together with whoever helps. Raises `NetworkError`."""
    assert part.total is not None
    # From here on the file has holes: the control file must say so before the first one is made.
    part.sparse = True
    part.write_control_file()
    segments.open(part.size, part.total, part.extents)
    saved = time.monotonic()

    def checkpoint() -> None:
        nonlocal saved
        part.advance(segments.position)
        if time.monotonic() - saved > _SAVE_EVERY:
            saved = time.monotonic()
            part.extents = segments.extents
            part.write_control_file()

    helper = _Helper(tools, transfer, part, segments, checkpoint, answer, part.size)
    try:
        while not segments.wait(0.2) and not tools.stop.is_set():
            helper.fetch_next()
            checkpoint()
    finally:
        segments.close()
        segments.join()
        part.extents = segments.extents
        if helper.answer is not answer:
            helper.close()
    part.advance(segments.position)


def help_fetch(tools: Tools, transfer: Transfer) -> bool:
    """Help with a file that another worker has; False where that did not work."""
    segments, part = transfer.segments, transfer.part
    if segments is None or part is None:
        return True
    helper = _Helper(tools, transfer, part, segments, lambda: None)
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
    segments: Segments
    checkpoint: Callable[[], None]
    answer: Answer | None = None
    at: int = -1

    def fetch_next(self) -> bool:
        """Fetch a segment, on the open connection where that is at its beginning.

        False where there is none. Raises `NetworkError`, `OSError`.
        """
        segment = self.segments.claim()
        if segment is None:
            return False
        position, end = segment
        try:
            answer = self.answer
            if answer is None or position != self.at or answer.ended:
                self.close()
                answer = self.answer = self._request(position, end)
            while position < end and not self.segments.closed:
                data = answer.read(min(self.tools.step, end - position))
                if self.tools.stop.is_set():
                    break
                if not data:
                    raise NetworkError("the connection was closed early")
                self.part.write_at(data, position)
                self.segments.arrived(position, len(data))
                position += len(data)
                self.at = position
                self.tools.count_received(self.transfer, answer, len(data))
                self.checkpoint()
        finally:
            self.segments.release(position, end)
        return True

    def _request(self, begin: int, end: int) -> Answer:
        """Ask for the bytes from `begin` up to `end`. Raises `NetworkError` where others come."""
        part = self.part
        condition = part.validator.condition
        if condition is None:  # an empty If-Range would take any version's bytes
            raise NetworkError("the file host no longer names the file's version")
        headers = {"Range": f"bytes={begin}-{end - 1}", "If-Range": condition}
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
