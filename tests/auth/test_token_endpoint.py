"""The token endpoint: its failures, what they mean, and what is never shown of them."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from support import auth as auth_support
from support.auth import Watch, accepted, secret_file, seen_of, token_calls

from g2a_archive.auth.credentials import AuthSettings, credentials_from
from g2a_archive.demo import (
    Fault,
    Response,
    SimulatedService,
)
from g2a_archive.errors import (
    ArchiverError,
    BadResponseError,
    CredentialsError,
    ExitCode,
    InputError,
    Interrupted,
    UnreachableError,
)
from g2a_archive.service.session import ApiSession, Call

client = auth_support.client
service = auth_support.service
with_pat = auth_support.with_pat
watch = auth_support.watch


# The token endpoint.


def test_passing_trouble_is_ridden_out(
    service: SimulatedService, with_pat: AuthSettings, watch: Watch
) -> None:
    for trouble in (Response(429), Response(503), Fault(drop=True), Response(200, body=b"<html>")):
        service.fail(trouble, call="token", times=1)
    settings = replace(with_pat, retries=4)
    credentials = credentials_from(settings, warn=watch.warn, wait=watch.wait)
    assert accepted(service, credentials.authorization())
    assert token_calls(service) == 5
    assert len(watch.waits) == 4
    assert watch.waits[3] > watch.waits[0]
    assert "HTTP 429, retry 1/4" in watch.warnings[0]


@pytest.mark.parametrize(
    ("trouble", "error", "asked"),
    [
        (Response(500, body=b"pass hush"), BadResponseError, 3),
        (Response(200, body=b"[" * 5_000), BadResponseError, 3),
        (Response(200, body=b'{"access_token": "t"}' + b" " * 70_000), BadResponseError, 3),
        (Response.json({"access_token": "hush\r\nX: y"}), BadResponseError, 3),
        (Response.json({"access_token": "t", "refresh_token": 7}), BadResponseError, 3),
        (Response.json([]), BadResponseError, 3),
        (Response(404), BadResponseError, 1),
        (Fault(drop=True), UnreachableError, 3),
        (Fault(ending="reset", after=5), UnreachableError, 3),
        (Response.json({"error": "invalid_client"}, 401), CredentialsError, 1),
        (Response.json({"error": "<b>hush</b>"}, 400), CredentialsError, 1),
        (
            Response.json({"error": "invalid_grant", "error_description": "hush"}),
            CredentialsError,
            1,
        ),
        (Response.json({"error": "server_error"}), BadResponseError, 3),
        (Response(403, body=b"pass hush"), CredentialsError, 1),
    ],
)
def test_what_the_endpoint_says_and_what_it_means(
    trouble: Response | Fault,
    error: type[ArchiverError],
    asked: int,
    service: SimulatedService,
    with_pat: AuthSettings,
    watch: Watch,
) -> None:
    service.fail(trouble, call="token")
    credentials = credentials_from(with_pat, warn=watch.warn, wait=watch.wait)
    with pytest.raises(error) as caught:
        credentials.authorization()
    assert type(caught.value) is error
    assert token_calls(service) == asked
    assert "hush" not in seen_of(caught.value) + "".join(watch.warnings)


@pytest.mark.parametrize(("status", "asked"), [(503, 3), (404, 1)])
def test_the_retries_are_not_those_of_the_call_again(
    status: int, asked: int, service: SimulatedService, with_pat: AuthSettings, watch: Watch
) -> None:
    service.fail(Response(status), call="token")
    credentials = credentials_from(with_pat, warn=watch.warn, wait=watch.wait)
    session = ApiSession(
        service.api_url, credentials, timeout=10, retries=1, stop=threading.Event()
    )
    with pytest.raises(BadResponseError, match="token endpoint"):
        session.make(Call("call", "GET", "/archive/recordings"), lambda answer: answer)
    assert token_calls(service) == asked


def test_a_redirect_is_not_followed(
    service: SimulatedService, with_pat: AuthSettings, watch: Watch
) -> None:
    elsewhere = {"Location": f"{service.other_host_url}/elsewhere?hush"}
    service.fail(Response(307, elsewhere), call="token")
    credentials = credentials_from(with_pat, warn=watch.warn, wait=watch.wait)
    with pytest.raises(BadResponseError, match="HTTP 307") as caught:
        credentials.authorization()
    assert service.requests.count == 1
    assert "hush" not in seen_of(caught.value)


def test_nobody_answers(with_pat: AuthSettings, service: SimulatedService, watch: Watch) -> None:
    service.stop()
    credentials = credentials_from(with_pat, warn=watch.warn, wait=watch.wait)
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1: connection refused") as caught:
        credentials.authorization()
    assert caught.value.exit_code is ExitCode.SERVICE
    assert len(watch.waits) == 2


def test_an_answer_that_stalls(
    service: SimulatedService, with_pat: AuthSettings, watch: Watch
) -> None:
    service.fail(Fault(ending="stall", after=5), call="token")
    settings = replace(with_pat, timeout=0.05, retries=0)
    with pytest.raises(UnreachableError, match=r"within the time-out|too slowly"):
        credentials_from(settings, warn=watch.warn, wait=watch.wait).authorization()


def test_an_answer_that_trickles(
    service: SimulatedService, with_pat: AuthSettings, watch: Watch
) -> None:
    service.fail(Fault(rate=20.0), call="token")
    # Long enough that the first byte is there on a busy machine: without one, it is another error.
    settings = replace(with_pat, timeout=1.0, retries=0)
    with pytest.raises(UnreachableError, match="came too slowly"):
        credentials_from(settings, warn=watch.warn, wait=watch.wait).authorization()


def test_a_run_that_should_stop_waits_no_longer(
    service: SimulatedService, with_pat: AuthSettings, watch: Watch
) -> None:
    service.fail(Response(503), call="token")
    watch.stop_after = 1
    credentials = credentials_from(with_pat, warn=watch.warn, wait=watch.wait)
    with pytest.raises(Interrupted):
        credentials.authorization()
    with pytest.raises(Interrupted):
        credentials.authorization()
    assert token_calls(service) == 1


def test_neither_netrc_nor_a_proxy_comes_between(
    service: SimulatedService,
    with_pat: AuthSettings,
    watch: Watch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    netrc = secret_file(tmp_path / "netrc", "machine 127.0.0.1 login stranger password wrong\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9/")
    monkeypatch.setenv("no_proxy", "127.0.0.0/8")
    credentials = credentials_from(with_pat, warn=watch.warn, wait=watch.wait)
    assert accepted(service, credentials.authorization())


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/token",
        "http://127.0.0.1.example.com/token",
        "http://localhost.example.com/token",
        "https://hush:hush@example.com/token",
        "ftp://localhost/token",
        "https:///token",
        "https://[::1/token",
        "token",
        "",
    ],
)
def test_addresses_that_would_give_secrets_away(url: str, watch: Watch) -> None:
    settings = AuthSettings(client_id="c", client_secret="s", pat="p", token_url=url)
    with pytest.raises(InputError) as caught:
        credentials_from(settings, warn=watch.warn, wait=watch.wait)
    assert "hush" not in seen_of(caught.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.8.7", "[::1]"])
def test_plain_http_to_this_machine(host: str, watch: Watch) -> None:
    settings = AuthSettings(
        client_id="c", client_secret="s", pat="p", token_url=f"http://{host}:1/token"
    )
    assert credentials_from(settings, warn=watch.warn, wait=watch.wait).renewable


def test_nothing_secret_is_seen_anywhere(
    service: SimulatedService,
    with_pat: AuthSettings,
    watch: Watch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = replace(with_pat, client_secret="hush-secret", pat="hush-pat")
    credentials = credentials_from(settings, warn=watch.warn, wait=watch.wait)
    with pytest.raises(CredentialsError, match="HTTP 401, invalid_client") as caught:
        credentials.authorization()
    assert caught.value.exit_code is ExitCode.CREDENTIALS
    assert "client secret" in caught.value.hint
    service.stop()
    again = credentials_from(settings, warn=watch.warn, wait=watch.wait)
    with pytest.raises(UnreachableError) as unreachable:
        again.authorization()
    seen = seen_of(caught.value) + seen_of(unreachable.value) + caplog.text + repr(settings)
    seen += "".join(watch.warnings) + repr(credentials) + credentials.description
    assert token_calls(service) == 1
    for secret in credentials.secrets():
        assert secret not in seen
    assert credentials.secrets() >= {"hush-secret", "hush-pat"}
