"""`sync` where it cannot be done: refused, unreachable, out of time."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import (
    assert_archive_equals,
    catalog_rows,
    cli_here,
    relative_path,
    run_here,
    states,
)
from support import sync as sync_support
from support.cli import refused
from support.service import Serve
from support.sync import (
    FEW,
    counts,
    small,
    spread,
    sync_args,
    sync_here,
)

from g2a_archive.demo import (
    ManualClock,
    Response,
    SimulatedService,
    faults,
)
from g2a_archive.demo.messages import Call, Request

pytestmark = pytest.mark.usefixtures("at_once")

few = sync_support.few
service = sync_support.service


def test_refused_credentials(service: SimulatedService, root: Path) -> None:
    service.revoke()
    result = cli_here(sync_args(root, "--mark-archived"), service.environment())
    assert result.returncode == 4
    assert service.requests.counts["list"] == 1
    assert set(counts(service)) == {"list"}
    assert service.token not in result.stdout + result.stderr
    listed = cli_here(["list", "--account-key", "1000"], service.environment())
    assert (listed.returncode, listed.stdout, len(listed.stderr.splitlines())) == (4, "", 1)


def test_no_credentials(service: SimulatedService, root: Path) -> None:
    env = {"G2A_ARCHIVE_API_URL": service.api_url}
    assert cli_here(sync_args(root), env).returncode == 4
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
    assert "keys" in report.abort_messages[0]


@pytest.mark.usefixtures("few")
def test_a_listing_that_fails_on_the_way_does_not_keep_the_rest(serve: Serve, root: Path) -> None:
    service = serve(spread(100, 30), rate_limit=None, most_ids=FEW)
    service.fail(Response(500), call="list", skip=12)
    report = sync_here(service, root)
    assert report.exit_code == 7
    assert report.archived > FEW
    assert report.archived == len(states(root))
    service.on_request.clear()
    assert sync_here(service, root).exit_code == 0
    assert_archive_equals(service, root)


@pytest.mark.parametrize(
    ("fault", "code"),
    [(Response(403), 4), (Response(400), 7), (Response(500), 7), (faults.drop(), 7)],
    ids=["403", "400", "500", "no answer"],
)
@pytest.mark.parametrize("bad", ["999", "1001"], ids=["the first", "the last"])
def test_one_key_of_several_keeps_no_other_out(
    bad: str,
    fault: Response | faults.Fault,
    code: int,
    service: SimulatedService,
    root: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def of_the_bad_key(call: Request) -> Response | faults.Fault | None:
        return fault if f"accountKey={bad}" in call.target else None

    service.on_request.append(of_the_bad_key)
    keys = tuple(sorted(("1000", bad), key=int))
    report = sync_here(service, root, keys=keys, mark_archived=True)
    assert report.exit_code == code
    assert f"accountKey {bad}" in caplog.text
    assert report.archived == len(service.recordings) == len(service.archived)
    assert_archive_equals(service, root)


@pytest.mark.parametrize("fault", [Response(500), Response(404)], ids=["500", "404"])
def test_a_listing_that_fails_does_not_keep_out_what_is_owed(
    fault: Response, service: SimulatedService, root: Path
) -> None:
    ids = list(service.recordings)
    for id_ in ids:
        service.set_state(id_, "unavailable")
    run_here(service, root, ids)
    for id_ in ids:
        service.set_state(id_, "ready")
    service.fail(fault, call="list")
    report = sync_here(service, root)
    assert (report.exit_code, report.archived) == (7, len(ids))
    assert_archive_equals(service, root)


@pytest.mark.parametrize(
    ("fault", "code"), [(Response(403), 4), (faults.drop(), 7)], ids=["refused", "no answer"]
)
def test_where_no_key_is_heard_no_link_is_asked_for(
    fault: Response | faults.Fault, code: int, service: SimulatedService, root: Path
) -> None:
    service.set_state(next(iter(service.recordings)), "unavailable")
    run_here(service, root, service.recordings)
    service.fail(fault, call="list")
    counts(service)
    report = sync_here(service, root, keys=("1000", "1001"))
    assert report.exit_code == code
    assert set(counts(service)) == {"list"}


@pytest.mark.parametrize("count", [5, 60])
def test_credentials_that_may_list_and_not_download(count: int, serve: Serve, root: Path) -> None:
    """16 IDs refused one by one, while no link call was accepted, are not the IDs' fault."""
    service = serve(small(count), rate_limit=None)
    service.fail(Response(403), call="links")
    report = sync_here(service, root)
    assert (report.exit_code, len(report.refused)) == (4, 0)
    assert "the service refused the credentials" in report.abort_messages[0]
    assert set(states(root).values()) == {"queued"}
    assert service.requests.counts["links"] <= 2 * 16 + 10
    service.on_request.clear()
    assert sync_here(service, root).exit_code == 0
    assert_archive_equals(service, root)


def test_the_oldest_are_all_invalid_and_keep_no_other_out(serve: Serve, root: Path) -> None:
    service = serve(small(60), rate_limit=None)
    gone = sorted(service.recordings)[-30:]  # the largest IDs are the oldest

    def of_the_gone(call: Request) -> Response | None:
        asked = "/urls?" in call.target and any(f"={id_}" in call.target for id_ in gone)
        return Response(403) if asked else None

    service.on_request.append(of_the_gone)
    report = sync_here(service, root)
    assert (report.exit_code, sorted(report.refused), report.archived) == (1, gone, 30)


LIMIT = 1.5
"""Seconds: less than what holds the call up, and enough to make it where much else goes on."""


@pytest.mark.parametrize(
    "held_up",
    [faults.stall(0), Response(503, headers={"Retry-After": "5"})],
    ids=["stalls", "in its pause"],
)
@pytest.mark.parametrize(("call", "dry_run"), [("list", False), ("links", False), ("links", True)])
def test_max_duration_holds_while_a_call_is_held_up(
    service: SimulatedService,
    root: Path,
    caplog: pytest.LogCaptureFixture,
    call: Call,
    dry_run: bool,
    held_up: faults.Fault | Response,
) -> None:
    service.fail(held_up, call=call)
    if call == "list":
        report = sync_here(service, root, run={"max_duration": LIMIT})
    else:
        ids = service.recordings
        report = run_here(service, root, ids, dry_run=dry_run, max_duration=LIMIT)
        assert sorted(report.unfinished) == sorted(ids)
    assert report.exit_code == 8
    assert "--max-duration is over" in caplog.text
    assert counts(service) == {call: 1}


def test_max_duration_holds_while_transcodings_are_waited_for(serve: Serve, root: Path) -> None:
    service = serve(small(3, transcode_every=1))
    report = sync_here(service, root, run={"max_duration": 0.5}, transcode=True, wait=3600.0)
    assert (report.exit_code, len(report.unavailable)) == (8, 3)
    assert "links" not in counts(service)


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
        (["sync", "--company-id", "1", "--session-type", "attended"], "use --account-key"),
        (["sync", "--account-key", "1", "--wait", "1h"], "--transcode"),
        (["sync", "--account-key", "1", "--mark-archived", "--only", "mp4"], "--only"),
    ],
)
def test_usage(
    arguments: list[str | int | Path], said: str, service: SimulatedService, tmp_path: Path
) -> None:
    assert said in refused(service, tmp_path, arguments, here=True)


def test_sums_that_cannot_be_written_keep_out_nothing_of_what_is_waited_for(
    serve: Serve, root: Path
) -> None:
    """A night that begins with nothing to fetch, and one day whose `SHA256SUMS` is in the way."""
    clock = ManualClock()
    service = serve(
        small(8, transcode_every=2),
        rate_limit=None,
        clock=clock,
        transcode_seconds=200.0,
        token_lifetime=9e9,
    )
    name = relative_path(service.recordings[10_000], "mp4")
    in_the_way = (root / name).parent / "SHA256SUMS" / "something"
    in_the_way.mkdir(parents=True)
    assert sync_here(service, root).exit_code == 1
    for _ in range(2):
        report = sync_here(
            service,
            root,
            transcode=True,
            wait=3600.0,
            clock=clock,
            wait_with=clock.advance,
        )
        assert (report.exit_code, len(report.unavailable)) == (1, 0)
        assert set(states(root).values()) == {"archived"}
    assert catalog_rows(root, "SELECT exit_code FROM run") == 3 * [(1,)]
    in_the_way.rmdir()
    in_the_way.parent.rmdir()
    assert sync_here(service, root).exit_code == 0
    assert_archive_equals(service, root)
