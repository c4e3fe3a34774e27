"""What the tests of credentials share."""

from __future__ import annotations

import re
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from g2a_archive.auth.credentials import AuthSettings, Credentials, credentials_from
from g2a_archive.demo import (
    Request,
    Response,
    SimulatedService,
)


class Watch:
    """Takes the place of warnings and waiting: both are noted, and no time passes."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.waits: list[float] = []
        self.stop_after: int | None = None

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def wait(self, seconds: float) -> bool:
        if seconds:
            self.waits.append(seconds)
        return self.stop_after is not None and len(self.waits) >= self.stop_after


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def service() -> Iterator[SimulatedService]:
    with SimulatedService() as running:
        yield running


@pytest.fixture
def client(service: SimulatedService) -> AuthSettings:
    """A client of the service, without anything that gets it a token."""
    behaviour = service.behaviour
    return AuthSettings(
        client_id=behaviour.client_id,
        client_secret=behaviour.client_secret,
        token_url=service.token_url,
        timeout=10,
        retries=2,
    )


@pytest.fixture
def with_pat(service: SimulatedService, client: AuthSettings) -> AuthSettings:
    return replace(client, pat=service.behaviour.pat)


@pytest.fixture
def refresh_file(service: SimulatedService, tmp_path: Path) -> Path:
    return secret_file(tmp_path / "refresh_token", service.issue_refresh_token())


def secret_file(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(0o600)
    return path


def token_calls(service: SimulatedService) -> int:
    return service.requests.counts["token"]


def accepted(service: SimulatedService, header: str) -> bool:
    return service._authority.accepts(header)


def seen_of(error: BaseException) -> str:
    """All that a person could ever see of an error, but where the code lies on this machine."""
    text = "".join((str(error), repr(error), *traceback.format_exception(error)))
    return re.sub(r'(?m)^( *File ").*?(", line \d+, in )', r"\1\2", text)


def refreshing(client: AuthSettings, path: Path, watch: Watch) -> Credentials:
    settings = replace(client, refresh_token_file=str(path))
    return credentials_from(settings, warn=watch.warn, wait=watch.wait)


def once_only(used: set[str]) -> Callable[[Request], Response | None]:
    """A service that takes each refresh token once: the strictest that there could be."""
    lock = threading.Lock()

    def hook(request: Request) -> Response | None:
        token = request.form().get("refresh_token", "")
        with lock:
            if request.call == "token" and token in used:
                return Response.json({"error": "invalid_grant"}, 400)
            used.add(token)
        return None

    return hook
