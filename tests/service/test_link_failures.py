"""Asking for links: what a failing answer means, and when it is done."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support import (
    LONG,
    assert_archive_equals,
    assert_nothing_false,
    catalog_rows,
    run_here,
    states,
)
from support.service import Serve

from g2a_archive.demo import (
    Fault,
    Request,
    Response,
    SimulatedRecording,
    SimulatedService,
    faults,
    sample_recordings,
)
from g2a_archive.errors import ExitCode, Interrupted
from g2a_archive.models import FileKind, Link, LinkResult
from g2a_archive.service.client import Service

EVENTS = (FileKind.EVENTS,)


PASSING = [
    faults.status(429),
    faults.status(429, retry_after="0"),
    faults.status(500),
    faults.status(502),
    faults.status(503, retry_after="0"),
    faults.drop(),
    faults.refuse(),
    faults.reset(40),
    faults.close(40),
    faults.html(),
    faults.no_length() | faults.close(100),
    Fault(response=Response(200, {}, b"")),
    Fault(response=Response(200, {}, b"42")),
    Fault(response=Response(200, {}, b'[{"recordingId": 14000')),
    Fault(response=Response(200, {}, b"[" * 100_000)),
    Fault(response=Response(200, {}, b"\xff\xfe\x00")),
]


def one_by_one(
    serve: Serve, found: Sequence[Fault], monkeypatch: pytest.MonkeyPatch, most: float = math.inf
) -> tuple[SimulatedService, Counter[int]]:
    """A service that is asked for one recording a call, each of which meets a fault of its own.

    It does so `most` times; the counter says how often each was asked for.
    """
    monkeypatch.setattr("g2a_archive.service.client.LIST_LIMIT", 1)
    service = serve(len(found), rate_limit=None)
    faulty = dict(zip(service.recordings, found, strict=True))
    asked: Counter[int] = Counter()
    lock = threading.Lock()

    def fail(request: Request) -> Fault | None:
        if request.call != "links":
            return None
        ((_, id_),) = request.query
        with lock:
            asked[int(id_)] += 1
            return faulty[int(id_)] if asked[int(id_)] <= most else None

    service.on_request.append(fail)
    return service, asked


@pytest.mark.usefixtures("at_once")
def test_a_call_that_fails_twice_is_tried_again(
    serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, asked = one_by_one(serve, PASSING, monkeypatch, 2)
    report = run_here(service, root, service.recordings, retries=2)
    ids = list(service.recordings)
    assert [(PASSING[ids.index(f.id)], f.reason) for f in report.failed] == []
    assert report.exit_code == 0
    assert_archive_equals(service, root)
    numbers = {n: asked[id_] for n, id_ in enumerate(ids)}
    assert {n: PASSING[n] for n in numbers if numbers[n] != 3} == {}


LASTING = [
    (faults.drop(), "link call: the connection was closed early"),
    (faults.status(429), "link call: the service answered 429 (too many calls)"),
    (faults.status(500), "link call: the service answered 500"),
    (faults.stall(10), "link call: nothing came within the time-out"),
    (faults.status(404), "link call: the service answered 404 (check --api-url)"),
    (faults.redirect("https://example.org/"), "the service answered 302 (check --api-url)"),
    (faults.html(), "link call: the answer is not JSON"),
    (faults.close(100), "link call: the connection was closed early"),
    (Fault(response=Response(200, {}, b"{}")), "the answer is not a list of recordings"),
    (faults.gzipped() | Fault(headers={"Content-Encoding": "deflate"}), "is damaged"),
]
"""Not three in a row that do not reach the service, after which it is left alone."""


@pytest.mark.usefixtures("at_once")
def test_a_call_that_fails_to_the_end(
    serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, _ = one_by_one(serve, [fault for fault, _ in LASTING], monkeypatch)
    report = run_here(service, root, service.recordings, timeout=0.5)
    assert report.exit_code == ExitCode.SERVICE
    told = {failure.id: failure.reason for failure in report.failed}
    assert len(told) == len(report.failed) == len(LASTING)
    for id_, (_, reason) in zip(service.recordings, LASTING, strict=True):
        assert reason in told[id_]
    assert {failure.file for failure in report.failed} == {None}
    assert set(states(root).values()) <= {"failed"}
    service.on_request.clear()
    assert run_here(service, root, [], owed=True).exit_code == 0
    assert_archive_equals(service, root)


@pytest.mark.usefixtures("at_once")
def test_a_failing_chunk_does_not_stop_the_others(
    serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("g2a_archive.service.client.LIST_LIMIT", 4)
    service = serve(12, rate_limit=None)
    ids = list(service.recordings)
    bad = ids[4:8]

    def fail(request: Request) -> Response | None:
        asked = {int(value) for _, value in request.query if request.call == "links"}
        return Response(500) if asked & set(bad) else None

    service.on_request.append(fail)
    report = run_here(service, root, ids)
    assert report.exit_code == ExitCode.FAILED  # not 7: other calls were answered
    assert sorted(failure.id for failure in report.failed) == sorted(bad)
    assert_archive_equals(service, root, [id_ for id_ in ids if id_ not in bad])


@pytest.mark.usefixtures("at_once")
def test_a_service_that_is_gone(serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("g2a_archive.service.client.LIST_LIMIT", 2)
    service = serve(20, rate_limit=None)
    ids = list(service.recordings)
    service.stop()
    report = run_here(service, root, ids)
    assert report.exit_code == ExitCode.SERVICE
    assert sorted(failure.id for failure in report.failed) == sorted(ids)
    not_tried = [f for f in report.failed if f.reason.startswith("not tried")]
    assert len(not_tried) >= 20 - 2 * 5  # it was given up after a few calls
    service.start()
    assert run_here(service, root, [], owed=True).exit_code == 0
    assert_archive_equals(service, root)


@pytest.mark.usefixtures("at_once")
def test_1200_ids_are_three_calls(serve: Serve, root: Path) -> None:
    service = serve(sample_recordings(1200, unavailable_every=1), rate_limit=None)
    report = run_here(service, root, service.recordings)
    assert report.exit_code == ExitCode.UNAVAILABLE
    assert sorted(len(call.query) for call in service.requests.calls("links")) == [200, 500, 500]


@pytest.mark.usefixtures("at_once")
def test_many_ids_of_which_half_are_unavailable(
    serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, limit = (100_000, 500) if LONG else (240, 60)
    monkeypatch.setattr("g2a_archive.service.client.LIST_LIMIT", limit)
    recordings = sample_recordings(count, unavailable_every=2, events_size=80)
    service = serve(recordings, rate_limit=None, log=False)
    report = run_here(service, root, service.recordings, kinds=EVENTS)
    assert report.exit_code == ExitCode.UNAVAILABLE
    assert (report.archived, len(report.unavailable)) == (count // 2, count // 2)
    assert service.requests.counts["links"] == count // limit
    assert service.requests.counts["file"] == count // 2
    found = "SELECT state, count(*) FROM recording GROUP BY state ORDER BY state"
    assert catalog_rows(root, found) == [("archived", count // 2), ("unavailable", count // 2)]

    service.requests.clear()
    service.set_state(report.unavailable[0], "ready")
    again = run_here(service, root, service.recordings, kinds=EVENTS)
    assert (again.already_archived, again.archived) == (count // 2, 1)
    assert service.requests.counts["links"] == math.ceil(count / 2 / limit)
    assert service.requests.counts["file"] == 1


@pytest.mark.usefixtures("at_once")
def test_a_link_call_that_a_stop_ends_leaves_its_ids_unfinished(
    serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the main thread hears of the call's end before it hears of the stop."""
    monkeypatch.setattr("g2a_archive.service.client.LIST_LIMIT", 10)
    service = serve(20, rate_limit=None)
    links = Service.links

    def stopped(self: Service, ids: Sequence[int], *, of: int) -> LinkResult:
        if self.ever_answered:
            raise Interrupted
        return links(self, ids, of=of)

    monkeypatch.setattr(Service, "links", stopped)
    report = run_here(service, root, service.recordings)
    assert report.archived == 10
    assert set(report.unfinished) == set(list(service.recordings)[10:])


@pytest.mark.usefixtures("at_once")
def test_links_are_asked_for_just_before_they_are_needed(
    serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("g2a_archive.service.client.LIST_LIMIT", 10)
    service = serve(sample_recordings(100, mp4_size=8000, events_size=80), rate_limit=None)
    ahead: list[int] = []

    def look(request: Request) -> None:
        if request.call == "links":
            begun = {entry.recording_id for entry in service.requests.file_requests()}
            linked = 10 * len(service.requests.calls("links"))
            ahead.append(linked - len(begun))

    service.on_request.append(look)
    assert run_here(service, root, service.recordings, jobs=2, kinds=EVENTS).exit_code == 0
    assert len(ahead) == 10
    # One chunk waits, one is being asked for (by either of two callers), one is being begun.
    assert max(ahead) <= 40
    # And yet no worker waits for links: each call but the first came while files were in flight.
    assert min(ahead[1:]) >= 10


@pytest.mark.parametrize("age", [47 * 3600 + 1.0, 10 * 24 * 3600.0])
def test_a_link_older_than_47_hours_is_renewed_before_it_is_used(
    age: float, service: SimulatedService, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def old(link: Link, wall: float, monotonic: float) -> float:
        first_call = link.url.endswith("00000000")  # its serial number
        return age if first_call else 0.0

    monkeypatch.setattr(Link, "age", old)
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_archive_equals(service, root)
    keys = {entry.query[0][1][-8:] for entry in service.requests.file_requests()}
    assert "00000000" not in keys
    assert service.requests.counts["links"] <= 4


@pytest.mark.usefixtures("at_once")
def test_a_file_that_is_not_offered_any_more_when_its_link_is_renewed(
    serve: Serve, root: Path
) -> None:
    fields: dict[str, object] = {}
    recording = SimulatedRecording(7, datetime(2014, 5, 6, tzinfo=UTC), fields=fields)
    service = serve([recording])
    service.on_links.append(lambda _: fields.update(eventsUrl=None))
    service.fail_files(faults.status(410), "events")
    report = run_here(service, root, [7])
    assert (report.exit_code, list(report.unfinished)) == (1, [])
    reason = "the service no longer gives a link to it"
    assert [(one.file, one.reason) for one in report.failed] == [("events", reason)]
    assert states(root) == {7: "failed"}


def test_a_recording_that_is_gone_when_its_link_is_renewed(
    service: SimulatedService, root: Path
) -> None:
    id_ = next(iter(service.recordings))
    service.on_links.append(lambda _: service.set_state(id_, "unavailable"))
    service.fail_files(faults.status(410), recording_id=id_)
    report = run_here(service, root, service.recordings)
    assert report.exit_code == 1
    assert {failure.id for failure in report.failed} == {id_}
    reasons = {failure.reason for failure in report.failed}
    assert reasons == {"no new link: no longer in the service's answer"}
    assert (list(report.unavailable), len(report.failed)) == ([], 3)
    assert_nothing_false(service, root)
