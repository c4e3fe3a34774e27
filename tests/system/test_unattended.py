"""Nights without a person: tokens that renew themselves, limits, cron's environment."""

from __future__ import annotations

import heapq
import os
import sqlite3
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from support import (
    PATIENCE,
    assert_archive_equals,
    catalog_path,
    command,
    report_of,
    run_cli,
    start_cli,
)
from support.cli import FIRST, Args
from support.service import Serve

import g2a_archive
from g2a_archive.demo import SimulatedService, sample_recordings
from g2a_archive.demo.faults import status
from g2a_archive.service.pace import RateLimiter

RUN: Args = ["download", "--min-free", "0", "--json"]


# --- credentials -----------------------------------------------------------------------------


def test_tokens_that_live_a_second_over_a_longer_job(serve: Serve, tmp_path: Path) -> None:
    """Every third link is gone when it is used, so that calls come all the time."""
    recordings = sample_recordings(9, mp4_size=40_000, events_size=None, thumbnail_size=None)
    service = serve(recordings, token_lifetime=1.0, rate=80_000.0, rate_limit=None)
    for id_ in list(service.recordings)[2::3]:
        service.fail_files(status(410), recording_id=id_, times=1)
    args: Args = [*RUN, "--jobs", "1", *service.recordings, "-d", tmp_path / "a"]
    report = report_of(run_cli(args, service.environment(renewable=True), cwd=tmp_path))
    assert (report["exit_code"], report["archived"]) == (0, 9)
    assert service.requests.counts["token"] >= 3
    # Not one transfer was dropped for it: every file came in one piece.
    assert service.requests.statuses["file", 200] == 9
    assert not any("range" in entry.headers for entry in service.requests.calls("file"))
    assert report["bytes"] == 9 * 40_000
    assert_archive_equals(service, tmp_path / "a")


def test_a_token_that_is_refused_before_its_time(serve: Serve, tmp_path: Path) -> None:
    service = serve(4, rate_limit=None)
    revocations: list[Callable[[], None]] = [service.revoke]

    def revoke(_: object) -> None:
        if service.requests.counts["links"] == 1:
            with suppress(IndexError):  # another answer, at the same time, was first
                revocations.pop()()

    service.on_request.append(revoke)
    args: Args = [*RUN, *service.recordings, "-d", tmp_path / "a"]
    result = run_cli(args, service.environment(renewable=True), cwd=tmp_path)
    assert report_of(result)["archived"] == 4
    assert not revocations
    assert service.requests.counts["token"] == 2


def private(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o644, True), (0o640, True)])
def test_a_token_file(service: SimulatedService, tmp_path: Path, mode: int, warned: bool) -> None:
    path = private(tmp_path / "token", f"{service.token}\n", mode)
    env = {**service.environment(), "G2A_ARCHIVE_TOKEN_FILE": str(path)}
    del env["G2A_ARCHIVE_TOKEN"]
    result = run_cli([*RUN, FIRST], env, cwd=tmp_path)
    assert report_of(result)["archived"] == 1
    lines = [line for line in result.stderr.splitlines() if " WARNING " in line]
    assert len(lines) == warned
    if warned:
        assert str(path) in lines[0]
        assert "chmod 600" in lines[0] or "others" in lines[0]
    assert service.token not in result.stderr


def test_a_token_file_that_another_program_renews(serve: Serve, tmp_path: Path) -> None:
    service = serve(3, rate_limit=None)
    path = private(tmp_path / "token", "stale-token")
    env = {**service.environment(), "G2A_ARCHIVE_TOKEN_FILE": str(path)}
    del env["G2A_ARCHIVE_TOKEN"]

    def renew(_: object) -> None:
        private(path, service.token)  # as soon as the stale one is used

    service.on_request.append(renew)
    result = run_cli([*RUN, *service.recordings], env, cwd=tmp_path)
    assert report_of(result)["archived"] == 3


SOURCES = ["token", "token_file", "pat", "refresh_token_file"]


@pytest.mark.parametrize("first", SOURCES)
def test_the_order_of_credentials(service: SimulatedService, tmp_path: Path, first: str) -> None:
    """Of what is configured, the first of the design's order counts; the others are not tried."""
    refresh = private(tmp_path / "refresh", service.issue_refresh_token())
    other = service.issue_token()
    values = {
        "token": service.token,
        "token_file": str(private(tmp_path / "token", other)),
        "pat": service.behaviour.pat,
        "refresh_token_file": str(refresh),
    }
    env = service.environment(renewable=True)
    del env["G2A_ARCHIVE_PAT"]
    for name in SOURCES[SOURCES.index(first) :]:
        env[f"G2A_ARCHIVE_{name.upper()}"] = values[name]
    assert report_of(run_cli([*RUN, FIRST], env, cwd=tmp_path))["archived"] == 1
    grants = [entry.form()["grant_type"] for entry in service.requests.calls("token")]
    assert (
        grants
        == {
            "token": [],
            "token_file": [],
            "pat": ["personal_access_token"],
            "refresh_token_file": ["refresh_token"],
        }[first]
    )
    (call,) = service.requests.calls("links")
    used = call.headers["authorization"].removeprefix("Bearer ")
    assert (used == service.token, used == other) == (first == "token", first == "token_file")


def test_the_environment_s_method_beats_the_file_s(
    service: SimulatedService, tmp_path: Path
) -> None:
    (tmp_path / "c.toml").write_text('[auth]\ntoken = "an old token"\n')
    env = service.environment(renewable=True)
    result = run_cli([*RUN, FIRST, "--config", "c.toml"], env, cwd=tmp_path)
    assert report_of(result)["archived"] == 1


def test_a_configuration_with_a_secret_that_others_can_read(
    service: SimulatedService, tmp_path: Path
) -> None:
    text = f'[auth]\ntoken = "{service.token}"\n'
    env = service.environment()
    del env["G2A_ARCHIVE_TOKEN"]
    for mode, warnings in ((0o600, 0), (0o644, 1)):
        path = private(tmp_path / "c.toml", text, mode)
        result = run_cli([*RUN, FIRST + warnings, "--config", path], env, cwd=tmp_path)
        assert report_of(result)["archived"] == 1
        assert result.stderr.count("WARNING") == warnings, result.stderr


def test_the_older_header(serve: Serve, tmp_path: Path) -> None:
    service = serve(1, auth_scheme="oauth")
    env = {**service.environment(), "G2A_ARCHIVE_AUTH_SCHEME": "oauth"}
    assert report_of(run_cli([*RUN, FIRST], env, cwd=tmp_path))["archived"] == 1
    (call,) = service.requests.calls("links")
    assert call.headers["authorization"] == f"OAuth oauth_token={service.token}"


def test_a_refused_personal_access_token(service: SimulatedService, tmp_path: Path) -> None:
    env = {**service.environment(renewable=True), "G2A_ARCHIVE_PAT": "revoked-long-ago"}
    result = run_cli([*RUN, FIRST, "-q"], env, cwd=tmp_path)
    assert result.returncode == 4
    (line,) = result.stderr.splitlines()
    assert "check the personal access token: it may have expired or been revoked" in line
    assert "revoked-long-ago" not in line


# --- limits ----------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 5, 8, 16])
@pytest.mark.parametrize("rate", [50_000, 1_000_000, 100_000_000])
def test_the_limit_holds_within_five_percent_over_ten_seconds(threads: int, rate: int) -> None:
    """Threads that read as fast as they are let, on a clock that only waiting moves."""
    now = [0.0]
    limiter = RateLimiter(rate, Waiting(), clock=lambda: now[0])
    step = limiter.step(threads)
    received = 0
    ready = [(0.0, thread) for thread in range(threads)]
    while ready[0][0] < 10.0:
        now[0], thread = heapq.heappop(ready)
        received += step
        heapq.heappush(ready, (now[0] + limiter.take(step), thread))
    assert 0.95 < received / (10 * rate) < 1.05


def test_a_slow_moment_is_not_made_up_for_by_a_burst() -> None:
    now = [0.0]
    limiter = RateLimiter(1000, Waiting(), clock=lambda: now[0])
    limiter.take(100)
    now[0] = 60.0  # nothing came for a minute
    assert limiter.take(100) == 0.0
    assert limiter.take(1000) == pytest.approx(1.0)


class Waiting(threading.Event):
    """Waits no time at all: the test's own clock is what passes."""

    def wait(self, timeout: float | None = None) -> bool:
        return False


def test_a_run_with_a_limit_arrives(service: SimulatedService, tmp_path: Path) -> None:
    args: Args = [*RUN, *service.recordings, "--limit-rate", "5M", "-d", tmp_path / "a"]
    assert report_of(run_cli(args, service.environment(), cwd=tmp_path))["archived"] == 8
    assert_archive_equals(service, tmp_path / "a")


def test_max_duration_stops_tidily_and_the_next_run_goes_on(serve: Serve, tmp_path: Path) -> None:
    recordings = sample_recordings(6, mp4_size=500_000)
    service = serve(recordings, rate=300_000.0, rate_limit=None)
    root = tmp_path / "a"
    args: Args = [*RUN, *service.recordings, "-d", root, "--jobs", "2"]
    first = report_of(run_cli([*args, "--max-duration", "2s"], service.environment(), cwd=tmp_path))
    assert first["exit_code"] == 8
    assert first["archived"] < 6
    assert first["failed"] == []
    service.behaviour.rate = None
    service.requests.clear()
    again = report_of(run_cli(args, service.environment(), cwd=tmp_path))
    assert again["exit_code"] == 0
    assert again["archived"] + again["already_archived"] == 6
    assert service.requests.statuses["file", 206] >= 1, "what had arrived was used"
    assert first["bytes"] + again["bytes"] == sum(
        r.size(kind) or 0 for r in recordings for kind in ("mp4", "events", "thumbnail")
    )
    assert_archive_equals(service, root)


def test_the_catalogue_elsewhere(service: SimulatedService, tmp_path: Path) -> None:
    root, local = tmp_path / "share", tmp_path / "local" / "catalog.sqlite3"
    args: Args = [*RUN, FIRST, "-d", root, "--catalog", local]
    assert report_of(run_cli(args, service.environment(), cwd=tmp_path))["archived"] == 1
    assert not catalog_path(root).exists()
    with sqlite3.connect(local) as db:
        assert db.execute("SELECT id, state FROM recording").fetchall() == [(FIRST, "archived")]
    db.close()
    again = report_of(run_cli(args, service.environment(), cwd=tmp_path))
    assert (again["already_archived"], service.requests.counts["links"]) == (1, 1)
    # Another archive than the one that this catalogue speaks of: an unmounted drive, say.
    result = run_cli([*RUN, FIRST, "-d", tmp_path / "b", "--catalog", local], service.environment())
    assert result.returncode == 6
    assert not (tmp_path / "b").exists()
    # An empty file is none yet, be it one that `mktemp` made.
    local.write_bytes(b"")
    result = run_cli([*RUN, FIRST, "-d", tmp_path / "b", "--catalog", local], service.environment())
    assert report_of(result)["archived"] == 1


# --- cron ------------------------------------------------------------------------------------


def test_the_environment_that_cron_has(service: SimulatedService, tmp_path: Path) -> None:
    """No HOME, no TERM, no locale; the program is named by its path; nothing is mailed."""
    env = {
        **service.environment(),
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(Path(g2a_archive.__file__).parent.parent),
    }
    args = command(["download", "-q", "-f", tmp_path / "ids", "-d", tmp_path / "a", "--min-free=0"])
    (tmp_path / "ids").write_text("".join(f"{id_}\n" for id_ in service.recordings))
    for _ in range(2):
        done = subprocess.run(
            args, env=env, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, check=False,
            timeout=PATIENCE,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert_archive_equals(service, tmp_path / "a")
    assert service.requests.counts["links"] == 1


def test_cron_is_told_in_one_clear_paragraph(service: SimulatedService, tmp_path: Path) -> None:
    service.revoke()
    args: Args = ["download", "-q", 1, "-d", tmp_path / "a"]
    done = run_cli(args, service.environment(), cwd="/")
    assert done.returncode == 4
    assert len(done.stderr.splitlines()) == 1
    assert len(done.stdout.splitlines()) <= 3  # the last one is the fingerprint


def test_a_hang_up_is_a_tidy_stop(serve: Serve, tmp_path: Path) -> None:
    """The terminal is closed, the machine shuts down: SIGHUP, and nothing is lost."""
    service = serve(sample_recordings(2, mp4_size=400_000), rate=100_000.0, rate_limit=None)
    args: Args = [*RUN, *service.recordings, "-d", tmp_path / "a"]
    with start_cli(args, service.environment(), cwd=tmp_path) as process:
        assert service.requests.wait_for(lambda log: log.file_bytes_sent > 100_000)
        os.kill(process.pid, 1)
        out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143
    assert '"exit_code": 143' in out
    service.behaviour.rate = None
    assert report_of(run_cli(args, service.environment(), cwd=tmp_path))["exit_code"] == 0
    assert_archive_equals(service, tmp_path / "a")
