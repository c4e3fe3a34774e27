"""`list`: what the service has, for a person, a pipe or a program."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support import (
    LONG,
    assert_archive_equals,
    cli_here,
    run_cli,
    start_cli,
)
from support import sync as sync_support
from support.service import Serve
from support.sync import (
    TODAY,
    by_start,
    small,
    sync_args,
)

from g2a_archive.demo import (
    Fault,
    Request,
    Response,
    SimulatedRecording,
    SimulatedService,
)
from g2a_archive.demo.faults import drop
from g2a_archive.models import LIST_LIMIT

pytestmark = pytest.mark.usefixtures("at_once")

service = sync_support.service


def test_list_into_download(serve: Serve, root: Path) -> None:
    service = serve(small(9, transcode_every=3))
    listed = cli_here(["list", "--account-key", "1000"], service.environment())
    ready = [i for i in by_start(service) if service.state(i) == "ready"]
    assert (listed.returncode, listed.stderr) == (0, "")
    assert listed.stdout == "".join(f"{id_}\n" for id_ in ready)
    args: list[str | int | Path] = ["download", "-f", "-", "-d", root, "--min-free", "0"]
    assert cli_here(args, service.environment(), listed.stdout).returncode == 0
    assert_archive_equals(service, root, ready)


def test_what_was_told_before_a_call_fails_is_listed(serve: Serve) -> None:
    """By a service that heeds no times: `sync` takes as much."""
    service = serve(0)
    first = [*range(1, LIST_LIMIT + 1)]
    listed = {"readyForTranscode": [], "readyForDownload": first}
    service.fail(Response.json(listed), call="list")
    found = cli_here(["list", "--account-key", "1000"], service.environment())
    assert found.returncode == 7
    assert "does not heed fromTime" in found.stderr
    assert [*map(int, found.stdout.split())] == first


def test_a_list_that_may_not_be_whole(serve: Serve) -> None:
    second = TODAY - timedelta(days=1)
    service = serve([SimulatedRecording(n, second) for n in range(1, 502)])
    times = ["--since", second.isoformat(), "--until", (second + timedelta(seconds=2)).isoformat()]
    listed = cli_here(["list", "--account-key", "1000", *times], service.environment())
    assert listed.returncode == 1
    assert len(listed.stdout.split()) == 500
    assert f"{second:%Y-%m-%dT%H:%M:%SZ}" in listed.stderr


@pytest.mark.parametrize("bad", ["999", "1001"], ids=["the first", "the last"])
@pytest.mark.parametrize(
    ("fault", "code"),
    [(Response(403), 4), (Response(500), 7), (drop(), 7)],
    ids=["403", "500", "no answer"],
)
def test_one_key_of_several_keeps_no_other_out(
    bad: str, fault: Response | Fault, code: int, service: SimulatedService
) -> None:
    def of_the_bad_key(call: Request) -> Response | Fault | None:
        return fault if f"accountKey={bad}" in call.target else None

    service.on_request.append(of_the_bad_key)
    args = ["list", "--retries", "0", "--account-key", "1000", "--account-key", bad]
    listed = cli_here(args, service.environment())
    assert listed.returncode == code
    assert sorted(map(int, listed.stdout.split())) == sorted(service.recordings)
    assert listed.stderr.startswith(f"g2a-archive: accountKey {bad}: ")
    assert listed.stderr.count("\n") == 1
    service.fail(fault, call="list")
    listed = cli_here(args, service.environment())
    assert (listed.returncode, listed.stdout) == (code, "")


def test_every_key_by_option_and_by_variable(service: SimulatedService) -> None:
    one = next(iter(service.recordings.values()))
    keys = {"account-key": one.account_key, "user-key": one.user_key, "company-id": "7"}
    for name, key in keys.items():
        variable = f"G2A_ARCHIVE_{name.upper().replace('-', '_')}"
        given: list[tuple[list[str], dict[str, str]]] = [([f"--{name}", key], {})]
        for args, env in [*given, ([], {variable: key})]:
            service.requests.clear()
            listed = cli_here(["list", "--not-archived", *args], {**service.environment(), **env})
            assert (listed.returncode, listed.stderr) == (0, "")
            (call,) = service.requests.calls("list")
            first, _, last = name.partition("-")
            assert call.query == ((first + last.title(), key),)


def test_list_by_state_type_and_time(serve: Serve) -> None:
    recordings = small(9, transcode_every=3)
    service = serve(recordings)
    waiting = [i for i in by_start(service) if service.state(i) == "transcode"]
    env = {**service.environment(), "G2A_ARCHIVE_ACCOUNT_KEY": "1000"}
    listed = cli_here(["list", "--state", "transcode"], env)
    assert listed.stdout.split() == [str(i) for i in waiting]
    listed = cli_here(["list", "--state", "all", "--json", "--since", "13h", "--until", "1h"], env)
    late = [r.id for r in recordings[-4:]]
    found = report_like(listed.stdout)
    assert found["ready_for_download"] + found["ready_for_transcode"] == [
        *(i for i in late if i not in waiting),
        *(i for i in late if i in waiting),
    ]
    assert found["list_calls"] == 1
    listed = cli_here(
        ["list", "--session-type", "unattended", "--archived", "--company-id", "3000"], env
    )
    assert (listed.returncode, listed.stdout) == (0, "")
    query = dict(service.requests.calls("list")[-1].query)
    assert query == {
        "accountKey": "1000",
        "companyId": "3000",
        "sessionType": "1",
        "archived": "1",
    }


def report_like(text: str) -> dict[str, Any]:
    import json

    found: dict[str, Any] = json.loads(text)
    return found


def test_keys_in_the_configuration_file(serve: Serve, tmp_path: Path) -> None:
    service = serve(3)
    file = tmp_path / "config.toml"
    for text in ('account_key = "1000"', "account_key = 1000", 'account_key = ["1000", "1000"]'):
        file.write_text(text)
        listed = cli_here(["list", "--config", file], service.environment())
        assert (listed.returncode, len(listed.stdout.split())) == (0, 3), listed.stderr
        shown = cli_here(["config", "show", "--config", file], service.environment())
        assert "account_key = " in shown.stdout


def test_list_on_a_terminal(serve: Serve) -> None:
    service = serve(small(3, transcode_every=3))
    controller, terminal = os.openpty()
    args: list[str | int | Path] = ["list", "--account-key", "1000", "--state", "all"]
    result = run_cli(args, service.environment(), stdout=terminal)
    os.close(terminal)
    shown = os.read(controller, 10_000).decode().split("\r\n")
    os.close(controller)
    assert result.returncode == 0
    assert shown == [
        "recording  state",
        "    10000  ready for download",
        "     9998  ready for transcoding",
        "     9999  ready for download",
        "3 recordings (1 call)",
        "",
    ]


MANY = 25_000 if LONG else 8_000


@pytest.fixture
def many() -> Iterator[SimulatedService]:
    """Recordings of three years, with bursts; see `test_listing.with_bursts`."""
    from test_listing import with_bursts

    recordings = [
        SimulatedRecording(
            n, datetime.fromtimestamp(at, UTC), state="ready" if n % 10 else "transcode"
        )
        for n, at in enumerate(sorted(with_bursts(1, MANY)), 1)
    ]
    with SimulatedService(recordings) as running:
        running.behaviour.rate_limit = None
        yield running


@pytest.mark.usefixtures("at_once")
def test_list_of_many(many: SimulatedService) -> None:
    """The real thing but for the pace: the whole program, over HTTP."""
    args = ["list", "--account-key", "1000", "--state", "all"]
    result = cli_here(args, many.environment())
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(map(int, result.stdout.split())) == sorted(many.recordings)
    assert len(result.stdout.split()) == MANY
    assert many.requests.counts["list"] <= 220


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("name", ["list", "sync"])
def test_signals_while_listing(
    name: str, number: signal.Signals, code: int, serve: Serve, root: Path
) -> None:
    service = serve(3, link_latency=30.0)
    args = sync_args(root) if name == "sync" else ["list", "--account-key", "1000"]
    with start_cli(args, service.environment()) as process:
        assert service.requests.wait_for(lambda log: log.counts["list"])
        process.send_signal(number)
        service.stop()
        out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert err == ("g2a-archive: interrupted\n" if name == "list" else "")
    stopped = "Stopped before anything was archived; run again to go on"
    assert out.splitlines()[:1] == ([stopped] if name == "sync" else [])
