"""Room on the disk: one file that finds none, or takes too much, keeps no others out."""

from __future__ import annotations

import gzip
import os
import re
import socket
import threading
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from support import archive_files, assert_nothing_false, catalog_rows, mounts, run_here
from support.host import Host, answer, chunks
from support.odd import START, Answers, act, bytes_of
from support.service import Serve

from g2a_archive.demo import SimulatedRecording, sample_recordings
from g2a_archive.demo.faults import reset
from g2a_archive.demo.recordings import Kind
from g2a_archive.errors import ExitCode


@pytest.mark.parametrize(
    ("kind", "begin", "why"),
    [
        ("events", b"", "their number was not announced"),
        ("mp4", b"\0\0\0\x18ftypisom", "their number was not announced"),
        ("mp4", b"\0\0\0\x18ftypisom", "more bytes came than recordingSize tells"),
    ],
)
def test_a_body_without_end_takes_no_others_room(
    kind: Kind, begin: bytes, why: str, serve: Serve, plain_host: Host, root: Path
) -> None:
    """Neither tonight, nor by what it leaves in any night to come."""
    service = serve(sample_recordings(3, mp4_size=30_000))
    endless = min(service.recordings)
    act(service, plain_host, {i: (kind, lambda _, b: answer(b)) for i in service.recordings})
    right = plain_host.script

    def script(sock: socket.socket) -> None:
        if f"GET /a/{endless}?" not in plain_host.head.decode():
            return right(sock)
        sock.sendall(answer(begin, length=False))
        while True:
            sock.sendall(b"x" * (1 << 20))

    plain_host.script = script
    with mounts.tmpfs(root, "128m"):
        unsized = "recordingSize" not in why
        report = run_here(service, root, service.recordings, ignore_size=unsized, retries=1)
        assert report.exit_code == 1
        assert [(one.id, one.file) for one in report.failed] == [(endless, kind)]
        assert why in next(iter(report.failed)).reason
        assert [*(root / ".g2a-archive/partial").iterdir()] == []


HUGE: dict[str, Callable[[bytes], bytes]] = {
    "no length": lambda body: answer(body, length=False),
    "chunked": lambda body: answer(chunks(body), "Transfer-Encoding: chunked", length=False),
    "gzip": lambda body: answer(gzip.compress(body, 1), "Content-Encoding: gzip"),
}


@pytest.mark.parametrize("more", [0, 1])
def test_a_body_whose_length_is_not_announced_has_a_bound(
    more: int, serve: Serve, plain_host: Host, root: Path
) -> None:
    """One that is compressed, too: the length that is announced is not the file's."""
    body = b"\xff\xd8\xff" + bytes((16 << 20) - 3 + more)
    service = serve(sample_recordings(len(HUGE)))
    ways = dict(zip(service.recordings, HUGE, strict=True))
    sent = {id_: HUGE[way](body) for id_, way in ways.items()}

    def huge(id_: int) -> tuple[Kind, Answers]:
        return "thumbnail", lambda *_: sent[id_]

    act(service, plain_host, {id_: huge(id_) for id_ in ways})
    report = run_here(service, root, service.recordings, retries=0)
    failed = {ways[one.id]: one.reason for one in report.failed}
    assert failed.keys() == (HUGE.keys() if more else set())
    assert all("more than 16.0 MB came, and" in reason for reason in failed.values())


def begin_only(host: Host, ids: Collection[int], *, length: int, begin: bytes) -> None:
    """Have the host announce so many bytes of these recordings' files, and send the first alone."""
    right = host.script

    def script(sock: socket.socket) -> None:
        asked = re.match(rb"GET /a/(\d+)", host.head)
        if asked and int(asked[1]) in ids:
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (length, begin))
            host.silence()
        else:
            right(sock)

    host.script = script


def test_lengths_that_nobody_confirms_take_no_others_room(
    serve: Serve, plain_host: Host, root: Path
) -> None:
    """Each would fit, and all together would not; none of it ever comes."""
    service = serve(sample_recordings(8, mp4_size=30_000))
    ids = list(service.recordings)
    act(service, plain_host, {id_: ("events", lambda _, b: answer(b)) for id_ in ids})
    begin_only(plain_host, ids[:4], length=80 << 20, begin=b"begun")
    with mounts.tmpfs(root, "128m"):
        report = run_here(service, root, ids, timeout=1.0, retries=0, jobs=8)
        assert report.exit_code == 1
        assert {one.id for one in report.failed} == set(ids[:4])
        assert report.archived == 4


def test_lengths_that_the_disk_has_no_room_for_keep_no_others_out(
    serve: Serve, plain_host: Host, root: Path
) -> None:
    """However many hosts' words they are: nothing but the word tells of each."""
    service = serve(sample_recordings(6, mp4_size=30_000))
    act(service, plain_host, {i: ("events", lambda _, b: answer(b)) for i in service.recordings})
    begin_only(plain_host, service.recordings, length=60 << 20, begin=b"x")
    with mounts.tmpfs(root, "80m"):
        (root / "others").write_bytes(bytes(40 << 20))
        report = run_here(service, root, service.recordings, retries=0)
        assert report.exit_code == 1
        failed = {(one.id, one.file) for one in report.failed}
        assert failed == {(id_, "events") for id_ in service.recordings}
        assert len([name for name in archive_files(root) if name.endswith(".mp4")]) == 6


def test_a_disk_is_used_as_far_as_its_room_goes(serve: Serve, root: Path) -> None:
    """Not all that are asked for at once fit together; those that do are archived, whole."""
    service = serve(sample_recordings(8, mp4_size=16 << 20), rate_limit=None)
    with mounts.tmpfs(root, "96m"):
        for already in (0, 4):
            report = run_here(service, root, service.recordings, min_free=16 << 20, jobs=8)
            assert report.exit_code == ExitCode.STORAGE
            assert len(report.abort_messages) == 1
            assert "not enough space" in report.abort_messages[0]
            assert len(report.failed) == 0
            assert report.archived == 4 - already
        assert_nothing_false(service, root)
        disk = os.statvfs(root)
        assert disk.f_bavail * disk.f_frsize >= 16 << 20
        mounts.grow(root, "256m")
        assert run_here(service, root, service.recordings).exit_code == 0
        assert len([one for one in archive_files(root) if one.endswith(".mp4")]) == 8


def test_where_one_has_no_room_what_is_under_way_and_what_is_small_still_comes(
    serve: Serve, plain_host: Host, root: Path
) -> None:
    sizes = (16 << 20, 36 << 20, 30_000)
    service = serve([SimulatedRecording(n, START, size) for n, size in enumerate(sizes, 1)])
    act(service, plain_host, {id_: ("mp4", lambda _, b: answer(b)) for id_ in service.recordings})
    right, small = plain_host.script, threading.Event()

    def script(sock: socket.socket) -> None:
        if b"GET /a/1?" in plain_host.head:
            data = answer(bytes_of(service, "mp4", 1))
            sock.sendall(data[: 8 << 20])
            small.wait(30)
            return sock.sendall(data[8 << 20 :])
        if b"GET /a/3?" in plain_host.head:
            small.set()
        return right(sock)

    plain_host.script = script
    with mounts.tmpfs(root, "40m"):
        report = run_here(service, root, service.recordings, jobs=2)
        assert report.exit_code == ExitCode.STORAGE
        assert (report.archived, list(report.unfinished)) == (2, [2])
        assert_nothing_false(service, root)


@pytest.mark.parametrize("begun", [0, 1 << 20])
def test_what_does_not_fit_beside_others_waits_for_them(
    begun: int, serve: Serve, root: Path, no_backoff: None
) -> None:
    """Also where nobody told its size beforehand, and on a disk that a year has for itself; be it
    all of a file, or the rest of one that is begun."""
    service = serve(sample_recordings(6, mp4_size=16 << 20), rate_limit=None)
    for id_ in service.recordings if begun else ():
        service.fail_files(reset(begun), "mp4", id_, times=1)
    years = {one.start.year for one in service.recordings.values()}
    with mounts.tmpfs(root, "64m"), ExitStack() as drives:
        for year in years:
            drives.enter_context(mounts.tmpfs(root / str(year), "128m"))
        report = run_here(service, root, service.recordings, ignore_size=True, jobs=6, segments=1)
        assert report.exit_code == 0, [*report.abort_messages, *report.failed]
        assert_nothing_false(service, root)
    assert len(service.requests.file_requests("mp4")) < 24  # asked for again once there is room


def test_a_year_s_disk_has_room_again_where_others_failed(
    serve: Serve, plain_host: Host, root: Path
) -> None:
    service = serve(sample_recordings(4, mp4_size=16 << 20), rate_limit=None)
    ids = list(service.recordings)
    act(service, plain_host, {id_: ("mp4", lambda _, b: answer(b)) for id_ in ids})
    begin_only(plain_host, ids[:2], length=16 << 20, begin=b"....ftypisom")
    with mounts.tmpfs(root, "256m"), mounts.tmpfs(root / "2014", "40m"):
        report = run_here(service, root, ids, timeout=3.0, retries=0, jobs=4)
        assert {one.id for one in report.failed} == set(ids[:2])
        assert report.archived == 2


def test_a_disk_that_others_fill_has_room_for_what_is_recorded(
    serve: Serve, plain_host: Host, root: Path
) -> None:
    service = serve([SimulatedRecording(1, START, 8 << 20)])
    act(service, plain_host, {1: ("mp4", lambda _, b: answer(b))})
    right, part = plain_host.script, root / ".g2a-archive/partial/1.mp4.part"

    def script(sock: socket.socket) -> None:
        data = answer(bytes_of(service, "mp4", 1))
        sock.sendall(data[: 4 << 20])
        while part.stat().st_size < 3 << 20:
            os.sched_yield()
        with suppress(OSError), open(root / "others", "wb", buffering=0) as others:
            while others.write(bytes(4096)):
                pass
        sock.sendall(data[4 << 20 :])

    plain_host.script = script
    with mounts.tmpfs(root, "32m"):
        report = run_here(service, root, [1])
        assert (report.exit_code, len(report.abort_messages)) == (ExitCode.STORAGE, 1)
        assert "No space left on device" in report.abort_messages[0]
        assert catalog_rows(root, "SELECT exit_code FROM run") == [(ExitCode.STORAGE,)]
        (root / "others").unlink()
        plain_host.script = right
        assert run_here(service, root, [1]).exit_code == 0
