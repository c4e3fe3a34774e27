"""Clocks that are wrong: nothing that they say of the future is remembered as done."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support import assert_archive_equals, catalog_rows, cli_here, download_args, report_of, states
from support.clocks import YEAR, clock_off_by
from support.service import Serve
from support.sync import TODAY, change, small, sync_args, sync_here

from g2a_archive.demo import Request, SimulatedRecording, SimulatedService, faults
from g2a_archive.models import iso

pytestmark = pytest.mark.usefixtures("at_once")


def crowd(count: int = 560) -> list[SimulatedRecording]:
    """So many that windows are needed; they wait to be transcoded, and cost no download."""
    return [
        SimulatedRecording(
            id=50_000 + number, start=TODAY - timedelta(days=number + 1), state="transcode"
        )
        for number in range(count)
    ]


def run_cli(
    args: Sequence[str | int | Path], env: Mapping[str, str], *, clock: float = 0.0
) -> subprocess.CompletedProcess[str]:
    """Run the program by a clock that is so many seconds ahead."""
    with clock_off_by(clock):
        return cli_here(args, env)


def in_the_future(root: Path) -> list[str]:
    """What the catalogue holds that has not come yet."""
    limit = iso(int(time.time()) + 60)
    columns = [
        *(("recording", name) for name in ("owed_since", "last_try", "transcode_at", "marked_at")),
        *(("recording", "archived_at"), ("file", "archived_at"), ("scan", "complete_until")),
        *(("run", "started_at"), ("run", "finished_at")),
    ]
    return [
        f"{table}.{name}"
        for table, name in columns
        if catalog_rows(root, f"SELECT 1 FROM {table} WHERE {name} > ?", limit)
    ]


@pytest.mark.parametrize("told", [True, False], ids=["told", "untold"])
def test_one_night_a_year_ahead_hides_nothing_later(told: bool, serve: Serve, root: Path) -> None:
    service = serve(crowd(), rate_limit=None)
    if not told:
        service.fail(faults.undated())
    assert run_cli(sync_args(root), service.environment(), clock=YEAR).returncode == 3
    assert len(states(root)) == 560
    assert bool(in_the_future(root)) == (not told)
    new = small(3)
    service.set_recordings([*service.recordings.values(), *new])
    report = report_of(run_cli(sync_args(root, "--json"), service.environment()))
    assert report["archived"] == 3
    assert [name for name in in_the_future(root) if not name.startswith("run.")] == []


def test_a_year_ahead_for_nights_where_the_service_tells_the_time(serve: Serve, root: Path) -> None:
    """Also where an earlier version remembered a scan that was complete until next year."""
    service = serve(crowd(), rate_limit=None)
    run_cli(sync_args(root), service.environment(), clock=YEAR)
    change(root, "UPDATE scan SET complete_until = ?", iso(int(time.time() + YEAR)))
    service.set_recordings([*service.recordings.values(), *small(3)])
    report = report_of(run_cli(sync_args(root, "--json"), service.environment(), clock=YEAR))
    assert report["archived"] == 3
    assert in_the_future(root) == []
    assert abs(datetime.fromisoformat(report["finished_at"]).timestamp() - time.time()) < 300


def test_a_year_behind(serve: Serve, root: Path) -> None:
    service = serve([*crowd(), *small(3)], rate_limit=None)
    assert (
        report_of(run_cli(sync_args(root, "--json"), service.environment(), clock=-YEAR))[
            "archived"
        ]
        == 3
    )
    assert len(states(root)) == 563
    before = set(service.recordings)
    service.set_recordings([*service.recordings.values(), SimulatedRecording(7, TODAY)])
    assert (
        report_of(run_cli(sync_args(root, "--json"), service.environment(), clock=-YEAR))[
            "archived"
        ]
        == 1
    )
    assert states(root).keys() == {*before, 7}


# --- what is owed -----------------------------------------------------------------------------


@pytest.fixture
def service(serve: Serve) -> SimulatedService:
    return serve(small(4), rate_limit=None)


def fail_one(service: SimulatedService) -> int:
    bad = min(service.recordings)
    service.fail_files(faults.status(404), recording_id=bad)
    return bad


def test_nothing_is_given_up_by_a_clock_that_is_ahead(
    service: SimulatedService, root: Path
) -> None:
    bad = fail_one(service)
    args = sync_args(root, "--give-up-after", "30d", "--retries", "0", "--json")
    for _ in range(2):
        assert run_cli(args, service.environment()).returncode == 1
    report = report_of(run_cli(args, service.environment(), clock=YEAR))
    assert report["sync"]["lost"] == []
    assert states(root)[bad] == "failed"


def test_what_is_owed_since_the_future_is_given_up_in_the_end(
    service: SimulatedService, root: Path
) -> None:
    bad = min(service.recordings)
    rule = service.fail(faults.undated())
    args = sync_args(root, "--give-up-after", "30d", "--retries", "0", "--json")
    service.set_state(bad, "unavailable")
    run_cli(["download", "-d", root, "--min-free", "0", bad], service.environment(), clock=YEAR)
    assert "recording.owed_since" in in_the_future(root)
    service.on_request.clear()
    run_cli(args, service.environment())
    assert "recording.owed_since" not in in_the_future(root)
    service.on_request[:] = [rule]
    assert report_of(run_cli(args, service.environment(), clock=31 * 86400.0))["sync"]["lost"] == [
        bad
    ]


def test_a_transcoding_that_was_asked_for_in_the_future_is_asked_for_again(
    serve: Serve, root: Path
) -> None:
    service = serve(small(2, transcode_every=2), rate_limit=None, transcode_seconds=9e9)
    service.fail(faults.undated())
    run_cli(sync_args(root, "--transcode"), service.environment(), clock=YEAR)
    assert service.requests.counts["transcode"] == 1
    (waiting,) = (i for i in service.recordings if service.state(i) == "unavailable")
    service.set_state(waiting, "transcode")  # the service has forgotten it
    run_cli(sync_args(root, "--transcode"), service.environment())
    assert service.requests.counts["transcode"] == 2
    service.set_state(waiting, "transcode")
    run_cli(sync_args(root, "--transcode"), service.environment())
    assert service.requests.counts["transcode"] == 2, "asked for just now"


def test_the_last_success_is_never_in_the_future(
    service: SimulatedService, root: Path, tmp_path: Path
) -> None:
    metrics = tmp_path / "metrics"
    args = download_args(root, "--metrics-file", metrics, "--retries", "0")

    def success() -> float:
        name = "g2a_archive_last_success_timestamp_seconds"
        found = re.search(rf"^{name}\S* (\S+)$", metrics.read_text(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    first, *rest = service.recordings
    assert run_cli([*args, first], service.environment()).returncode == 0
    assert abs(success() - time.time()) < 300
    rule = service.fail(faults.undated())
    assert run_cli([*args, rest[0]], service.environment(), clock=YEAR).returncode == 0
    service.fail_files(faults.status(404))
    service.on_request.remove(rule)
    assert run_cli([*args, rest[1]], service.environment()).returncode == 1
    assert abs(success() - time.time()) < 300


# --- in mid-run -------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [YEAR, -YEAR])
def test_a_clock_that_jumps_in_mid_run(
    seconds: float, serve: Serve, root: Path, tmp_path: Path
) -> None:
    """Links age by either clock: those that seem a year old are asked for once more, no more."""
    service = serve(small(8), rate_limit=None)
    flag = tmp_path / "now"

    def jump(request: Request) -> None:
        if request.call == "file":
            flag.touch()

    service.on_request.append(jump)
    args = sync_args(root, "--json", "--jobs", "1", "--mark-archived")
    with clock_off_by(seconds, since=flag):
        result = cli_here(args, service.environment())
    assert result.returncode == 0
    side = "ahead of" if seconds > 0 else "behind"
    told = f"WARNING this machine's clock is 365 days {side} the service's: set it\n"
    assert result.stderr[21:] == told
    assert_archive_equals(service, root)
    assert service.archived == set(service.recordings)
    assert service.requests.counts["links"] <= 3
    assert in_the_future(root) == []


@pytest.mark.parametrize(
    "date",
    [
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "yesterday",
        "1 May 2014 07:08:09 +999999999999999",
    ],
)
def test_a_date_that_no_clock_tells_is_no_news(
    date: str, service: SimulatedService, root: Path
) -> None:
    service.fail(faults.Fault(headers={"Date": date}))
    report = sync_here(service, root)
    assert report.exit_code == 0, report.abort_messages
    assert abs(datetime.fromisoformat(report.finished_at).timestamp() - time.time()) < YEAR
    assert_archive_equals(service, root)


# --- times as a person writes them ------------------------------------------------------------


def test_an_age_counts_from_the_service_s_time(serve: Serve) -> None:
    service = serve(small(40), rate_limit=None)
    args = ["list", "--account-key", "1000", "--since", "30h"]
    result = run_cli(args, service.environment(), clock=YEAR)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == run_cli(args, service.environment()).stdout
    assert len(result.stdout.split()) in (9, 10)


def test_a_time_that_only_a_wrong_clock_calls_the_future(service: SimulatedService) -> None:
    day = (datetime.now(UTC) - timedelta(days=3)).date()
    result = run_cli(
        ["list", "--account-key", "1000", "--since", str(day)], service.environment(), clock=-YEAR
    )
    assert result.returncode == 2
    assert "--since is in the future: this machine's clock says 20" in result.stderr
    assert "set the clock" in result.stderr
