"""A host that sends an answer too many on a kept connection: each later file is the one before.

Nothing tells it from the answers themselves. That there is one more shows only behind the last.
"""

from __future__ import annotations

import json
import random
import re
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from support import LONG, run_cli, run_here, states
from support.host import Authority, Host, Script, answer
from support.odd import ID, START, Answers, act, answer_for, bytes_of, sent_by, whole
from support.service import Serve

from g2a_archive.demo import SimulatedRecording, SimulatedService, sample_recordings
from g2a_archive.demo.recordings import KINDS, Kind
from g2a_archive.download.stopping import StopSwitch
from g2a_archive.errors import ExitCode

COUNT = 9


class OneBehind:
    """Tells of the answer to the request before, and of that to this one."""

    def __init__(self, right: Script) -> None:
        self._right = right
        self._held = b""

    def __call__(self) -> tuple[bytes, bytes]:
        before, self._held = self._held, sent_by(self._right)
        return before, self._held


def plainly(service: SimulatedService, host: Host, kind: Kind, *, lead: bool = False) -> Script:
    """Have a host send the files of a kind as they are, or lead to them by redirects."""

    def leading(head: bytes, _: bytes) -> bytes:
        asked = re.match(rb"GET /a/(\d+)", head)
        assert asked
        where = f"Location: {service.link(int(asked[1]), kind)}"
        return answer(b"", where, status="302 Found")

    answers: Answers = leading if lead else lambda _, body: answer(body)
    act(service, host, dict.fromkeys(service.recordings, (kind, answers)))
    return host.script


Others = Callable[[socket.socket], object]


def out_of_step(
    service: SimulatedService,
    host: Host,
    kind: Kind,
    others: Others | None = None,
    *,
    lead: bool = False,
) -> None:
    """Have a host be one answer behind on its first connection, from the second file to the last.

    `others` does what it does on others: it sends the file.
    """
    right = plainly(service, host, kind, lead=lead)
    asked: dict[object, int] = defaultdict(int)
    answers = OneBehind(right)

    def script(sock: socket.socket) -> None:
        peer = sock.getpeername()
        asked[peer] += 1
        if peer != next(iter(asked)):
            (others or right)(sock)
            return
        before, true = answers()
        first, last = asked[peer] == 1, asked[peer] == COUNT
        sock.sendall(true if first else before + (true if last else b""))

    host.script = script


@pytest.fixture
def service(serve: Serve) -> SimulatedService:
    ids = range(ID, ID + COUNT)
    return serve([SimulatedRecording(id_, START, 9000, 7000, 8000) for id_ in ids])


def wrong(root: Path, service: SimulatedService, kind: Kind) -> list[int]:
    return [id_ for id_ in service.recordings if not whole(root, service, kind, id_)]


@pytest.mark.parametrize("lead", [False, True], ids=["files", "redirects"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_later_file_is_the_one_before(
    kind: Kind, lead: bool, service: SimulatedService, plain_host: Host, root: Path
) -> None:
    out_of_step(service, plain_host, kind, lead=lead)
    report = run_here(service, root, service.recordings, jobs=1, retries=0)
    assert wrong(root, service, kind) == []
    assert (report.exit_code, report.archived, report.files) == (0, COUNT, 3 * COUNT)
    most = COUNT - (1 if lead else 2)  # what had no name yet as one too many came is not believed
    assert len(report.kept_aside) <= most
    asked = len(plain_host.requests)
    report = run_here(service, root, service.recordings, jobs=1)
    assert (report.exit_code, report.already_archived) == (0, COUNT)
    assert len(plain_host.requests) == asked
    assert run_cli(["verify", "-d", str(root)]).returncode == 0


@pytest.mark.parametrize("lost", [False, True], ids=["known", "catalogue lost"])
def test_what_may_be_wrong_is_owed_until_it_came_again(
    lost: bool, service: SimulatedService, plain_host: Host, root: Path
) -> None:
    """And what is there is not taken for it, whatever was recorded of that."""
    fine = threading.Event()
    right = plainly(service, plain_host, "events")
    sorry = answer(b"", status="503 Later")
    out_of_step(
        service,
        plain_host,
        "events",
        lambda sock: right(sock) if fine.is_set() else sock.sendall(sorry),
    )
    report = run_here(service, root, service.recordings, jobs=1, retries=0)
    doubted = list(service.recordings)[1:]
    assert (report.exit_code, report.archived, sorted(report.failed.ids)) == (1, 1, doubted)
    found = json.loads(run_cli(["verify", "-d", str(root), "--json"]).stdout)["findings"]
    # What had no name yet as one too many came, as the last had none, was not believed.
    assert {int(one["recording"]) for one in found} <= set(doubted[:-1])
    assert {one["problem"] for one in found} <= {"it may be another recording's file"}
    assert {states(root)[id_] for id_ in doubted} == {"failed"}
    if lost:
        (root / ".g2a-archive/catalog.sqlite3").unlink()
    fine.set()
    report = run_here(service, root, service.recordings, jobs=1)
    assert report.exit_code == 0
    assert wrong(root, service, "events") == []


def test_a_run_that_is_stopped_claims_none_of_them(
    service: SimulatedService, plain_host: Host, root: Path
) -> None:
    """What came behind the last answer was seen before."""
    switch = StopSwitch()

    def stop(_: socket.socket) -> None:
        switch.stop(ExitCode.SIGTERM)
        plain_host.silence()

    out_of_step(service, plain_host, "events", stop)
    report = run_here(service, root, service.recordings, jobs=1, switch=switch)
    doubted = list(service.recordings)[1:]
    assert (report.exit_code, report.archived, sorted(report.unfinished)) == (143, 1, doubted)
    plainly(service, plain_host, "events")
    report = run_here(service, root, service.recordings)
    assert (report.exit_code, report.archived) == (0, COUNT - 1)
    assert wrong(root, service, "events") == []


@pytest.mark.parametrize("last", ["503 Later", "404 Not Found", "103 Early Hints"])
def test_the_answer_too_many_is_no_file(
    last: str, service: SimulatedService, plain_host: Host, root: Path
) -> None:
    """It is one too many all the same."""
    answers = OneBehind(plainly(service, plain_host, "events"))

    def script(sock: socket.socket) -> None:
        before, true = answers()
        asked = len(plain_host.requests)
        odd = asked == COUNT and plain_host.accepted == 1
        sock.sendall(before if 1 < asked <= COUNT and plain_host.accepted == 1 else true)
        if odd:
            sock.sendall(answer(b"", status=last))

    plain_host.script = script
    report = run_here(service, root, service.recordings, jobs=1, retries=0)
    assert wrong(root, service, "events") == []
    assert (report.exit_code, report.archived) == (0, COUNT)


@pytest.mark.parametrize("there", [False, True], ids=["fetched", "adopted"])
def test_what_was_right_is_counted_once(
    there: bool, service: SimulatedService, plain_host: Host, root: Path
) -> None:
    """Though it is fetched again as another answer came behind the last, of nobody's file."""
    right = plainly(service, plain_host, "events")
    day = root / f"{START:%Y/%m/%d}"
    day.mkdir(parents=True)
    for id_ in service.recordings if there else ():
        (day / f"{id_}.events").write_bytes(bytes_of(service, "events", id_))

    def script(sock: socket.socket) -> None:
        right(sock)
        if len(plain_host.requests) == COUNT:
            right(sock)

    plain_host.script = script
    report = run_here(service, root, service.recordings, jobs=1)
    assert len(plain_host.requests) > COUNT
    assert (report.exit_code, report.archived, report.kept_aside) == (0, COUNT, [])
    adopted = COUNT if there else 0
    assert (report.files, report.adopted) == (3 * COUNT - adopted, adopted)


def test_what_was_asked_for_as_the_run_is_stopped_is_waited_for(
    service: SimulatedService, plain_host: Host, root: Path
) -> None:
    """Or what came on that connection before would be claimed: it has been one behind for long."""
    switch, asked = StopSwitch(), 6
    answers = OneBehind(plainly(service, plain_host, "events"))

    def script(sock: socket.socket) -> None:
        before, true = answers()
        number = len(plain_host.requests)
        if number == asked:
            switch.stop(ExitCode.SIGTERM)
        time.sleep(0.05)  # a host that takes its time
        sock.sendall(true if number == 1 else before)
        if number == asked:
            sock.sendall(true)

    plain_host.script = script
    report = run_here(service, root, service.recordings, jobs=1, switch=switch)
    assert (report.exit_code, report.archived) == (143, 1)
    plainly(service, plain_host, "events")
    report = run_here(service, root, service.recordings)
    assert (report.exit_code, report.archived) == (0, COUNT - 1)
    assert wrong(root, service, "events") == []


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        ("mp4", answer(b"\0\0\0\x18ftypisom of another length")),
        ("mp4", answer(b"no video" * 1125)),
        ("events", answer(b"", status="400 Bad Request")),
        ("thumbnail", answer(b"x", "Content-MD5: 1B2M2Y8AsgTpgAmY7PhCfg==")),
    ],
    ids=["another length", "no MP4", "400", "another digest"],
)
def test_what_makes_no_sense_is_not_believed_where_another_answer_follows(
    kind: Kind, first: bytes, service: SimulatedService, plain_host: Host, root: Path
) -> None:
    """It is no attempt at the file, either."""
    right = plainly(service, plain_host, kind)

    def script(sock: socket.socket) -> None:
        if len(plain_host.requests) == 2:
            sock.sendall(first + sent_by(right))
        else:
            right(sock)

    plain_host.script = script
    report = run_here(service, root, service.recordings, jobs=1, retries=0)
    assert (report.exit_code, len(report.failed)) == (0, 0)
    assert wrong(root, service, kind) == []
    assert plain_host.accepted > 2  # a new connection for each


@pytest.mark.skipif(not LONG, reason="hosts that take their time: G2A_LONG_TESTS=1")
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_answers_too_many_at_any_time(
    secure: bool, seed: int, serve: Serve, root: Path, authority: Authority
) -> None:
    """From a host that takes its time to answer: the right one comes long after the wrong one."""
    service = serve(sample_recordings(60, seed=seed, mp4_size=5000), rate_limit=None)
    host, chance = Host(authority.context() if secure else None), random.Random(seed)

    def file(id_: int, kind: str) -> bytes:
        return answer(bytes_of(service, cast(Kind, kind), id_))

    def script(sock: socket.socket) -> None:
        asked = re.match(rb"GET /(\d+)/(\w+)\?", host.head)
        assert asked
        kind = asked[2].decode()
        time.sleep(0.02)
        sock.sendall(file(int(asked[1]), kind))
        if chance.random() < 0.02:
            time.sleep(chance.random() / 50)
            sock.sendall(file(chance.choice([*service.recordings]), kind))

    host.script = script
    answer_for(service, host)
    try:
        report = run_here(service, root, service.recordings, timeout=20.0)
        assert report.exit_code == 0
        assert [kind for kind in KINDS if wrong(root, service, kind)] == []
    finally:
        host.close()
