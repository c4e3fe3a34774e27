"""A host whose file is another one the next time, or comes in other parts: nothing is mixed."""

from __future__ import annotations

import base64
import hashlib
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from support import archive_files, run_here
from support.host import Host, answer, chunks
from support.odd import ID, START, Answers, act, bytes_of, name_of, whole
from support.service import Serve

from g2a_archive.demo import SimulatedRecording, SimulatedService, faults
from g2a_archive.demo.messages import Request
from g2a_archive.demo.recordings import Kind

SIZE, CUT = 300_000, 200_000
CHUNKED = "Transfer-Encoding: chunked"
DAY, NEXT = "Tue, 06 May 2014 07:08:09 GMT", "Wed, 07 May 2014 07:08:09 GMT"

pytestmark = pytest.mark.usefixtures("no_backoff")


@pytest.fixture
def service(serve: Serve) -> SimulatedService:
    return serve([SimulatedRecording(ID, START, SIZE, 20_000, 6_000)])


@pytest.fixture
def odd(service: SimulatedService, plain_host: Host) -> Callable[[Kind, Answers], None]:
    return lambda kind, answers: act(service, plain_host, {ID: (kind, answers)})


def asked_from(head: bytes) -> int | None:
    """The first byte that a request wants, if it is for a part."""
    found = re.search(rb"(?i)\r\nrange: bytes=(\d+)-", head)
    return int(found[1]) if found else None


def part_of(body: bytes, begin: int, *lines: str, end: int | None = None, total: str = "") -> bytes:
    """A 206 with the bytes from `begin` on."""
    end = len(body) if end is None else min(end, len(body))
    span = f"Content-Range: bytes {begin}-{end - 1}/{total or len(body)}"
    return answer(body[begin:end], span, *lines, status="206 Partial Content")


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
    "an ETag that is gone": (['ETag: "1"'], [], at_its_beginning),
    "an ETag that is weak now": (['ETag: "1"'], ['ETag: W/"1"'], at_its_beginning),
    "an ETag that came later": ([], ['ETag: "2"'], all_over),
    "no validator": ([], [], all_over),
}


@pytest.mark.parametrize("name", VERSIONS)
def test_another_file_of_the_same_length_from_a_host_that_ignores_if_range(
    name: str, service: SimulatedService, odd: Callable[[Kind, Answers], None], root: Path
) -> None:
    first, then, another = VERSIONS[name]

    def half(head: bytes, body: bytes) -> bytes:
        return cut(answer(body, *first), CUT)

    def changed(head: bytes, body: bytes) -> bytes:
        begin = asked_from(head)
        body = another(body)
        return answer(body, *then) if begin is None else part_of(body, begin, *then)

    odd("mp4", half)
    assert run_here(service, root, [ID], retries=0).exit_code == 1
    assert (root / ".g2a-archive/partial" / f"{ID}.mp4.part").stat().st_size == CUT
    odd("mp4", changed)
    report = run_here(service, root, [ID], retries=2)
    assert report.exit_code == 0, report.failed
    stored = archive_files(root)[name_of(service, "mp4")].read_bytes()
    assert stored == another(bytes_of(service, "mp4"))


def test_a_whole_file_with_another_validator_that_is_cut_again(
    service: SimulatedService,
    odd: Callable[[Kind, Answers], None],
    plain_host: Host,
    root: Path,
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


@pytest.mark.parametrize(
    "status", ["400 Bad", "403 Forbidden", "405 Not Allowed", "412 Failed", "501 Not Implemented"]
)
def test_a_host_that_refuses_ranges(
    status: str, service: SimulatedService, odd: Callable[[Kind, Answers], None], root: Path
) -> None:
    def refuse(head: bytes, body: bytes) -> bytes:
        return answer(b"no", status=status) if asked_from(head) else answer(body, 'ETag: "1"')

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
