"""Signing in with a browser: the redirection, its state, and pasting."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
import requests
from support import PATIENCE, start_cli
from support import auth as auth_support
from support import login as login_support
from support.auth import Watch, accepted, seen_of, token_calls
from support.cli import Args
from support.login import ANY_PORT, Person, agree, fields, redirected, renewed

from g2a_archive.auth.credentials import AuthSettings
from g2a_archive.auth.login import login, stored_login
from g2a_archive.demo import Response, SimulatedService, faults
from g2a_archive.errors import (
    CredentialsError,
    ExitCode,
    InputError,
    Interrupted,
    StorageError,
    UnreachableError,
)

service = auth_support.service
client = auth_support.client
watch = auth_support.watch
sign_in = login_support.sign_in
config_dir = login_support.config_dir


def test_from_the_address_to_a_later_run(
    service: SimulatedService,
    client: AuthSettings,
    sign_in: Callable[..., Path],
    config_dir: Path,
    watch: Watch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    person = Person(agree)
    directory = sign_in(person)
    assert directory == config_dir / "login"
    assert directory.stat().st_mode & 0o777 == 0o700
    kept = {path.name: path for path in directory.iterdir()}
    assert sorted(kept) == ["client_id", "client_secret", "refresh_token", "refresh_token.lock"]
    assert {path.stat().st_mode & 0o777 for path in kept.values()} == {0o600}
    service.behaviour.rotate_refresh_tokens = True
    for _ in range(3):
        assert accepted(service, renewed(service, config_dir, watch))
    assert watch.warnings == []
    shown = "".join(person.shown)
    assert client.client_secret
    assert client.client_secret not in shown
    assert kept["refresh_token"].read_text().strip() not in shown
    assert capfd.readouterr() == ("", ""), "the listener logs nothing"


@pytest.mark.parametrize("pasted", [False, True])
def test_the_address_can_be_copied_from_what_is_printed(
    pasted: bool, service: SimulatedService, tmp_path: Path
) -> None:
    """A terminal takes for the address all that stands on its line."""
    env = {**service.environment(), "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    env["G2A_ARCHIVE_CLIENT_ID"] = service.behaviour.client_id
    env["G2A_ARCHIVE_CLIENT_SECRET"] = service.behaviour.client_secret
    args: Args = ["login", "--authorize-url", service.authorize_url]
    args += ["--paste", "--redirect-uri", ELSEWHERE] if pasted else ["--redirect-uri", ANY_PORT]
    with start_cli(args, env, stdin=subprocess.PIPE) as process:
        assert process.stdout
        address = next(line for line in process.stdout if "http" in line).strip()
        assert address.startswith("http")
        if pasted:
            process.communicate(redirected(address) + "\n", timeout=PATIENCE)
        else:
            assert agree(address).status_code == 200
            process.communicate(timeout=PATIENCE)
    assert process.returncode == 0


@pytest.mark.parametrize("quiet", [False, True])
def test_what_is_tried_again_is_logged(
    quiet: bool, service: SimulatedService, tmp_path: Path
) -> None:
    service.fail(faults.status(503), call="token", times=1)
    env = {**service.environment(renewable=True), "XDG_CONFIG_HOME": str(tmp_path)}
    args: Args = ["login", "--authorize-url", service.authorize_url, "--redirect-uri", ANY_PORT]
    args += ["--log-file", tmp_path / "log", *(["-q"] if quiet else [])]
    with start_cli(args, env) as process:
        assert process.stdout
        agree(next(line for line in process.stdout if "http" in line).strip())
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    written = (tmp_path / "log").read_text()
    told = r"\S+Z WARNING token endpoint 127\.0\.0\.1 answered HTTP 503, retry 1/5 in 0\.\d s\n"
    assert re.fullmatch(told, written)
    assert err == ("" if quiet else written)


def test_the_address_says_who_asks(client: AuthSettings, sign_in: Callable[..., Path]) -> None:
    one, other = Person(agree), Person(agree)
    sign_in(one)
    sign_in(other)
    asked = fields(one.address)
    assert asked["response_type"] == "code"
    assert asked["client_id"] == client.client_id
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", asked["redirect_uri"])
    assert len(asked["state"]) >= 32
    assert asked["state"] != fields(other.address)["state"]


def test_a_stranger_is_refused_and_the_waiting_goes_on(
    service: SimulatedService, sign_in: Callable[..., Path], config_dir: Path, watch: Watch
) -> None:
    pages: list[requests.Response] = []

    def strangers_first(address: str) -> None:
        asked = fields(address)
        back = asked["redirect_uri"]
        for query in (
            {"code": "<script>evil", "state": asked["state"][:-1] + "\u00e9"},
            {"code": "evil"},
            {"error": "access_denied", "state": "wrong"},
            {"state": asked["state"]},
            {"code": "evil\r\nX: y", "state": asked["state"]},
        ):
            pages.append(requests.get(f"{back}?{urlencode(query)}", timeout=10))
        pages.append(requests.get(f"{back}favicon.ico", timeout=10))
        pages.append(requests.post(back, data=asked, timeout=10))
        agree(address)

    sign_in(Person(strangers_first))
    assert [page.status_code for page in pages] == [400] * 5 + [404, 501]
    assert all("evil" not in page.text for page in pages)
    assert token_calls(service) == 1
    assert accepted(service, renewed(service, config_dir, watch))


def test_the_page_keeps_the_code_to_itself(sign_in: Callable[..., Path]) -> None:
    pages: list[requests.Response] = []
    sign_in(Person(lambda address: pages.append(agree(address))))
    (page,) = pages
    code = fields(page.url)["code"]
    assert page.status_code == 200
    assert "You may close this page" in page.text
    assert code not in page.text
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert page.headers["Cache-Control"] == "no-store"
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "Python" not in page.headers["Server"]
    assert not re.search(r"src=|href=|url\(|<script", page.text)


def test_a_person_who_says_no(
    service: SimulatedService, sign_in: Callable[..., Path], config_dir: Path
) -> None:
    service.behaviour.deny_authorization = True
    pages: list[requests.Response] = []
    with pytest.raises(CredentialsError, match="access_denied") as caught:
        sign_in(Person(lambda address: pages.append(agree(address))))
    assert caught.value.exit_code is ExitCode.CREDENTIALS
    assert "access_denied" in pages[0].text
    assert token_calls(service) == 0
    assert stored_login(config_dir) is None


def test_an_odd_error_is_not_repeated(sign_in: Callable[..., Path]) -> None:
    pages: list[requests.Response] = []

    def err(address: str) -> None:
        asked = fields(address)
        query = urlencode({"error": "<b>evil</b>", "state": asked["state"]})
        pages.append(requests.get(f"{asked['redirect_uri']}?{query}", timeout=10))

    with pytest.raises(CredentialsError, match="no reason given"):
        sign_in(Person(err))
    assert "evil" not in pages[0].text


def test_nobody_comes(sign_in: Callable[..., Path]) -> None:
    with pytest.raises(CredentialsError, match="nobody signed in within 0 s"):
        sign_in(Person(), limit=0)


def test_a_run_that_should_stop(sign_in: Callable[..., Path], watch: Watch) -> None:
    watch.stop_after = 0
    with pytest.raises(Interrupted):
        sign_in(Person())


def test_connections_that_say_nothing_hold_nobody_up(sign_in: Callable[..., Path]) -> None:
    with contextlib.ExitStack() as idle:

        def preconnect(address: str) -> None:
            back = urlsplit(fields(address)["redirect_uri"])
            for _ in range(3):
                idle.enter_context(socket.create_connection((back.hostname, back.port)))
            agree(address)

        assert sign_in(Person(preconnect)).is_dir()


def test_the_listener_is_gone_afterwards(sign_in: Callable[..., Path]) -> None:
    person = Person(agree)
    sign_in(person)
    back = urlsplit(fields(person.address)["redirect_uri"])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((back.hostname, back.port))


def test_a_registered_address_is_used_as_it_is(sign_in: Callable[..., Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    person = Person(agree)
    sign_in(person, redirect_uri=f"http://localhost:{port}/call/back?x=1")
    assert fields(person.address)["redirect_uri"] == f"http://localhost:{port}/call/back?x=1"


@pytest.mark.parametrize(
    "uri",
    [
        "http://192.0.2.1:8000/",
        "https://127.0.0.1:8000/",
        "http://example.com/",
        "urn:ietf:wg:oauth:2.0:oob",
        "http://127.0.0.1:99999/",
    ],
)
def test_redirect_addresses_that_nobody_can_listen_on(
    uri: str, sign_in: Callable[..., Path]
) -> None:
    with pytest.raises(InputError):
        sign_in(Person(), redirect_uri=uri)


def test_a_port_that_is_taken(sign_in: Callable[..., Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port}") as caught:
            sign_in(Person(), redirect_uri=f"http://127.0.0.1:{port}/")
    assert "--paste" in caught.value.hint


def test_an_address_that_would_give_the_state_or_the_code_away(
    sign_in: Callable[..., Path],
) -> None:
    with pytest.raises(InputError, match="authorization address"):
        sign_in(Person(), authorize_url="http://example.com/authorize", limit=0)
    with pytest.raises(InputError, match="redirect address"):
        sign_in(Paster(), paste=True, redirect_uri="http://example.com/")


# Pasting.


class Paster(Person):
    """Agrees in a browser elsewhere, and pastes what `make` makes of where it was sent."""

    def __init__(self, *make: Callable[[str], str]) -> None:
        super().__init__()
        self.make = list(make)
        self.asked = 0

    def ask(self, question: str) -> str:
        self.asked += 1
        return self.make.pop(0)(redirected(self.address))


ELSEWHERE = "http://127.0.0.1:9/"
WHOLE: Callable[[str], str] = str
CODE: Callable[[str], str] = lambda address: f"  {fields(address)['code']}\n"  # noqa: E731
QUERY: Callable[[str], str] = lambda address: urlsplit(address).query  # noqa: E731
FRAGMENT: Callable[[str], str] = lambda address: f"{address}#top"  # noqa: E731
OTHER: Callable[[str], str] = lambda address: address.replace("state=", "state=x")  # noqa: E731
NO_STATE: Callable[[str], str] = lambda address: address.partition("&state")[0]  # noqa: E731
NOTHING: Callable[[str], str] = lambda address: ""  # noqa: E731


@pytest.mark.parametrize("made", [WHOLE, CODE, QUERY, FRAGMENT])
def test_what_may_be_pasted(
    made: Callable[[str], str],
    service: SimulatedService,
    sign_in: Callable[..., Path],
    config_dir: Path,
    watch: Watch,
) -> None:
    person = Paster(made)
    sign_in(person, paste=True, redirect_uri=ELSEWHERE)
    assert person.asked == 1
    assert accepted(service, renewed(service, config_dir, watch))


@pytest.mark.parametrize("made", [OTHER, NO_STATE, NOTHING])
def test_what_does_not_belong_is_asked_for_again(
    made: Callable[[str], str], service: SimulatedService, sign_in: Callable[..., Path]
) -> None:
    sign_in(Paster(made, made, WHOLE), paste=True, redirect_uri=ELSEWHERE)
    with pytest.raises(InputError, match="nothing that was pasted"):
        sign_in(Paster(made, made, made), paste=True, redirect_uri=ELSEWHERE)
    assert token_calls(service) == 1


def test_a_pasted_refusal(service: SimulatedService, sign_in: Callable[..., Path]) -> None:
    service.behaviour.deny_authorization = True
    with pytest.raises(CredentialsError, match="access_denied"):
        sign_in(Paster(WHOLE), paste=True, redirect_uri=ELSEWHERE)


def test_a_code_that_the_endpoint_refuses(sign_in: Callable[..., Path], config_dir: Path) -> None:
    code = "-".join(("hush", "code"))  # as the traceback shows this line
    with pytest.raises(CredentialsError, match="invalid_grant") as caught:
        sign_in(Person(None, code), paste=True, redirect_uri=ELSEWHERE)
    assert code not in seen_of(caught.value)
    assert stored_login(config_dir) is None


def test_an_answer_without_a_refresh_token(
    service: SimulatedService, sign_in: Callable[..., Path]
) -> None:
    service.fail(Response.json({"access_token": "t"}), call="token")
    with pytest.raises(CredentialsError, match="no refresh token"):
        sign_in(Person(agree))


def test_an_endpoint_that_is_gone(
    service: SimulatedService, sign_in: Callable[..., Path], watch: Watch
) -> None:
    def agree_and_stop(address: str) -> None:
        agree(address)
        service.stop()

    with pytest.raises(UnreachableError) as caught:
        sign_in(Person(agree_and_stop))
    assert len(watch.warnings) == 2
    assert "code-" not in seen_of(caught.value)


def test_no_client(tmp_path: Path, watch: Watch) -> None:
    person = Person()
    with pytest.raises(CredentialsError, match="incomplete") as caught:
        login(
            AuthSettings(client_id="c"),
            tmp_path,
            show=person.show,
            ask=person.ask,
            warn=watch.warn,
            wait=watch.wait,
        )
    assert "G2A_ARCHIVE_CLIENT_SECRET" in caught.value.hint
    assert person.shown == []


def test_no_place_to_keep_it_is_noticed_before_anybody_signs_in(
    sign_in: Callable[..., Path], config_dir: Path
) -> None:
    config_dir.write_text("a file")
    person = Person(agree)
    with pytest.raises(StorageError):
        sign_in(person)
    assert person.shown == []
