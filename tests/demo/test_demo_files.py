"""The simulated file host: links, ranges, validators, and everything that can be made wrong."""

from __future__ import annotations

import gzip
import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPMessage
from urllib.parse import urlsplit

import pytest

from g2a_archive.demo import (
    Behaviour,
    Fault,
    ManualClock,
    Request,
    Response,
    Rule,
    SimulatedRecording,
    SimulatedService,
    faults,
)
from g2a_archive.demo.recordings import KINDS, Kind
from g2a_archive.demo.wire import Stopper

RECORDING = SimulatedRecording(7, datetime(2014, 5, 6, 10, 0, tzinfo=UTC), 150_000, 3_000, 90_000)
OTHER = SimulatedRecording(8, datetime(2014, 5, 6, 11, 0, tzinfo=UTC))
WHOLE = RECORDING.content("mp4").read()
SIZE = len(WHOLE)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def service(clock: ManualClock) -> Iterator[SimulatedService]:
    with SimulatedService([RECORDING, OTHER], Behaviour(clock=clock)) as running:
        yield running


@dataclass
class Answer:
    """What came, and what broke it off."""

    status: int
    headers: HTTPMessage
    body: bytes
    error: type[Exception] | None = None


class Client:
    """One connection that is kept for as long as the service keeps it."""

    def __init__(self, service: SimulatedService) -> None:
        address = urlsplit(service.base_url).netloc
        self.service = service
        self.connection = http.client.HTTPConnection(address, timeout=10)

    def get(self, url: str = "", method: str = "GET", **headers: str) -> Answer:
        parts = urlsplit(url or self.service.link(7))
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, target, headers=named)
        answer = self.connection.getresponse()
        body = b""
        try:
            while piece := answer.read1(1 << 16):
                body += piece
            if answer.length:
                raise http.client.IncompleteRead(b"", answer.length)
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()
            return Answer(answer.status, answer.headers, body, type(error))
        finally:
            answer.close()
        return Answer(answer.status, answer.headers, body)


@pytest.fixture
def client(service: SimulatedService) -> Iterator[Client]:
    client = Client(service)
    yield client
    client.connection.close()


# Links.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["query", "path"])
def test_a_link_leads_to_its_file(client: Client, kind: Kind, where: str) -> None:
    client.service.behaviour.link_key_in = "path" if where == "path" else "query"
    url = client.service.link(7, kind)
    assert ("?" in url) == (where == "query")
    answer = client.get(url)
    assert (answer.status, answer.error) == (200, None)
    assert answer.body == RECORDING.content(kind).read()
    assert answer.headers["ETag"] == RECORDING.etag(kind)
    assert answer.headers["Accept-Ranges"] == "bytes"


def test_a_link_cannot_be_guessed(client: Client) -> None:
    url = client.service.link(7, "mp4")
    wrong = url[:-1] + ("0" if url[-1] != "0" else "1")
    for guess in [
        wrong,
        url.replace("/7.mp4", "/8.mp4"),
        url.replace(".mp4", ".jpg"),
        url.replace("/7.mp4", "/9.mp4"),
        url.replace("key=", "key=0"),
        url.partition("?")[0],
        url.replace(".mp4", ".exe"),
        f"{client.service.base_url}/files/",
    ]:
        assert client.get(guess).status == 410, guess
    assert client.get(url).status == 200


@pytest.mark.parametrize("status", [200, 401, 403, 404, 410])
def test_a_link_lives_48_hours(client: Client, clock: ManualClock, status: int) -> None:
    client.service.behaviour.gone_status = status
    url = client.service.link(7)
    clock.advance(48 * 3600 - 1)
    assert client.get(url).body == WHOLE
    clock.advance(1)
    answer = client.get(url)
    assert answer.status == status
    assert answer.headers["Content-Type"].startswith("text/html")
    assert client.get().body == WHOLE


def test_links_can_be_ended(client: Client) -> None:
    mine, other = client.service.link(7), client.service.link(8)
    client.service.expire_links([7])
    assert [client.get(url).status for url in (mine, other)] == [410, 200]
    mine = client.service.link(7)
    assert client.get(mine).status == 200
    client.service.expire_links()
    assert [client.get(url).status for url in (mine, other)] == [410, 410]
    assert client.get().status == 200


# Ranges and validators.


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        ("bytes=0-", 0, SIZE),
        ("bytes=0-0", 0, 1),
        ("bytes=1000-", 1000, SIZE),
        ("bytes=1700-70000", 1700, 70001),
        (f"bytes=10-{SIZE + 5}", 10, SIZE),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
        ("bytes=-1", SIZE - 1, SIZE),
        (f"bytes=-{SIZE + 5}", 0, SIZE),
    ],
)
def test_ranges(client: Client, wanted: str, start: int, stop: int) -> None:
    answer = client.get(Range=wanted)
    assert answer.status == 206
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert answer.headers["Content-Length"] == str(stop - start)
    assert answer.headers["ETag"] == RECORDING.etag("mp4")
    assert answer.body == WHOLE[start:stop]


@pytest.mark.parametrize("wanted", [f"bytes={SIZE}-", "bytes=999999-9999999", "bytes=-0"])
def test_ranges_that_nothing_satisfies(client: Client, wanted: str) -> None:
    answer = client.get(Range=wanted)
    assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{SIZE}")


@pytest.mark.parametrize("wanted", ["bytes=0-", "bytes=-5"])
def test_nothing_satisfies_a_range_of_an_empty_file(wanted: str) -> None:
    empty = SimulatedRecording(7, RECORDING.start, events_size=0)
    with SimulatedService([empty]) as service, closing(Client(service).connection) as connection:
        url = urlsplit(service.link(7, "events"))
        connection.request("GET", f"{url.path}?{url.query}", headers={"Range": wanted})
        assert connection.getresponse().status == 416


@pytest.mark.parametrize("wanted", ["bytes=5-4", "bytes=-", "bytes=0-1,5-6", "lines=1-2", "x"])
def test_ranges_that_are_none_are_ignored(client: Client, wanted: str) -> None:
    answer = client.get(Range=wanted)
    assert (answer.status, answer.body) == (200, WHOLE)


def test_if_range(client: Client) -> None:
    for validator in (RECORDING.etag("mp4"), RECORDING.last_modified()):
        answer = client.get(Range="bytes=5-", If_Range=validator)
        assert (answer.status, answer.body) == (206, WHOLE[5:])
    for validator in ('"else"', f"W/{RECORDING.etag('mp4')}", "Mon, 01 Jan 2001 00:00:00 GMT"):
        answer = client.get(Range="bytes=5-", If_Range=validator)
        assert (answer.status, answer.body) == (200, WHOLE)


def test_last_modified_is_a_date_of_http(client: Client) -> None:
    assert client.get().headers["Last-Modified"] == "Wed, 07 May 2014 10:00:00 GMT"


def test_head_has_the_headers_alone(client: Client) -> None:
    answer = client.get(method="HEAD", Range="bytes=5-")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Content-Length"] == str(SIZE)
    assert answer.headers["ETag"] == RECORDING.etag("mp4")
    assert client.get().body == WHOLE


def test_files_are_only_read(client: Client) -> None:
    assert client.get(method="PUT").status == 405


@pytest.mark.parametrize(("setting", "fault"), [(1, 2), (2, 1), (None, 1), (1, None)])
def test_files_come_after_a_latency_and_at_the_lower_rate(
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    setting: float | None,
    fault: float | None,
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(Stopper, "pause", lambda _, seconds: pauses.append(seconds))
    client.service.behaviour.rate = setting
    client.service.behaviour.latency = 77
    client.service.fail_files(Fault(rate=fault))
    assert client.get(client.service.link(7, "events")).body == RECORDING.content("events").read()
    assert pauses[0] == 77
    # Nobody waited, so the last byte's pause is all the time that the file was to take.
    assert 2500 < max(pauses) <= 3000


def test_calls_have_a_latency_of_their_own(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(Stopper, "pause", lambda _, seconds: pauses.append(seconds))
    client.service.behaviour.link_latency = 77
    client.get(f"{client.service.api_url}/archive/recordings")
    assert pauses == [77]


# Faults of the connection.


def test_drop_and_refuse(client: Client) -> None:
    rule = client.service.fail_files(faults.drop(), times=1)
    with pytest.raises(http.client.RemoteDisconnected):
        client.get()
    client.connection.close()
    client.service.fail_files(faults.refuse(), times=1)
    with pytest.raises(ConnectionResetError):
        client.get()
    client.connection.close()
    assert client.get().body == WHOLE
    assert rule.applied == 1


@pytest.mark.parametrize("after", [0, 1, 1000, 100_000, SIZE])
def test_reset_comes_after_exactly_so_many_bytes(client: Client, after: int) -> None:
    client.service.fail_files(faults.reset(after), times=1)
    answer = client.get()
    assert answer.body == WHOLE[:after]
    # With all bytes there, the client has no reason to read on and see the reset.
    assert answer.error is (ConnectionResetError if after < SIZE else None)


@pytest.mark.parametrize("after", [0, 1, 100_000])
def test_close_comes_after_exactly_so_many_bytes(client: Client, after: int) -> None:
    client.service.fail_files(faults.close(after), times=1)
    answer = client.get()
    assert answer.body == WHOLE[:after]
    assert answer.error is http.client.IncompleteRead
    assert answer.headers["Content-Length"] == str(SIZE)


def test_an_ending_that_is_never_reached_is_none(client: Client) -> None:
    client.service.fail_files(faults.reset(SIZE + 1))
    assert client.get().body == client.get().body == WHOLE
    assert client.service.requests.connections == 1


def test_stall_lasts_until_the_client_goes(client: Client) -> None:
    client.service.fail_files(faults.stall(1000), times=1)
    url = urlsplit(client.service.link(7))
    client.connection.request("GET", f"{url.path}?{url.query}")
    answer = client.connection.getresponse()
    assert answer.read(1000) == WHOLE[:1000]
    log = client.service.requests
    assert log.wait_for_stall()
    assert not log.all[0].finished
    answer.close()
    client.connection.close()
    assert log.wait_for(lambda log: log.all[0].finished)
    assert client.get().body == WHOLE


def test_trickle_is_slow_and_can_be_stopped(client: Client) -> None:
    client.service.fail_files(faults.trickle(20), kind="mp4")
    reader = threading.Thread(target=client.get)
    reader.start()
    assert client.service.requests.wait_for(lambda log: log.bytes_sent >= 2)
    assert client.service.requests.bytes_sent < 1000
    client.service.stop()
    reader.join()


def test_hang_up_comes_after_a_right_answer(client: Client) -> None:
    client.service.fail_files(faults.hang_up(), times=1)
    answer = client.get()
    assert (answer.body, answer.error) == (WHOLE, None)
    assert "Connection" not in answer.headers
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        client.get()


# Faults of the answer.


@pytest.mark.parametrize("extra", [1, 5000])
def test_a_length_too_large(client: Client, extra: int) -> None:
    client.service.fail_files(faults.wrong_length(extra), times=1)
    answer = client.get()
    assert answer.headers["Content-Length"] == str(SIZE + extra)
    assert (answer.body, answer.error) == (WHOLE, http.client.IncompleteRead)


def test_a_length_too_small(client: Client) -> None:
    client.service.fail_files(faults.wrong_length(-100), times=1)
    assert client.get().body == WHOLE[:-100]


def test_no_length(client: Client) -> None:
    client.service.fail_files(faults.no_length(), times=1)
    answer = client.get()
    assert "Content-Length" not in answer.headers
    assert answer.headers["Connection"] == "close"
    assert (answer.body, answer.error) == (WHOLE, None)


def test_chunked(client: Client) -> None:
    client.service.fail_files(faults.chunked())
    for _ in range(2):
        answer = client.get()
        assert answer.headers["Transfer-Encoding"] == "chunked"
        assert "Content-Length" not in answer.headers
        assert answer.body == WHOLE
    assert client.service.requests.connections == 1
    client.service.on_request[:] = [Rule(faults.chunked() | faults.close(100))]
    assert client.get().error is http.client.IncompleteRead


def test_gzipped(client: Client) -> None:
    client.service.fail_files(faults.gzipped())
    answer = client.get()
    assert answer.headers["Content-Encoding"] == "gzip"
    assert len(answer.body) < SIZE
    assert gzip.decompress(answer.body) == WHOLE


def test_ignored_range(client: Client) -> None:
    client.service.fail_files(faults.ignored_range())
    answer = client.get(Range="bytes=5-")
    assert (answer.status, answer.body) == (200, WHOLE)


def test_changed_file(client: Client) -> None:
    url = client.service.link(7)
    before = client.get(url)
    client.service.fail_files(faults.changed(), times=2)
    after = client.get(url)
    assert len(after.body) == SIZE
    assert after.body != before.body
    assert after.headers["ETag"] != before.headers["ETag"]
    assert after.headers["Last-Modified"] != before.headers["Last-Modified"]
    resumed = client.get(url, Range="bytes=5-", If_Range=before.headers["ETag"])
    assert (resumed.status, resumed.body) == (200, after.body)
    client.service.fail_files(faults.changed(0, SIZE + 10))
    larger = client.get(url)
    assert len(larger.body) == SIZE + 10
    assert larger.headers["ETag"] != before.headers["ETag"]


def test_wrong_ranges(client: Client) -> None:
    client.service.fail_files(faults.wrong_range(start=3, total=7), times=1)
    answer = client.get(Range="bytes=5-")
    assert answer.status == 206
    assert answer.headers["Content-Range"] == f"bytes 8-{SIZE - 1}/{SIZE + 7}"
    assert answer.body == WHOLE[8:]


def test_always_416(client: Client) -> None:
    client.service.fail_files(faults.always_416())
    assert client.get(Range="bytes=5-").status == 416
    assert client.get().body == WHOLE


def test_other_answers(client: Client) -> None:
    def answer(fault: Fault) -> Answer:
        client.service.on_request[:] = [Rule(fault, call="file")]
        return client.get()

    page = answer(faults.html())
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert page.body.startswith(b"<!DOCTYPE html>")
    busy = answer(faults.status(503, b"busy", retry_after="3"))
    assert (busy.status, busy.body, busy.headers["Retry-After"]) == (503, b"busy", "3")
    assert "Retry-After" not in answer(faults.status(429)).headers
    elsewhere = answer(faults.redirect(client.service.other_host_url + "/x"))
    assert (elsewhere.status, urlsplit(elsewhere.headers["Location"]).hostname) == (
        302,
        "localhost",
    )
    nothing = answer(faults.empty())
    assert (nothing.status, nothing.body, nothing.headers["Content-Length"]) == (200, b"", "0")
    bare = answer(Fault(headers={"etag": None, "Last-Modified": None, "X-More": "1"}))
    assert bare.body == WHOLE
    assert not {"ETag", "Last-Modified"} & set(bare.headers)
    assert bare.headers["X-More"] == "1"
    assert client.service.requests.connections == 1


# Which requests meet a fault.


@pytest.mark.parametrize(
    ("chosen", "hit"),
    [
        ({}, {(7, "mp4"), (7, "events"), (8, "mp4"), (8, "events")}),
        ({"kind": "mp4"}, {(7, "mp4"), (8, "mp4")}),
        ({"recording_id": 8}, {(8, "mp4"), (8, "events")}),
        ({"kind": "events", "recording_id": 7}, {(7, "events")}),
        ({"call": "links"}, set()),
    ],
)
def test_a_rule_is_for_some(
    client: Client, chosen: dict[str, object], hit: set[tuple[int, Kind]]
) -> None:
    rule = client.service.fail(faults.status(503), **chosen)  # type: ignore[arg-type]
    files: list[tuple[int, Kind]] = [(7, "mp4"), (7, "events"), (8, "mp4"), (8, "events")]
    met = {file for file in files if client.get(client.service.link(*file)).status == 503}
    assert met == hit
    assert rule.applied == len(hit)


def test_a_rule_is_for_some_times(client: Client) -> None:
    rule = client.service.fail_files(faults.status(503), times=2, skip=1)
    assert [client.get().status for _ in range(5)] == [200, 503, 503, 200, 200]
    assert rule.applied == 2


def test_any_function_is_a_rule(client: Client) -> None:
    def odd(request: Request) -> Response | None:
        return Response(418) if request.recording_id == 8 else None

    hooks: list[Callable[[Request], Response | Fault | None]] = client.service.on_request
    hooks.append(odd)
    assert [client.get(client.service.link(number)).status for number in (7, 8)] == [200, 418]


def test_faults_combine() -> None:
    both = faults.ignored_range() | faults.reset(5)
    assert (both.ignore_range, both.ending, both.after) == (True, "reset", 5)
    assert (faults.reset(5) | faults.close(6)).after == 6
    assert faults.trickle(5) | Fault() == faults.trickle(5)


def test_calls_of_the_api_fail_too(service: SimulatedService) -> None:
    service.fail(faults.status(500), call="list", times=1)
    client = Client(service)
    url = f"{service.api_url}/archive/recordings?accountKey=1000"
    statuses = [client.get(url, Authorization=service.authorization).status for _ in range(2)]
    client.connection.close()
    assert statuses == [500, 200]


def test_http_1_0_and_close_are_honoured(service: SimulatedService) -> None:
    address = urlsplit(service.base_url).netloc.split(":")
    url = urlsplit(service.link(7, "events"))
    target = f"{url.path}?{url.query}"
    for request in (
        f"GET {target} HTTP/1.0\r\n\r\n",
        f"GET {target} HTTP/1.1\r\nConnection: close\r\n\r\n",
    ):
        with socket.create_connection((address[0], int(address[1])), timeout=10) as sock:
            sock.sendall(request.encode())
            received = b""
            while piece := sock.recv(65536):
                received += piece
        assert received.endswith(RECORDING.content("events").read())
        assert b"Connection: close" in received
