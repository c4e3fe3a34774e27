"""Files that meet a fault each: what the report says, what is on disk, what the next run asks for.

Each row of the tables is tried with all three files of a recording, where it makes sense for all,
on new connections and on kept ones; all of them in the same run, where each may harm itself only.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from support import assert_archive_equals, assert_nothing_false, leftovers, run_here, states
from support.service import Serve

from g2a_archive.console.report import Report
from g2a_archive.demo import Fault, Request, Response, SimulatedRecording, SimulatedService, faults
from g2a_archive.demo.recordings import KINDS, Kind
from g2a_archive.download.stopping import StopSwitch
from g2a_archive.download.transfer.decisions import OVERLAP
from g2a_archive.errors import ExitCode
from g2a_archive.service.pace import RateLimiter

SIZE = 150_000
PART = 60_000
START = datetime(2014, 5, 6, 7, 8, 9, tzinfo=UTC)
BAD, GOOD = 1_400_000_001, 1_400_000_002
FEW = 20_000
"""Bytes that may be fetched more than once where a run resumes: of a reset, a buffer is lost."""
SHORT = 0.6
"""Seconds of the time-out, where it is waited for."""

Step = tuple[Fault, int | None]


@dataclass(frozen=True)
class Row:
    """Faults in their order, how often each; the reason (empty: all is well); the traffic.

    `most` are the bytes that both runs together may be sent of the file.
    """

    name: str
    steps: list[Step]
    reason: str = ""
    most: int = SIZE + FEW
    kinds: tuple[Kind, ...] = KINDS
    slow: bool = False
    """It is a time-out that ends it."""
    requests: int = 1
    """Requests for the file that the next run needs."""


def page(content_type: str) -> Fault:
    body = b"<!DOCTYPE html><html><body>Please sign in</body></html>" * 4
    return Fault(response=Response(200, {"Content-Type": content_type}, body))


BROKEN = (faults.reset(PART), 1)
WHOLE_TWICE = 2 * SIZE + FEW
AGAIN = SIZE + PART + FEW
WEB_PAGE = "the link was answered with a web page, also with a new link"

SURVIVED = [
    Row("reset once", [BROKEN]),
    Row("reset again and again", [(faults.reset(PART // 4), None)], most=WHOLE_TWICE),
    Row("reset before the first byte", [(faults.reset(0), 1)]),
    Row("no answer", [(faults.drop(), 1)]),
    Row("refused", [(faults.refuse(), 1)]),
    Row("stall", [(faults.stall(PART), 1)], slow=True),
    Row("stall at every turn", [(faults.stall(SIZE // 3), None)], slow=True),
    Row("stall before the first byte", [(faults.stall(0), 1)], slow=True),
    Row("short body, honest length", [(faults.close(PART), 1)]),
    Row("short body, no length", [(faults.no_length() | faults.close(PART), 1)], kinds=("mp4",)),
    Row("short body, chunked", [(faults.chunked() | faults.close(PART), 1)]),
    Row(
        "longer than announced", [(faults.wrong_length(-500), 1)], kinds=("mp4",), most=WHOLE_TWICE
    ),
    Row("shorter than announced", [(faults.wrong_length(500), 1)], most=WHOLE_TWICE),
    Row("no length", [(faults.no_length(), None)]),
    Row("chunked", [(faults.chunked(), None)]),
    Row("hangs up after each answer", [(faults.hang_up(), None)]),
    Row("ignored range", [BROKEN, (faults.ignored_range(), None)], most=AGAIN),
    Row("changed", [(faults.changed(1) | faults.reset(PART), 1)], most=AGAIN),
    Row("changed its size", [(faults.changed(1, SIZE - 9) | faults.reset(PART), 1)], most=AGAIN),
    Row("part begins elsewhere", [BROKEN, (faults.wrong_range(start=10), None)], most=WHOLE_TWICE),
    Row("part of another total", [BROKEN, (faults.wrong_range(total=10), None)], most=WHOLE_TWICE),
    Row("416", [BROKEN, (faults.always_416(), None)], most=AGAIN),
    Row("stall after the last byte", [(faults.chunked() | faults.stall(SIZE), 1)], slow=True),
    Row("401 once", [(faults.status(401), 1)]),
    Row("403 once", [(faults.status(403), 1)]),
    Row("404 once", [(faults.status(404), 1)]),
    Row("410 once", [(faults.status(410), 1)]),
    Row("410 after a part", [BROKEN, (faults.status(410), 1)]),
    Row("web page once", [(faults.html(), 1)]),
    Row("web page that calls itself a file", [(page("video/mp4"), 1)]),
    Row("web page after a part", [BROKEN, (faults.html(), 1)], most=AGAIN),
    Row("429", [(faults.status(429), 1)]),
    Row("429 with Retry-After", [(faults.status(429, retry_after="0"), 1)]),
    Row("503", [(faults.status(503), 1)]),
    Row("503 with Retry-After", [(faults.status(503, retry_after="0"), 1)]),
    Row("503 after a part", [BROKEN, (faults.status(503), 1)]),
    Row("500", [(faults.status(500), 1)]),
    Row("gzip", [(faults.gzipped(), None)]),
    Row("gzip, broken", [(faults.gzipped() | faults.reset(300), 1)]),
    Row("empty", [(faults.empty(), 1)]),
    Row("empty after a part", [BROKEN, (faults.empty(), 1)], most=AGAIN),
]

FAILED = [
    Row("reset", [(faults.reset(0), None)], "connection reset"),
    Row("reset after a part", [BROKEN, (faults.reset(0), None)], "connection reset at 0.1 MB"),
    Row("no answer", [(faults.drop(), None)], "the connection was closed early"),
    Row("no answer after a part", [BROKEN, (faults.drop(), None)], "closed early at 0.1 MB"),
    Row("stall", [(faults.stall(0), None)], "nothing came within the time-out", slow=True),
    Row("trickle", [(faults.trickle(500), None)], f"less than 1 kB/s for {SHORT} s", slow=True),
    Row("a byte, then a stall", [(faults.stall(1), None)], "within the time-out", slow=True),
    Row("closed", [(faults.close(0), None)], "the connection was closed early"),
    Row(
        "shorter than announced",
        [(faults.wrong_length(500), None)],
        "the file host announces 150500 bytes, recordingSize is 150000",
        kinds=("mp4",),
        most=10 * SIZE,
    ),
    Row(
        "shorter than announced",
        [(faults.wrong_length(500), None)],
        "the connection was closed early at 0.1 MB",
        kinds=("events", "thumbnail"),
        most=10 * SIZE,
        requests=2,
    ),
    Row(
        "longer than announced",
        [(faults.wrong_length(-500), None)],
        "the file host announces 149500 bytes, recordingSize is 150000",
        kinds=("mp4",),
        most=10 * SIZE,
    ),
    Row(
        "no length, cut off at the same place each time",
        [(faults.no_length() | faults.ignored_range() | faults.close(PART), None)],
        "only 60000 of 150000 bytes came",
        kinds=("mp4",),
        most=10 * SIZE,
    ),
    Row("401", [(faults.status(401), None)], "the link was answered with 401, also with a new"),
    Row("403", [(faults.status(403), None)], "the link was answered with 403, also with a new"),
    Row("404", [(faults.status(404), None)], "the link was answered with 404, also with a new"),
    Row("410", [(faults.status(410), None)], "the link was answered with 410, also with a new"),
    Row("410 after a part", [BROKEN, (faults.status(410), None)], "answered with 410, also with"),
    Row("web page", [(faults.html(), None)], WEB_PAGE),
    Row("web page that calls itself a file", [(page("video/mp4"), None)], WEB_PAGE),
    Row("429", [(faults.status(429), None)], "the file host answered 429"),
    Row("500", [(faults.status(500), None)], "the file host answered 500"),
    Row("503", [(faults.status(503, retry_after="0"), None)], "the file host answered 503"),
    Row("503 after a part", [BROKEN, (faults.status(503), None)], "the file host answered 503"),
    Row("418", [(faults.status(418), None)], "the file host answered 418"),
    Row("gzip, broken", [(faults.gzipped() | faults.reset(300), None)], "connection reset"),
    Row(
        "gzip of another size",
        [(faults.gzipped() | faults.changed(1, SIZE - 9), None)],
        "149991 bytes came, recordingSize is 150000",
        kinds=("mp4",),
        most=10 * SIZE,
    ),
    Row(
        "brotli",
        [(Fault(headers={"Content-Encoding": "br"}), None)],
        "unknown Content-Encoding",
        most=WHOLE_TWICE,
    ),
    Row(
        "empty",
        [(faults.empty(), None)],
        "the file host announces 0 bytes, recordingSize is 150000",
        kinds=("mp4",),  # others are archived as they are, where a new link says so, too
    ),
    Row("redirected in a circle", [(faults.redirect("?again"), None)], "too many redirects"),
    Row(
        "to a file", [(faults.redirect("file:///etc/passwd"), None)], "redirect cannot be followed"
    ),
    Row("to ftp", [(faults.redirect("ftp://127.0.0.1/x"), None)], "redirect cannot be followed"),
    Row("to plain http", [(faults.redirect("http://192.0.2.1/x"), None)], "cannot be followed"),
    Row("to nowhere", [(faults.redirect("http://[bad/x"), None)], "cannot be followed"),
    Row(
        "JSON instead of an MP4",
        [(Fault(response=Response(200, {}, b'{"error": "gone"}' * 100)), None)],
        "the file host announces 1700 bytes",
        kinds=("mp4",),
        most=WHOLE_TWICE,
    ),
    Row(
        "not an MP4, of the right length",
        [(Fault(response=Response(200, {}, b"x" * SIZE)), None)],
        "what came is no MP4",
        kinds=("mp4",),
        most=10 * SIZE,
    ),
]


class Case(NamedTuple):
    """A fault, and the recording whose file of this kind meets it."""

    id: int
    kind: Kind
    row: Row
    kept: bool
    """On a connection that other files came by; else on one of its own."""

    @property
    def name(self) -> str:
        return f"{self.row.name}, {self.row.reason or 'survived'}: {self.kind} of {self.id}"

    def recording(self) -> SimulatedRecording:
        large = {f"{self.kind}_size": SIZE}
        return SimulatedRecording(self.id, START, **large)  # type: ignore[arg-type]

    def meet(self, service: SimulatedService) -> None:
        for step, times in self.row.steps:
            fault = step if self.kept else closing(step)
            service.fail_files(fault, self.kind, self.id, times)

    def problem(self, told: list[tuple[str | None, str]], state: str) -> str:
        """What is wrong after the run that met the fault, and told these failures of it."""
        if not self.row.reason:
            return str(told or (state != "archived" and state) or "")
        one = len(told) == 1 and told[0][0] == self.kind and self.row.reason in told[0][1]
        return "" if one and state == "failed" else f"{state}: {told}"


def cases() -> Iterator[Case]:
    """The first kind of each fault on new connections and on kept ones, the others on one."""
    number = BAD
    for row in (*SURVIVED, *FAILED):
        for kept in (False, True):
            for kind in (row.kinds[0], *row.kinds[1 + kept : 2 + kept]):
                yield Case(number, kind, row, kept)
                number += 2


def good_after(tried: list[Case]) -> list[SimulatedRecording]:
    """Recordings that meet no fault: the ID after every fourth one's."""
    return [SimulatedRecording(case.id + 1, START) for case in tried[::4]]


def closing(fault: Fault) -> Fault:
    """The same as the last answer of its connection, where it is an answer to that file."""
    headers = {"Connection": "close", **fault.headers}
    return fault if fault.response else replace(fault, headers=headers)


@pytest.fixture
def service(serve: Serve) -> SimulatedService:
    return serve(
        [SimulatedRecording(BAD, START, SIZE, SIZE, SIZE), SimulatedRecording(GOOD, START)]
    )


def sent(service: SimulatedService) -> Counter[tuple[int, str]]:
    """Bytes, by recording and kind."""
    found: Counter[tuple[int, str]] = Counter()
    for entry in service.requests.file_requests():
        found[entry.recording_id or 0, str(entry.kind)] += entry.sent
    return found


def failures(report: Report) -> dict[int, list[tuple[str | None, str]]]:
    """Files and reasons, by recording."""
    told: dict[int, list[tuple[str | None, str]]] = defaultdict(list)
    for one in report.failed:
        told[one.id].append((one.file, one.reason))
    return told


def try_all(
    tried: list[Case], service: SimulatedService, root: Path, **settings: Any
) -> tuple[int, int]:
    """One run meets all these faults; the next, which meets none, asks for what failed.

    Returns the first one's requests for files, and its connections.
    """
    for case in tried:
        case.meet(service)
    alone = {id_ for case in tried if not case.kept for id_ in (case.id, case.id + 1)}
    service.on_request.append(
        lambda request: closing(Fault()) if request.recording_id in alone else None
    )
    ids = list(service.recordings)
    report = run_here(service, root, ids, retries=2, **settings)
    found, told = states(root), failures(report)
    wrong = {case.name: case.problem(told[case.id], found[case.id]) for case in tried}
    assert {name: problem for name, problem in wrong.items() if problem} == {}
    failed = [case for case in tried if case.row.reason]
    assert (report.exit_code, len(report.failed)) == (1, len(failed))
    assert report.archived == len(ids) - len(failed)
    assert_nothing_false(service, root)
    used = service.requests.counts["file"], service.requests.connections

    service.on_request.clear()
    before = Counter(entry.recording_id for entry in service.requests.file_requests())
    report = run_here(service, root, ids)
    assert (report.exit_code, report.archived) == (0, len(failed))
    after = Counter(entry.recording_id for entry in service.requests.file_requests())
    assert after - before == {case.id: case.row.requests for case in failed}  # the others: none
    assert_archive_equals(service, root)
    much = sent(service)
    too_much = {c.name: n for c in tried if (n := much[c.id, c.kind]) > c.row.most}
    assert too_much == {}
    assert service.requests.leaks == []
    return used


@pytest.fixture
def _small_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is read at once."""
    monkeypatch.setattr("g2a_archive.download.transfer.receive.BUFFER", SIZE // 2)


@pytest.mark.usefixtures("at_once", "_small_buffer")
@pytest.mark.parametrize("kept", [False, True], ids=["new connections", "kept connections"])
def test_a_fault_that_passes(kept: bool, serve: Serve, root: Path) -> None:
    """Or stays."""
    tried = [case for case in cases() if case.kept == kept and not case.row.slow]
    recordings = [*(case.recording() for case in tried), *good_after(tried)]
    service = serve(sorted(recordings, key=lambda one: one.id), rate_limit=None)
    asked, new = try_all(tried, service, root, jobs=1 if kept else 4)
    assert new < asked / 2 if kept else new > asked * 0.7


@pytest.mark.usefixtures("at_once", "_small_buffer")
def test_a_time_out_that_passes(serve: Serve, root: Path) -> None:
    """Or comes each time: all at once, and the good ones before."""
    tried = [case for case in cases() if case.row.slow]
    recordings = [*good_after(tried), *(case.recording() for case in tried)]
    service = serve(recordings, rate_limit=None, latency=0.02)
    try_all(tried, service, root, jobs=len(tried), timeout=SHORT)


@pytest.mark.usefixtures("no_backoff")
@pytest.mark.parametrize("kind", KINDS)
def test_the_next_run_asks_for_the_rest_under_a_new_link(
    kind: Kind, service: SimulatedService, root: Path
) -> None:
    service.fail_files(faults.reset(PART), kind, BAD, 1)
    service.fail_files(faults.drop(), kind, BAD)
    run_here(service, root, [BAD])
    assert leftovers(root) == [f"{BAD}.{kind}.json", f"{BAD}.{kind}.part"]
    first = service.requests.file_requests(kind, BAD)[0]
    service.on_request.clear()
    service.expire_links()
    service.requests.clear()
    run_here(service, root, [BAD])
    (request,) = service.requests.file_requests(kind, BAD)
    assert request.headers["range"] == f"bytes={PART}-"
    assert request.headers["if-range"] == service.recordings[BAD].etag(kind)
    assert request.query != first.query
    assert request.sent == SIZE - PART
    assert_archive_equals(service, root, [BAD])


@pytest.mark.usefixtures("no_backoff")
@pytest.mark.parametrize("rest", [1_000, 90_000])
def test_a_host_that_ignores_if_range_mixes_nothing(rest: int, serve: Serve, root: Path) -> None:
    """However little is left to come: the validators of both answers are held together."""
    service = serve([SimulatedRecording(BAD, START, SIZE, None, None)])
    service.fail_files(faults.reset(SIZE - rest), "mp4", times=1)

    def ignore(request: Request) -> None:
        cast(dict[str, str], request.headers).pop("if-range", None)

    service.on_request.append(ignore)
    service.fail_files(faults.changed(1), "mp4")
    report = run_here(service, root, [BAD], retries=3)
    assert failures(report) == {}
    right = hashlib.sha256()
    for piece in service.recordings[BAD].content("mp4", 1).chunks():
        right.update(piece)
    stored = (root / "2014/05/06" / f"{BAD}.mp4").read_bytes()
    assert hashlib.sha256(stored).hexdigest() == right.hexdigest()


def test_a_small_file_that_a_rate_limit_held_up_resumes_by_its_validator(
    serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = serve([SimulatedRecording(BAD, START, 40_000, None, None)])
    switch = StopSwitch()

    def take(self: RateLimiter, count: int) -> float:
        switch.stop(ExitCode.SIGINT)
        return 0.0

    monkeypatch.setattr(RateLimiter, "take", take)
    run_here(service, root, [BAD], limit_rate=16_000, switch=switch)
    note = json.loads((root / ".g2a-archive/partial" / f"{BAD}.mp4.json").read_text())
    assert note["etag"] == service.recordings[BAD].etag("mp4")


def without(*names: str) -> Fault:
    return Fault(headers=dict.fromkeys(names))


@pytest.mark.usefixtures("no_backoff")
@pytest.mark.parametrize(
    ("headers", "condition"),
    [(["ETag"], "last-modified"), (["ETag", "Last-Modified"], None)],
)
def test_without_a_validator_only_the_mp4_resumes(
    headers: list[str], condition: str | None, service: SimulatedService, root: Path
) -> None:
    for kind in KINDS:
        service.fail_files(without(*headers) | faults.reset(PART), kind, BAD, times=1)
        service.fail_files(without(*headers), kind, BAD)
    assert run_here(service, root, [BAD]).exit_code == 0
    assert_archive_equals(service, root, [BAD])
    for kind in KINDS:
        second = service.requests.file_requests(kind, BAD)[1]
        resumed = condition is not None or kind == "mp4"
        first = PART if condition else max(0, PART - OVERLAP)  # then bytes must prove it
        assert second.headers.get("range") == (f"bytes={first}-" if resumed else None)
        modified = service.recordings[BAD].last_modified()
        assert second.headers.get("if-range") == (modified if condition else None)


@pytest.mark.usefixtures("no_backoff")
def test_a_weak_etag_is_no_validator(service: SimulatedService, root: Path) -> None:
    weak = Fault(headers={"ETag": 'W/"1"', "Last-Modified": None})
    service.fail_files(weak | faults.reset(PART), "events", BAD, times=1)
    service.fail_files(weak, "events", BAD)
    assert run_here(service, root, [BAD]).exit_code == 0
    second = service.requests.file_requests("events", BAD)[1]
    assert not {"range", "if-range"} & second.headers.keys()


def test_a_redirect_to_another_host_carries_no_credentials(
    service: SimulatedService, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login a password b\nmachine 127.0.0.1 login a password b\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))

    def elsewhere(request: Request) -> Response | None:
        if request.call != "file" or request.headers["host"].startswith("localhost"):
            return None
        return Response(302, {"Location": service.other_host_url + request.target})

    service.on_request.append(elsewhere)
    report = run_here(service, root, service.recordings)
    assert report.exit_code == 0
    assert_archive_equals(service, root)
    hosts = {entry.headers["host"].split(":")[0] for entry in service.requests.file_requests()}
    assert hosts == {"localhost", "127.0.0.1"}
    assert service.requests.leaks == []


def test_retry_after_is_what_the_pause_is_made_of(
    service: SimulatedService, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[int, float | None]] = []

    def backoff(attempt: int, retry_after: float | None = None) -> float:
        heard.append((attempt, retry_after))
        return 0.0

    monkeypatch.setattr("g2a_archive.download.engine.backoff", backoff)
    service.fail_files(faults.status(503, retry_after="7"), "mp4", BAD, times=1)
    service.fail_files(faults.status(503), "mp4", BAD, times=1)
    assert run_here(service, root, [BAD], retries=2).exit_code == 0
    assert heard == [(1, 7.0), (2, None)]


@pytest.mark.usefixtures("at_once")
def test_links_that_expired_while_files_waited_are_renewed_in_one_call(
    serve: Serve, root: Path
) -> None:
    service = serve(40, rate_limit=None)
    expired: list[Callable[[], None]] = [service.expire_links]

    def expire(request: Request) -> None:
        if request.call == "file":
            with suppress(IndexError):  # another answer, at the same time, was first
                expired.pop()()

    service.on_request.append(expire)
    report = run_here(service, root, service.recordings, jobs=2)
    assert report.exit_code == 0
    assert_archive_equals(service, root)
    # One for all 40, and one for each half second in which renewals were gathered: on a busy
    # machine some, and still far from one for each.
    assert service.requests.counts["links"] <= 20
