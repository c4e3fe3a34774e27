"""What a sign-in keeps and forgets, and how a redirection is read."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from support import auth as auth_support
from support import login as login_support
from support.auth import Watch, accepted
from support.login import Person, agree, renewed

from g2a_archive.auth.credentials import AuthSettings
from g2a_archive.auth.login import logout, stored_login, with_stored_login
from g2a_archive.auth.redirect import AuthorizationResponse, RedirectListener, read_response
from g2a_archive.demo import SimulatedService
from g2a_archive.errors import (
    InputError,
)

service = auth_support.service
client = auth_support.client
watch = auth_support.watch
sign_in = login_support.sign_in
config_dir = login_support.config_dir


def test_signing_in_again_replaces(
    service: SimulatedService, sign_in: Callable[..., Path], config_dir: Path, watch: Watch
) -> None:
    directory = sign_in(Person(agree))
    first = (directory / "refresh_token").read_text()
    (directory / "client_secret.new").write_text("left by a crash")
    directory.chmod(0o755)
    sign_in(Person(agree))
    assert (directory / "refresh_token").read_text() != first
    assert directory.stat().st_mode & 0o777 == 0o700
    assert accepted(service, renewed(service, config_dir, watch))


def test_logout_forgets(sign_in: Callable[..., Path], config_dir: Path, watch: Watch) -> None:
    assert not logout(config_dir, wait=watch.wait)
    directory = sign_in(Person(agree))
    (directory / "client_secret.new").write_text("left by a crash")
    assert logout(config_dir, wait=watch.wait)
    assert not directory.exists()
    assert config_dir.is_dir()
    assert stored_login(config_dir) is None
    assert not logout(config_dir, wait=watch.wait)


def test_logout_leaves_what_is_not_its_own(
    sign_in: Callable[..., Path], config_dir: Path, watch: Watch
) -> None:
    directory = sign_in(Person(agree))
    (directory / "notes.txt").write_text("mine")
    assert logout(config_dir, wait=watch.wait)
    assert os.listdir(directory) == ["notes.txt"]
    assert not logout(config_dir, wait=watch.wait)


def test_half_a_login_is_none(sign_in: Callable[..., Path], config_dir: Path) -> None:
    for name in ("client_id", "client_secret", "refresh_token"):
        directory = sign_in(Person(agree))
        assert stored_login(config_dir) is not None
        (directory / name).unlink()
        assert stored_login(config_dir) is None


def test_a_stored_login_is_the_last_resort(
    client: AuthSettings, sign_in: Callable[..., Path], config_dir: Path
) -> None:
    nothing = AuthSettings()
    assert with_stored_login(nothing, config_dir) is nothing
    directory = sign_in(Person(agree))
    for configured in (
        AuthSettings(token="t"),
        AuthSettings(token_file="f"),
        replace(client, pat="p"),
        replace(client, pat_file="f"),
        replace(client, refresh_token_file="f"),
        AuthSettings(client_id="another"),
    ):
        assert with_stored_login(configured, config_dir) is configured
    found = with_stored_login(AuthSettings(scheme="oauth"), config_dir)
    assert found.scheme == "oauth"
    assert found.client_id == client.client_id
    assert found.client_secret_file == str(directory / "client_secret")
    assert found.refresh_token_file == str(directory / "refresh_token")
    stray = with_stored_login(AuthSettings(client_secret="whose?"), config_dir)
    assert (stray.client_secret, stray.client_secret_file) == (None, found.client_secret_file)
    own = with_stored_login(client, config_dir)
    assert own.client_secret == client.client_secret
    assert own.client_secret_file is None
    assert own.refresh_token_file == found.refresh_token_file


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("code=abc&state=S", AuthorizationResponse(code="abc")),
        ("state=S&code=a%2Bb%2F", AuthorizationResponse(code="a+b/")),
        ("error=access_denied&state=S", AuthorizationResponse(error="access_denied")),
        ("error=Odd+words&state=S", AuthorizationResponse(error="no reason given")),
        ("error=access_denied&code=abc&state=S", AuthorizationResponse(error="access_denied")),
        ("code=abc", None),
        ("code=abc&state=s", None),
        ("code=abc&state=", None),
        ("code=abc&state=S&state=S", None),
        ("code=abc&code=abd&state=S", None),
        ("code=&state=S", None),
        ("code=a%20b&state=S", None),
        ("code=a%0d%0ab&state=S", None),
        ("code=" + "a" * 5000 + "&state=S", None),
        ("&".join(f"x{n}=1" for n in range(50)) + "&code=abc&state=S", None),
        ("", None),
    ],
)
def test_what_a_redirection_says(query: str, found: AuthorizationResponse | None) -> None:
    assert read_response(query, "S") == found


def test_a_code_is_not_shown() -> None:
    assert "hush" not in repr(AuthorizationResponse(code="hush"))


def test_the_listener_on_ipv6(watch: Watch) -> None:
    try:
        listener = RedirectListener("http://[::1]:0/", "S")
    except InputError:
        pytest.skip("this machine has no IPv6")
    with listener:
        requests.get(f"{listener.redirect_uri}?code=abc&state=S", timeout=10)
        assert listener.wait_for_response(10, watch.wait) == AuthorizationResponse(code="abc")
