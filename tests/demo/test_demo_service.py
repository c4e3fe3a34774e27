"""The simulated service's own four calls, its life, and its log."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests

from g2a_archive.demo import (
    Behaviour,
    ManualClock,
    SimulatedRecording,
    SimulatedService,
    sample_recordings,
)
from g2a_archive.demo.faults import stall

START = datetime(2014, 5, 6, 10, 0, tzinfo=UTC)
POPULATION = sample_recordings(1200, mp4_size=3000, unavailable_every=10, transcode_every=7)
IDS = [recording.id for recording in POPULATION]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def service(clock: ManualClock) -> Iterator[SimulatedService]:
    with SimulatedService(POPULATION, Behaviour(rate_limit=None, clock=clock)) as running:
        yield running


@pytest.fixture
def http() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


class Client:
    """Calls of the API, with a token."""

    def __init__(self, service: SimulatedService, http: requests.Session) -> None:
        self.service, self.http = service, http

    def call(self, method: str, path: str, **parameters: Any) -> requests.Response:
        headers = {"Authorization": self.service.authorization}
        url = f"{self.service.api_url}/archive/recordings{path}"
        return self.http.request(method, url, params=parameters, headers=headers, timeout=10)

    def links(self, *ids: object, name: str = "recordingIds") -> requests.Response:
        return self.call("GET", "/urls", **{name: ids})

    def list(self, **parameters: object) -> dict[str, list[int]]:
        answer = self.call("GET", "", **({"accountKey": "1000"} | parameters))
        assert answer.status_code == 200
        lists: dict[str, list[int]] = answer.json()
        assert set(lists) == {"readyForTranscode", "readyForDownload"}
        return lists


@pytest.fixture
def client(service: SimulatedService, http: requests.Session) -> Client:
    return Client(service, http)


def is_ready(number: int) -> bool:
    return {recording.id: recording.state for recording in POPULATION}[number] == "ready"


# The link call.


def test_links_have_the_six_fields(client: Client) -> None:
    recording = next(r for r in POPULATION if r.state == "ready")
    (entry,) = client.links(recording.id).json()
    assert set(entry) == {
        "recordingId",
        "recordingUrl",
        "recordingStartTime",
        "eventsUrl",
        "thumbnailUrl",
        "recordingSize",
    }
    assert entry["recordingId"] == recording.id
    assert entry["recordingSize"] == "3000"
    assert datetime.fromisoformat(entry["recordingStartTime"]) == recording.start
    for name in ("recordingUrl", "eventsUrl", "thumbnailUrl"):
        assert re.search("[0-9a-f]{32,}", entry[name])
        assert client.http.get(entry[name], timeout=10).status_code == 200


def test_links_take_500_and_leave_out_what_is_not_available(client: Client) -> None:
    answer = client.links(*IDS[:500])
    assert answer.status_code == 200
    assert [entry["recordingId"] for entry in answer.json()] == list(filter(is_ready, IDS[:500]))


def test_links_differ_every_time(client: Client) -> None:
    number = next(filter(is_ready, IDS))
    urls = {client.links(number).json()[0]["recordingUrl"] for _ in range(3)}
    assert len(urls) == 3


def test_links_leave_out_a_file_that_does_not_exist(http: requests.Session) -> None:
    recording = SimulatedRecording(7, START, events_size=None, thumbnail_size=None)
    with SimulatedService([recording]) as service:
        (entry,) = Client(service, http).links(7).json()
    assert set(entry) == {"recordingId", "recordingUrl", "recordingStartTime", "recordingSize"}


@pytest.mark.parametrize(
    "ids", [IDS[:501], [], ["x"], ["-5"], ["1.5e9"], [f"{IDS[0]},{IDS[1]}"], [""]]
)
def test_links_refuse_what_is_malformed(client: Client, ids: list[object]) -> None:
    assert client.links(*ids).status_code == 400


def test_links_know_one_attribute_only(client: Client, service: SimulatedService) -> None:
    number = next(filter(is_ready, IDS))
    assert client.links(number, name="recordingId").status_code == 400
    service.behaviour.id_attribute = "recordingId"
    assert client.links(number, name="recordingId").status_code == 200
    assert client.links(number).status_code == 400


def test_one_invalid_id_refuses_the_whole_call(client: Client) -> None:
    assert client.links(IDS[0], 99, IDS[1]).status_code == 403


def test_an_invalid_id_and_a_bad_token_get_the_same_answer(
    client: Client, service: SimulatedService
) -> None:
    invalid = client.links(99)
    service.revoke()
    refused = client.links(IDS[0])
    assert (invalid.status_code, invalid.content) == (refused.status_code, refused.content)


def test_a_long_query_is_too_long(client: Client, service: SimulatedService) -> None:
    assert client.links(*IDS[:500]).status_code == 200
    service.behaviour.most_target_bytes = 4000
    assert client.links(*IDS[:500]).status_code == 414
    assert client.links(*IDS[:100]).status_code == 200


def test_answers_of_the_link_call_can_be_edited(client: Client, service: SimulatedService) -> None:
    service.on_links.append(lambda entries: {"recordings": entries})
    answer = client.links(next(filter(is_ready, IDS))).json()
    assert list(answer) == ["recordings"]


def test_fields_of_a_recording_override_its_entry(http: requests.Session) -> None:
    fields = {"recordingStartTime": "soon", "recordingSize": None, "more": 1}
    with SimulatedService([SimulatedRecording(7, START, fields=fields)]) as service:
        (entry,) = Client(service, http).links(7).json()
    assert entry["recordingStartTime"] == "soon"
    assert "recordingSize" not in entry
    assert entry["more"] == 1


# Authorization and pace.


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer x", "Basic x"])
@pytest.mark.parametrize("status", [401, 403])
def test_no_call_without_a_token(
    service: SimulatedService, http: requests.Session, header: str | None, status: int
) -> None:
    service.behaviour.refused_token_status = status
    for method, path in [
        ("GET", f"/urls?recordingIds={IDS[0]}"),
        ("GET", "?accountKey=1000"),
        ("POST", f"/transcode/{IDS[0]}"),
        ("PUT", f"/archived/{IDS[0]}"),
    ]:
        url = f"{service.api_url}/archive/recordings{path}"
        headers = {} if header is None else {"Authorization": header}
        assert http.request(method, url, headers=headers, timeout=10).status_code == status
    assert not service.archived


def test_a_token_expires(client: Client, service: SimulatedService, clock: ManualClock) -> None:
    clock.advance(3599)
    assert client.links(IDS[0]).status_code == 200
    second = service.issue_token()
    clock.advance(1)
    assert client.links(IDS[0]).status_code == 403
    service.token = second
    assert client.links(IDS[0]).status_code == 200


def test_the_older_scheme(client: Client, service: SimulatedService) -> None:
    bearer = service.authorization
    service.behaviour.auth_scheme = "oauth"
    assert service.authorization == f"OAuth oauth_token={service.token}"
    assert client.links(IDS[0]).status_code == 200
    url = f"{service.api_url}/archive/recordings/urls?recordingIds={IDS[0]}"
    answer = client.http.get(url, headers={"Authorization": bearer}, timeout=10)
    assert answer.status_code == 403


def test_ten_calls_a_second(client: Client, service: SimulatedService, clock: ManualClock) -> None:
    service.behaviour.rate_limit = 10
    statuses = []
    for _ in range(6):
        statuses += [client.links(IDS[0]).status_code]
        clock.advance(1 / 16)
        statuses += [client.call("GET", "", accountKey="1000").status_code]
    assert statuses == [200] * 10 + [429] * 2
    refused = client.links(IDS[0])
    assert (refused.status_code, refused.headers.get("Retry-After")) == (429, None)
    assert service.requests.peak_rate() == 13
    clock.advance(10 / 16)  # a second after the first call: one falls out of the window
    assert [client.links(IDS[0]).status_code for _ in range(2)] == [200, 429]
    clock.advance(1)
    assert client.links(IDS[0]).status_code == 200
    assert service.requests.peak_rate() == 14


# The list call.


def test_list_tells_what_is_ready_in_start_order(client: Client) -> None:
    lists = client.list()
    ready = [r.id for r in POPULATION if r.state == "ready"]
    assert lists["readyForDownload"] == ready[:500]
    assert lists["readyForTranscode"] == [r.id for r in POPULATION if r.state == "transcode"]


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"sessionType": "0"},
        {"accountKey": "1", "sessionType": "2"},
        {"accountKey": "1", "archived": "yes"},
        {"accountKey": "1", "fromTime": "yesterday"},
        {"accountKey": "1", "timePeriod": "-1"},
    ],
)
def test_list_refuses_what_is_malformed(client: Client, parameters: dict[str, str]) -> None:
    assert client.call("GET", "", **parameters).status_code == 400


def test_list_narrows_by_key_and_type(http: requests.Session) -> None:
    base = SimulatedRecording(1, START)
    recordings = [
        base,
        replace(base, id=2, account_key="A"),
        replace(base, id=3, account_key="A", user_key="U", session_type=1),
        replace(base, id=4, company_id="C"),
    ]
    with SimulatedService(recordings, Behaviour(rate_limit=None)) as service:

        def listed(**parameters: object) -> list[int]:
            answer = Client(service, http).call("GET", "", **parameters)
            numbers: list[int] = answer.json()["readyForDownload"]
            return numbers

        assert listed(accountKey="A") == [2, 3]
        assert listed(accountKey=["A", "1000"]) == [1, 2, 3, 4]
        assert listed(accountKey="A", userKey="U") == [3]
        assert listed(companyId="C") == [4]
        assert listed(accountKey="A", sessionType=0) == [2]
        assert listed(accountKey="A", sessionType=1) == [3]
        assert listed(accountKey="nobody") == []


def test_list_narrows_by_time(client: Client, service: SimulatedService) -> None:
    first, last = POPULATION[100].start, POPULATION[200].start
    inside = [r.id for r in POPULATION[100:201] if r.state == "ready"]
    window = {"fromTime": first.isoformat(), "toTime": last.isoformat()}
    assert client.list(**window)["readyForDownload"] == inside
    service.behaviour.to_time_inclusive = False
    shorter = client.list(**window)["readyForDownload"]
    assert shorter == [n for n in inside if n != POPULATION[200].id]
    service.behaviour.now = lambda: last + timedelta(days=5)
    recent = [r.id for r in POPULATION if r.start >= last and r.state == "ready"]
    assert client.list(timePeriod=5)["readyForDownload"] == recent[:500]


def test_times_may_come_in_any_offset(client: Client) -> None:
    at = POPULATION[100].start.astimezone(UTC)
    expected = client.list(fromTime=at.isoformat())
    assert client.list(fromTime=at.strftime("%Y-%m-%dT%H:%M:%SZ")) == expected
    assert client.list(fromTime=at.replace(tzinfo=None).isoformat()) == expected


# The calls that change something.


def test_archived_recordings_are_left_out(client: Client, service: SimulatedService) -> None:
    marked = list(filter(is_ready, IDS))[:3]
    answer = client.call("PUT", f"/archived/{','.join(map(str, marked))}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert service.archived == set(marked)
    assert not set(marked) & set(client.list()["readyForDownload"])
    assert not set(marked) & set(client.list(archived=0)["readyForDownload"])
    assert client.list(archived=1)["readyForDownload"] == marked
    assert len(client.links(*marked).json()) == 3


def test_transcoding_takes_its_time(
    client: Client, service: SimulatedService, clock: ManualClock
) -> None:
    service.behaviour.transcode_seconds = 60
    waiting = client.list()["readyForTranscode"]
    assert client.links(waiting[0]).json() == []
    assert client.call("POST", f"/transcode/{waiting[0]}").status_code == 204
    assert client.list()["readyForTranscode"] == waiting[1:]
    clock.advance(59)
    assert client.links(waiting[0]).json() == []
    clock.advance(1)
    assert len(client.links(waiting[0]).json()) == 1
    assert waiting[0] in client.list()["readyForDownload"]


def test_transcoding_can_take_polls(client: Client, service: SimulatedService) -> None:
    service.behaviour.transcode_seconds, service.behaviour.transcode_polls = 0, 2
    number = client.list()["readyForTranscode"][0]
    client.call("POST", f"/transcode/{number}")
    found = [number in client.list()["readyForDownload"] for _ in range(3)]
    assert found == [False, True, True]


def test_transcoding_leaves_what_is_ready_as_it_is(client: Client) -> None:
    number = next(filter(is_ready, IDS))
    assert client.call("POST", f"/transcode/{number}").status_code == 204
    assert len(client.links(number).json()) == 1


@pytest.mark.parametrize(("method", "call"), [("POST", "transcode"), ("PUT", "archived")])
def test_changing_calls_take_500_valid_ids(client: Client, method: str, call: str) -> None:
    def status(ids: list[int], verb: str = method) -> int:
        return client.call(verb, f"/{call}/{','.join(map(str, ids))}").status_code

    assert status(IDS[:500]) == 204
    assert status(IDS[:501]) == 400
    assert status([IDS[0], 99]) == 403
    assert status([]) == 400
    assert status(IDS[:2], "GET") == 405


def test_other_paths_are_not_found(client: Client) -> None:
    assert client.call("GET", "/nothing").status_code == 404
    assert client.call("DELETE", "").status_code == 404


# Its life and its log.


def test_connections_are_kept_alive(client: Client, service: SimulatedService) -> None:
    for _ in range(20):
        client.links(IDS[0])
    assert (service.requests.connections, service.requests.count) == (1, 20)


def test_the_log_has_every_request(client: Client, service: SimulatedService) -> None:
    ids = list(filter(is_ready, IDS))[:2]
    entries = client.links(*ids).json()
    client.http.get(entries[0]["eventsUrl"], headers={"Range": "bytes=0-9"}, timeout=10)
    service.requests.wait_for(lambda log: all(entry.finished for entry in log.all))
    links, file = service.requests.all
    assert (links.method, links.path) == ("GET", "/G2A/rest/v1/archive/recordings/urls")
    assert links.query == tuple(("recordingIds", str(number)) for number in ids)
    assert links.headers["authorization"] == service.authorization
    assert (file.kind, file.recording_id, file.status, file.sent) == ("events", ids[0], 206, 10)
    assert service.requests.calls("links") == [links]
    assert service.requests.file_requests("events") == [file]
    assert service.requests.file_requests("mp4") == []
    assert service.requests.bytes_sent == links.sent + file.sent
    assert service.requests.file_bytes_sent == 10
    assert service.requests.statuses == {("links", 200): 1, ("file", 206): 1}
    service.requests.clear()
    assert (service.requests.all, service.requests.count) == ([], 0)


def test_the_log_can_be_counters_only(http: requests.Session) -> None:
    with SimulatedService(POPULATION, Behaviour(log=False)) as service:
        http.get(service.link(IDS[0]), timeout=10)
        service.requests.wait_for(lambda log: log.bytes_sent == 3000)
        assert service.requests.counts == {"file": 1}
        assert service.requests.all == []


@pytest.mark.parametrize(
    "header", [{"Authorization": "Bearer x"}, {"Cookie": "a=b"}, {"authorization": ""}]
)
def test_credentials_at_the_file_host_are_seen(
    http: requests.Session, header: dict[str, str]
) -> None:
    with SimulatedService(POPULATION, Behaviour(log=False)) as service:
        http.get(service.link(IDS[0]), timeout=10)
        assert service.requests.leaks == []
        http.get(service.link(IDS[0]), headers=header, timeout=10)
        assert [leak.recording_id for leak in service.requests.leaks] == [IDS[0]]


def test_the_environment_leads_here(service: SimulatedService) -> None:
    assert service.environment() == {
        "G2A_ARCHIVE_API_URL": service.api_url,
        "G2A_ARCHIVE_TOKEN_URL": service.token_url,
        "G2A_ARCHIVE_TOKEN": service.token,
    }
    renewable = service.environment(renewable=True)
    assert "G2A_ARCHIVE_TOKEN" not in renewable
    assert renewable["G2A_ARCHIVE_PAT"] == service.behaviour.pat
    assert service.api_url.endswith("/G2A/rest/v1")
    assert service.token_url.endswith("/oauth/token")


def test_stop_ends_what_is_idle_or_stalled_and_start_brings_it_back(http: requests.Session) -> None:
    threads = threading.active_count()
    service = SimulatedService(POPULATION).start()
    service.fail_files(stall(100), times=1)
    address = service.base_url
    host, port = address.removeprefix("http://").split(":")
    with (
        socket.create_connection((host, int(port))) as idle,
        http.get(service.link(IDS[0]), stream=True, timeout=10) as answer,
    ):
        assert service.requests.wait_for_stall()
        service.stop()
        assert idle.recv(1) == b""
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            assert answer.content
    assert threading.active_count() == threads
    service.stop()
    with pytest.raises(requests.exceptions.ConnectionError):
        http.get(service.link(IDS[0]), timeout=10)
    with service:
        assert service.base_url == address
        assert http.get(service.link(IDS[0]), timeout=10).status_code == 200


def test_recordings_can_come_in_while_it_runs(client: Client, service: SimulatedService) -> None:
    service.set_recordings([*POPULATION, SimulatedRecording(7, START)])
    assert [entry["recordingId"] for entry in client.links(7).json()] == [7]
    service.set_state(7, "unavailable")
    assert service.state(7) == "unavailable"
    assert client.links(7).json() == []


@pytest.mark.parametrize(
    "noise", [b"\r\n", b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"\0\xff\n"]
)
def test_noise_ends_its_connection_and_nothing_else(
    client: Client, service: SimulatedService, noise: bytes
) -> None:
    host, port = service.base_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(noise)
        assert sock.recv(100) == b""
    assert client.links(IDS[0]).status_code == 200


def test_a_hook_that_raises_ends_its_connection(
    client: Client, service: SimulatedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _: told.set())

    def wrong(_: object) -> None:
        raise RuntimeError("a mistake in a test")

    service.on_request.append(wrong)
    with pytest.raises(requests.exceptions.ConnectionError):
        client.links(IDS[0])
    assert told.wait(10)


def test_many_clients_at_once(service: SimulatedService) -> None:
    urls = [service.link(number, "events") for number in IDS[:320]]
    failed: list[str] = []

    def fetch(mine: list[str]) -> None:
        with requests.Session() as session:
            session.trust_env = False
            for url in mine:
                if session.get(url, timeout=10).status_code != 200:
                    failed.append(url)

    threads = [threading.Thread(target=fetch, args=(urls[n::8],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert service.requests.counts["file"] == 320
    assert service.requests.connections == 8
    assert 1 <= service.requests.peak_files <= 8
