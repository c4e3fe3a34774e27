"""`sync`: what is new is found and archived, and the service is told nothing that isn't so."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support import (
    LONG,
    Token,
    archive_files,
    archive_size,
    assert_archive_equals,
    assert_nothing_false,
    catalog_path,
    catalog_rows,
    clean_environment,
    report_of,
    run_cli,
    run_here,
    start_cli,
    states,
)
from support.cli import refused
from support.service import Serve

from g2a_archive.console.progress import Nothing
from g2a_archive.console.report import Report
from g2a_archive.demo import (
    Fault,
    ManualClock,
    Request,
    Response,
    SimulatedRecording,
    SimulatedService,
)
from g2a_archive.demo.faults import drop
from g2a_archive.download.run import Download
from g2a_archive.download.stopping import StopSwitch
from g2a_archive.errors import ExitCode
from g2a_archive.models import RunSettings, Selection, SyncSettings
from g2a_archive.service import pace
from g2a_archive.sync.run import OVERLAP, Sync
from g2a_archive.sync.state import Ledger

FEW = 5
"""Recordings in an answer at most, in the tests of windows."""

TODAY = datetime.now(UTC).replace(microsecond=0)

pytestmark = pytest.mark.usefixtures("no_backoff")


@pytest.fixture(autouse=True)
def unpaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of runs in this process follow each other at once."""
    monkeypatch.setattr(pace, "CALL_INTERVAL", 0.0)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service tells five recordings in a call, and takes as many; one link call at a time."""
    monkeypatch.setattr("g2a_archive.download.link_queue.CALLERS", 1)
    monkeypatch.setattr("g2a_archive.sync.windows.LIST_LIMIT", FEW)
    monkeypatch.setattr("g2a_archive.sync.windows._AIM", FEW - 1)
    monkeypatch.setattr("g2a_archive.service.client.LIST_LIMIT", FEW)


@pytest.fixture
def service(serve: Serve) -> SimulatedService:
    return serve(small(8), rate_limit=None)


def small(count: int, *, transcode_every: int = 0) -> list[SimulatedRecording]:
    """Recordings of the last weeks that take no time; the IDs are not in start order."""
    return [
        SimulatedRecording(
            id=10_000 - number,
            start=TODAY - timedelta(hours=3 * (count - number)),
            mp4_size=600,
            events_size=100,
            thumbnail_size=700,
            state="transcode"
            if transcode_every and (number + 1) % transcode_every == 0
            else "ready",
        )
        for number in range(count)
    ]


def by_start(service: SimulatedService) -> list[int]:
    return sorted(service.recordings, key=lambda id_: service.recordings[id_].start)


def sync_here(
    service: SimulatedService,
    root: Path,
    *,
    run: dict[str, Any] | None = None,
    switch: StopSwitch | None = None,
    keys: tuple[str, ...] = ("1000",),
    clock: Callable[[], float] | None = None,
    wait_with: Callable[[float], None] | None = None,
    since: int | None = None,
    **settings: Any,
) -> Report:
    """A whole `sync` in this process: all of it but its command line."""
    values = {"api_url": service.api_url, "min_free": 0, "retries": 1, "timeout": 5.0, "jobs": 4}
    download = Download(
        RunSettings(dest=str(root), **{**values, **(run or {})}),
        command="sync",
        credentials=lambda: Token(service.authorization),
        switch=switch or StopSwitch(),
        display=Nothing(),
    )
    chosen = SyncSettings(selection=Selection(account_keys=keys, since=since), **settings)
    more = {"clock": clock} if clock is not None else {}
    return Sync(download, chosen, wait=wait_with, **more).run()


def sync_args(root: Path, *more: str | int | Path) -> list[str | int | Path]:
    return ["sync", "--dest", root, "--account-key", "1000", "--min-free", "0", *more]


def counts(service: SimulatedService) -> dict[str, int]:
    """The calls since the last look, by name; those that were not made are left out."""
    found = {str(name): n for name, n in service.requests.counts.items() if n}
    service.requests.clear()
    return found


def assert_asked_in_order(service: SimulatedService) -> None:
    links = [int(value) for e in service.requests.calls("links") for _, value in e.query]
    assert links == sorted(links)


def change(root: Path, sql: str, *values: object) -> None:
    """Change the catalogue behind the program's back, as time would."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(catalog_path(root))) as db, db:
        db.execute(sql, values)


# --- finding and archiving --------------------------------------------------------------------


def test_the_oldest_first_and_then_nothing_new(service: SimulatedService, root: Path) -> None:
    result = run_cli(sync_args(root, "--json"), service.environment())
    report = report_of(result)
    assert report["exit_code"] == 0
    assert report["sync"]["list_calls"] == 1
    assert_archive_equals(service, root)
    asked = [int(value) for _, value in service.requests.calls("links")[0].query]
    assert asked == by_start(service)
    counts(service)
    night = run_cli(sync_args(root, "-q"), service.environment())
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
    monkeypatch.setattr(Ledger, "found", lambda *_, **__: switch.stop(ExitCode.SIGTERM))
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


def spread(days: float, count: int = 60) -> list[SimulatedRecording]:
    """Recordings evenly over the last days; IDs and starts go up together."""
    step = timedelta(days=days) / count
    first = TODAY - timedelta(days=days)
    return [
        SimulatedRecording(1000 + n, (first + n * step).replace(microsecond=0), 600, 100, 700)
        for n in range(count)
    ]


@pytest.mark.usefixtures("few")
def test_a_long_history_and_then_one_call_a_night(serve: Serve, root: Path) -> None:
    service = serve(spread(100), rate_limit=None, most_ids=FEW)
    late = 1000 + 57  # of the last week: it becomes ready late
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
        [*service.recordings.values(), SimulatedRecording(7, spread(100)[5].start)]
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
@pytest.mark.parametrize("after", [2, 9, 20])
def test_a_listing_that_is_stopped_goes_on(after: int, serve: Serve, root: Path) -> None:
    service = serve(spread(100), rate_limit=None, most_ids=FEW)
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


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text)


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
def test_since_looks_there_and_remembers_no_scan(serve: Serve, root: Path) -> None:
    service = serve(spread(100), rate_limit=None, most_ids=FEW)
    since = TODAY - timedelta(days=30)
    sync_here(service, root, since=int(since.timestamp()))
    assert states(root).keys() == {r.id for r in service.recordings.values() if r.start >= since}
    assert catalog_rows(root, "SELECT * FROM scan") == []


# --- transcoding ------------------------------------------------------------------------------


@pytest.mark.usefixtures("few")
def test_transcoding_is_asked_for_once_and_downloaded_the_next_night(
    serve: Serve, root: Path
) -> None:
    clock = ManualClock()
    service = serve(
        small(24, transcode_every=2),
        rate_limit=None,
        most_ids=FEW,
        clock=clock,
        transcode_seconds=3600.0,
        token_lifetime=9e9,
    )
    waiting = {i for i in service.recordings if service.state(i) == "transcode"}
    assert sync_here(service, root, transcode=True).exit_code == 3
    calls = service.requests.calls("transcode")
    asked = [int(i) for e in calls for i in e.path.rpartition("/")[2].split(",")]
    assert (sorted(asked), {e.method for e in calls}) == (sorted(waiting), {"POST"})
    assert len(calls) == 3  # twelve, at most five a call
    sql = "SELECT id FROM recording WHERE transcode_at IS NOT NULL AND tries >= 1"
    assert {row[0] for row in catalog_rows(root, sql)} == waiting
    # Not listed as ready for transcoding any more, and not yet ready: still owed, not asked again.
    counts(service)
    assert sync_here(service, root, transcode=True).exit_code == 3
    assert "transcode" not in counts(service)
    clock.advance(3600)
    report = sync_here(service, root, transcode=True)
    assert (report.exit_code, report.archived) == (0, 12)
    assert_archive_equals(service, root)


def test_a_transcoding_that_came_to_nothing_is_asked_for_again_later(
    serve: Serve, root: Path
) -> None:
    service = serve(small(4, transcode_every=2), rate_limit=None, transcode_seconds=9e9)
    sync_here(service, root, transcode=True)
    for id_ in service.recordings:  # the service has forgotten it
        if service.state(id_) == "unavailable":
            service.set_state(id_, "transcode")
    counts(service)
    sync_here(service, root, transcode=True)
    assert "transcode" not in counts(service)
    change(
        root, "UPDATE recording SET transcode_at = '2020-01-01T00:00:00Z' WHERE transcode_at <> ''"
    )
    sync_here(service, root, transcode=True)
    assert counts(service)["transcode"] == 1


def test_waiting_polls_gently_and_downloads_what_becomes_ready(serve: Serve, root: Path) -> None:
    clock = ManualClock()
    service = serve(
        small(8, transcode_every=2),
        rate_limit=None,
        clock=clock,
        transcode_seconds=200.0,
        token_lifetime=9e9,
    )
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        clock.advance(seconds)

    report = sync_here(
        service, root, transcode=True, wait=3600.0, mark_archived=True, clock=clock, wait_with=wait
    )
    assert (report.exit_code, report.archived, report.unavailable) == (0, 8, [])
    assert report.bytes == archive_size(service)  # of both passes
    assert waits == pytest.approx([10, 15, 22.5, 33.75, 50.625, 60, 60], rel=0.001)
    assert_archive_equals(service, root)
    assert service.archived == set(service.recordings)


def test_waiting_ends_when_its_time_is_over(serve: Serve, root: Path) -> None:
    clock = ManualClock()
    service = serve(
        small(8, transcode_every=2),
        rate_limit=None,
        clock=clock,
        transcode_seconds=9e9,
        token_lifetime=9e9,
    )
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        clock.advance(seconds)

    report = sync_here(service, root, transcode=True, wait=100.0, clock=clock, wait_with=wait)
    assert (report.exit_code, len(report.unavailable)) == (3, 4)
    assert sum(waits) == pytest.approx(100)


def test_a_refused_transcoding_does_not_stop_the_others(
    serve: Serve, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = serve(small(16, transcode_every=2), rate_limit=None)
    bad = next(i for i in service.recordings if service.state(i) == "transcode")

    def refuse(request: Request) -> Response | None:
        if request.call == "transcode" and str(bad) in request.path:
            return Response.error(403, "Forbidden", "no")
        return None

    service.on_request.append(refuse)
    report = sync_here(service, root, transcode=True)
    assert report.exit_code == 1
    assert report.sync is not None
    assert (report.sync.transcoding, list(report.sync.refused)) == (7, [bad])
    assert report.archived == 8


# --- marking ----------------------------------------------------------------------------------


def whole_on_disk(service: SimulatedService, root: Path) -> set[int]:
    """The recordings of which every file is under its final name, rightly, and claimed."""
    assert_nothing_false(service, root)
    if not catalog_path(root).exists():
        return set()
    claimed = {
        row[0]
        for row in catalog_rows(root, "SELECT id FROM recording WHERE state='archived' AND kinds=7")
    }
    names = set(archive_files(root))
    return {
        id_ for id_ in claimed if sum(Path(name).name.startswith(f"{id_}.") for name in names) == 3
    }


def test_never_marked_before_the_commit(service: SimulatedService, root: Path) -> None:
    seen: list[set[int]] = []

    def look(request: Request) -> None:
        if request.call == "archived":
            ids = {int(i) for i in request.path.rpartition("/")[2].split(",")}
            assert ids <= whole_on_disk(service, root)
            seen.append(ids)

    service.on_request.append(look)
    assert sync_here(service, root, mark_archived=True).exit_code == 0
    assert seen == [set(service.recordings)]


def test_what_failed_is_not_marked(service: SimulatedService, root: Path) -> None:
    bad = by_start(service)[2]
    service.fail_files(Response(500), kind="events", recording_id=bad)
    report = sync_here(service, root, mark_archived=True)
    assert report.exit_code == 1
    assert service.archived == set(service.recordings) - {bad}
    service.on_request.clear()
    assert sync_here(service, root, mark_archived=True).exit_code == 0
    assert service.archived == set(service.recordings)


def test_what_is_archived_in_part_is_not_marked(service: SimulatedService, root: Path) -> None:
    sync_here(service, root, run={"kinds": (sync_kinds()[0],)})
    assert set(states(root).values()) == {"archived"}
    counts(service)
    service.fail(Response(500), call="links")
    sync_here(service, root, mark_archived=True)
    assert service.archived == set()


def sync_kinds() -> Sequence[Any]:
    from g2a_archive.models import ALL_KINDS

    return ALL_KINDS


@pytest.mark.parametrize("harm", ["gone", "short"])
def test_what_is_no_longer_on_disk_is_not_marked(
    harm: str, service: SimulatedService, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sync_here(service, root)
    bad, *_ = by_start(service)
    path = archive_files(root)[f"{service.recordings[bad].start:%Y/%m/%d}/{bad}.events"]
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    service.fail_files(drop(), recording_id=bad)
    report = sync_here(service, root, mark_archived=True)
    assert report.exit_code == 1
    assert f"recording {bad}" in caplog.text
    assert service.archived == set(service.recordings) - {bad}


def test_a_mark_that_was_not_remembered_is_made_again(
    service: SimulatedService, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "marked", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            sync_here(service, root, mark_archived=True)
    assert service.archived == set(service.recordings)
    assert catalog_rows(root, "SELECT 1 FROM recording WHERE marked_at IS NOT NULL") == []
    counts(service)
    assert sync_here(service, root, mark_archived=True).exit_code == 0
    assert counts(service) == {"list": 1, "archived": 1}
    assert sync_here(service, root, mark_archived=True).exit_code == 0
    assert counts(service) == {"list": 1}


def test_what_an_earlier_run_left_is_marked_first(service: SimulatedService, root: Path) -> None:
    """Runs that are stopped every morning mark all the same."""
    sync_here(service, root)
    old = set(service.recordings)
    service.set_recordings([*service.recordings.values(), *spread(1, 3)])
    switch = StopSwitch()

    def stop(request: Request) -> None:
        if request.call == "links":
            switch.stop(ExitCode.SIGTERM)

    service.on_request.append(stop)
    assert sync_here(service, root, switch=switch, mark_archived=True).exit_code == 143
    assert service.archived == old


def test_what_only_download_archived_is_not_ours_to_mark(
    service: SimulatedService, root: Path
) -> None:
    """But what the service lists is, whoever archived it."""
    ids = by_start(service)
    run_here(service, root, ids[:4])
    service.set_recordings([service.recordings[i] for i in ids[2:]])
    sync_here(service, root, mark_archived=True)
    assert service.archived == set(ids[2:])


def test_a_mark_call_that_fails_is_made_the_next_night(
    service: SimulatedService, root: Path
) -> None:
    rule = service.fail(Response(500), call="archived")
    assert sync_here(service, root, mark_archived=True).exit_code == 7
    assert rule.applied == 2  # once more, as every call
    service.on_request.clear()
    assert sync_here(service, root, mark_archived=True).exit_code == 0
    assert service.archived == set(service.recordings)


# --- killed -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40 if LONG else 3))
def test_killed_at_random_requests(seed: int, serve: Serve, root: Path) -> None:
    """Nothing is marked that isn't on disk, and everything is marked in the end."""
    chance = random.Random(seed)
    service = serve(small(10), rate_limit=None)
    args = sync_args(root, "--mark-archived", "--jobs", "3", "--json")
    for _ in range(12 if LONG else 4):
        at = service.requests.count + chance.randint(1, 34)
        with start_cli(args, service.environment()) as process:
            marking = chance.random() < 0.4

            def strike(
                request: Request,
                at: int = at,
                marking: bool = marking,
                process: subprocess.Popen[str] = process,
            ) -> Fault | None:
                # Killed in this very instant, the call is still answered: what it asks is done.
                if service.requests.count >= at or (marking and request.call == "archived"):
                    process.send_signal(signal.SIGKILL)
                    return drop() if at % 2 else None
                return None

            service.on_request[:] = [strike]
            process.communicate(timeout=60)
        service.on_request.clear()
        assert service.archived <= whole_on_disk(service, root)
    assert report_of(run_cli(args, service.environment()))["exit_code"] == 0
    assert_archive_equals(service, root)
    assert service.archived == set(service.recordings)
    counts(service)
    assert run_cli(args, service.environment()).returncode == 0
    assert counts(service) == {"list": 1}


# --- what is owed -----------------------------------------------------------------------------


def test_what_is_owed_is_tried_again(service: SimulatedService, root: Path) -> None:
    ids = by_start(service)
    service.fail_files(Response(404), recording_id=ids[0])
    service.set_state(ids[1], "unavailable")
    run_here(service, root, [ids[1]])  # asked for by hand, so that it is owed, too
    assert sync_here(service, root).exit_code == 1
    rows = dict(catalog_rows(root, "SELECT id, tries FROM recording WHERE state <> 'archived'"))
    assert rows == {ids[0]: 1, ids[1]: 2}
    since = catalog_rows(root, "SELECT owed_since FROM recording WHERE id = ?", ids[0])
    service.on_request.clear()
    service.fail_files(Response(404), recording_id=ids[0])
    assert sync_here(service, root).exit_code == 1
    after = catalog_rows(root, "SELECT tries, owed_since FROM recording WHERE id = ?", ids[0])
    assert after == [(2, since[0][0])]
    service.on_request.clear()
    service.set_state(ids[1], "ready")
    assert sync_here(service, root).exit_code == 0
    assert_archive_equals(service, root)


def test_owed_ones_that_are_refused_are_not_the_credentials_fault(
    service: SimulatedService, root: Path
) -> None:
    """Where the list call was accepted, refused IDs are just that, even if all are refused."""
    sync_here(service, root)
    service.set_recordings([r for r in service.recordings.values() if r.id != 10_000])
    change(root, "UPDATE recording SET state = 'refused', owed_since = '2026' WHERE id = 10000")
    counts(service)
    report = sync_here(service, root)
    assert (report.exit_code, report.refused) == (1, [10_000])
    assert counts(service) == {"list": 2, "links": 1}  # one list call to make sure


def test_what_is_owed_for_too_long_is_given_up_loudly(
    service: SimulatedService, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad, other, *_ = by_start(service)
    run_here(service, root, [other])
    service.set_state(bad, "unavailable")
    run_here(service, root, [bad])
    run_here(service, root, [bad])
    change(root, "UPDATE recording SET owed_since = '2020-01-01T00:00:00Z' WHERE id = ?", bad)
    month = 30 * 86400.0
    with caplog.at_level(logging.ERROR):
        report = sync_here(service, root, give_up_after=month)
    assert report.exit_code == 1
    assert report.sync is not None
    assert report.sync.lost == [bad]
    assert f"recording {bad}: given up and lost: owed since 2020" in caplog.text
    assert states(root)[bad] == "lost"
    # Given up is given up: it is not asked for again, and not told again.
    counts(service)
    assert sync_here(service, root, give_up_after=month).exit_code == 0
    assert counts(service) == {"list": 1}
    # Unless the service has it after all.
    service.set_state(bad, "ready")
    assert sync_here(service, root, give_up_after=month).exit_code == 0
    assert states(root)[bad] == "archived"


def test_what_has_waited_for_its_turn_is_not_given_up(
    service: SimulatedService, root: Path
) -> None:
    late, never, *_ = by_start(service)
    sync_here(service, root)
    service.set_recordings([r for r in service.recordings.values() if r.id != late])
    service.set_state(never, "unavailable")
    sql = "UPDATE recording SET state = 'queued', kinds = 0, tries = 0, owed_since = '2020'"
    change(root, f"{sql} WHERE id IN (?, ?)", late, never)
    for dry_run in (True, False):
        report = sync_here(service, root, run={"dry_run": dry_run}, give_up_after=86400.0)
        assert (report.refused, report.unavailable) == ([late], [never])
        assert report.sync is not None
        assert report.sync.lost == []
    report = sync_here(service, root, give_up_after=86400.0)
    assert report.sync is not None
    assert sorted(report.sync.lost) == sorted([late, never])


def test_nothing_is_given_up_in_a_run_that_was_cut_short(
    service: SimulatedService, root: Path
) -> None:
    service.fail_files(drop())
    sync_here(service, root, give_up_after=0.0)
    change(root, "UPDATE recording SET tries = 9, owed_since = '2020'")
    service.fail(Response(500), call="links")
    report = sync_here(service, root, give_up_after=86400.0)
    assert report.exit_code == 7
    assert "lost" not in states(root).values()


def test_what_is_lost_and_found_is_owed_again(service: SimulatedService, root: Path) -> None:
    """At once, so that a kill does not lose it again."""
    sync_here(service, root)
    lost, *_ = by_start(service)
    change(root, "UPDATE recording SET state = 'lost', kinds = 0 WHERE id = ?", lost)
    switch = StopSwitch()

    def stop(request: Request) -> None:
        if request.call == "links":
            switch.stop(ExitCode.SIGTERM)

    service.on_request.append(stop)
    sync_here(service, root, switch=switch)
    assert states(root)[lost] == "queued"


def test_dry_run_gives_up_nothing_that_a_run_would_get(
    service: SimulatedService, root: Path
) -> None:
    sync_here(service, root)
    change(root, "UPDATE recording SET state = 'failed', kinds = 0, tries = 5, owed_since = '2020'")
    report = sync_here(service, root, run={"dry_run": True}, give_up_after=86400.0)
    assert report.sync is not None
    assert (report.would_fetch, report.sync.lost, report.exit_code) == (8, [], 0)


# --- when it cannot be done -------------------------------------------------------------------


def test_refused_credentials(service: SimulatedService, root: Path) -> None:
    service.revoke()
    result = run_cli(sync_args(root, "--mark-archived"), service.environment())
    assert result.returncode == 4
    assert service.requests.counts["list"] == 1
    assert set(counts(service)) == {"list"}
    assert service.token not in result.stdout + result.stderr
    listed = run_cli(["list", "--account-key", "1000"], service.environment())
    assert (listed.returncode, listed.stdout, len(listed.stderr.splitlines())) == (4, "", 1)


def test_no_credentials(service: SimulatedService, root: Path) -> None:
    env = {"G2A_ARCHIVE_API_URL": service.api_url}
    assert run_cli(sync_args(root), env).returncode == 4
    assert not root.exists()


def test_a_service_that_fails_to_the_end(service: SimulatedService, root: Path) -> None:
    service.fail(Response(500), call="list")
    report = sync_here(service, root)
    assert report.exit_code == 7
    assert counts(service) == {"list": 2}
    service.on_request.clear()
    service.fail(Response(400), call="list")
    report = sync_here(service, root)
    assert report.exit_code == 7
    assert "keys" in report.stops[0]


@pytest.mark.usefixtures("few")
def test_a_listing_that_fails_on_the_way_does_not_keep_the_rest(serve: Serve, root: Path) -> None:
    service = serve(spread(100), rate_limit=None, most_ids=FEW)
    service.fail(Response(500), call="list", skip=20)
    report = sync_here(service, root)
    assert report.exit_code == 7
    assert report.archived > FEW
    assert report.archived == len(states(root))
    service.on_request.clear()
    assert sync_here(service, root).exit_code == 0
    assert_archive_equals(service, root)


def test_max_duration_holds_while_listing(
    service: SimulatedService, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report = sync_here(service, root, run={"max_duration": 0.0})
    assert report.exit_code == 8
    assert "--max-duration is over" in caplog.text
    assert counts(service) == {"list": 1}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sync"], "--account-key"),
        (["list"], "--account-key"),
        (["list", "--account-key", "1", "--since", "yesterday"], "yesterday"),
        (["list", "--account-key", "1", "--since", "30"], "30d"),
        (["list", "--account-key", "1", "--since", "2999-01-01"], "future"),
        (["list", "--account-key", "1", "--since", "2d", "--until", "3d"], "--until"),
        (["list", "--account-key", "a b"], "key"),
        (["list", "--account-key", "1", "--state", "gone"], "transcode"),
        (["list", "--account-key", "1", "--session-type", "2"], "unattended"),
        (["sync", "--account-key", "1", "--wait", "1h"], "--transcode"),
        (["sync", "--account-key", "1", "--mark-archived", "--only", "mp4"], "--only"),
    ],
)
def test_usage(
    arguments: list[str | int | Path], said: str, service: SimulatedService, tmp_path: Path
) -> None:
    assert said in refused(service, tmp_path, arguments)


# --- list -------------------------------------------------------------------------------------


def test_list_into_download(serve: Serve, root: Path) -> None:
    service = serve(small(9, transcode_every=3))
    listed = run_cli(["list", "--account-key", "1000"], service.environment())
    ready = [i for i in by_start(service) if service.state(i) == "ready"]
    assert (listed.returncode, listed.stderr) == (0, "")
    assert listed.stdout == "".join(f"{id_}\n" for id_ in ready)
    args: list[str | int | Path] = ["download", "-f", "-", "-d", root, "--min-free", "0"]
    assert run_cli(args, service.environment(), listed.stdout).returncode == 0
    assert_archive_equals(service, root, ready)


def test_a_list_that_may_not_be_whole(serve: Serve) -> None:
    second = TODAY - timedelta(days=1)
    service = serve([SimulatedRecording(n, second) for n in range(1, 502)])
    times = ["--since", second.isoformat(), "--until", (second + timedelta(seconds=2)).isoformat()]
    listed = run_cli(["list", "--account-key", "1000", *times], service.environment())
    assert listed.returncode == 1
    assert len(listed.stdout.split()) == 500
    assert f"{second:%Y-%m-%dT%H:%M:%SZ}" in listed.stderr


def test_list_by_state_type_and_time(serve: Serve) -> None:
    recordings = small(9, transcode_every=3)
    service = serve(recordings)
    waiting = [i for i in by_start(service) if service.state(i) == "transcode"]
    env = {**service.environment(), "G2A_ARCHIVE_ACCOUNT_KEY": "1000"}
    listed = run_cli(["list", "--state", "transcode"], env)
    assert listed.stdout.split() == [str(i) for i in waiting]
    listed = run_cli(["list", "--state", "all", "--json", "--since", "13h", "--until", "1h"], env)
    late = [r.id for r in recordings[-4:]]
    found = report_like(listed.stdout)
    assert found["ready_for_download"] + found["ready_for_transcode"] == [
        *(i for i in late if i not in waiting),
        *(i for i in late if i in waiting),
    ]
    assert found["list_calls"] == 1
    listed = run_cli(
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
        listed = run_cli(["list", "--config", file], service.environment())
        assert (listed.returncode, len(listed.stdout.split())) == (0, 3), listed.stderr
        shown = run_cli(["config", "show", "--config", file], service.environment())
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


@pytest.fixture
def many() -> Iterator[SimulatedService]:
    """25,000 recordings over three years, with bursts; see `test_listing.with_bursts`."""
    from test_listing import with_bursts

    recordings = [
        SimulatedRecording(
            n, datetime.fromtimestamp(at, UTC), state="ready" if n % 10 else "transcode"
        )
        for n, at in enumerate(sorted(with_bursts(1)), 1)
    ]
    with SimulatedService(recordings) as running:
        running.behaviour.rate_limit = None
        yield running


def test_list_of_25_000(many: SimulatedService) -> None:
    """The real thing but for the pace: the whole program, over HTTP."""
    args = ["list", "--account-key", "1000", "--state", "all"]
    fast = "import g2a_archive.service.pace; g2a_archive.service.pace.CALL_INTERVAL = 0; " + (
        "from g2a_archive.cli.main import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", fast, *args],
        env=clean_environment(many.environment()),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(map(int, result.stdout.split())) == sorted(many.recordings)
    assert len(result.stdout.split()) == 25_000
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
    assert err == ""
    stopped = "Stopped before anything was archived; run again to go on"
    assert out.splitlines()[:1] == ([stopped] if name == "sync" else [])
