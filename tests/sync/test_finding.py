"""`sync` finds what is new, archives it, and remembers how far it has looked."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from support import (
    archive_files,
    assert_archive_equals,
    catalog_rows,
    cli_here,
    report_of,
    run_here,
    states,
)
from support import sync as sync_support
from support.service import Serve
from support.sync import (
    FEW,
    TODAY,
    assert_asked_in_order,
    by_start,
    change,
    counts,
    small,
    spread,
    sync_args,
    sync_here,
)

from g2a_archive.demo import (
    Request,
    Response,
    SimulatedRecording,
    SimulatedService,
)
from g2a_archive.download.stopping import StopSwitch
from g2a_archive.errors import ExitCode
from g2a_archive.models import ALL_KINDS, FileKind
from g2a_archive.sync.run import OVERLAP
from g2a_archive.sync.state import SyncState

pytestmark = pytest.mark.usefixtures("at_once")

few = sync_support.few
service = sync_support.service


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text)


# --- finding and archiving --------------------------------------------------------------------


def test_the_oldest_first_and_then_nothing_new(service: SimulatedService, root: Path) -> None:
    result = cli_here(sync_args(root, "--json"), service.environment())
    report = report_of(result)
    assert report["exit_code"] == 0
    assert report["sync"]["list_calls"] == 1
    assert_archive_equals(service, root)
    asked = [int(value) for _, value in service.requests.calls("links")[0].query]
    assert asked == by_start(service)
    counts(service)
    night = cli_here(sync_args(root, "-q"), service.environment())
    assert (night.returncode, night.stdout, night.stderr) == (0, "", "")
    assert counts(service) == {"list": 1}


def test_a_night_with_nothing_new_after_marking(service: SimulatedService, root: Path) -> None:
    assert sync_here(service, root, mark_archived=True).exit_code == 0
    assert service.archived == set(service.recordings)
    counts(service)
    report = sync_here(service, root, mark_archived=True)
    assert (report.exit_code, report.requested) == (0, 0)
    assert counts(service) == {"list": 1}


def test_only_read_without_being_told(serve: Serve, root: Path) -> None:
    service = serve(small(12, transcode_every=4), rate_limit=None)
    report = sync_here(service, root)
    assert report.exit_code == 3
    assert sorted(report.unavailable) == sorted(
        i for i in service.recordings if service.state(i) == "transcode"
    )
    assert set(counts(service)) == {"list", "links", "file"}
    assert {e.method for e in service.requests.all} <= {"GET"}
    # Those that wait are remembered, and asked for no more than the list tells.
    assert sync_here(service, root).exit_code == 3
    assert counts(service) == {"list": 1}


def test_dry_run_tells_what_would_be_marked(service: SimulatedService, root: Path) -> None:
    run_here(service, root, service.recordings)
    report = sync_here(service, root, run={"dry_run": True}, mark_archived=True)
    assert report.sync is not None
    assert report.sync.to_mark == 8
    assert not service.archived


def test_stopped_between_two_calls(
    service: SimulatedService, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch = StopSwitch()
    monkeypatch.setattr(SyncState, "record_window", lambda *_, **__: switch.stop(ExitCode.SIGTERM))
    assert sync_here(service, root, switch=switch).exit_code == 143
    assert counts(service) == {"list": 1}


def test_dry_run_reads_only_and_writes_nothing(serve: Serve, root: Path) -> None:
    service = serve(small(12, transcode_every=4), rate_limit=None)
    report = sync_here(
        service, root, run={"dry_run": True}, transcode=True, wait=60.0, mark_archived=True
    )
    assert report.exit_code == 3
    assert (report.would_fetch, report.sync and report.sync.to_transcode) == (9, 3)
    assert counts(service) == {"list": 1, "links": 1}
    assert not root.exists()
    sync_here(service, root)
    before = catalog_rows(root, "SELECT * FROM recording"), catalog_rows(root, "SELECT * FROM run")
    counts(service)
    report = sync_here(service, root, run={"dry_run": True}, transcode=True, mark_archived=True)
    assert report.sync is not None
    assert (report.sync.to_mark, report.sync.marked, report.sync.transcoding) == (9, 0, 0)
    assert counts(service) == {"list": 1}
    after = catalog_rows(root, "SELECT * FROM recording"), catalog_rows(root, "SELECT * FROM run")
    assert after == before


def test_two_accounts_in_one_archive(serve: Serve, root: Path) -> None:
    recordings = small(6)
    mine, other = (
        recordings[:3],
        [
            SimulatedRecording(one.id, one.start, 600, 100, 700, account_key="2")
            for one in recordings[3:]
        ],
    )
    service = serve([*mine, *other], rate_limit=None)
    sync_here(service, root, keys=("1000", "2"))
    assert counts(service)["list"] == 2
    assert_archive_equals(service, root)
    # Who marks for one account, or tries again, lets the other alone.
    change(root, "UPDATE recording SET state = 'failed' WHERE id = ?", other[0].id)
    counts(service)
    sync_here(service, root, mark_archived=True)
    assert counts(service) == {"list": 1, "archived": 1}
    assert service.archived == {one.id for one in mine}


def test_a_file_that_is_gone_is_fetched_again(service: SimulatedService, root: Path) -> None:
    sync_here(service, root)
    next(iter(archive_files(root).values())).unlink()
    assert sync_here(service, root).archived == 1
    assert_archive_equals(service, root)


# --- windows ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("few")
def test_a_long_history_and_then_one_call_a_night(serve: Serve, root: Path) -> None:
    service = serve(spread(100, 40), rate_limit=None, most_ids=FEW)
    late = 1000 + 38  # of the last week: it becomes ready late
    service.set_state(late, "unavailable")
    sync_here(service, root)
    assert states(root).keys() == set(service.recordings) - {late}
    assert counts(service)["list"] < 45
    assert_asked_in_order(service)
    [(scope, until)] = catalog_rows(root, "SELECT * FROM scan")
    assert scope == "accountKey=1000"
    # The next night looks a week back: one call, and only the late one is new.
    service.set_state(late, "ready")
    service.requests.clear()
    report = sync_here(service, root)
    [listed] = service.requests.calls("list")
    from_time = dict(listed.query)["fromTime"]
    assert datetime.fromisoformat(from_time) == datetime.fromisoformat(until) - timedelta(
        seconds=OVERLAP
    )
    assert "toTime" not in dict(listed.query)
    assert (report.exit_code, report.archived) == (0, 1)
    assert_archive_equals(service, root)
    # Very late ones are found by looking at everything again.
    service.set_recordings(
        [*service.recordings.values(), SimulatedRecording(7, spread(100, 40)[5].start)]
    )
    assert sync_here(service, root).archived == 0
    assert sync_here(service, root, full=True).archived == 1
    # Those that are marked are listed no more: one call without a window tells all the rest.
    sync_here(service, root, mark_archived=True, full=True)
    assert service.archived == set(service.recordings)
    service.requests.clear()
    sync_here(service, root, mark_archived=True)
    [listed] = service.requests.calls("list")
    assert dict(listed.query) == {"accountKey": "1000"}
    assert counts(service) == {"list": 1}


def test_a_short_history_needs_no_windows(service: SimulatedService, root: Path) -> None:
    sync_here(service, root)
    assert catalog_rows(root, "SELECT * FROM scan") == []


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("after", [2, 9, 15])
def test_a_listing_that_is_stopped_goes_on(after: int, serve: Serve, root: Path) -> None:
    service = serve(spread(100, 36), rate_limit=None, most_ids=FEW)
    switch = StopSwitch()

    def stop(request: Request) -> None:
        if request.call == "list" and service.requests.counts["list"] == after:
            switch.stop(ExitCode.SIGTERM)

    service.on_request.append(stop)
    assert sync_here(service, root, switch=switch).exit_code == 143
    assert service.requests.counts["links"] == 0
    found = set(states(root))
    assert found, "what was found is remembered"
    assert set(states(root).values()) == {"queued"}
    scanned = catalog_rows(root, "SELECT complete_until FROM scan")
    known = [r.id for r in service.recordings.values() if scanned and r.start < _at(scanned[0][0])]
    assert set(known) <= found
    first = counts(service)["list"]
    service.on_request.clear()
    sync_here(service, root)
    assert_archive_equals(service, root)
    assert_asked_in_order(service)  # the oldest first, those found before too
    assert service.requests.counts["list"] + first < 60


@pytest.mark.usefixtures("few")
def test_what_overflows_is_said_until_it_is_found(serve: Serve, root: Path) -> None:
    recordings = spread(100, 20)
    burst = [SimulatedRecording(5000 + n, recordings[4].start, 600, 100, 700) for n in range(12)]
    service = serve([*recordings, *burst], rate_limit=None, most_ids=FEW)
    report = sync_here(service, root)
    assert report.exit_code == 1
    assert report.sync is not None
    assert [_at(second) for second in report.sync.overflowing] == [recordings[4].start]
    missing = set(service.recordings) - set(states(root))
    assert missing <= {one.id for one in burst}
    # It is not forgotten: the next night looks at that second again.
    counts(service)
    assert sync_here(service, root).exit_code == 1
    assert counts(service) == {"list": 2}
    # Once those are marked, the service tells the rest, night by night.
    for _ in range(8):
        if sync_here(service, root, mark_archived=True).exit_code == 0:
            break
    assert_archive_equals(service, root)
    assert service.archived == set(service.recordings)
    counts(service)
    assert sync_here(service, root, mark_archived=True).exit_code == 0
    assert counts(service) == {"list": 1}


@pytest.mark.usefixtures("few")
def test_a_service_that_heeds_no_times_is_not_asked_for_every_second(
    serve: Serve, root: Path
) -> None:
    service = serve(spread(100, 20), rate_limit=None, most_ids=FEW)
    first = by_start(service)[:FEW]
    listed = {"readyForTranscode": [], "readyForDownload": first}
    service.fail(Response.json(listed), call="list")
    report = sync_here(service, root)
    assert report.exit_code == 7
    assert "does not heed fromTime" in report.abort_messages[0]
    assert counts(service)["list"] < 50
    assert_archive_equals(service, root, first)


@pytest.mark.usefixtures("few")
def test_since_looks_there_and_remembers_no_scan(serve: Serve, root: Path) -> None:
    service = serve(spread(100), rate_limit=None, most_ids=FEW)
    since = TODAY - timedelta(days=30)
    sync_here(service, root, since=int(since.timestamp()))
    assert states(root).keys() == {r.id for r in service.recordings.values() if r.start >= since}
    assert catalog_rows(root, "SELECT * FROM scan") == []


@pytest.mark.usefixtures("few")
def test_what_was_found_for_one_kind_of_file_is_found_for_the_others(
    serve: Serve, root: Path
) -> None:
    """A night with --only, the next one without: also where it is remembered how far it looked."""
    service = serve(spread(100, 12), rate_limit=None, most_ids=FEW)
    for kinds in ((FileKind.MP4,), ALL_KINDS):
        for calls in (range(2, 99), (1,)):
            assert sync_here(service, root, run={"kinds": kinds}).exit_code == 0
            assert counts(service)["list"] in calls
    assert_archive_equals(service, root)
    sync_here(service, root, run={"kinds": (FileKind.EVENTS,)})
    assert counts(service)["list"] == 1  # what a whole run has looked at, it need not


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("to_inclusive", [True, False])
@pytest.mark.parametrize("from_inclusive", [True, False])
def test_what_starts_at_the_edge_of_a_window_is_found(
    from_inclusive: bool, to_inclusive: bool, serve: Serve, root: Path
) -> None:
    """One in each second: wherever the time is cut, one starts there."""
    recordings = [
        SimulatedRecording(100 + n, TODAY - timedelta(seconds=100 - n), state="transcode")
        for n in range(40)
    ]
    service = serve(
        recordings,
        rate_limit=None,
        most_ids=FEW,
        from_time_inclusive=from_inclusive,
        to_time_inclusive=to_inclusive,
    )
    assert sync_here(service, root).exit_code == 3
    assert states(root).keys() == set(service.recordings)


@pytest.mark.parametrize("many", [True, False])
@pytest.mark.parametrize("to_inclusive", [True, False])
def test_what_starts_at_until_itself_is_not_taken(
    to_inclusive: bool, many: bool, serve: Serve, root: Path, request: pytest.FixtureRequest
) -> None:
    if many:
        request.getfixturevalue("few")
    until = TODAY - timedelta(days=1)
    recordings = [
        SimulatedRecording(100 + n, until + timedelta(seconds=n), state="transcode")
        for n in range(-30, 4)
    ]
    service = serve(
        recordings,
        rate_limit=None,
        to_time_inclusive=to_inclusive,
        **({"most_ids": FEW} if many else {}),
    )
    sync_here(service, root, until=int(until.timestamp()))
    assert states(root).keys() == set(range(70, 100))
