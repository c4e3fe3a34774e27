"""What to do next with a file: pure functions, so that a table can test them."""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import NamedTuple

from g2a_archive.archive import content
from g2a_archive.archive.partial import NO_VALIDATOR, Validator
from g2a_archive.models import FileKind, size_text
from g2a_archive.transport.answer import Answer

NEW_LINK_STATUSES = (401, 403, 404, 410)
_PASSING_STATUSES = (408, 421, 425, 429)
"""Of those below 500."""

OVERLAP = 64 * 1024
"""Bytes that are asked for again, and compared, where a validator cannot be relied on."""

_EXPIRY = re.compile(rb"expir", re.IGNORECASE)

_TOO_OFTEN = re.compile(rb"SlowDown|ServerBusy")
"""What S3, Azure and those who speak like them say in a 503 where others say 429."""

_LARGEST = {FileKind.EVENTS: 256 << 20, FileKind.THUMBNAIL: 16 << 20}
"""Bytes of a body whose length is not announced."""


class Action(Enum):
    """What to do with an answer of the file host."""

    START = auto()  # the body is the whole file, and nothing is here that could be of use
    COMPARE = auto()  # the body is the whole file, of which the beginning is here already
    APPEND = auto()  # the body goes on where our bytes end, or a little before that
    COMPLETE = auto()  # all bytes are here already
    REQUEST_FULL = auto()  # ask again, for all of it: what is here is held against that
    VALIDATOR_CHANGED = auto()  # the validator is another one: the same
    RESTART = auto()  # our bytes are of no use: ask again, for everything
    NEW_LINK = auto()  # the link is no longer good
    AGAIN = auto()  # the same request may work later
    FAIL = auto()  # it will not


class Verdict(NamedTuple):
    """An action, and the reason for it where it is not a good one.

    `often`: the host was asked too often.
    """

    action: Action
    reason: str = ""
    often: bool = False


class ResponseInfo(NamedTuple):
    """What matters of an answer: `range` is `Content-Range` as (first, last, total).

    `length` is that of a whole body, `head` the beginning of a 400's or 503's.
    """

    status: int
    validator: Validator = NO_VALIDATOR
    range: tuple[int | None, int | None, int | None] = (None, None, None)
    decodable: bool = True
    encoded: bool = False
    proved: bool = True
    length: int | None = None
    head: bytes = b""


class PartialState(NamedTuple):
    """What we have of a file: bytes, the announced total, what `recordingSize` says.

    `sparse`: there are more bytes, with holes between. `varies`: the same bytes came under another
    validator. `request_full`: the rest alone is not to be asked for. `overlap`: how many of the
    bytes that are here are to come again where they must prove that the rest belongs to them.
    `last`: there will be no other attempt.
    """

    size: int = 0
    total: int | None = None
    expected: int | None = None
    validator: Validator = NO_VALIDATOR
    sparse: bool = False
    varies: bool = False
    request_full: bool = False
    overlap: int = OVERLAP
    last: bool = False

    @property
    def needs_overlap(self) -> bool:
        """Whether bytes must prove that the rest is of the same file.

        Where nothing else can, or where each of a host's back ends has a validator of its own.
        """
        return self.varies or self.validator.condition is None

    @property
    def known(self) -> int | None:
        """The file's length, as far as is known."""
        return self.total if self.total is not None else self.expected


def validator_of(answer: Answer) -> Validator:
    """The validators of an answer; what cannot be sent back is left out."""
    etag = (answer.header("ETag") or "").strip()
    return Validator.checked(etag, (answer.header("Last-Modified") or "").strip())


def largest(kind: FileKind, expected: int | None) -> int:
    """Bytes that a body of no announced length, decoded, may have."""
    return expected if expected is not None else _LARGEST.get(kind, 1 << 62)


def too_much(expected: int | None, most: int) -> Verdict:
    """More came than there should be."""
    if expected is not None:
        return Verdict(Action.AGAIN, "more bytes came than recordingSize tells")
    text = f"more than {size_text(most)} came, and their number was not announced"
    return Verdict(Action.FAIL, text)


def can_resume(held: PartialState) -> bool:
    """Whether to ask for the rest only: with a validator, or where `recordingSize` can prove it."""
    if held.size <= 0 or held.request_full:
        return False
    if held.expected is not None and held.size > held.expected:
        return False
    return held.validator.condition is not None or held.expected is not None


def range_headers(held: PartialState) -> dict[str, str]:
    """The headers that ask for the rest of a file, or none where all of it is to come.

    Where the validator is not to be relied on, some bytes that are here are asked for, too.
    """
    if not can_resume(held):
        return {}
    headers = {"Range": f"bytes={first_asked(held)}-"}
    if not held.needs_overlap:
        headers["If-Range"] = held.validator.condition or ""
    return headers


def first_asked(held: PartialState) -> int:
    """Where the bytes begin that `range_headers` asks for."""
    return max(0, held.size - held.overlap) if held.needs_overlap else held.size


def decide(seen: ResponseInfo, held: PartialState, *, ranged: bool) -> Verdict:
    """Decide on an answer; `ranged` tells whether the request asked for the rest only."""
    status = seen.status
    if status in NEW_LINK_STATUSES or (status == 400 and _EXPIRY.search(seen.head)):
        return Verdict(Action.NEW_LINK, f"the link was answered with {status}")
    if status == 416 and ranged:
        whole = seen.range[2] == held.size and held.total in (None, held.size)
        proved = held.expected in (None, held.size)
        action = Action.COMPLETE if whole and proved else Action.RESTART
        return Verdict(action, "the file host refused the part that was asked for (416)")
    if status not in (200, 206):
        passing = status < 200 or status >= 500 or status in _PASSING_STATUSES
        # Some hosts, or what stands before them, say anything at all to a request for a part.
        if ranged and (held.last or not passing or status == 501):
            action = Action.REQUEST_FULL
        else:
            action = Action.AGAIN if passing else Action.FAIL
        often = status == 429 or _TOO_OFTEN.search(seen.head) is not None
        return Verdict(action, f"the file host answered {status}", often)
    if not seen.decodable:
        return Verdict(Action.FAIL, "the file came in an unknown Content-Encoding")
    if not seen.proved and held.expected is None:
        return Verdict(Action.AGAIN, "the file came in an odd Content-Encoding, without a length")
    if status == 206:
        return _judge_part(seen, held, ranged=ranged)
    if _says_part(seen, held) or (ranged and _a_part_perhaps(seen, held)):
        action = Action.REQUEST_FULL if ranged else Action.AGAIN
        return Verdict(action, "the file host calls a part the whole file")
    comparable = held.size > 0 and not held.sparse and not seen.encoded
    if comparable and seen.length in (None, held.known):
        return Verdict(Action.COMPARE)
    return Verdict(Action.START)


def _says_part(seen: ResponseInfo, held: PartialState) -> bool:
    """Whether a 200 has a `Content-Range` that is a part's, as from a cache that took a 206 for all
    of a file, and `recordingSize` cannot tell."""
    first, last, total = seen.range
    if held.expected is not None or first is None or last is None:
        return False
    return (first > 0 or last + 1 < (total or 0)) and (total is None or seen.length != total)


def _a_part_perhaps(seen: ResponseInfo, held: PartialState) -> bool:
    """Whether a 200 to a request for a part may be one all the same: it says so, it is as long as
    that part, or its validator is that of a file of another length."""
    if held.known is None or seen.length in (None, held.known):
        return bool(seen.range[0])
    same = held.validator.condition is not None and seen.validator == held.validator
    return bool(seen.range[0]) or same or seen.length == held.known - first_asked(held)


def _judge_part(seen: ResponseInfo, held: PartialState, *, ranged: bool) -> Verdict:
    first, last, total = seen.range
    begin = first_asked(held) if ranged else 0
    if first != begin or last is None or last < first or (total is not None and last >= total):
        return Verdict(Action.RESTART, "the file host sent another part than was asked for")
    if seen.encoded and (ranged or total != last + 1):
        return Verdict(Action.RESTART, "the file host sent a part of the file compressed")
    if not ranged:
        return Verdict(Action.START)
    if total is not None and held.known is not None and total != held.known:
        return Verdict(Action.RESTART, "the file changed its length at the host")
    if not held.varies and held.validator.contradicts(seen.validator):
        return Verdict(Action.VALIDATOR_CHANGED, "the file changed at the host")
    return Verdict(Action.APPEND)


def wrong_content(kind: FileKind, head: bytes, content_type: str | None = None) -> Verdict | None:
    """Judge a file by its beginning; None where it can be what it should be."""
    what = content.wrong_type(kind, head, content_type)
    if what == content.NO_VIDEO:
        return Verdict(Action.AGAIN, "what came is no MP4 (it has no ftyp box)")
    return Verdict(Action.NEW_LINK, f"the link was answered with {what}") if what else None
