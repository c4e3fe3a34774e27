"""Credentials: which source counts, what is wrong with it, when and how often it is renewed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from support import auth as auth_support
from support import run_cli
from support.auth import Watch, accepted, secret_file, seen_of, token_calls
from support.cli import Args

from g2a_archive.auth.credentials import AuthSettings, credentials_from
from g2a_archive.auth.secretfile import read_secret
from g2a_archive.demo import (
    ManualClock,
    Response,
    SimulatedService,
    sample_recordings,
)
from g2a_archive.errors import (
    BadResponseError,
    CredentialsError,
    ExitCode,
)

service = auth_support.service
client = auth_support.client
with_pat = auth_support.with_pat
refresh_file = auth_support.refresh_file
watch = auth_support.watch


# Which source counts.


def test_sources_in_their_order(
    service: SimulatedService, client: AuthSettings, refresh_file: Path, tmp_path: Path
) -> None:
    filed = secret_file(tmp_path / "token", "filed-token")
    everything = replace(
        client,
        token="given-token",
        token_file=str(filed),
        pat=service.behaviour.pat,
        refresh_token_file=str(refresh_file),
    )
    watch, grants = Watch(), []

    def header(settings: AuthSettings) -> str:
        return credentials_from(settings, warn=watch.warn, wait=watch.wait).authorization()

    assert header(everything) == "Bearer given-token"
    assert header(replace(everything, token=None)) == "Bearer filed-token"
    assert token_calls(service) == 0
    assert accepted(service, header(replace(everything, token="", token_file=None)))
    without_pat = replace(everything, token=None, token_file=None, pat=None)
    assert accepted(service, header(without_pat))
    grants = [call.form()["grant_type"] for call in service.requests.calls("token")]
    assert grants == ["personal_access_token", "refresh_token"]
    assert watch.warnings == []


def test_older_accounts_have_another_header(watch: Watch) -> None:
    settings = AuthSettings(token="T", scheme="oauth")
    credentials = credentials_from(settings, warn=watch.warn, wait=watch.wait)
    assert credentials.authorization() == "OAuth oauth_token=T"
    assert not credentials.renewable
    assert not credentials.renew("OAuth oauth_token=T")


def test_secrets_may_be_in_files(
    service: SimulatedService, client: AuthSettings, tmp_path: Path, watch: Watch
) -> None:
    settings = replace(
        client,
        client_secret=None,
        client_secret_file=str(secret_file(tmp_path / "s", "\ufeffsimulated-client-secret\r\n")),
        pat_file=str(secret_file(tmp_path / "p", "  simulated-personal-access-token \n\n")),
    )
    credentials = credentials_from(settings, warn=watch.warn, wait=watch.wait)
    assert accepted(service, credentials.authorization())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (AuthSettings(), "G2A_ARCHIVE_TOKEN or"),
        (AuthSettings(client_id="c"), "G2A_ARCHIVE_CLIENT_SECRET or"),
        (AuthSettings(client_id="c", client_secret="s"), "G2A_ARCHIVE_PAT"),
        (AuthSettings(client_secret="s", pat="p"), "G2A_ARCHIVE_CLIENT_ID"),
        (AuthSettings(client_id="c", pat="p"), "G2A_ARCHIVE_CLIENT_SECRET"),
        (AuthSettings(pat="p"), "G2A_ARCHIVE_CLIENT_ID"),
        (AuthSettings(client_id="c", refresh_token_file="f"), "G2A_ARCHIVE_CLIENT_SECRET"),
    ],
)
def test_what_is_missing_is_named(settings: AuthSettings, named: str, watch: Watch) -> None:
    with pytest.raises(CredentialsError) as caught:
        credentials_from(settings, warn=watch.warn, wait=watch.wait)
    assert named in caught.value.hint
    assert caught.value.exit_code is ExitCode.CREDENTIALS


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b" \n\xef\xbb\xbf\n",
        b"hush\nhush",
        b"hush\x00",
        b"hush\x7f",
        "hush\u2026".encode(),
        b"hush\xff\xfe",
        b"hush" * 20_000,
        b"Bearer hush",
        None,
    ],
)
def test_bad_secret_files_are_named_but_not_shown(
    content: bytes | None, tmp_path: Path, watch: Watch
) -> None:
    path = tmp_path / "token-file"
    if content is not None:
        secret_file(path, content)
    with pytest.raises(CredentialsError) as caught:
        credentials_from(AuthSettings(token_file=str(path)), warn=watch.warn, wait=watch.wait)
    assert str(path) in str(caught.value)
    assert "hush" not in seen_of(caught.value)


@pytest.mark.parametrize("field", ["token", "client_secret", "pat", "client_id"])
@pytest.mark.parametrize("value", ["hush\r\nX-More: 1", "hush\u2603", "h\x1bush"])
def test_secrets_that_no_header_can_hold(field: str, value: str, watch: Watch) -> None:
    fields = {"client_id": "c", "client_secret": "s", "pat": "p", field: value}
    with pytest.raises(CredentialsError) as caught:
        credentials_from(AuthSettings(**fields), warn=watch.warn, wait=watch.wait)  # type: ignore[arg-type]
    assert "ush" not in seen_of(caught.value)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, 0), (0o400, 0), (0o640, 1), (0o604, 1)])
def test_files_that_others_can_read_draw_one_warning(
    mode: int, warned: int, tmp_path: Path, watch: Watch
) -> None:
    path = secret_file(tmp_path / "token-file", "hush")
    path.chmod(mode)
    credentials = credentials_from(
        AuthSettings(token_file=str(path)), warn=watch.warn, wait=watch.wait
    )
    credentials.renew(credentials.authorization())
    assert len(watch.warnings) == warned
    assert all(str(path) in text and "hush" not in text for text in watch.warnings)


# When a token is renewed.


def test_a_token_is_kept_until_near_its_end(
    service: SimulatedService, with_pat: AuthSettings, watch: Watch
) -> None:
    clock, wall = ManualClock(), ManualClock(1e9)
    credentials = credentials_from(
        with_pat, warn=watch.warn, wait=watch.wait, monotonic=clock, wall=wall
    )
    first = credentials.authorization()
    clock.advance(3600 - 301)
    wall.advance(-5000)  # a clock that was put right
    assert credentials.authorization() == first
    clock.advance(2)
    second = credentials.authorization()
    assert second != first
    wall.advance(3600)  # a machine that slept, while the monotonic clock stood
    assert credentials.authorization() not in (first, second)
    assert token_calls(service) == 3


@pytest.mark.parametrize("told", ["soon", -1, 0, 1e12, None, [], "1e400"])
def test_a_life_that_is_none_is_an_hour(
    told: object, service: SimulatedService, with_pat: AuthSettings, watch: Watch
) -> None:
    answer = Response.json({"access_token": "odd", "expires_in": told})
    service.fail(answer, call="token", times=1)
    clock, wall = ManualClock(), ManualClock()
    credentials = credentials_from(
        with_pat, warn=watch.warn, wait=watch.wait, monotonic=clock, wall=wall
    )
    first = credentials.authorization()
    clock.advance(3600 - 301)
    assert credentials.authorization() == first == "Bearer odd"
    clock.advance(2)
    assert credentials.authorization() != first


def test_short_lives_are_renewed_after_two_thirds(
    service: SimulatedService, with_pat: AuthSettings, watch: Watch
) -> None:
    service.behaviour.token_lifetime = 6
    clock, wall = ManualClock(), ManualClock()
    credentials = credentials_from(
        with_pat, warn=watch.warn, wait=watch.wait, monotonic=clock, wall=wall
    )
    first = credentials.authorization()
    clock.advance(3.9)
    assert credentials.authorization() == first
    clock.advance(0.2)
    assert credentials.authorization() != first


def test_an_early_renewal_may_fail_while_the_token_lives(
    service: SimulatedService, with_pat: AuthSettings, watch: Watch
) -> None:
    clock, wall = ManualClock(), ManualClock()
    credentials = credentials_from(
        with_pat, warn=watch.warn, wait=watch.wait, monotonic=clock, wall=wall
    )
    first = credentials.authorization()
    trouble = service.fail(Response(503), call="token")
    clock.advance(3400)
    assert credentials.authorization() == first
    asked = token_calls(service)
    assert asked == 1 + 3
    assert credentials.authorization() == first, "asked again at once"
    assert token_calls(service) == asked
    assert "not renewed yet" in watch.warnings[-1]
    clock.advance(201)
    with pytest.raises(BadResponseError):  # its life is over
        credentials.authorization()
    service.on_request.remove(trouble)
    assert accepted(service, credentials.authorization())


def test_a_refused_token_is_renewed_once_for_all_threads(
    service: SimulatedService, with_pat: AuthSettings, watch: Watch
) -> None:
    credentials = credentials_from(with_pat, warn=watch.warn, wait=watch.wait)
    stale = credentials.authorization()
    service.revoke()
    together = threading.Barrier(16)

    def work() -> tuple[bool, str]:
        together.wait(timeout=10)
        return credentials.renew(stale), credentials.authorization()

    with ThreadPoolExecutor(16) as pool:
        results = [future.result() for future in [pool.submit(work) for _ in range(16)]]
    assert token_calls(service) == 2
    assert len(set(results)) == 1
    renewed, header = results[0]
    assert renewed
    assert accepted(service, header)


def test_a_refused_renewal_is_asked_for_once(
    service: SimulatedService, with_pat: AuthSettings, watch: Watch
) -> None:
    credentials = credentials_from(with_pat, warn=watch.warn, wait=watch.wait)
    stale = credentials.authorization()
    service.behaviour.pat = "another"
    for _ in range(3):
        with pytest.raises(CredentialsError, match=r"HTTP 400, invalid_grant.*personal access"):
            credentials.renew(stale)
    assert token_calls(service) == 2


@pytest.mark.parametrize("status", [401, 403])
def test_the_same_token_granted_again_is_tried_again(
    status: int, service: SimulatedService, tmp_path: Path
) -> None:
    """An endpoint may give out one token for as long as it lives; a refusal may pass."""
    environment = service.environment(renewable=True)
    token = service.environment()["G2A_ARCHIVE_TOKEN"]
    granted = service.fail(Response.json({"access_token": token}), call="token")
    service.fail(Response(status), call="links", times=1)
    [recording] = sample_recordings(1)
    service.set_recordings([recording])
    args: Args = ["download", recording.id, "--dest", tmp_path / "archive", "--min-free", "0"]
    result = run_cli(args, environment)
    assert result.returncode == ExitCode.OK, result.stderr
    assert granted.applied == 2


def test_a_granted_token_that_stays_refused_is_asked_for_once_more(
    service: SimulatedService, tmp_path: Path
) -> None:
    environment = service.environment(renewable=True)
    granted = service.fail(Response.json({"access_token": "same"}), call="token")
    args: Args = ["download", 4711, "--dest", tmp_path / "archive"]
    assert run_cli(args, environment).returncode == ExitCode.CREDENTIALS
    assert granted.applied == 2
    assert len([*service.requests.calls("links")]) == 2


def test_a_token_file_that_another_program_renews(tmp_path: Path, watch: Watch) -> None:
    path = secret_file(tmp_path / "token", "one")
    settings = AuthSettings(token_file=str(path))
    credentials = credentials_from(settings, warn=watch.warn, wait=watch.wait)
    assert credentials.renewable
    assert credentials.authorization() == "Bearer one"
    assert not credentials.renew("Bearer one")
    secret_file(path, "two\n")
    assert credentials.authorization() == "Bearer one", "only a refusal makes it look"
    assert credentials.renew("Bearer one")
    assert credentials.authorization() == "Bearer two"
    assert credentials.renew("Bearer one"), "a thread that is late"
    assert {"one", "two"} <= credentials.secrets()


@pytest.mark.parametrize("first", ["one", ""])
def test_a_token_file_that_is_just_being_written(first: str, tmp_path: Path) -> None:
    """As a shell's `get-token > FILE` empties it first: as a run begins, too."""
    path = secret_file(tmp_path / "token", first)
    path.chmod(0o644)
    warned: list[str] = []
    tokens = iter(["two", "three"])

    def wait(seconds: float) -> bool:
        path.write_text(next(tokens))
        return False

    settings = AuthSettings(token_file=str(path))
    credentials = credentials_from(settings, warn=warned.append, wait=wait)
    assert len(warned) == 1, "twice read, once told"
    stale = credentials.authorization()
    secret_file(path, "")
    assert credentials.renew(stale)
    assert credentials.authorization() == ("Bearer two" if first else "Bearer three")


def test_a_pipe_that_nobody_writes_to(tmp_path: Path) -> None:
    """No signal would end the wait for whoever opens it."""
    pipe = tmp_path / "token"
    os.mkfifo(pipe)
    hurried = "from g2a_archive.auth import secretfile; secretfile._PATIENCE = 0.1"
    args: Args = ["download", 1, "--dest", tmp_path / "archive"]
    result = run_cli(args, {"G2A_ARCHIVE_TOKEN_FILE": str(pipe)}, before=hurried)
    assert result.returncode == ExitCode.CREDENTIALS
    told = f"cannot read the access token in {pipe}: nothing came through this pipe"
    assert told in result.stderr


def test_a_token_that_comes_through_a_pipe(tmp_path: Path) -> None:
    """As a shell's `<(…)` is, whose writer may take its time, and may be gone by then."""
    pipe = tmp_path / "token"
    os.mkfifo(pipe)
    for pause in (0.2, 0.0):
        writer = threading.Timer(pause, pipe.write_text, ("a-token\n",))
        writer.start()
        assert read_secret(pipe, "the token") == "a-token"
        writer.join()
    reader, writing = os.pipe()
    os.write(writing, b"a-token\n")
    os.close(writing)
    assert read_secret(f"/dev/fd/{reader}", "the token") == "a-token"
    os.close(reader)


def test_old_access_tokens_stay_secrets(
    service: SimulatedService, with_pat: AuthSettings, watch: Watch
) -> None:
    credentials = credentials_from(with_pat, warn=watch.warn, wait=watch.wait)
    first = credentials.authorization()
    assert credentials.renew(first)
    tokens = {first.removeprefix("Bearer "), credentials.authorization().removeprefix("Bearer ")}
    assert len(tokens) == 2
    assert tokens <= credentials.secrets()


def test_the_module_is_light() -> None:
    program = "import sys, g2a_archive.auth.credentials; sys.exit('requests' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
