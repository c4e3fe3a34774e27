"""The simulated token endpoint and authorization page."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from g2a_archive.demo import Behaviour, ManualClock, SimulatedRecording, SimulatedService
from g2a_archive.demo.recordings import sample_recordings

RECORDING: SimulatedRecording = sample_recordings(1)[0]
REDIRECT = "http://127.0.0.1:5555/done?x=1"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def service(clock: ManualClock) -> Iterator[SimulatedService]:
    with SimulatedService([RECORDING], Behaviour(clock=clock, token_lifetime=5)) as running:
        yield running


@pytest.fixture
def http() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


class Client:
    """A client of the token endpoint."""

    def __init__(self, service: SimulatedService, http: requests.Session) -> None:
        self.service, self.http = service, http

    def ask(self, **form: str) -> requests.Response:
        known = self.service.behaviour.client_id, self.service.behaviour.client_secret
        return self.http.post(self.service.token_url, data=form, auth=known, timeout=10)

    def renew(self, token: str) -> requests.Response:
        return self.ask(grant_type="refresh_token", refresh_token=token)

    def works(self, token: str) -> bool:
        url = f"{self.service.api_url}/archive/recordings/urls?recordingIds={RECORDING.id}"
        headers = {"Authorization": f"Bearer {token}"}
        return self.http.get(url, headers=headers, timeout=10).status_code == 200

    def authorize(self, **changes: str | None) -> requests.Response:
        parameters: dict[str, str | None] = {
            "response_type": "code",
            "client_id": self.service.behaviour.client_id,
            "redirect_uri": REDIRECT,
            "state": "some state",
        }
        url = self.service.authorize_url
        parameters |= changes
        return self.http.get(url, params=parameters, allow_redirects=False, timeout=10)

    def code(self) -> str:
        return parse_qs(urlsplit(self.authorize().headers["Location"]).query)["code"][0]


@pytest.fixture
def client(service: SimulatedService, http: requests.Session) -> Client:
    return Client(service, http)


def refusal(answer: requests.Response) -> tuple[int, object]:
    return answer.status_code, answer.json()["error"]


def test_a_personal_access_token_brings_access(client: Client, clock: ManualClock) -> None:
    pat = client.service.behaviour.pat
    answer = client.ask(grant_type="personal_access_token", pat=pat).json()
    assert set(answer) == {"access_token", "token_type", "expires_in"}
    assert answer["expires_in"] == 5
    assert client.works(answer["access_token"])
    clock.advance(4)
    second = client.ask(grant_type="personal_access_token", pat=pat).json()["access_token"]
    assert client.works(answer["access_token"])
    assert client.works(second)
    clock.advance(1)
    assert not client.works(answer["access_token"])
    assert client.works(second)


@pytest.mark.parametrize("auth", [("simulated-client", "wrong"), ("wrong", "x"), ("", "")])
def test_a_wrong_client_is_refused(client: Client, auth: tuple[str, str]) -> None:
    form = {"grant_type": "personal_access_token", "pat": client.service.behaviour.pat}
    answer = client.http.post(client.service.token_url, data=form, auth=auth, timeout=10)
    assert refusal(answer) == (401, "invalid_client")
    assert answer.headers["WWW-Authenticate"] == "Basic"


@pytest.mark.parametrize("header", ["", "Basic", "Basic !!!", "Bearer x", "Bearer KNOWN"])
def test_an_unreadable_client_is_refused(client: Client, header: str) -> None:
    behaviour = client.service.behaviour
    known = b64encode(f"{behaviour.client_id}:{behaviour.client_secret}".encode()).decode()
    headers = {"Authorization": header.replace("KNOWN", known)}
    answer = client.http.post(client.service.token_url, headers=headers, timeout=10)
    assert refusal(answer) == (401, "invalid_client")


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"grant_type": "personal_access_token", "pat": "wrong"}, "invalid_grant"),
        ({"grant_type": "personal_access_token"}, "invalid_grant"),
        ({"grant_type": "refresh_token", "refresh_token": "wrong"}, "invalid_grant"),
        ({"grant_type": "authorization_code", "code": "wrong"}, "invalid_grant"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({}, "invalid_request"),
    ],
)
def test_a_wrong_grant_is_refused(client: Client, form: dict[str, str], error: str) -> None:
    assert refusal(client.ask(**form)) == (400, error)


def test_the_endpoint_takes_posts(client: Client) -> None:
    assert client.http.get(client.service.token_url, timeout=10).status_code == 405


def test_a_refresh_token_stays_where_it_is_not_rotated(client: Client) -> None:
    token = client.service.issue_refresh_token()
    for _ in range(3):
        answer = client.renew(token).json()
        assert "refresh_token" not in answer
        assert client.works(answer["access_token"])
    client.service.revoke(token)
    assert refusal(client.renew(token)) == (400, "invalid_grant")


def test_a_rotated_refresh_token_replaces_the_old_one_at_its_first_use(client: Client) -> None:
    client.service.behaviour.rotate_refresh_tokens = True
    first = client.service.issue_refresh_token()
    lost = client.renew(first).json()["refresh_token"]
    second = client.renew(first).json()["refresh_token"]  # the old one still works
    assert len({first, lost, second}) == 3
    third = client.renew(second).json()["refresh_token"]
    assert refusal(client.renew(first)) == (400, "invalid_grant")
    assert refusal(client.renew(lost)) == (400, "invalid_grant")
    assert client.renew(second).status_code == 200
    assert client.renew(third).status_code == 200
    assert refusal(client.renew(second)) == (400, "invalid_grant")


def test_a_code_brings_access_and_renewal_once(client: Client) -> None:
    answer = client.authorize()
    target = urlsplit(answer.headers["Location"])
    query = parse_qs(target.query)
    assert answer.status_code == 302
    assert (target.netloc, target.path, query["x"]) == ("127.0.0.1:5555", "/done", ["1"])
    assert query["state"] == ["some state"]
    form = {
        "grant_type": "authorization_code",
        "code": query["code"][0],
        "redirect_uri": REDIRECT,
    }
    tokens = client.ask(**form).json()
    assert client.works(tokens["access_token"])
    assert client.renew(tokens["refresh_token"]).status_code == 200
    assert refusal(client.ask(**form)) == (400, "invalid_grant")


def test_a_code_is_for_the_address_that_it_went_to(client: Client) -> None:
    form = {"grant_type": "authorization_code", "code": client.code()}
    assert refusal(client.ask(**form, redirect_uri="http://127.0.0.1/else"))[0] == 400
    assert refusal(client.ask(**form, redirect_uri=REDIRECT))[0] == 400


def test_a_user_may_refuse(client: Client) -> None:
    client.service.behaviour.deny_authorization = True
    query = parse_qs(urlsplit(client.authorize().headers["Location"]).query)
    assert query == {"x": ["1"], "error": ["access_denied"], "state": ["some state"]}


def test_the_page_answers_only_what_it_can(client: Client) -> None:
    assert client.authorize(client_id="wrong").status_code == 400
    assert client.authorize(redirect_uri=None).status_code == 400
    location = client.authorize(response_type="token", state=None).headers["Location"]
    assert parse_qs(urlsplit(location).query)["error"] == ["unsupported_response_type"]
    assert "state" not in location
