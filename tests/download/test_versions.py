"""A host whose file is another one the next time, or comes in other parts: nothing is mixed."""

from __future__ import annotations

import base64
import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from support import archive_files, run_here
from support.host import Host, answer, asked_from, chunks, part_of
from support.odd import ID, START, Answers, Odd, act, bytes_of, name_of, whole
from support.service import Serve

from g2a_archive.archive.partial import Partial
from g2a_archive.demo import SimulatedRecording, SimulatedService, faults
from g2a_archive.demo.messages import Request
from g2a_archive.demo.recordings import Kind
from g2a_archive.download.transfer import decisions
from g2a_archive.download.transfer.decisions import OVERLAP
from g2a_archive.models import FileKind

SIZE, CUT = 300_000, 200_000
CHUNKED = "Transfer-Encoding: chunked"
DAY, NEXT = "Tue, 06 May 2014 07:08:09 GMT", "Wed, 07 May 2014 07:08:09 GMT"

pytestmark = pytest.mark.usefixtures("no_backoff")


@pytest.fixture
def service(serve: Serve) -> SimulatedService:
    return serve([SimulatedRecording(ID, START, SIZE, 20_000, 6_000)])


def cut(sent: bytes, body: int) -> bytes:
    """An answer that ends after so many bytes of its body."""
    return sent[: sent.index(b"\r\n\r\n") + 4 + body]


def at_its_beginning(body: bytes) -> bytes:
    """Another file, which differs by a byte that is far from where it is cut."""
    return body[:1000] + bytes([body[1000] ^ 1]) + body[1001:]


def all_over(body: bytes) -> bytes:
    """Another file, but for what every MP4 begins with."""
    return body[:1000] + random.Random(3).randbytes(len(body) - 1000)


Version = tuple[list[str], list[str], Callable[[bytes], bytes]]

VERSIONS: dict[str, Version] = {
    "another time": ([f"Last-Modified: {DAY}"], [f"Last-Modified: {NEXT}"], at_its_beginning),
    "another ETag": (['ETag: "1"'], ['ETag: "2"'], at_its_beginning),
    "another weak ETag": (['ETag: W/"1"'], ['ETag: W/"2"'], at_its_beginning),
    "another time, the old ETag": (
        ['ETag: "1"', f"Last-Modified: {DAY}"],
        ['ETag: "1"', f"Last-Modified: {NEXT}"],
        at_its_beginning,
    ),
    "an ETag that is gone": (['ETag: "1"'], [], at_its_beginning),
    "an ETag that is weak now": (['ETag: "1"'], ['ETag: W/"1"'], at_its_beginning),
    "an ETag that came later": ([], ['ETag: "2"'], all_over),
    "no validator": ([], [], all_over),
}


@pytest.mark.parametrize("length", [True, False], ids=["a length", "none"])
@pytest.mark.parametrize("name", VERSIONS)
def test_another_file_of_the_same_length_from_a_host_that_ignores_if_range(
    name: str,
    length: bool,
    service: SimulatedService,
    odd: Callable[[Kind, Answers], None],
    root: Path,
) -> None:
    first, then, another = VERSIONS[name]

    def half(head: bytes, body: bytes) -> bytes:
        return cut(answer(body, *first), CUT)

    def changed(head: bytes, body: bytes) -> bytes:
        begin = asked_from(head)
        body = another(body)
        if begin is None:
            return answer(body, *then, length=length)
        return part_of(body, begin, *then)

    odd("mp4", half)
    assert run_here(service, root, [ID], retries=0).exit_code == 1
    assert (root / ".g2a-archive/partial" / f"{ID}.mp4.part").stat().st_size == CUT
    odd("mp4", changed)
    report = run_here(service, root, [ID], retries=2)
    assert report.exit_code == 0, report.failed
    stored = archive_files(root)[name_of(service, "mp4")].read_bytes()
    assert stored == another(bytes_of(service, "mp4"))


def test_a_whole_file_with_another_validator_that_is_cut_again(
    service: SimulatedService, odd: Odd, plain_host: Host, root: Path
) -> None:
    """What was not held against the new file is not taken for a part of it."""

    def changed_soon(head: bytes, body: bytes) -> bytes:
        count = len(plain_host.requests)
        another = body[:150_000] + at_its_beginning(body[150_000:])
        if count == 1:
            return cut(answer(body, 'ETag: "1"'), CUT)
        if count == 2:
            return cut(answer(another, 'ETag: "2"'), 100_000)
        begin = asked_from(head)
        if begin is None or b'if-range: "2"' not in head.lower():
            return answer(another, 'ETag: "2"')
        return part_of(another, begin, 'ETag: "2"')

    odd("mp4", changed_soon)
    report = run_here(service, root, [ID], retries=3)
    assert report.exit_code == 0, report.failed
    stored = archive_files(root)[name_of(service, "mp4")].read_bytes()
    body = bytes_of(service, "mp4")
    assert stored == body[:150_000] + at_its_beginning(body[150_000:])


def test_a_part_that_nobody_asked_for_is_not_the_file(
    service: SimulatedService, odd: Callable[[Kind, Answers], None], root: Path
) -> None:
    def first_thousand(head: bytes, body: bytes) -> bytes:
        begin = asked_from(head)
        end = 1000 if begin is None else None
        return part_of(body, begin or 0, 'ETag: "1"', end=end)

    odd("events", first_thousand)
    assert run_here(service, root, [ID], retries=0).exit_code == 0
    assert whole(root, service, "events")


def test_parts_of_a_file_of_unknown_length(
    service: SimulatedService, odd: Callable[[Kind, Answers], None], root: Path
) -> None:
    """It is whole where the host says that there is no more."""

    def unknown(head: bytes, body: bytes) -> bytes:
        begin = asked_from(head)
        if begin is None:
            return cut(answer(chunks(body), CHUNKED, 'ETag: "1"', length=False), 5_000)
        if begin >= len(body):
            span = f"Content-Range: bytes */{len(body)}"
            return answer(b"", span, status="416 Range Not Satisfiable")
        return part_of(body, begin, 'ETag: "1"', end=begin + 7_000, total="*")

    odd("events", unknown)
    assert run_here(service, root, [ID], retries=1).exit_code == 0
    assert whole(root, service, "events")


def test_a_shorter_file_whose_length_is_not_told(
    service: SimulatedService, odd: Callable[[Kind, Answers], None], root: Path
) -> None:
    odd("events", lambda _, body: cut(answer(body, 'ETag: "1"'), 15_000))
    assert run_here(service, root, [ID], retries=0).exit_code == 1
    short = b'{"events": []}'
    odd("events", lambda *_: answer(chunks(short), CHUNKED, 'ETag: "2"', length=False))
    assert run_here(service, root, [ID], retries=0).exit_code == 0
    assert archive_files(root)[name_of(service, "events")].read_bytes() == short


@pytest.mark.parametrize("status", [204, 304, 400, 403, 405, 412, 418, 500, 501, 503, None])
def test_a_host_that_refuses_ranges(
    status: int | None, service: SimulatedService, odd: Callable[[Kind, Answers], None], root: Path
) -> None:
    """Or closes the connection, where one is asked for: a file that was cut once came never."""

    def refuse(head: bytes, body: bytes) -> bytes:
        if asked_from(head):
            return answer(b"", status=f"{status} No") if status else b""
        return answer(body, 'ETag: "1"')

    odd("mp4", lambda _, body: cut(answer(body, 'ETag: "1"'), CUT))
    assert run_here(service, root, [ID], retries=0).exit_code == 1
    odd("mp4", refuse)
    assert run_here(service, root, [ID], retries=0).exit_code == 0
    assert whole(root, service, "mp4")


def test_short_parts_under_links_that_are_good_for_one_request(
    service: SimulatedService,
    odd: Callable[[Kind, Answers], None],
    plain_host: Host,
    root: Path,
) -> None:
    def once(head: bytes, body: bytes) -> bytes:
        begin = asked_from(head) or 0
        if len(plain_host.requests) % 2 == 0:
            return answer(b"", status="403 Forbidden")
        return part_of(body, begin, 'ETag: "1"', end=begin + 100_000)

    odd("mp4", once)
    assert run_here(service, root, [ID], retries=0).exit_code == 0
    assert whole(root, service, "mp4")


def test_a_new_link_may_be_to_a_file_of_another_size(service: SimulatedService, root: Path) -> None:
    def make_again(request: Request) -> None:
        if request.recording_id == ID:
            recordings = cast(dict[int, SimulatedRecording], service.recordings)
            recordings[ID] = SimulatedRecording(ID, START, SIZE + 5, 20_000, 6_000)

    service.fail_files(faults.status(403), "mp4", ID, times=1)
    service.on_request.append(make_again)
    assert run_here(service, root, [ID], retries=0).exit_code == 0
    assert whole(root, service, "mp4")


def test_a_file_that_is_there_is_not_adopted_against_the_digest_that_the_host_tells(
    service: SimulatedService, odd: Callable[[Kind, Answers], None], root: Path
) -> None:
    right = bytes_of(service, "events")
    there = root / name_of(service, "events")
    there.parent.mkdir(parents=True)
    there.write_bytes(at_its_beginning(right))
    told = base64.b64encode(hashlib.sha256(right).digest()).decode()
    odd("events", lambda _, body: answer(body, f"Digest: sha-256={told}"))
    report = run_here(service, root, [ID], retries=0)
    assert report.exit_code == 0
    assert whole(root, service, "events")
    assert len(report.kept_aside) == 1
    there.write_bytes(right)
    (root / ".g2a-archive/catalog.sqlite3").unlink()
    (there.parent / "SHA256SUMS").unlink()
    assert run_here(service, root, [ID], retries=0).adopted == 3


PAGES = {
    "a web page": b"<!DOCTYPE html><html><body>" + b"sign in " * 400,
    "an error document": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"
    + b" " * 2000,
    "an error in JSON": b'{"error": "expired"}',
}


@pytest.mark.parametrize("length", [True, False], ids=["length", "chunked"])
@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
@pytest.mark.parametrize("kind", ["mp4", "events", "thumbnail"])
def test_what_a_link_that_expired_is_answered_with_takes_no_bytes(
    kind: Kind,
    page: bytes,
    length: bool,
    service: SimulatedService,
    odd: Callable[[Kind, Answers], None],
    plain_host: Host,
    root: Path,
) -> None:
    """It is seen before anything that is here is given up for it."""
    half = 5_000

    def expire(head: bytes, body: bytes) -> bytes:
        count = len(plain_host.requests)
        if count == 1:
            return cut(answer(body, 'ETag: "1"'), half)
        if count == 2:
            return answer(page) if length else answer(chunks(page), CHUNKED, length=False)
        begin = asked_from(head)
        assert begin == half
        return part_of(body, begin, 'ETag: "1"')

    odd(kind, expire)
    assert run_here(service, root, [ID], retries=1, ignore_size=True).exit_code == 0
    assert whole(root, service, kind)
    assert len(plain_host.requests) == 3


@pytest.mark.parametrize("differs_at", [1_000, 1_500_000])
def test_killed_after_another_version_was_gone_on_with(
    differs_at: int, serve: Serve, plain_host: Host, root: Path
) -> None:
    """The note tells the version that the bytes are of before the first of its own is written."""
    size = 3_000_000
    service = serve([SimulatedRecording(ID, START, size)])
    first = bytes_of(service, "mp4")
    second = first[:differs_at] + bytes([first[differs_at] ^ 1]) + first[differs_at + 1 :]
    sent = {
        1: cut(answer(first, 'ETag: "1"'), 1_000_000),
        2: cut(answer(second, 'ETag: "2"'), 2_000_000),
    }

    def nights(head: bytes, _: bytes) -> bytes:
        begin = asked_from(head)
        if begin is not None and b'if-range: "1"' in head.lower():
            return sent.get(len(plain_host.requests)) or part_of(first, begin, 'ETag: "1"')
        return sent.get(len(plain_host.requests)) or answer(first, 'ETag: "1"')

    act(service, plain_host, {ID: ("mp4", nights)})
    note = root / ".g2a-archive/partial" / f"{ID}.mp4.json"
    suspend = Partial.suspend
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Partial, "suspend", Partial.close)  # a kill writes no last note
        for tag in ('"1"', '"2"'):
            assert run_here(service, root, [ID], retries=0).exit_code == 1
            assert json.loads(note.read_text())["etag"] == tag
    assert Partial.suspend is suspend
    assert run_here(service, root, [ID], retries=0).exit_code == 0
    assert whole(root, service, "mp4")


@pytest.mark.parametrize("tag", ['ETag: "1"', "X: none"])
@pytest.mark.parametrize("kind", ["mp4", "events", "thumbnail"])
def test_an_end_that_nothing_marks_is_no_shorter_file(
    kind: Kind,
    tag: str,
    service: SimulatedService,
    odd: Callable[[Kind, Answers], None],
    plain_host: Host,
    root: Path,
) -> None:
    def unmarked(head: bytes, body: bytes) -> bytes:
        count = len(plain_host.requests)
        if count == 1:
            return cut(answer(body, 'ETag: "1"'), 4_000)
        if count == 2:
            return cut(answer(body, tag, length=False), 3_000)
        return answer(body, 'ETag: "1"')

    odd(kind, unmarked)
    assert run_here(service, root, [ID], retries=2, ignore_size=True).exit_code == 0
    assert whole(root, service, kind)


def test_an_end_that_nothing_marks_is_the_end_only_where_it_comes_twice(
    service: SimulatedService,
    odd: Callable[[Kind, Answers], None],
    plain_host: Host,
    root: Path,
) -> None:
    def further_each_time(head: bytes, body: bytes) -> bytes:
        if len(plain_host.requests) == 1:
            return cut(answer(body), 4_000)
        return cut(answer(body, length=False), 6_000 * len(plain_host.requests))

    odd("events", further_each_time)
    assert run_here(service, root, [ID], retries=1).exit_code == 0
    assert whole(root, service, "events")


@pytest.mark.parametrize("most", [OVERLAP // 2, OVERLAP, 7_000])
@pytest.mark.parametrize("tags", ["none", "one each"])
def test_parts_that_are_no_longer_than_what_must_prove_them(
    tags: str,
    most: int,
    service: SimulatedService,
    odd: Callable[[Kind, Answers], None],
    plain_host: Host,
    root: Path,
) -> None:
    def small_parts(head: bytes, body: bytes) -> bytes:
        lines = [f'ETag: "{len(plain_host.requests)}"'] if tags == "one each" else []
        begin = asked_from(head)
        if begin is None:
            return cut(answer(body, *lines), CUT)
        return part_of(body, begin, *lines, end=begin + most)

    odd("mp4", small_parts)
    assert run_here(service, root, [ID], retries=2).exit_code == 0
    assert whole(root, service, "mp4")
    assert len(plain_host.requests) < 20 + 2 * SIZE // most


def test_an_mp4_that_nothing_tells_the_length_of_must_add_up(
    service: SimulatedService, odd: Callable[[Kind, Answers], None], root: Path
) -> None:
    odd("mp4", lambda _, body: cut(answer(body, length=False), CUT))
    report = run_here(service, root, [ID], retries=1, ignore_size=True)
    assert [(one.file, one.reason) for one in report.failed] == [("mp4", "the MP4 ended early")]


def test_what_must_prove_the_rest_comes_by_itself_first(
    service: SimulatedService,
    odd: Callable[[Kind, Answers], None],
    plain_host: Host,
    root: Path,
) -> None:
    """That there are the same bytes again, and no more yet, is no end of the part."""

    def in_two(head: bytes, body: bytes) -> bytes:
        begin = asked_from(head)
        if begin is None:
            return cut(answer(body), CUT)
        span = f"Content-Range: bytes {begin}-{SIZE - 1}/{SIZE}"
        rest = chunks(body[begin:CUT], CUT)[: -len(chunks(b""))] + chunks(body[CUT:], SIZE)
        return answer(rest, span, CHUNKED, status="206 Partial Content", length=False)

    odd("mp4", in_two)
    assert run_here(service, root, [ID], retries=1).exit_code == 0
    assert whole(root, service, "mp4")
    assert len(plain_host.requests) == 2


def one_too_many(body: bytes, begin: int) -> bytes:
    span = f"Content-Range: bytes {begin}-{len(body)}/{len(body)}"
    return answer(body[begin:], span, status="206 Partial Content")


def all_of_it(body: bytes, begin: int) -> bytes:
    span = f"Content-Range: bytes {begin}-{len(body) - 1}/{len(body)}"
    return answer(body, span, status="206 Partial Content")


def in_fewer_chunks(body: bytes, begin: int) -> bytes:
    span = f"Content-Range: bytes {begin}-{len(body) - 1}/{len(body)}"
    data = chunks(body[begin:-5])
    return answer(data, span, CHUNKED, status="206 Partial Content", length=False)


@pytest.mark.parametrize("part", [one_too_many, all_of_it, in_fewer_chunks])
def test_a_host_whose_parts_are_not_what_they_say_is_asked_for_the_whole(
    part: Callable[[bytes, int], bytes],
    service: SimulatedService,
    odd: Callable[[Kind, Answers], None],
    plain_host: Host,
    root: Path,
) -> None:
    def wrong(head: bytes, body: bytes) -> bytes:
        if len(plain_host.requests) == 1:
            return cut(answer(body, 'ETag: "1"'), CUT)
        begin = asked_from(head)
        return answer(body, 'ETag: "1"') if begin is None else part(body, begin)

    odd("mp4", wrong)
    assert run_here(service, root, [ID], retries=2).exit_code == 0
    assert whole(root, service, "mp4")
    assert len(plain_host.requests) == 3


def test_what_proved_the_same_under_another_validator_is_not_compared_every_night(
    service: SimulatedService,
    odd: Callable[[Kind, Answers], None],
    plain_host: Host,
    root: Path,
) -> None:
    """Else a file that takes more than half of a night would never be done."""

    def no_tag_in_parts(head: bytes, body: bytes) -> bytes:
        begin = asked_from(head)
        if begin is None:
            return cut(answer(body, 'ETag: "1"'), CUT)
        return part_of(body, begin)

    odd("mp4", no_tag_in_parts)
    for _ in range(2):
        assert run_here(service, root, [ID], retries=0).exit_code == 1
    plain_host.requests.clear()
    assert run_here(service, root, [ID], retries=0).exit_code == 0
    assert whole(root, service, "mp4")
    assert asked_from(plain_host.requests[0]) == CUT - OVERLAP
    assert len(plain_host.requests) == 1


def test_progress_with_another_version_counts_from_its_beginning(
    service: SimulatedService,
    odd: Callable[[Kind, Answers], None],
    plain_host: Host,
    root: Path,
) -> None:
    def little_by_little(head: bytes, body: bytes) -> bytes:
        if len(plain_host.requests) == 1:
            return cut(answer(body, 'ETag: "1"'), CUT)
        another = all_over(body)
        begin = asked_from(head)
        if begin is None or b'if-range: "1"' in head.lower():
            return cut(answer(another, 'ETag: "2"'), 30_000)
        return cut(part_of(another, begin, 'ETag: "2"'), 30_000)

    odd("mp4", little_by_little)
    assert run_here(service, root, [ID], retries=1).exit_code == 0
    stored = archive_files(root)[name_of(service, "mp4")].read_bytes()
    assert stored == all_over(bytes_of(service, "mp4"))


def test_parts_of_an_unknown_length_have_an_end(
    service: SimulatedService,
    odd: Callable[[Kind, Answers], None],
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(decisions._LARGEST, FileKind.EVENTS, 1 << 20)

    def endless(head: bytes, body: bytes) -> bytes:
        begin = asked_from(head) or 0
        span = f"Content-Range: bytes {begin}-{begin + 99_999}/*"
        return answer(b"e" * 100_000, span, 'ETag: "1"', status="206 Partial Content")

    odd("events", endless)
    report = run_here(service, root, [ID], retries=0)
    assert report.exit_code == 1
    assert "more than 1.0 MB came" in next(iter(report.failed)).reason
