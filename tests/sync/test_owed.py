"""What `sync` owes is tried again, until it is given up, loudly."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from support import (
    assert_archive_equals,
    catalog_rows,
    run_here,
    states,
)
from support import sync as sync_support
from support.service import Serve
from support.sync import (
    TODAY,
    by_start,
    change,
    counts,
    small,
    sync_here,
)

from g2a_archive.demo import (
    Request,
    Response,
    SimulatedService,
)
from g2a_archive.demo.faults import close, drop, stall
from g2a_archive.download.stopping import StopSwitch
from g2a_archive.errors import ExitCode

pytestmark = pytest.mark.usefixtures("at_once")

service = sync_support.service


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
    """Where others that the service lists are not refused, they are just that, even if all are."""
    sync_here(service, root)
    service.set_recordings([r for r in service.recordings.values() if r.id != 10_000])
    change(root, "UPDATE recording SET state = 'refused', owed_since = '2026' WHERE id = 10000")
    counts(service)
    report = sync_here(service, root)
    assert (report.exit_code, [*report.refused]) == (1, [10_000])
    assert counts(service) == {"list": 1, "links": 2}  # one of what it lists, to make sure


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
        assert ([*report.refused], [*report.unavailable]) == ([late], [never])
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


# --- what fails night after night ---------------------------------------------------------------


def with_old_ones_that_stall(serve: Serve, root: Path) -> tuple[SimulatedService, set[int]]:
    """A service whose 12 oldest recordings failed last night and stall tonight; five are new."""
    service = serve(small(12), rate_limit=None)
    old = set(service.recordings)
    service.fail_files(drop())
    assert sync_here(service, root, run={"retries": 0}).exit_code == 1
    service.on_request.clear()
    new = [replace(one, id=one.id + 50_000) for one in small(5)]
    service.set_recordings([*service.recordings.values(), *new])
    service.requests.clear()
    for id_ in old:
        service.fail_files(stall(10), recording_id=id_)
    return service, old


@pytest.mark.parametrize("how", ["sync", "owed", "by ID"])
def test_what_stalls_every_night_does_not_keep_the_new_ones_out(
    how: str, serve: Serve, root: Path
) -> None:
    """The night is over when all workers are held up by old ones, as it were by --max-duration."""
    service, old = with_old_ones_that_stall(serve, root)
    switch = StopSwitch()
    held_up: set[str] = set()

    def night(request: Request) -> None:
        if request.recording_id in old:
            held_up.add(request.path)
            if len(held_up) == 2:
                switch.stop(ExitCode.MAX_DURATION)

    service.on_request.insert(0, night)
    run = {"jobs": 2, "timeout": 6.0}
    if how == "sync":
        report = sync_here(service, root, run=run, switch=switch)
    else:
        new = sorted(set(service.recordings) - old)
        ids = [*sorted(old), *new] if how == "by ID" else new
        report = run_here(service, root, ids, owed=how == "owed", switch=switch, **run)
    assert report.archived == 5
    assert {i for i, state in states(root).items() if state == "archived"}.isdisjoint(old)


def test_what_no_night_came_to_is_not_kept_out_by_what_fails_in_all_of_them(
    serve: Serve, root: Path
) -> None:
    """Every night ends, as it were by --max-duration, when two of the oldest three have failed."""
    service = serve(small(6), rate_limit=None)
    ids = by_start(service)
    for id_ in ids[:3]:
        service.fail_files(close(0), recording_id=id_)
    failed: set[int] = set()
    switch = StopSwitch()

    def night(request: Request) -> None:
        if request.call == "file" and request.recording_id in ids[:3]:
            failed.add(request.recording_id)
            if len(failed) == 2:
                switch.stop(ExitCode.MAX_DURATION)

    service.on_request.insert(0, night)
    for _ in range(3):
        failed.clear()
        switch = StopSwitch()
        run_here(service, root, ids, switch=switch, jobs=1, retries=9)
    assert {i for i, state in states(root).items() if state == "archived"} == set(ids[3:])
    reasons = catalog_rows(root, "SELECT reason FROM recording WHERE state = 'queued'")
    assert len(reasons) == 3
    assert all("mp4: " in str(reason) for (reason,) in reasons)


def test_what_failed_more_often_comes_later(serve: Serve, root: Path) -> None:
    service = serve(small(6), rate_limit=None)
    sync_here(service, root, since=int(TODAY.timestamp()))  # makes an empty catalogue
    once, thrice, refused, dropped, unavailable, fresh = by_start(service)
    for id_, state, tries in (
        (once, "failed", 1),
        (thrice, "failed", 3),
        (refused, "refused", 2),
        (dropped, "queued", 1),  # it has come so far, and is gone on with
        (unavailable, "unavailable", 9),  # which costs nothing to ask for
    ):
        sql = "INSERT INTO recording (id, state, tries, owed_since) VALUES (?, ?, ?, '2026')"
        change(root, sql, id_, state, tries)
    service.requests.clear()
    sync_here(service, root, run={"jobs": 1})
    asked = [int(value) for _, value in service.requests.calls("links")[0].query]
    assert asked == [dropped, unavailable, fresh, once, refused, thrice]
