"""What to do with an answer, a leftover, a file: the pure functions, as tables."""

from __future__ import annotations

import os
import struct
from datetime import UTC, datetime
from pathlib import Path

import pytest

from g2a_archive.archive import content
from g2a_archive.archive.layout import parse_name
from g2a_archive.archive.partial import Validator
from g2a_archive.archive.storage import Storage
from g2a_archive.download.transfer.adoption import adopt
from g2a_archive.download.transfer.decisions import (
    Action,
    PartialState,
    ResponseInfo,
    can_resume,
    decide,
    largest,
    range_headers,
    wrong_content,
)
from g2a_archive.download.transfer.results import Transfer
from g2a_archive.models import FileKind, Link

MP4, EVENTS, THUMBNAIL = FileKind
ETAG = Validator(etag='"1"')
OTHER = Validator(etag='"2"')
DATED = Validator(modified="Tue, 06 May 2014 07:08:09 GMT")
LATER = Validator(modified="Wed, 07 May 2014 07:08:09 GMT")
BOTH = Validator('"1"', DATED.modified)
WEAK = Validator(weak='W/"1"')
OTHER_WEAK = Validator(weak='W/"2"')
NONE = Validator()
HALF = PartialState(size=50, total=100, expected=100, validator=ETAG)
FTYP = struct.pack(">I", 24) + b"ftypisom" + b"\0" * 12


def test_the_most_that_may_come_where_nobody_announced_how_much() -> None:
    assert (largest(EVENTS, None), largest(THUMBNAIL, None)) == (256 << 20, 16 << 20)
    assert largest(MP4, 12_345) == 12_345


@pytest.mark.parametrize(
    ("held", "resumable"),
    [
        (PartialState(), False),
        (PartialState(size=0, total=100, expected=100, validator=ETAG), False),
        (PartialState(size=50, total=100, validator=ETAG), True),
        (PartialState(size=50, validator=ETAG), True),
        (PartialState(size=50, total=100, validator=DATED), True),
        (PartialState(size=50, total=100), False),
        (PartialState(size=50, expected=100), True),  # recordingSize can prove it
        (PartialState(size=100, total=100, expected=100, validator=ETAG), True),  # 416 will tell
        (PartialState(size=101, expected=100, validator=ETAG), False),
    ],
)
def test_when_to_ask_for_the_rest_only(held: PartialState, resumable: bool) -> None:
    assert can_resume(held) is resumable


@pytest.mark.parametrize("status", [401, 403, 404, 410])
@pytest.mark.parametrize("ranged", [True, False])
def test_a_link_that_is_no_longer_good(status: int, ranged: bool) -> None:
    verdict = decide(ResponseInfo(status), HALF, ranged=ranged)
    assert verdict.action is Action.NEW_LINK
    assert str(status) in verdict.reason


@pytest.mark.parametrize("status", [100, 103, 408, 421, 425, 429, 500, 502, 503, 504, 520, 599])
def test_answers_that_may_change(status: int) -> None:
    last = HALF._replace(last=True)
    assert decide(ResponseInfo(status), HALF, ranged=True).action is Action.AGAIN
    assert decide(ResponseInfo(status), last, ranged=True).action is Action.REQUEST_FULL
    assert decide(ResponseInfo(status), last, ranged=False).action is Action.AGAIN


@pytest.mark.parametrize(
    ("seen", "often"),
    [
        (ResponseInfo(429), True),
        (ResponseInfo(503), False),
        (ResponseInfo(503, head=b"<Error><Code>SlowDown</Code></Error>"), True),
        (ResponseInfo(503, head=b"the link expired: ServerBusy"), True),
        (ResponseInfo(503, head=b"<html>503 Service Temporarily Unavailable"), False),
    ],
)
def test_a_host_that_was_asked_too_often(seen: ResponseInfo, often: bool) -> None:
    verdict = decide(seen, HALF, ranged=False)
    assert (verdict.action, verdict.often) == (Action.AGAIN, often)


@pytest.mark.parametrize("status", [201, 204, 304, 400, 402, 405, 409, 412, 418, 451])
def test_answers_that_will_not(status: int) -> None:
    assert decide(ResponseInfo(status), HALF, ranged=False).action is Action.FAIL


@pytest.mark.parametrize("status", [204, 304, 400, 405, 412, 418, 501])
def test_a_host_that_wants_no_ranges_is_asked_for_the_whole(status: int) -> None:
    assert decide(ResponseInfo(status), HALF, ranged=True).action is Action.REQUEST_FULL
    assert range_headers(HALF._replace(request_full=True)) == {}


@pytest.mark.parametrize(
    "seen",
    [
        *(ResponseInfo(200, ETAG, length=size) for size in (50, 101, 0)),
        *(ResponseInfo(200, range=(50, 99, 100)), ResponseInfo(200, length=50)),
    ],
)
def test_the_rest_that_is_called_the_whole_file(seen: ResponseInfo) -> None:
    assert decide(seen, HALF, ranged=True).action is Action.REQUEST_FULL
    assert decide(seen, HALF, ranged=False).action in (Action.START, Action.COMPARE)


@pytest.mark.parametrize("ranged", [True, False])
@pytest.mark.parametrize(
    ("seen", "held", "action"),
    [
        (ResponseInfo(200, ETAG, length=100), PartialState(), Action.START),
        # What is here is of use, whatever the validator says, as long as the bytes are the same.
        (ResponseInfo(200, ETAG, length=100), HALF, Action.COMPARE),
        (ResponseInfo(200, OTHER, length=100), HALF, Action.COMPARE),
        (ResponseInfo(200, OTHER), HALF, Action.COMPARE),
        (ResponseInfo(200, OTHER, length=101), HALF, Action.START),
        (ResponseInfo(200, length=101), HALF, Action.START),
        (ResponseInfo(200, ETAG, (0, 99, 100), length=100), HALF, Action.COMPARE),
        (ResponseInfo(200, ETAG, encoded=True), HALF, Action.START),
        (ResponseInfo(200, ETAG, length=100), HALF._replace(sparse=True), Action.START),
    ],
)
def test_the_whole_file(
    seen: ResponseInfo, held: PartialState, action: Action, ranged: bool
) -> None:
    assert decide(seen, held, ranged=ranged).action is action


def test_an_odd_encoding_is_passed_over_where_something_proves_the_bytes() -> None:
    odd = ResponseInfo(200, proved=False)
    assert decide(odd, PartialState(), ranged=False).action is Action.AGAIN
    assert decide(odd, PartialState(expected=100), ranged=False).action is Action.START


def test_a_400_that_speaks_of_expiry_is_an_expired_link() -> None:
    for head in (b"<Code>ExpiredToken</Code>", b'{"message": "the link has expired"}'):
        assert decide(ResponseInfo(400, head=head), HALF, ranged=True).action is Action.NEW_LINK
    other = ResponseInfo(400, head=b"<Code>BadDigest</Code>")
    assert decide(other, HALF, ranged=False).action is Action.FAIL


def test_an_encoding_that_nobody_knows() -> None:
    assert (
        decide(ResponseInfo(200, decodable=False), PartialState(), ranged=False).action
        is Action.FAIL
    )


@pytest.mark.parametrize(
    ("seen", "held", "action"),
    [
        (ResponseInfo(206, ETAG, (50, 99, 100)), HALF, Action.APPEND),
        (
            ResponseInfo(206, NONE, (50, 99, 100)),
            HALF,
            Action.VALIDATOR_CHANGED,
        ),  # its ETag is gone
        (ResponseInfo(206, WEAK, (50, 99, 100)), HALF, Action.VALIDATOR_CHANGED),
        (ResponseInfo(206, DATED, (50, 99, 100)), HALF._replace(validator=BOTH), Action.APPEND),
        (
            ResponseInfo(206, LATER, (50, 99, 100)),
            HALF._replace(validator=BOTH),
            Action.VALIDATOR_CHANGED,
        ),
        (ResponseInfo(206, ETAG, (50, 99, 100)), HALF._replace(validator=BOTH), Action.APPEND),
        (
            ResponseInfo(206, LATER, (50, 99, 100)),
            PartialState(50, 100, validator=DATED),
            Action.VALIDATOR_CHANGED,
        ),
        (
            ResponseInfo(206, NONE, (50, 99, 100)),
            PartialState(50, 100, validator=DATED),
            Action.APPEND,
        ),
        (ResponseInfo(206, WEAK, (0, 99, 100)), PartialState(50, 100, 100, WEAK), Action.APPEND),
        (
            ResponseInfo(206, OTHER_WEAK, (0, 99, 100)),
            PartialState(50, 100, 100, WEAK),
            Action.VALIDATOR_CHANGED,
        ),
        (ResponseInfo(206, NONE, (0, 99, 100)), PartialState(50, 100, 100), Action.APPEND),
        (ResponseInfo(206, OTHER, (0, 99, 100)), HALF._replace(varies=True), Action.APPEND),
        (
            ResponseInfo(206, OTHER, (40, 99, 100)),
            HALF._replace(varies=True, overlap=10),
            Action.APPEND,
        ),
        (ResponseInfo(206, ETAG, (50, 99, 100), encoded=True), HALF, Action.RESTART),
        (ResponseInfo(206, ETAG, (50, 99, None)), HALF, Action.APPEND),
        (ResponseInfo(206, ETAG, (0, 99, 100)), PartialState(50, None, 100), Action.APPEND),
        (
            ResponseInfo(206, DATED, (50, 99, 100)),
            PartialState(50, 100, validator=DATED),
            Action.APPEND,
        ),
        (ResponseInfo(206, OTHER, (50, 99, 100)), HALF, Action.VALIDATOR_CHANGED),
        (ResponseInfo(206, ETAG, (0, 99, 100)), HALF, Action.RESTART),
        (ResponseInfo(206, ETAG, (49, 99, 100)), HALF, Action.RESTART),
        (ResponseInfo(206, ETAG, (51, 99, 100)), HALF, Action.RESTART),
        (ResponseInfo(206, ETAG, (50, 98, 100)), HALF, Action.APPEND),  # progress
        (ResponseInfo(206, ETAG, (50, 49, 100)), HALF, Action.RESTART),
        (ResponseInfo(206, ETAG, (50, 100, 100)), HALF, Action.RESTART),
        (ResponseInfo(206, ETAG, (50, 100, 101)), HALF, Action.RESTART),
        (
            ResponseInfo(206, ETAG, (50, 100, 101)),
            PartialState(50, None, 100, ETAG),
            Action.RESTART,
        ),
        (ResponseInfo(206, ETAG), HALF, Action.RESTART),
        (ResponseInfo(206, ETAG, (None, None, 100)), HALF, Action.RESTART),
    ],
)
def test_a_part(seen: ResponseInfo, held: PartialState, action: Action) -> None:
    verdict = decide(seen, held, ranged=True)
    assert verdict.action is action
    assert bool(verdict.reason) is (action is not Action.APPEND)


@pytest.mark.parametrize(
    ("span", "action"),
    [
        ((0, 99, 100), Action.START),
        ((0, 98, 100), Action.START),
        ((1, 99, 100), Action.RESTART),
        ((None, None, None), Action.RESTART),
    ],
)
def test_a_part_that_nobody_asked_for(
    span: tuple[int | None, int | None, int | None], action: Action
) -> None:
    assert decide(ResponseInfo(206, ETAG, span), PartialState(), ranged=False).action is action


WHOLE = PartialState(size=100, total=100, expected=100, validator=ETAG)


@pytest.mark.parametrize(
    ("total", "held", "action"),
    [
        (100, WHOLE, Action.COMPLETE),
        (100, PartialState(100, None, 100, ETAG), Action.COMPLETE),
        (100, PartialState(100, 100, None, ETAG), Action.COMPLETE),
        (100, PartialState(100, None, None, ETAG), Action.COMPLETE),
        (101, WHOLE, Action.RESTART),
        (None, WHOLE, Action.RESTART),  # nothing proves that these are all bytes
        (100, HALF, Action.RESTART),
        (100, PartialState(100, 200, None, ETAG), Action.RESTART),
        (100, PartialState(100, None, 200, ETAG), Action.RESTART),
    ],
)
def test_416(total: int | None, held: PartialState, action: Action) -> None:
    assert decide(ResponseInfo(416, range=(None, None, total)), held, ranged=True).action is action


def test_416_without_a_range_is_a_failure() -> None:
    assert decide(ResponseInfo(416), PartialState(), ranged=False).action is Action.FAIL


PAGES = [
    b"<!DOCTYPE html><html>",
    b"<!doctype HTML>",
    b"<html lang=en>",
    b"\n\t <HTML>",
    b"\xef\xbb\xbf<!DOCTYPE html>",
    b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC>',
    b"<!-- a comment --><html>",
    b"<head><title>",
    b"<script>location='/login'</script>",
    "\ufeff<!DOCTYPE html>".encode("utf-16-le"),
]


@pytest.mark.parametrize("head", PAGES)
@pytest.mark.parametrize("kind", FileKind)
def test_a_web_page_is_never_a_file(kind: FileKind, head: bytes) -> None:
    verdict = wrong_content(kind, head)
    assert verdict is not None
    assert verdict.action is Action.NEW_LINK


@pytest.mark.parametrize(
    "named", ["text/html", "TEXT/HTML; charset=utf-8", "application/xhtml+xml"]
)
def test_what_is_called_a_web_page(named: str) -> None:
    """The content is a better witness."""
    assert wrong_content(THUMBNAIL, b"\x01\x02\x03", named) is not None
    assert wrong_content(MP4, b"\x01\x02\x03", named) is not None
    assert wrong_content(THUMBNAIL, b"\xff\xd8\xff\xe0", named) is None
    assert wrong_content(EVENTS, b"\x01\x02\x03", named) is None
    assert wrong_content(MP4, FTYP, named) is None


@pytest.mark.parametrize("kind", FileKind)
def test_an_error_document_is_no_file(kind: FileKind) -> None:
    xml = [
        b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>',
        b'<s3:Error xmlns:s3="http://example.org/"><s3:Code>AccessDenied</s3:Code></s3:Error>',
    ]
    more = [b'<ErrorResponse xmlns="x">', b"<error>", b"<problem>", b'{"error": "expired"}']
    for head in [*xml, *more, b'{"message": "Forbidden"}', b'{"Message": "x", "Code": 1}']:
        verdict = wrong_content(kind, head)
        assert verdict is not None
        assert verdict.action is Action.NEW_LINK


@pytest.mark.parametrize(
    ("head", "fine"),
    [
        (b'{"message": "hello", "at": 7}', False),
        (b' [{"code": "AccessDenied"}]', False),
        (b'<?xml version="1.0"?><events xmlns="x">', False),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg">', True),
        (b"\0\0\0\x1cftypavif", True),
        (b"", True),
    ],
)
def test_a_document_is_no_picture(head: bytes, fine: bool) -> None:
    assert (wrong_content(THUMBNAIL, head) is None) is fine
    assert wrong_content(EVENTS, head) is None


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b'{"error": "expired"}', True),
        (b' {"errorCode": 7, "message": "x"}', True),
        (b'{"errors": []}', True),
        (b'{"Error_Message": "x"}', True),
        (b'{"message": "x", "statusCode": 403, "details": []}', True),
        (b'{"int_err_code": "InvalidToken", "msg": "x"}', True),
        (b'{"type": "about:blank", "title": "Forbidden", "status": 403, "detail": "x"}', True),
        (b'{"success": false, "message": "x"}', True),
        (b'{"message": "x", "at": 7}', False),
        (b'{"title": "hello", "events": []}', False),
        (b'{"type": 7, "status": 1}', False),
        (b'{"code": 7}', False),
        (b"{}", False),
        (b'{"events": [{"error": 1}]}', False),
        (b'["error"]', False),
        (b'{"error": ', False),
        (b'{"error": "' + b"x" * 5000 + b'"}', False),
        (b"[" * 2000, False),
    ],
)
def test_a_json_error(data: bytes, error: bool) -> None:
    assert content.is_error_json(data) is error


@pytest.mark.parametrize(
    "head", [b"<session><event/></session>", b'<?xml version="1.0"?><events>', b"\0", b"<"]
)
def test_what_is_no_web_page(head: bytes) -> None:
    assert wrong_content(EVENTS, head, "application/xml") is None


@pytest.mark.parametrize(
    ("head", "fine"),
    [
        (FTYP, True),
        (b"\0\0\0\x08ftyp", True),
        (b"\0\0\0\x07ftyp", False),
        (b"\0\0\0\x01ftyp\0\0\0\0\0\0\0\x20isom", True),  # its size takes 64 bits
        (b"\0\0\0\x01ftyp\x01\0\0\0\0\0\0\x20isom", False),
        (b"\0\0\0\x01ftyp", False),
        (b"\0\0\x20\0ftyp", False),
        (b"\0\0\0\x18moov", False),
        (b"\0\0\0\x18fty", False),
        (b'{"error": "gone"}', False),
        (b"", True),  # which is told as empty
    ],
)
def test_an_mp4_begins_with_an_ftyp_box(head: bytes, fine: bool) -> None:
    assert (wrong_content(MP4, head) is None) is fine


def box(name: bytes, size: int, said: int | None = None) -> bytes:
    return struct.pack(">I", size if said is None else said) + name + b"\0" * (size - 8)


VIDEO = box(b"ftyp", 24) + box(b"mdat", 1 << 20)


@pytest.mark.parametrize(
    ("name", "data", "expected", "fits"),
    [
        ("1.mp4", VIDEO, len(VIDEO), True),
        ("1.mp4", VIDEO, None, True),
        ("1.mp4", VIDEO, len(VIDEO) - 1, False),
        ("1.mp4", VIDEO[:-1], len(VIDEO) - 1, False),
        ("1.mp4", VIDEO[:-1], None, False),
        ("1.mp4", b"junk" * 9, 36, False),
        ("1.events", b"x", None, True),
        ("1.events", b"", None, False),
        ("1.events", PAGES[0], None, False),
        ("1.jpg", b"\xff\xd8\xff", None, True),
        ("1.jpg", PAGES[0], None, False),
        ("1.jpg", b'{"error": "expired"}', None, False),
    ],
)
def test_which_files_are_adopted(
    name: str, data: bytes, expected: int | None, fits: bool, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    assert _fits(tmp_path, name, expected) is fits
    for other in (".aria2", ".st", ".ytdl", "-lftp-pget-status"):
        beside = tmp_path / f"{name}{other}"
        beside.touch()
        assert not _fits(tmp_path, name, expected)
        beside.unlink()


def _fits(root: Path, name: str, expected: int | None) -> bool:
    """Whether a file is adopted, or would be if the host confirms its length."""
    link, start = Link("https://example.org", 0, 0), datetime(2014, 5, 6, tzinfo=UTC)
    parsed = parse_name(name)
    assert parsed is not None
    transfer = Transfer(*parsed, ".", start, link, expected)
    adopted = adopt(transfer, Storage(root), lambda directory: {})
    return (adopted or transfer.candidate) is not None


def test_a_file_with_holes_is_not_adopted(tmp_path: Path) -> None:
    for name in ("1.mp4", "1.events"):
        (tmp_path / name).write_bytes(VIDEO[:4096])
        os.truncate(tmp_path / name, len(VIDEO))
        with open(tmp_path / name, "rb") as file:
            if not content.has_holes(file.fileno(), len(VIDEO)):
                pytest.skip("this file system does not tell of holes")
        assert not _fits(tmp_path, name, None)
        (tmp_path / name).write_bytes(VIDEO)
        assert _fits(tmp_path, name, None)


LARGE = struct.pack(">I", 1) + b"mdat" + struct.pack(">Q", 40) + b"\0" * 24


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (box(b"ftyp", 24) + box(b"moov", 100), True),
        (box(b"ftyp", 24) + LARGE, True),
        (box(b"ftyp", 24) + box(b"mdat", 50, said=0), True),  # "to the end of the file"
        (box(b"ftyp", 24) + box(b"moov", 100)[:-1], False),
        (box(b"ftyp", 24) + LARGE[:-1], False),
        (box(b"ftyp", 24) + LARGE[:12], False),
        (box(b"ftyp", 24) + box(b"moov", 50, said=7), False),
        (box(b"ftyp", 24) + b"\0\0\0", False),
        (b"", True),
    ],
)
def test_boxes_add_up(data: bytes, whole: bool, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with open(path, "rb") as file:
        assert content.boxes_add_up(file.fileno(), len(data)) is whole


def test_comments_without_end_are_judged_at_once() -> None:
    for head in (b"<!---->" * 585, b"<!--" * 1024, b"<?xml ?>" * 512, b" " * content.HEAD_SIZE):
        assert not content.is_html(head)
    assert content.is_html(b"<?xml version='1'?> <!-- a --> <!-- b --><html>")
