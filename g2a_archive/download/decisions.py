"""What to do next with a file: pure functions, so that a table can test them."""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from g2a_archive.archive import content
from g2a_archive.archive.partial import NO_VALIDATOR, Validator
from g2a_archive.models import FileKind

NEW_LINK_STATUSES = (401, 403, 404, 410)
RETRY_STATUSES = (408, 421, 425, 429, 500, 502, 503, 504, 507, 509, 520, 521, 522, 523, 524)


class Action(Enum):
    """What to do with an answer of the file host."""

    START = auto()  # the body is the whole file
    APPEND = auto()  # the body goes on where our bytes end
    COMPLETE = auto()  # all bytes are here already
    RESTART = auto()  # our bytes are of no use: ask again, for everything
    NEW_LINK = auto()  # the link is no longer good
    AGAIN = auto()  # the same request may work later
    FAIL = auto()  # it will not


class Verdict(NamedTuple):
    """An action, and the reason for it where it is not a good one."""

    action: Action
    reason: str = ""


NO_RANGE = (None, None, None)


class Seen(NamedTuple):
    """What matters of an answer: `range` is `Content-Range` as (first, last, total)."""

    status: int
    validator: Validator = NO_VALIDATOR
    range: tuple[int | None, int | None, int | None] = NO_RANGE
    decodable: bool = True


class Held(NamedTuple):
    """What we have of a file: bytes, the announced total, what `recordingSize` says."""

    size: int = 0
    total: int | None = None
    expected: int | None = None
    validator: Validator = NO_VALIDATOR


def can_resume(held: Held) -> bool:
    """Whether to ask for the rest only: with a validator, or where `recordingSize` can prove it."""
    if held.size <= 0 or (held.expected is not None and held.size > held.expected):
        return False
    return held.validator.condition is not None or held.expected is not None


def judge(seen: Seen, held: Held, *, ranged: bool) -> Verdict:
    """Decide on an answer; `ranged` tells whether the request asked for the rest only."""
    status = seen.status
    if status in NEW_LINK_STATUSES:
        return Verdict(Action.NEW_LINK, f"the link was answered with {status}")
    if status == 416 and ranged:
        whole = seen.range[2] == held.size and held.total in (None, held.size)
        proved = held.expected in (None, held.size)
        action = Action.COMPLETE if whole and proved else Action.RESTART
        return Verdict(action, "the file host refused the part that was asked for (416)")
    if status >= 500 or status in RETRY_STATUSES:
        return Verdict(Action.AGAIN, f"the file host answered {status}")
    if status not in (200, 206):
        return Verdict(Action.FAIL, f"the file host answered {status}")
    if not seen.decodable:
        return Verdict(Action.FAIL, "the file came in an unknown Content-Encoding")
    if status == 200:
        return Verdict(Action.START)
    return _judge_part(seen, held, ranged=ranged)


def _judge_part(seen: Seen, held: Held, *, ranged: bool) -> Verdict:
    first, last, total = seen.range
    begin = held.size if ranged else 0
    if first != begin or (total is not None and last != total - 1):
        return Verdict(Action.RESTART, "the file host sent another part than was asked for")
    if not ranged:
        return Verdict(Action.START)
    known = held.total if held.total is not None else held.expected
    if total is not None and known is not None and total != known:
        return Verdict(Action.RESTART, "the file changed its length at the host")
    if held.validator.etag and seen.validator.etag not in (None, held.validator.etag):
        return Verdict(Action.RESTART, "the file changed at the host")
    return Verdict(Action.APPEND)


def wrong_content(kind: FileKind, head: bytes, content_type: str | None = None) -> Verdict | None:
    """Judge a file by its beginning; None where it can be what it should be."""
    if not head:
        return Verdict(Action.AGAIN, "the file is empty")
    if kind is FileKind.MP4 and content.is_mp4(head):
        return None
    if content.is_html(head, content_type):
        return Verdict(Action.NEW_LINK, "the link was answered with a web page")
    if kind is FileKind.MP4:
        return Verdict(Action.AGAIN, "what came is no MP4 (it has no ftyp box)")
    return None


def adoptable(
    kind: FileKind,
    *,
    head: bytes,
    size: int,
    expected: int | None,
    boxes_add_up: bool,
) -> bool:
    """Whether a file found under a final name can be the recording's, before it is hashed.

    Where no `recordingSize` tells an MP4's length, its boxes must add up.
    """
    if wrong_content(kind, head) is not None:
        return False
    if kind is not FileKind.MP4:
        return True
    return size == expected if expected is not None else boxes_add_up
