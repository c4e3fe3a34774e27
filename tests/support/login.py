"""What the tests of signing in share."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from g2a_archive.auth.credentials import AuthSettings, credentials_from
from g2a_archive.auth.login import login, with_stored_login
from g2a_archive.demo import SimulatedService
from support import auth as auth_support
from support.auth import Watch

service = auth_support.service
client = auth_support.client
watch = auth_support.watch

ANY_PORT = "http://127.0.0.1:0/"


class Person:
    """Reads what the program shows, and acts in a browser or pastes."""

    def __init__(self, act: Callable[[str], object] | None = None, *pasted: str) -> None:
        self.act = act or (lambda address: None)
        self.pasted = list(pasted)
        self.shown: list[str] = []

    def show(self, text: str) -> None:
        self.shown.append(text)
        if found := re.search(r"http\S+state=\S+", text):
            self.address = found[0]
        if text.startswith("Waiting"):
            self.act(self.address)

    def ask(self, question: str) -> str:
        self.shown.append(question)
        return self.pasted.pop(0)


def fields(address: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}


def agree(address: str) -> requests.Response:
    """Open the address as a browser does, and follow it to where it leads."""
    return requests.get(address, timeout=10)


def redirected(address: str) -> str:
    """Where the service sends the browser."""
    return requests.get(address, timeout=10, allow_redirects=False).headers["Location"]


@pytest.fixture
def sign_in(
    service: SimulatedService, client: AuthSettings, tmp_path: Path, watch: Watch
) -> Callable[..., Path]:
    """`login` with this person, and everything else as usual."""

    def run(person: Person, **more: object) -> Path:
        options = {
            "authorize_url": service.authorize_url,
            "redirect_uri": ANY_PORT,
            "limit": 30,
            **more,
        }
        return login(
            client,
            tmp_path / "config",
            show=person.show,
            ask=person.ask,
            warn=watch.warn,
            wait=watch.wait,
            **options,  # type: ignore[arg-type]
        )

    return run


@pytest.fixture
def config_dir(tmp_path: Path) -> Path:
    return tmp_path / "config"


def renewed(service: SimulatedService, config_dir: Path, watch: Watch) -> str:
    """The header that a later run gets from what was kept."""
    settings = with_stored_login(AuthSettings(token_url=service.token_url), config_dir)
    return credentials_from(settings, warn=watch.warn, wait=watch.wait).authorization()
