"""That a file does not exist is believed at the second look, a night after the first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import (
    archive_files,
    assert_archive_equals,
    catalog_rows,
    run_here,
    states,
)
from support import sync as sync_support
from support.service import Serve
from support.sync import by_start, change, counts, small, sync_here

from g2a_archive.demo import Response, SimulatedService
from g2a_archive.demo.faults import status
from g2a_archive.models import FileKind, iso

pytestmark = pytest.mark.usefixtures("at_once")

few = sync_support.few

LAST_NIGHT = "strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '-23 hours', '-55 minutes')"


@pytest.fixture
def service(serve: Serve) -> SimulatedService:
    """One of three recordings has no events link yet."""
    service = serve(small(3), rate_limit=None)
    late, *_ = by_start(service)
    withhold(service, late)
    return service


def withhold(service: SimulatedService, id_: int, **sizes: Any) -> None:
    """The service does not offer a file of this recording."""
    chosen = sizes or {"events_size": None}
    offer(service, id_, **chosen)


def offer(service: SimulatedService, id_: int, **sizes: Any) -> None:
    chosen = sizes or {"events_size": 100}
    service.set_recordings(
        replace(one, **chosen) if one.id == id_ else one for one in service.recordings.values()
    )


def a_night_passes(root: Path) -> None:
    change(root, f"UPDATE recording SET unoffered_since = {LAST_NIGHT} WHERE unoffered <> 0")


def row(root: Path, id_: int) -> tuple[Any, ...]:
    sql = (
        "SELECT state, kinds, absent, unoffered, marked_at IS NOT NULL FROM recording WHERE id = ?"
    )
    (found,) = catalog_rows(root, sql, id_)
    return found


def test_what_is_there_on_the_second_night_is_fetched(
    service: SimulatedService, root: Path
) -> None:
    late, *_ = by_start(service)
    assert sync_here(service, root, mark_archived=True).exit_code == 0
    assert row(root, late) == ("archived", 5, 0, 2, 0)
    assert service.archived == set(service.recordings) - {late}
    offer(service, late)
    # Not at once: within the same night it costs no call but the list.
    counts(service)
    assert sync_here(service, root, mark_archived=True).exit_code == 0
    assert counts(service) == {"list": 1}
    a_night_passes(root)
    report = sync_here(service, root, mark_archived=True)
    assert (report.exit_code, report.archived, report.files) == (0, 1, 1)
    assert_archive_equals(service, root)
    assert row(root, late) == ("archived", 7, 0, 0, 1)
    assert service.archived == set(service.recordings)


def test_what_is_not_there_on_the_second_night_is_believed(
    service: SimulatedService, root: Path
) -> None:
    late, *_ = by_start(service)
    sync_here(service, root, mark_archived=True)
    a_night_passes(root)
    dry = run_here(service, root, service.recordings, dry_run=True)
    assert (dry.exit_code, dry.already_archived, dry.would_fetch) == (0, 3, 0)
    report = sync_here(service, root, mark_archived=True)
    assert (report.exit_code, report.archived, report.already_archived) == (0, 0, 1)
    assert row(root, late) == ("archived", 7, 2, 0, 1)
    assert service.archived == set(service.recordings)
    offer(service, late)  # too late: it is believed
    a_night_passes(root)
    counts(service)
    assert sync_here(service, root, mark_archived=True).exit_code == 0
    assert counts(service) == {"list": 1}


def test_what_is_there_on_the_second_night_and_fails_is_told_once(
    service: SimulatedService, root: Path
) -> None:
    """It counts as failed, not as archived before, too."""
    late, *_ = by_start(service)
    run_here(service, root, service.recordings)
    offer(service, late)
    a_night_passes(root)
    service.fail_files(status(404), recording_id=late)
    report = run_here(service, root, service.recordings)
    assert (report.exit_code, report.already_archived, report.archived) == (1, 2, 0)
    assert [(one.id, one.file) for one in report.failed] == [(late, FileKind.EVENTS)]


@pytest.mark.parametrize("how", ["unavailable", "refused"])
def test_the_second_look_is_no_excuse_for_what_was_never_asked_for(
    how: str, service: SimulatedService, root: Path
) -> None:
    late, other, *_ = by_start(service)
    run_here(service, root, [late], kinds=[FileKind.EVENTS])
    assert row(root, late)[:2] == ("archived", 0)
    if how == "refused":
        service.set_recordings(one for one in service.recordings.values() if one.id != late)
    else:
        offer(service, late, state="unavailable")
    dry = run_here(service, root, [late, other], dry_run=True)
    report = run_here(service, root, [late, other])
    for one in (dry, report):
        assert [*one.unavailable, *one.refused] == [late]
        assert one.exit_code != 0
        assert one.already_archived == 0
    assert states(root)[late] == how


@pytest.mark.parametrize("owed", [True, False], ids=["--owed", "by ID"])
def test_download_looks_again_too(owed: bool, service: SimulatedService, root: Path) -> None:
    late, *_ = by_start(service)
    ids = list(service.recordings)
    run_here(service, root, ids)
    counts(service)
    again = run_here(service, root, ids)
    assert (again.exit_code, again.already_archived, counts(service)) == (0, 3, {})
    offer(service, late)
    a_night_passes(root)
    report = run_here(service, root, [] if owed else ids, owed=owed)
    assert (report.exit_code, report.archived) == (0, 1)
    assert counts(service) == {"links": 1, "file": 1}
    assert_archive_equals(service, root)


@pytest.mark.usefixtures("few")
def test_an_old_one_is_looked_at_again_though_it_is_not_listed(serve: Serve, root: Path) -> None:
    service = serve(sync_support.spread(100, 24), rate_limit=None, most_ids=sync_support.FEW)
    late = by_start(service)[3]
    withhold(service, late)
    sync_here(service, root)
    offer(service, late)
    a_night_passes(root)
    assert sync_here(service, root).archived == 1
    assert_archive_equals(service, root)


def test_each_file_has_a_second_look_of_its_own(service: SimulatedService, root: Path) -> None:
    late, *_ = by_start(service)
    sync_here(service, root)
    offer(service, late, events_size=100, thumbnail_size=700)
    change(root, "UPDATE recording SET kinds = 1, unoffered = 2 WHERE id = ?", late)
    change(root, "DELETE FROM file WHERE recording = ? AND kind = 'thumbnail'", late)
    next(p for n, p in archive_files(root).items() if n.endswith(f"{late}.jpg")).unlink()
    withhold(service, late, thumbnail_size=None)
    a_night_passes(root)
    sync_here(service, root)
    assert row(root, late)[:4] == ("archived", 3, 0, 4), "its first look was just now"
    a_night_passes(root)
    sync_here(service, root)
    assert row(root, late)[:4] == ("archived", 7, 4, 0)


@pytest.mark.parametrize("how", ["unavailable", "refused"])
def test_a_recording_that_is_gone_meanwhile_stays_archived(
    how: str, service: SimulatedService, root: Path
) -> None:
    late, *_ = by_start(service)
    sync_here(service, root)
    a_night_passes(root)
    if how == "refused":
        service.set_recordings(r for r in service.recordings.values() if r.id != late)
    else:
        service.set_state(late, "unavailable")
    dry = sync_here(service, root, run={"dry_run": True})
    assert (dry.exit_code, len(dry.unavailable), len(dry.refused)) == (0, 0, 0)
    report = sync_here(service, root)
    assert (report.exit_code, len(report.unavailable), len(report.refused)) == (0, 0, 0)
    assert row(root, late)[:4] == ("archived", 7, 2, 0)


def test_a_look_that_fails_is_no_look(service: SimulatedService, root: Path) -> None:
    late, *_ = by_start(service)
    sync_here(service, root)
    a_night_passes(root)
    service.fail(Response(500), call="links")
    assert sync_here(service, root, mark_archived=True).exit_code == 7
    assert row(root, late)[1:4] == (5, 0, 2)
    assert late not in service.archived
    service.on_request.clear()
    offer(service, late)
    assert sync_here(service, root, mark_archived=True).exit_code == 0
    assert_archive_equals(service, root)


def test_a_first_look_in_the_future_is_none(service: SimulatedService, root: Path) -> None:
    late, *_ = by_start(service)
    sync_here(service, root)
    change(root, "UPDATE recording SET unoffered_since = ? WHERE unoffered <> 0", iso(2**31))
    sync_here(service, root)
    assert row(root, late)[:4] == ("archived", 5, 0, 2)
    a_night_passes(root)
    sync_here(service, root)
    assert row(root, late)[:4] == ("archived", 7, 2, 0)


def test_nothing_is_owed_meanwhile(service: SimulatedService, root: Path) -> None:
    report = sync_here(service, root)
    assert (report.exit_code, report.archived) == (0, 3)
    assert set(states(root).values()) == {"archived"}
