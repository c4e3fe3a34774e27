"""`sync --mark-archived`: the service is told nothing that isn't so."""

from __future__ import annotations

import random
import signal
import subprocess
from pathlib import Path

import pytest
from support import (
    LONG,
    archive_files,
    assert_archive_equals,
    catalog_rows,
    cli_here,
    report_of,
    run_here,
    start_cli,
    states,
)
from support import sync as sync_support
from support.service import Serve
from support.sync import (
    by_start,
    counts,
    small,
    spread,
    sync_args,
    sync_here,
    whole_on_disk,
)

from g2a_archive.demo import (
    Fault,
    Request,
    Response,
    SimulatedService,
)
from g2a_archive.demo.faults import drop
from g2a_archive.download.stopping import StopSwitch
from g2a_archive.errors import ExitCode
from g2a_archive.models import ALL_KINDS
from g2a_archive.sync.state import SyncState

pytestmark = pytest.mark.usefixtures("at_once")

service = sync_support.service


# --- marking ----------------------------------------------------------------------------------


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
    sync_here(service, root, run={"kinds": (ALL_KINDS[0],)})
    assert set(states(root).values()) == {"archived"}
    counts(service)
    service.fail(Response(500), call="links")
    sync_here(service, root, mark_archived=True)
    assert service.archived == set()


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


def test_what_is_fetched_again_is_marked_in_the_same_run(
    service: SimulatedService, root: Path
) -> None:
    sync_here(service, root)
    bad, *_ = by_start(service)
    archive_files(root)[f"{service.recordings[bad].start:%Y/%m/%d}/{bad}.events"].unlink()
    report = sync_here(service, root, mark_archived=True)
    assert report.exit_code == 0
    assert service.archived == set(service.recordings)


def test_credentials_that_may_not_mark_are_not_tried_for_every_recording(
    serve: Serve, root: Path
) -> None:
    service = serve(spread(60, 36), rate_limit=None)
    service.fail(Response(403), call="archived")
    report = sync_here(service, root, mark_archived=True)
    assert (report.exit_code, report.archived) == (4, 36)
    assert "scopes" in report.abort_messages[-1]
    assert counts(service)["archived"] < 36


def test_a_mark_that_was_not_remembered_is_made_again(
    service: SimulatedService, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SyncState, "record_marked", interrupted)
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


@pytest.mark.parametrize("seed", range(40 if LONG else 2))
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
    assert report_of(cli_here(args, service.environment()))["exit_code"] == 0
    assert_archive_equals(service, root)
    assert service.archived == set(service.recordings)
    counts(service)
    assert cli_here(args, service.environment()).returncode == 0
    assert counts(service) == {"list": 1}
