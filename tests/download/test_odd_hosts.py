"""Whole runs against a host that answers oddly: what is right is archived, what is not fails."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
import socket
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from support import archive_files, report_of, run_cli, run_here, states
from support.host import Host, answer, asked_from, chunks, part_of
from support.odd import ID, START, Answers, Odd, act, bytes_of, name_of, sent_by, whole
from support.service import Serve

from g2a_archive.demo import (
    Fault,
    SimulatedRecording,
    SimulatedService,
    faults,
)
from g2a_archive.demo.recordings import KINDS, Kind

CHUNKED = "Transfer-Encoding: chunked"
XML = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"


@pytest.fixture
def service(serve: Serve) -> SimulatedService:
    return serve([SimulatedRecording(ID, START, 30_000, 20_000, 6_000)])


def one_each(
    serve: Serve, host: Host, table: Mapping[str, Answers]
) -> tuple[SimulatedService, dict[int, tuple[Kind, str]]]:
    """A recording for each row and kind of file, which is answered so."""
    rows = dict(enumerate(((kind, name) for name in table for kind in KINDS), ID))
    service = serve([SimulatedRecording(id_, START, 30_000, 20_000, 6_000) for id_ in rows])
    act(service, host, {id_: (kind, table[name]) for id_, (kind, name) in rows.items()})
    return service, rows


def md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def trailed(body: bytes, digest: str) -> bytes:
    """Chunked, with a digest behind the last chunk."""
    return answer(
        chunks(body)[:-2] + f"content-md5: {digest}\r\n\r\n".encode(), CHUNKED, length=False
    )


RIGHT: dict[str, Answers] = {
    "the same length twice": lambda _, b: answer(b, f"Content-Length: {len(b)}"),
    "a length with zeros before it": lambda _, b: answer(
        b, f"Content-Length: {len(b):030}", length=False
    ),
    "chunked": lambda _, b: answer(chunks(b), CHUNKED, length=False),
    "gzip of two members": lambda _, b: answer(
        gzip.compress(b[:99]) + gzip.compress(b[99:]) + b"\0" * 9, "Content-Encoding: gzip"
    ),
    "aws-chunked, which it is not": lambda _, b: answer(b, "Content-Encoding: aws-chunked"),
    "binary": lambda _, b: answer(b, "Content-Encoding: binary"),
    "no length": lambda _, b: answer(b, length=False),
    "a right digest": lambda _, b: answer(b, f"Content-MD5: {md5(b)}"),
    "a right digest of what was compressed": lambda _, b: answer(
        gzip.compress(b, mtime=0),
        "Content-Encoding: gzip",
        f"Content-MD5: {md5(gzip.compress(b, mtime=0))}",
    ),
    "a right digest behind it": lambda _, b: trailed(b, md5(b)),
    "called a web page": lambda _, b: answer(b, "Content-Type: text/html"),
}


def test_archived_as_it_is_meant(serve: Serve, plain_host: Host, root: Path) -> None:
    service, rows = one_each(serve, plain_host, RIGHT)
    report = run_here(service, root, service.recordings)
    assert [(rows[one.id], one.reason) for one in report.failed] == []
    assert report.exit_code == 0
    right = {id_ for id_ in rows if all(whole(root, service, one, id_) for one in KINDS)}
    assert [rows[id_] for id_ in rows if id_ not in right] == []


WRONG: dict[str, tuple[Answers, str]] = {
    "a blank behind chunked": (
        lambda _, b: answer(chunks(b), CHUNKED + " ", length=False),
        "transfer coding|rules of HTTP|bytes came",
    ),
    "identity, chunked": (
        lambda _, b: answer(chunks(b), "Transfer-Encoding: identity, chunked", length=False),
        "transfer coding",
    ),
    "two lengths": (
        lambda _, b: answer(b, f"Content-Length: {len(b) // 2}"),
        "two lengths that differ",
    ),
    "909 TB": (lambda _, b: answer(b, "Content-Length: 999999999999999", length=False), ""),
    "26 digits": (lambda _, b: answer(b, "Content-Length: " + "9" * 26, length=False), "length"),
    "gzip, cut": (
        lambda _, b: answer(gzip.compress(b)[:-9], "Content-Encoding: gzip"),
        "ended early",
    ),
    "gzip, then cut gzip": (
        lambda _, b: answer(
            gzip.compress(b[:99]) + gzip.compress(b[99:])[:-9], "Content-Encoding: gzip"
        ),
        "ended early",
    ),
    "deflate, twice": (
        lambda _, b: answer(
            zlib.compress(b[:99]) + zlib.compress(b[99:]), "Content-Encoding: deflate"
        ),
        "damaged",
    ),
    "a wrong digest": (lambda _, b: answer(b, f"Content-MD5: {md5(b + b'x')}"), "digest"),
    "a wrong digest behind it": (lambda _, b: trailed(b, md5(b + b"x")), "digest"),
    "a part, 200": (lambda _, b: answer(b[:9], f"Content-Range: bytes 0-8/{len(b)}"), "part|Size"),
    "an XML error with 200": (lambda _, b: answer(XML), "error document|recordingSize is|bytes"),
    "a JSON error with 200": (
        lambda _, b: answer(b'{"error": "expired"}'),
        "error document|announces|bytes",
    ),
    "a web page behind a long comment": (
        lambda _, b: answer(b"<!--" + b" a licence" * 300 + b"-->\n<html>"),
        "web page|announces|bytes",
    ),
    "an odd coding, and no length": (
        lambda _, b: answer(b, "Content-Encoding: utf-8", length=False),
        "without a length",
    ),
    "a part alone, compressed": (
        lambda _, b: answer(
            gz := gzip.compress(b[:1000]),
            "Content-Encoding: gzip",
            f"Content-Range: bytes 0-{len(gz) - 1}/{len(b)}",
            status="206 Partial Content",
        ),
        "compressed",
    ),
}


PROVED = ("mp4", "an odd coding, and no length")
"""By recordingSize."""


@pytest.mark.usefixtures("no_backoff")
def test_never_archived(serve: Serve, plain_host: Host, root: Path) -> None:
    """That file fails, by name; the others of the recording, and other recordings, are there."""
    service, rows = one_each(serve, plain_host, {name: WRONG[name][0] for name in WRONG})
    report = run_here(service, root, service.recordings, retries=1)
    assert report.exit_code == 1
    told = {one.id: (str(one.file), one.reason) for one in report.failed}
    assert len(told) == len(report.failed)
    found = states(root)
    for id_, (kind, name) in rows.items():
        there = [one for one in KINDS if whole(root, service, one, id_)]
        seen = (kind, name, told.get(id_))
        if (kind, name) == PROVED:
            assert (found[id_], there) == ("archived", list(KINDS)), seen
            continue
        assert (found[id_], there) == ("failed", [one for one in KINDS if one != kind]), seen
        assert told[id_][0] == kind, seen
        assert re.search(WRONG[name][1], told[id_][1]), seen


@pytest.mark.parametrize(("kind", "expired"), [("events", 0), ("thumbnail", 0), ("events", 1)])
def test_an_empty_file_is_archived_where_a_new_link_says_so_too(
    kind: Kind, expired: int, service: SimulatedService, odd: Odd, root: Path
) -> None:
    refusals = [answer(b"", status="403 Forbidden")] * expired
    odd(kind, lambda _, b: refusals.pop() if refusals else answer(b""))
    args: list[str | int | Path] = ["download", "--json", "--dest", root, "--min-free", "0", ID]
    result = run_cli(args, service.environment())
    assert report_of(result)["exit_code"] == 0
    assert "it is empty at the host, too" in result.stderr
    assert archive_files(root)[name_of(service, kind)].read_bytes() == b""
    assert service.requests.counts["links"] == 2 + expired


EMPTY: dict[str, bytes] = {
    "chunked": answer(chunks(b""), CHUNKED, length=False),
    "gzip, chunked": answer(
        chunks(gzip.compress(b"")), CHUNKED, "Content-Encoding: gzip", length=False
    ),
    "gzip": answer(gzip.compress(b""), "Content-Encoding: gzip"),
    "gzip, no length": answer(gzip.compress(b""), "Content-Encoding: gzip", length=False),
    "gzip of nothing": answer(b"", "Content-Encoding: gzip"),
}
"""In each of them the end is marked, so that it is no cut."""


@pytest.mark.parametrize("sent", EMPTY.values(), ids=EMPTY)
def test_an_empty_file_may_come_in_any_style(
    sent: bytes, service: SimulatedService, odd: Odd, root: Path
) -> None:
    odd("events", lambda _, b: sent)
    report = run_here(service, root, [ID])
    assert report.exit_code == 0, report.failed
    assert archive_files(root)[name_of(service, "events")].read_bytes() == b""
    assert service.requests.counts["links"] == 2


@pytest.mark.usefixtures("no_backoff")
@pytest.mark.parametrize("lines", [[], ["Content-Encoding: gzip"]], ids=["plain", "gzip"])
def test_nothing_at_all_is_no_empty_file(
    lines: list[str], service: SimulatedService, odd: Odd, root: Path
) -> None:
    odd("events", lambda _, b: answer(b"", *lines, length=False))
    report = run_here(service, root, [ID], retries=1)
    assert [one.reason for one in report.failed] == ["the file is empty"]
    assert name_of(service, "events") not in archive_files(root)


def test_an_empty_mp4_is_none(
    service: SimulatedService,
    odd: Odd,
    root: Path,
    no_backoff: None,
) -> None:
    odd("mp4", lambda _, b: answer(b""))
    assert run_here(service, root, [ID], retries=1).exit_code == 1
    assert name_of(service, "mp4") not in archive_files(root)


def test_parts_that_are_shorter_than_asked_for_are_progress(
    service: SimulatedService,
    odd: Odd,
    plain_host: Host,
    root: Path,
) -> None:
    def part(head: bytes, body: bytes) -> bytes:
        begin = asked_from(head) or 0
        return part_of(body, begin, 'ETag: "1"', end=begin + 7_000)

    odd("mp4", part)
    report = run_here(service, root, [ID], retries=0)
    assert report.exit_code == 0
    assert whole(root, service, "mp4")
    assert len(plain_host.requests) == 5
    assert report.bytes == sum(len(bytes_of(service, k)) for k in KINDS)


def _said(body: bytes, begin: int) -> bytes:
    span = f"Content-Range: bytes {begin}-{len(body) - 1}/{len(body)}"
    return answer(chunks(body[begin:]), CHUNKED, span, 'ETag: "1"', length=False)


PARTS: dict[str, Callable[[bytes, int], bytes]] = {
    "as long as the rest": lambda body, begin: answer(body[begin:], "X-Note: no ETag"),
    "said": _said,
    "nothing of it": lambda *_: answer(b"", 'ETag: "1"'),
    "untold": lambda body, begin: answer(chunks(body[begin:]), CHUNKED, 'ETag: "1"', length=False),
}


@pytest.mark.usefixtures("no_backoff")
@pytest.mark.parametrize("kind", ["mp4", "events"])
@pytest.mark.parametrize("how", PARTS)
def test_a_part_that_is_called_the_whole_file_is_not_taken_for_it(
    how: str,
    kind: Kind,
    service: SimulatedService,
    odd: Odd,
    root: Path,
) -> None:
    def called_whole(head: bytes, body: bytes) -> bytes:
        begin = asked_from(head)
        return PARTS[how](body, begin) if begin else answer(body, 'ETag: "1"')

    odd(kind, lambda _, body: answer(body, 'ETag: "1"')[:-5_000])
    assert run_here(service, root, [ID], retries=0).exit_code == 1
    odd(kind, called_whole)
    assert run_here(service, root, [ID], retries=int(how == "untold")).exit_code == 0
    assert whole(root, service, kind)


@pytest.mark.usefixtures("no_backoff")
def test_a_length_that_only_the_rest_tells_is_believed(
    service: SimulatedService,
    odd: Odd,
    plain_host: Host,
    root: Path,
) -> None:
    """Whether there is more need not be asked."""

    def cut_once(head: bytes, body: bytes) -> bytes:
        if b"range: bytes=15000-" in head.lower():
            return part_of(body, 15_000, 'ETag: "1"')
        return answer(chunks(body[:15_000])[:-5], CHUNKED, 'ETag: "1"', length=False)

    odd("events", cut_once)
    assert run_here(service, root, [ID], retries=1).exit_code == 0
    assert whole(root, service, "events")
    assert len(plain_host.requests) == 2


@pytest.mark.usefixtures("no_backoff")
def test_a_digest_that_came_with_the_first_half_counts_to_the_end(
    service: SimulatedService,
    odd: Odd,
    plain_host: Host,
    root: Path,
) -> None:
    """`Content-MD5` of the rest alone would say nothing of the file."""

    def damaged_once(head: bytes, body: bytes) -> bytes:
        if b"range: bytes=15000-" in head.lower():
            return part_of(body, 15_000, 'ETag: "1"', f"Content-MD5: {md5(body[15_000:])}")
        whole = answer(body, f"Content-MD5: {md5(body)}", 'ETag: "1"')
        begin = len(whole) - len(body)
        if len(plain_host.requests) > 1:
            return whole
        return whole[: begin + 14_999] + bytes([whole[begin + 14_999] ^ 1])

    odd("mp4", damaged_once)
    assert run_here(service, root, [ID], retries=2).exit_code == 0
    assert whole(root, service, "mp4")
    assert len(plain_host.requests) == 3


@pytest.mark.usefixtures("no_backoff")
@pytest.mark.parametrize("cut", [0, 9])
def test_nothing_is_kept_of_a_compressed_body_that_was_damaged(
    cut: int, service: SimulatedService, odd: Odd, root: Path
) -> None:
    """Only its end tells, once all bytes are here, and as many as there should be."""
    service.set_recordings([SimulatedRecording(ID, START, 300_000, 20_000, 6_000)])

    def damaged_once(head: bytes, body: bytes) -> bytes:
        if (begin := asked_from(head)) is not None:
            return part_of(body, begin)
        packed = gzip.compress(body, 0)  # as it is, between a head and a checksum
        packed = packed[:1000] + bytes([packed[1000] ^ 1]) + packed[1001 : len(packed) - cut]
        return answer(packed, "Content-Encoding: gzip")

    odd("mp4", damaged_once)
    run_here(service, root, [ID], retries=2)
    assert name_of(service, "mp4") not in archive_files(root)


@pytest.mark.usefixtures("no_backoff")
def test_the_digest_of_another_version_counts_no_more(
    service: SimulatedService,
    odd: Odd,
    plain_host: Host,
    root: Path,
) -> None:
    def changed(_: bytes, body: bytes) -> bytes:
        if len(plain_host.requests) > 1:
            return answer(body, 'ETag: "2"')
        other = body[:1000] + bytes([body[1000] ^ 1]) + body[1001:]
        return answer(other, f"Content-MD5: {md5(other)}", 'ETag: "1"')[:-15_000]

    odd("mp4", changed)
    assert run_here(service, root, [ID], retries=2).exit_code == 0
    assert whole(root, service, "mp4")
    assert len(plain_host.requests) == 2


def test_an_mp4_of_the_right_size_may_have_boxes_of_its_own(
    service: SimulatedService, odd: Odd, root: Path
) -> None:
    """That they add up must only be so where nobody tells how long the file is."""

    def own(body: bytes) -> bytes:
        return body[:3] + bytes([body[3] + 1]) + body[4:]

    odd("mp4", lambda _, body: answer(own(body), length=False))
    assert run_here(service, root, [ID]).exit_code == 0
    found = (root / name_of(service, "mp4")).read_bytes()
    assert found == own(bytes_of(service, "mp4"))


@pytest.mark.usefixtures("no_backoff")
def test_the_digest_of_a_refusal_is_not_the_files(
    service: SimulatedService,
    odd: Odd,
    plain_host: Host,
    root: Path,
) -> None:
    def all_but_its_end(head: bytes, body: bytes) -> bytes:
        if b"range: bytes=" not in head.lower():
            return answer(chunks(body)[:-5], CHUNKED, 'ETag: "1"', length=False)
        lines = [f"Content-Range: bytes */{len(body)}", f"Content-MD5: {md5(b'no')}"]
        return answer(b"no", *lines, status="416 Range Not Satisfiable")

    odd("mp4", all_but_its_end)
    assert run_here(service, root, [ID], retries=2).exit_code == 0
    assert whole(root, service, "mp4")
    assert len(plain_host.requests) == 2


@pytest.mark.usefixtures("no_backoff")
@pytest.mark.parametrize("honours", [True, False], ids=["If-Range", "no If-Range"])
def test_back_ends_with_validators_of_their_own(
    honours: bool,
    service: SimulatedService,
    odd: Odd,
    plain_host: Host,
    root: Path,
) -> None:
    """A host that cuts each answer, and tells another ETag each time, is got through all the same.

    The bytes that are here are proved by those that come again, not thrown away: once all of them
    must, as the file may have changed, and from then on, for ever, the last ones.
    """

    def one_of_many(head: bytes, body: bytes) -> bytes:
        begin = asked_from(head)
        lines = [f'ETag: "{len(plain_host.requests)}"', "Accept-Ranges: bytes"]
        if begin is None or (honours and b"if-range" in head.lower()):
            return answer(body, *lines)[: len(body) // 2]
        return part_of(body, begin, *lines)

    odd("mp4", one_of_many)
    report = run_here(service, root, [ID], retries=3)
    assert report.exit_code == 0, report.failed
    assert whole(root, service, "mp4")
    assert len(plain_host.requests) == (3 if honours else 4)


@pytest.mark.parametrize("text", [b"<Code>ExpiredToken</Code>", b'{"message": "link expired"}'])
@pytest.mark.parametrize("piece", [3, 4000])
def test_a_400_that_speaks_of_expiry_gets_a_new_link(
    piece: int, text: bytes, service: SimulatedService, odd: Odd, root: Path
) -> None:
    gone = [answer(chunks(text, piece), CHUNKED, status="400 Bad Request", length=False)]
    odd("mp4", lambda _, body: gone.pop() if gone else answer(body))
    assert run_here(service, root, [ID]).exit_code == 0
    assert service.requests.counts["links"] == 2


def test_a_link_is_renewed_as_often_as_there_was_progress(
    service: SimulatedService, root: Path, no_backoff: None
) -> None:
    for after in (5_000, 6_000, 7_000):
        service.fail_files(faults.reset(after), "mp4", ID, times=1)
        service.fail_files(faults.status(403), "mp4", ID, times=1)
    assert run_here(service, root, [ID]).exit_code == 0
    assert service.requests.counts["links"] == 4


def test_ignore_size(service: SimulatedService, root: Path, no_backoff: None) -> None:
    """A service that tells another size than the host sends is believed only without the option."""
    service.fail_files(Fault(size=25_000), "mp4", ID)
    report = run_here(service, root, [ID], retries=0)
    assert report.exit_code == 1
    assert "announces 25000 bytes, recordingSize is 30000" in next(iter(report.failed)).reason
    assert run_here(service, root, [ID], ignore_size=True).exit_code == 0
    assert archive_files(root)[name_of(service, "mp4")].stat().st_size == 25_000


@pytest.mark.parametrize("kind", KINDS)
def test_a_length_that_was_too_much_is_not_waited_for(
    kind: Kind, service: SimulatedService, root: Path, no_backoff: None
) -> None:
    """Every night all bytes come, and then the connection ends; the length is told no more."""
    service.fail_files(faults.wrong_length(10) | faults.ignored_range(), kind, ID)
    assert run_here(service, root, [ID], retries=1, ignore_size=True).exit_code == 1
    service.on_request.clear()
    service.fail_files(faults.no_length() | faults.ignored_range(), kind, ID)
    report = run_here(service, root, [ID], retries=1, ignore_size=True)
    assert report.exit_code == 0, [*report.failed]
    assert whole(root, service, kind)


@pytest.mark.usefixtures("no_backoff")
@pytest.mark.parametrize("kind", ["events", "thumbnail"])
@pytest.mark.parametrize("jobs", [1, 4])
def test_what_nobody_asked_for_comes_as_a_kept_connection_is_used_again(
    kind: Kind, jobs: int, serve: Serve, plain_host: Host, root: Path
) -> None:
    """Nothing tells it from the answer, but that there is one more behind it."""
    service = serve([SimulatedRecording(id_, START, 9000, 7000, 8000) for id_ in range(ID, ID + 9)])
    rows: dict[int, tuple[Kind, Answers]] = {
        id_: (kind, lambda _, b: answer(b)) for id_ in service.recordings
    }
    act(service, plain_host, rows)
    right, begun = plain_host.script, set()

    def script(sock: socket.socket) -> None:
        asked = sock.getpeername()
        # In one piece: the answer is there before what came instead of it is flushed.
        before = answer(b"WRONG FILE") if asked in begun else b""
        begun.add(asked)
        sock.sendall(before + sent_by(right))

    plain_host.script = script
    report = run_here(service, root, service.recordings, jobs=jobs, retries=0)
    assert [(one.id, one.file, one.reason) for one in report.failed] == []
    wrong = [id_ for id_ in service.recordings if not whole(root, service, kind, id_)]
    assert wrong == []
