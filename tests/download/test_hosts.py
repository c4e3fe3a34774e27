"""File hosts that cannot be reached: who asks them, and who waits for what comes of it."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support import assert_archive_equals, run_here
from support.host import Authority, Host, Script, answer
from support.odd import FIELDS
from support.service import Serve

from g2a_archive.demo import Fault, Request, SimulatedService
from g2a_archive.demo.faults import drop, redirect, stall, status, trickle
from g2a_archive.demo.messages import Response
from g2a_archive.transport.errors import NetworkError
from g2a_archive.transport.hosts import CircuitBreaker

HOST, ELSEWHERE = "host.example:8080", "other.example"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("g2a_archive.transport.hosts.time.monotonic", made)
    return made


@pytest.fixture
def hosts(clock: Clock) -> CircuitBreaker:
    """One host was not reached three times in a row; it may be asked from 10 s on."""
    made = CircuitBreaker(timeout=30.0, retries=4, pause=lambda tries, wait: wait or 10.0 * tries)
    for _ in range(3):
        made.check(HOST)
        made.record_failure(HOST, "connection refused")
    return made


def refusal(hosts: CircuitBreaker) -> NetworkError:
    with pytest.raises(NetworkError, match="connection refused") as caught:
        hosts.check(HOST)
    return caught.value


def test_one_asks_for_all_and_the_others_look_what_came_of_it(
    hosts: CircuitBreaker, clock: Clock
) -> None:
    """A host that is back in a moment must not cost its files a minute."""
    clock.now = 9.5
    assert (refusal(hosts).not_sent, refusal(hosts).failed_host) == (True, HOST)
    hosts.check(ELSEWHERE)
    clock.now = 10.0
    hosts.check(HOST)  # this one asks
    assert refusal(hosts).not_sent
    hosts.record_success(HOST)
    hosts.check(HOST)


def test_files_wait_without_being_handed_out(hosts: CircuitBreaker, clock: Clock) -> None:
    assert hosts.due(HOST, 5.0, tries=0) == 6.0
    assert hosts.due(HOST, 9.5, tries=0) == 10.0
    assert hosts.due(ELSEWHERE, 9.5, tries=0) == 9.5
    clock.now = 10.0
    assert hosts.due(HOST, 10.0, tries=0) == 10.0
    hosts.check(HOST)
    assert hosts.due(HOST, 12.0, tries=0) == 13.0
    hosts.record_success(HOST)
    assert hosts.due(HOST, 12.0, tries=0) == 12.0


def test_a_host_is_given_up_after_as_many_attempts_as_a_file(
    hosts: CircuitBreaker, clock: Clock
) -> None:
    for tries in range(1, 5):
        clock.now += 10.0 * tries - 1.0
        assert hosts.due(HOST, clock.now, tries=0) == clock.now + 1.0
        assert not refusal(hosts).final
        clock.now += 1.0
        hosts.check(HOST)
        hosts.record_failure(HOST, "connection refused")
    assert hosts.due(HOST, clock.now, tries=0) == clock.now  # its files fail at once
    assert refusal(hosts).final
    clock.now += 60.0
    hosts.check(HOST)
    assert refusal(hosts).final


@pytest.mark.parametrize("asked", [False, True])
def test_what_began_before_it_was_down_gives_no_host_up(
    asked: bool, hosts: CircuitBreaker, clock: Clock
) -> None:
    """Sixty-four that fail together tell no more than three, also where one has asked since."""
    if asked:
        clock.now = 10.0
        hosts.check(HOST)
    for _ in range(61):
        hosts.record_failure(HOST, "connection refused")
    assert hosts.due(HOST, clock.now, tries=0) == clock.now + 1.0
    assert not refusal(hosts).final


@pytest.mark.parametrize(("well", "most"), [(False, 3), (True, 40)], ids=["never", "before"])
def test_faults_that_come_at_once_count_in_a_row(
    well: bool, most: int, hosts: CircuitBreaker, clock: Clock
) -> None:
    """Of a host that had answers, more of them: what is left may be the files that never work."""
    if well:
        hosts.record_success(ELSEWHERE)

    def faults(count: int) -> None:
        for _ in range(count):
            hosts.check(ELSEWHERE)
            hosts.record_failure(ELSEWHERE, "it answered 503", at_once=True)

    faults(most - 1)
    assert hosts.due(ELSEWHERE, clock.now, tries=0) == clock.now
    hosts.record_success(ELSEWHERE)
    faults(40)
    with pytest.raises(NetworkError, match="the file host is down: it answered 503") as caught:
        hosts.check(ELSEWHERE)
    assert caught.value.not_sent
    hosts.record_failure(ELSEWHERE, "it answered 503", at_once=True, wait=50.0)
    assert hosts.due(ELSEWHERE, 49.5, tries=1) == 50.0
    clock.now = 50.0
    hosts.check(ELSEWHERE)  # one looks, and finds it well again
    hosts.record_success(ELSEWHERE)
    hosts.check(ELSEWHERE)


def test_what_failed_most_often_and_what_is_new_ask_by_turns(
    hosts: CircuitBreaker, clock: Clock
) -> None:
    """Neither those that never work nor those whose first requests are lost speak for all."""
    for first, now in ((2, 10.0), (0, 30.0), (2, 60.0)):
        clock.now = now
        hosts.tried(HOST, 2)
        late = {tries: hosts.due(HOST, now, tries=tries) - now for tries in range(3)}
        assert late == {tries: 0.0 if tries == first else 1.0 for tries in range(3)}
        hosts.check(HOST)
        hosts.record_failure(HOST, "connection refused")


# --- whole runs -----------------------------------------------------------------------------------


@pytest.fixture
def gone(tmp_path: Path, authority: Authority) -> Host:
    """A host that nobody can talk to, as its certificate is of another authority's."""
    folder = tmp_path / "other"
    folder.mkdir()
    return Host(Authority(folder).context())


def lead_astray(service: SimulatedService, host: Host, ids: list[int]) -> None:
    """Have the files of these recordings redirected there."""
    for id_ in ids:
        service.fail_files(redirect(host.url), recording_id=id_)


@pytest.mark.parametrize("retries", [0, 2])
def test_a_dead_end_of_redirects_keeps_no_others_out(
    retries: int, serve: Serve, gone: Host, root: Path, no_backoff: None
) -> None:
    """Nor is it asked anew for each of the files that lie there."""
    service = serve(40, rate_limit=None)
    ids = list(service.recordings)
    lead_astray(service, gone, ids[:30])
    report = run_here(service, root, ids, retries=retries, jobs=2)
    gone.close()
    assert {one.id for one in report.failed} == set(ids[:30])
    assert "of no authority that is trusted here" in [*report.failed][-1].reason
    assert_archive_equals(service, root, ids[30:])
    assert gone.accepted <= 10


def lies_at(service: SimulatedService, host: Host, ids: list[int]) -> None:
    """Have the links to these recordings' files lead to another host."""
    entries = [
        {
            "recordingId": one.id,
            "recordingStartTime": one.start.isoformat(),
            "recordingSize": str(one.mp4_size),
            **{
                field: host.url if one.id in ids else service.link(one.id, kind)
                for kind, field in FIELDS.items()
            },
        }
        for one in service.recordings.values()
    ]
    service.fail(Fault(response=Response.json(entries)), call="links")


@pytest.fixture(params=[lead_astray, lies_at])
def beside(request: pytest.FixtureRequest, serve: Serve, plain_host: Host) -> SimulatedService:
    """A service of 40 recordings, of which the first 30 lie at another host."""
    service = serve(40, rate_limit=None)
    request.param(service, plain_host, [*service.recordings][:30])
    return service


def assert_others_come(service: SimulatedService, host: Host, root: Path, **settings: Any) -> None:
    """What lies at the other host fails, is asked for now and then, and keeps no others out."""
    ids = list(service.recordings)
    report = run_here(service, root, ids, retries=2, jobs=4, **settings)
    assert {one.id for one in report.failed} == set(ids[:30])
    assert_archive_equals(service, root, ids[30:])
    assert len(host.requests) <= 20


def test_a_host_that_never_answers_does_not_hold_all_workers(
    beside: SimulatedService, plain_host: Host, root: Path, no_backoff: None
) -> None:
    """Each attempt at it is a whole time-out, and its recordings may come first every night."""
    good = [*beside.recordings][30:]
    plain_host.script = lambda _: plain_host.silence()
    asked_before: list[int] = []

    def note(request: Request) -> None:
        if request.call == "file" and request.recording_id in good:
            asked_before.append(len(plain_host.requests))

    beside.on_request.append(note)
    assert_others_come(beside, plain_host, root, timeout=0.5)
    assert len(asked_before) == 30
    assert asked_before[-1] <= 12


def goes_away(sock: socket.socket) -> None:
    """Close the connection, without a word."""
    sock.shutdown(socket.SHUT_RDWR)


def is_busy(sock: socket.socket) -> None:
    sock.sendall(answer(b"", status="503 Slow Down"))


def talks_nonsense(sock: socket.socket) -> None:
    sock.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
    goes_away(sock)


@pytest.mark.parametrize("answers", [goes_away, is_busy, talks_nonsense])
def test_a_host_that_has_no_answer_is_not_asked_for_each_file(
    answers: Script, beside: SimulatedService, plain_host: Host, root: Path, no_backoff: None
) -> None:
    """It takes nobody's time, but to be asked 18 times for each of 30 recordings helps it not."""
    plain_host.script = answers
    assert_others_come(beside, plain_host, root)


def test_a_host_that_breaks_down_in_the_middle(serve: Serve, root: Path, no_backoff: None) -> None:
    service = serve(30, rate_limit=None)
    ids = list(service.recordings)
    for id_ in ids[10:]:
        service.fail_files(status(503), recording_id=id_)
    report = run_here(service, root, ids, retries=2, jobs=4)
    assert_archive_equals(service, root, ids[:10])
    assert {one.id for one in report.failed} == set(ids[10:])
    assert "it answered 503" in [*report.failed][-1].reason
    assert len(service.requests.file_requests()) <= 120


@pytest.mark.parametrize("fault", [drop(), status(503)], ids=["closed", "503"])
@pytest.mark.parametrize(("count", "times", "retries"), [(12, 1, 5), (12, 2, 5), (2, 3, 3)])
def test_a_host_that_loses_the_first_requests_of_each_file(
    count: int, times: int, retries: int, fault: Fault, serve: Serve, root: Path, no_backoff: None
) -> None:
    """As one does that fetches what is asked for from a slow store first."""
    service = serve(count, rate_limit=None)
    for id_ in service.recordings:
        for kind in FIELDS:
            service.fail_files(fault, kind, id_, times)
    report = run_here(service, root, service.recordings, jobs=4, retries=retries)
    assert len(report.failed) == 0
    assert_archive_equals(service, root)


@pytest.mark.parametrize("retries", [0, 2])
def test_a_recording_that_never_works_says_nothing_of_its_host(
    retries: int, serve: Serve, root: Path, no_backoff: None
) -> None:
    """Although it comes first, and nothing else came from there before."""
    service = serve(8, rate_limit=None)
    bad, *good = service.recordings
    service.fail_files(status(503), recording_id=bad)
    report = run_here(service, root, [bad, *good], jobs=1, retries=retries)
    assert {one.id for one in report.failed} == {bad}
    assert_archive_equals(service, root, good)


@pytest.mark.parametrize("no", [status(503), status(429), drop()], ids=["503", "429", "closed"])
def test_a_host_that_takes_fewer_connections_than_there_are_jobs(
    no: Fault, serve: Serve, root: Path
) -> None:
    """Its files wait until another has come."""
    service = serve(20, rate_limit=None)
    lock, admitted = threading.Lock(), list[Request]()

    def two_at_a_time(request: Request) -> Fault | None:
        if request.call != "file":
            return None
        with lock:
            under_way = [one for one in service.requests.file_requests() if not one.finished]
            if sum(any(one is other for other in admitted) for one in under_way) >= 2:
                return no
            admitted.append(request)
        return trickle(200_000)

    service.on_request.append(two_at_a_time)
    report = run_here(service, root, service.recordings, jobs=8, retries=3)
    assert len(report.failed) == 0
    assert_archive_equals(service, root)


_SLOW_DOWN = (
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
_BUSY = b"<Error><Code>ServerBusy</Code></Error>"


@pytest.mark.parametrize(
    "no",
    [status(429), status(503, _SLOW_DOWN), status(503, _BUSY)],
    ids=["429", "S3", "Azure"],
)
def test_a_host_that_is_to_be_asked_less_often(
    no: Fault, serve: Serve, root: Path, no_backoff: None
) -> None:
    """None of its files fails for that: not each of them is asked for until it has."""
    service = serve(30, rate_limit=None)
    lock, free_at = threading.Lock(), [0.0]

    def one_in_30_ms(request: Request) -> Fault | None:
        if request.call != "file":
            return None
        with lock:
            now = time.monotonic()
            if free_at[0] > now:
                return no
            free_at[0] = max(free_at[0], now - 0.06) + 0.03
        return None

    service.on_request.append(one_in_30_ms)
    report = run_here(service, root, service.recordings, jobs=8, retries=8)
    assert len(report.failed) == 0
    assert_archive_equals(service, root)


def test_files_that_stall_say_nothing_of_their_host(
    serve: Serve, root: Path, no_backoff: None
) -> None:
    service = serve(12, rate_limit=None)
    ids = list(service.recordings)
    for id_ in ids[:8]:
        service.fail_files(stall(10), recording_id=id_, kind="mp4")
    report = run_here(service, root, ids, retries=0, jobs=8, timeout=0.5)
    assert {(one.id, one.file) for one in report.failed} == {(id_, "mp4") for id_ in ids[:8]}
    assert not any("is down" in one.reason for one in report.failed)
