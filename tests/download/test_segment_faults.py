"""One large file over several connections, any of which may fail; and runs that are killed."""

from __future__ import annotations

import json
import os
import random
import re
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
import requests
from support import (
    LONG,
    PATIENCE,
    archive_size,
    assert_archive_equals,
    assert_nothing_false,
    plain_args,
    run_here,
    start_cli,
)
from support.host import Host, answer, part_of
from support.odd import act, bytes_of
from support.service import Serve

from g2a_archive.archive.partial import Partial, Validator
from g2a_archive.demo import Fault, Request, SimulatedRecording, SimulatedService, faults
from g2a_archive.demo.recordings import KINDS
from g2a_archive.download.transfer import attempt, sharing
from g2a_archive.download.transfer.segments import Segments
from g2a_archive.transport.answer import Answer
from g2a_archive.transport.downloads import Downloads

SIZE = 300_000
BIG = 1_400_000_001
START = datetime(2014, 5, 6, 7, 8, 9, tzinfo=UTC)


@pytest.fixture
def service(serve: Serve) -> SimulatedService:
    """A large recording and some small ones, whose end lets idle workers help with it."""
    small = [SimulatedRecording(BIG + n, START) for n in range(1, 5)]
    large = SimulatedRecording(BIG, START, SIZE, None, None)
    return serve([large, *small], rate=200_000.0)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("g2a_archive.download.schedule.MIN_SPLIT_SIZE", 17_000)
    monkeypatch.setattr("g2a_archive.download.transfer.segments.SMALLEST", 14_000)
    monkeypatch.setattr("g2a_archive.download.transfer.segments.LARGEST", 40_000)


@pytest.fixture(autouse=True)
def _nobody_writes_into_a_file_that_is_no_longer_shared(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[None]:
    """Its descriptor may be another file's by then."""
    busy = []
    share = sharing.fetch_segments

    def note(tools: Any, transfer: Any, part: Any, answer: Any, segments: Segments) -> None:
        try:
            share(tools, transfer, part, answer, segments)
        finally:
            busy.append(segments._busy)

    monkeypatch.setattr(attempt, "fetch_segments", note)
    yield
    assert not any(busy)


@pytest.fixture(autouse=True)
def _every_answer_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An answer that nobody closes leaves its connection half read."""
    held: list[Answer] = []
    get, close = Downloads.get, Answer.close

    def note(self: Downloads, url: str, headers: Mapping[str, str]) -> Answer:
        answer = get(self, url, headers)
        held.append(answer)
        return answer

    def forget(self: Answer) -> None:
        if self in held:
            held.remove(self)
        close(self)

    monkeypatch.setattr(Downloads, "get", note)
    monkeypatch.setattr(Answer, "close", forget)
    yield
    assert [answer.status for answer in held] == []


def sent(service: SimulatedService, id_: int = BIG) -> int:
    return sum(entry.sent for entry in service.requests.file_requests("mp4", id_))


def parts(service: SimulatedService) -> list[str]:
    """The ranges that were asked for."""
    requests = service.requests.file_requests("mp4", BIG)
    return [entry.headers["range"] for entry in requests if "range" in entry.headers]


def test_the_bytes_that_are_here_are_counted_beyond_a_hole() -> None:
    segments = Segments(4)
    segments.open(100, 1000, [(500, 600)])
    segments.arrived(700, 50)
    segments.arrived(750, 50)
    assert (segments.here, segments.extents) == (300, [(500, 600), (700, 800)])
    segments.arrived(100, 400)
    assert (segments.here, segments.position) == (700, 600)


def test_nobody_is_through_while_another_fetches_the_last_piece() -> None:
    segments = Segments(1)
    segments.open(0, 1000)
    assert segments.claim() == (0, 1000)
    assert not segments.wait(0)
    segments.release(400, 1000)
    assert not segments.wait(0)
    assert segments.claim() == (400, 1000)
    assert not segments.wait(0)
    segments.release(1000, 1000)
    assert segments.wait(0)


def test_idle_workers_help(service: SimulatedService, root: Path) -> None:
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_archive_equals(service, root)
    assert len(parts(service)) >= 3
    assert sent(service) <= 1.1 * SIZE
    assert service.requests.leaks == []


FAULTS = {
    "reset": faults.reset(10_000),
    "reset at once": faults.reset(0),
    "close": faults.close(10_000),
    "stall": faults.stall(10_000),
    "trickle": faults.trickle(500),
    "no answer": faults.drop(),
    "hangs up": faults.hang_up(),
    "ignored range": faults.ignored_range(),
    "another file": faults.changed(1),
    "another file that claims to be the same": Fault(version=1, ignore_range=True),
    "another file, from a host that ignores If-Range": faults.changed(1),
    "begins elsewhere": faults.wrong_range(start=5),
    "another total": faults.wrong_range(total=5),
    "416": faults.always_416(),
    "503": faults.status(503),
    "410": faults.status(410),
    "web page": faults.html(),
    "gzip": faults.gzipped(),
    "no length": faults.no_length(),
    "chunked": faults.chunked(),
    "no length, cut": faults.no_length() | faults.close(10_000),
}


def ignore_if_range(request: Request) -> None:
    id_ = request.recording_id or 0
    if "ignores If-Range" in dict(enumerate(FAULTS)).get(id_ - BIG, ""):
        without_if_range(request)


def without_if_range(request: Request) -> None:
    cast(dict[str, str], request.headers).pop("if-range", None)


def lasting(name: str) -> bool:
    """A file that changed for good is another file, and rightly archived."""
    return not FAULTS[name].version


@pytest.mark.usefixtures("no_backoff")
@pytest.mark.parametrize("times", [1, None])
def test_parts_that_fail(times: int | None, serve: Serve, root: Path) -> None:
    """Each of these files is fetched by four workers, and has a fault of its own."""
    names = [name for name in FAULTS if times or lasting(name)]
    large = [SimulatedRecording(BIG + n, START, SIZE, None, None) for n in range(len(names))]
    # At this rate, time enough for help with each of them to be asked for.
    service = serve([*large, SimulatedRecording(BIG - 1, START)], rate=150_000.0)
    if times:
        service.on_request.append(ignore_if_range)
    rules = {
        name: service.fail_files(FAULTS[name], "mp4", BIG + n, times, skip=1)
        for n, name in enumerate(names)
    }
    jobs, ids = 4 * len(names), service.recordings
    timeout = 1.0 if times else 0.5  # which some wait for four times
    report = run_here(service, root, ids, jobs=jobs, segments=4, timeout=timeout, retries=3)
    assert [name for name, rule in rules.items() if not rule.applied] == []
    assert_nothing_false(service, root)
    failed = {names[failure.id - BIG]: failure.reason for failure in report.failed}
    assert times is None or failed == {}  # what stays may be met by whoever has the file, too
    assert report.archived == len(names) + 1 - len(failed)
    service.on_request.clear()
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_archive_equals(service, root)
    if times == 1:
        much = {name: sent(service, BIG + n) for n, name in enumerate(names)}
        assert {name: count for name, count in much.items() if count > 1.9 * SIZE} == {}


@pytest.mark.usefixtures("no_backoff")
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("another file, from a host that ignores If-Range", "another version of the file"),
        ("begins elsewhere", "another part than was asked for"),
        ("503", "answered 503 to a part of the file"),
    ],
)
def test_what_is_wrong_with_a_part_is_told(
    name: str, told: str, service: SimulatedService, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As from servers behind a balancer, each of which has an `ETag` of its own."""
    if "ignores" in name:
        service.on_request.append(without_if_range)
    service.behaviour.rate = 80_000.0  # it lasts until there was help, however busy the machine
    service.fail_files(FAULTS[name], "mp4", BIG, skip=4)
    run_here(service, root, service.recordings)
    assert told in caplog.text


def test_what_a_helper_leaves_is_fetched_by_another(
    service: SimulatedService, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It costs the file no attempt."""
    service.fail_files(FAULTS["503"], "mp4", BIG, times=1, skip=1)
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_archive_equals(service, root)
    assert "bytes came" not in caplog.text


@pytest.mark.usefixtures("no_backoff")
@pytest.mark.parametrize("after", [2_000, 70_000, 170_000])
def test_the_connection_that_all_began_with_fails(
    after: int, service: SimulatedService, root: Path
) -> None:
    # No reset, which takes along what was not read yet: how much that is, is the system's affair.
    service.fail_files(faults.close(after), "mp4", BIG, times=1)
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_archive_equals(service, root)
    assert sent(service) <= 1.2 * SIZE


def test_without_a_validator_nobody_helps(service: SimulatedService, root: Path) -> None:
    service.fail_files(Fault(headers={"ETag": None, "Last-Modified": None}), "mp4", BIG)
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_archive_equals(service, root)
    assert parts(service) == []


def test_the_disk_fails_while_others_help(
    service: SimulatedService, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("g2a_archive.archive.partial.Partial.write_at", full)
        report = run_here(service, root, service.recordings)
    assert report.exit_code == 1  # a try shows that there is space: it is this file alone
    assert [failure.id for failure in report.failed] == [BIG]
    assert "No space left on device" in next(iter(report.failed)).reason
    assert_nothing_false(service, root)
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_archive_equals(service, root)


@pytest.mark.parametrize(("first", "begin"), [(1000, 50_000), (100, 150)])
def test_what_is_here_behind_a_hole_is_not_fetched_again(
    first: int, begin: int, service: SimulatedService, root: Path
) -> None:
    """But for what the first bytes that are looked at bring."""
    body = bytes_of(service, "mp4", BIG)
    told = requests.head(service.link(BIG, "mp4"), timeout=10).headers
    folder = root / ".g2a-archive/partial"
    folder.mkdir(parents=True)
    part = Partial(folder, f"{BIG}.mp4")
    part.begin(SIZE, Validator.checked(told["ETag"], told["Last-Modified"]))
    part.append(body[:first])
    part.write_at(body[begin:100_000], begin)
    part.sparse, part.extents = True, [(begin, 100_000)]
    part.flush()
    part.close()
    service.requests.clear()
    report = run_here(service, root, [BIG], retries=0, jobs=1)
    assert report.exit_code == 0
    if first == 1000:
        assert report.bytes == SIZE - first - (100_000 - begin)
        begun = [int(part.removeprefix("bytes=").split("-")[0]) for part in parts(service)]
        assert [at for at in begun if at < 100_000] == [1000]  # the answer goes on to the hole
    assert_archive_equals(service, root, [BIG])


_BEFORE = """
from g2a_archive.download import schedule
from g2a_archive.download.transfer import segments, sharing
# Everything is much smaller than in life, so the times are, too.
sharing._SAVE_EVERY = 0.0
schedule.MIN_SPLIT_SIZE, segments.SMALLEST, segments.LARGEST = 17_000, 14_000, 40_000
"""


def held(root: Path) -> tuple[int, int]:
    """Bytes that a later run need not fetch: of whole files, and as the notes beside others say.

    And those of them that are behind a hole.
    """
    beyond, whole = 0, sum(path.stat().st_size for path in root.glob("2014/*/*/[0-9]*.*"))
    for path in root.glob(".g2a-archive/partial/*.json"):
        with suppress(FileNotFoundError):  # it is whole by now
            note = json.loads(path.read_text())
            size = path.with_suffix(".part").stat().st_size
            whole += size if note["size"] is None else note["size"]
            beyond += sum(end - begin for begin, end in note["extents"])
    return whole + beyond, beyond


@pytest.mark.parametrize("seed", range(100 if LONG else 1))
def test_killed_while_several_connections_fetch_one_file(
    seed: int, serve: Serve, root: Path
) -> None:
    """What the notes hold is kept; the next run asks for all the rest, and for nothing else."""
    chance = random.Random(seed)
    large = [SimulatedRecording(BIG + n, START, 700_000, None, None) for n in range(2)]
    small = [SimulatedRecording(BIG + n, START) for n in range(2, 6)]
    service = serve([*large, *small], rate=150_000.0)
    args = plain_args(root, *service.recordings)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    size, here, holes = archive_size(service), 0, 0
    for kill in range(4):
        come = here + int(chance.uniform(0.1, 0.3) * (size - here))
        with start_cli(args, service.environment(), before=_BEFORE, **quiet) as process:
            while here < come or not (kill or holes):  # the first leaves some, at the latest
                with suppress(subprocess.TimeoutExpired):
                    pytest.fail(f"it ended with {process.wait(chance.uniform(0.0, 0.02))}")
                here, holes = held(root)
            process.kill()
        assert_nothing_false(service, root)
        here, _ = held(root)
    service.behaviour.rate = 600_000.0
    report = run_here(service, root, service.recordings)
    assert (report.exit_code, report.bytes) == (0, size - here)
    assert_archive_equals(service, root)


def test_what_a_helper_brought_counts_where_the_first_connection_ends(
    serve: Serve, plain_host: Host, root: Path, no_backoff: None
) -> None:
    service = serve([SimulatedRecording(BIG, START, SIZE)])
    act(service, plain_host, {BIG: ("mp4", lambda _, b: answer(b))})
    helped = threading.Event()
    body = bytes_of(service, "mp4", BIG)
    written = root / f".g2a-archive/partial/{BIG}.mp4.part"
    tag = 'ETag: "1"'

    def script(sock: socket.socket) -> None:
        asked = re.search(rb"(?i)range: bytes=(\d+)-(\d*)", plain_host.head)
        if asked is None:
            whole, at = answer(body, tag, "Accept-Ranges: bytes"), 20_000
            sock.sendall(whole[:at])
            while not helped.wait(0.01):
                sock.sendall(whole[at : at + 10])
                at += 10
            raise OSError  # the connection ends
        begin, end = int(asked[1]), int(asked[2] or len(body) - 1) + 1
        sock.sendall(part_of(body, begin, tag, end=end))
        while not helped.is_set() and written.stat().st_size < end:
            os.sched_yield()
        helped.set()

    plain_host.script = script
    report = run_here(service, root, [BIG], jobs=2)
    assert report.exit_code == 0
    assert report.bytes == sum(len(bytes_of(service, kind, BIG)) for kind in KINDS)


_SOON = """
from g2a_archive.download import schedule
schedule.MIN_SPLIT_SIZE = 17_000
"""


def test_killed_as_soon_as_there_is_a_hole(serve: Serve, plain_host: Host, root: Path) -> None:
    """The note says so by then: what is between would pass for zeros of the file's own."""
    service = serve([SimulatedRecording(BIG, START, 3_000_000)])
    act(service, plain_host, {BIG: ("mp4", lambda _, b: answer(b))})
    helped = threading.Event()
    body = bytes_of(service, "mp4", BIG)
    tag = 'ETag: "1"'

    def in_parts(sock: socket.socket) -> None:
        asked = re.search(rb"(?i)range: bytes=(\d+)-(\d*)", plain_host.head)
        assert asked
        begin, end = int(asked[1]), int(asked[2] or len(body) - 1) + 1
        sock.sendall(part_of(body, begin, tag, end=end))
        helped.set()

    def script(sock: socket.socket) -> None:
        if b"range: bytes=" in plain_host.head.lower():
            return in_parts(sock)
        whole, at = answer(body, tag, "Accept-Ranges: bytes"), 400_000
        sock.sendall(whole[:at])
        while not helped.wait(0.01):
            sock.sendall(whole[at : at + 100])
            at += 100
        return plain_host.silence()

    plain_host.script = script
    part = root / f".g2a-archive/partial/{BIG}.mp4.part"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    args = plain_args(root, *service.recordings)
    with start_cli(args, service.environment(), before=_SOON, **quiet) as process:
        assert helped.wait(PATIENCE)
        while part.stat().st_size < 1 << 20:
            assert process.poll() is None
        process.kill()
    plain_host.script = in_parts
    assert run_here(service, root, [BIG]).exit_code == 0
    assert_archive_equals(service, root)
