"""`sync --transcode`: asked for once, and archived when it is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import (
    archive_size,
    assert_archive_equals,
    catalog_rows,
)
from support import sync as sync_support
from support.service import Serve
from support.sync import (
    FEW,
    change,
    counts,
    small,
    sync_here,
)

from g2a_archive.demo import (
    ManualClock,
    Request,
    Response,
)

pytestmark = pytest.mark.usefixtures("at_once")

few = sync_support.few
service = sync_support.service


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
    report = sync_here(service, root, transcode=True)
    assert (report.exit_code, report.requested, report.archived) == (3, 24, 12)
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
    # What is archived may wait for that once more: it is nobody's concern.
    service.set_state(min(waiting), "transcode")
    counts(service)
    assert sync_here(service, root, transcode=True).exit_code == 0
    assert "transcode" not in counts(service)


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
    assert (report.exit_code, report.archived, len(report.unavailable)) == (0, 8, 0)
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
