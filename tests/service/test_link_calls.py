"""Asking for links: how many calls, how fast, and what each failing answer means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
from support import (
    Token,
    assert_archive_equals,
    cli_here,
    download_args,
    run_here,
    states,
)
from support.service import Serve

from g2a_archive.demo import (
    Request,
    Response,
    SimulatedRecording,
    SimulatedService,
    faults,
    sample_recordings,
)
from g2a_archive.errors import ExitCode, UnreachableError
from g2a_archive.service.pace import CALL_INTERVAL

NOT_READY = 2_000_000_000
"""IDs from here on are known to the service, but not available: they cost no download."""


@cache
def waiting(count: int) -> Sequence[SimulatedRecording]:
    """Recordings that are not available, and one that is."""
    ready = sample_recordings(1, first_id=1)
    rest = sample_recordings(count - 1, first_id=NOT_READY, unavailable_every=1)
    return [*ready, *rest]


def invalid(count: int) -> list[int]:
    """IDs that the service does not know."""
    return list(range(9_000_000_000, 9_000_000_000 + count))


def mixed(total: int, bad_places: Sequence[int]) -> tuple[Sequence[SimulatedRecording], list[int]]:
    """A population, and `total` IDs to ask for, those in these places invalid."""
    recordings = waiting(total - len(bad_places))
    good, bad = iter(recordings), iter(invalid(len(bad_places)))
    places = set(bad_places)
    return recordings, [next(bad) if n in places else next(good).id for n in range(total)]


def most_calls(total: int, bad: int) -> int:
    """Calls that narrow `bad` IDs down in one chunk of `total`, at most.

    Each chunk that holds a bad ID costs two more, for its halves; on each level of halving there
    are at most as many such chunks as chunks, and as bad IDs. One call more looks whether the
    credentials are still good.
    """
    levels = range(math.ceil(math.log2(total)))
    return 2 + 2 * sum(min(1 << level, bad) for level in levels)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("place", "most"),
    [
        (0, most_calls(500, 1)),  # all left halves are refused, so all right ones are asked for
        (1, most_calls(500, 1)),
        (249, 1 + 2 + 8 + 1),
        (250, 1 + 1 + 2 * 8 + 1),
        # No right half need be asked for, as the bad ID is in it; but no later call is accepted.
        (499, 1 + 9 + 1 + 1),
    ],
)
def test_one_invalid_id_of_500(place: int, most: int, serve: Serve, root: Path) -> None:
    recordings, ids = mixed(500, [place])
    service = serve(recordings, rate_limit=None)
    report = run_here(service, root, ids)
    assert [*report.refused] == [ids[place]]
    assert len(report.unavailable) == 498
    assert report.archived == 1
    assert report.exit_code == 1
    assert states(root)[ids[place]] == "refused"
    assert service.requests.counts["links"] <= most


@pytest.mark.usefixtures("at_once")
def test_one_invalid_id_in_a_hundred(serve: Serve, root: Path) -> None:
    total, places = 1000, range(37, 1000, 100)
    recordings, ids = mixed(total, places)
    service = serve(recordings, rate_limit=None)
    report = run_here(service, root, ids)
    assert [*report.refused] == [ids[place] for place in places]
    assert len(report.unavailable) == total - len(places) - 1
    assert report.archived == 1
    calls = service.requests.calls("links")
    assert len(calls) <= total // 500 * most_calls(500, 5)
    assert len({entry.query for entry in calls}) >= len(calls) - 1  # but for a probe, none twice


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("count", [1, 15, 16, 600])
def test_every_id_invalid_looks_like_bad_credentials(
    count: int, service: SimulatedService, root: Path
) -> None:
    service.behaviour.rate_limit = None
    report = run_here(service, root, invalid(count))
    assert report.exit_code == ExitCode.CREDENTIALS
    assert len(report.refused) == 0
    assert states(root) == {}
    assert sorted(report.unfinished) == invalid(count)
    asked = [len(entry.query) for entry in service.requests.calls("links")]
    assert asked.count(1) == min(16, count)
    # 16 single IDs, and the way down to them.
    assert len(asked) <= 2 * 16 + math.ceil(math.log2(500))


@pytest.mark.usefixtures("at_once")
def test_fifteen_invalid_ids_before_a_good_one_are_refused(serve: Serve, root: Path) -> None:
    recordings, ids = mixed(20, range(15))
    report = run_here(serve(recordings, rate_limit=None), root, ids)
    assert sorted(report.refused) == ids[:15]
    assert report.exit_code == 1
    assert report.archived == 1


@pytest.mark.usefixtures("at_once")
def test_a_bad_token_ends_the_run(service: SimulatedService, root: Path) -> None:
    service.behaviour.rate_limit = None
    service.revoke()
    report = run_here(service, root, service.recordings)
    assert report.exit_code == ExitCode.CREDENTIALS
    assert len(report.refused) == 0
    assert states(root) == {}
    assert len(report.abort_messages) == 1
    assert (
        "the service refused the credentials, or every one of these IDs" in report.abort_messages[0]
    )


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_runs_out_in_mid_run(
    status: int, serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("g2a_archive.service.client.LIST_LIMIT", 8)
    service = serve(24, rate_limit=None, refused_token_status=status)
    first = list(service.recordings)[:8]
    service.on_links.append(lambda _: service.revoke())
    report = run_here(service, root, service.recordings)
    assert report.exit_code == ExitCode.CREDENTIALS
    assert report.abort_messages[0].startswith("the service no longer accepts the credentials")
    assert len(report.refused) == 0
    assert len(report.failed) == 0
    assert report.archived == 8
    assert sorted(report.unfinished) == sorted(set(service.recordings) - set(first))
    assert_archive_equals(service, root, first)
    assert set(states(root).values()) == {"archived", "queued"}
    # Down to one ID, then the look at a good one; two chunks may be under way.
    assert service.requests.counts["links"] <= 1 + 2 * (1 + 3 + 1)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_a_token_that_runs_out_while_an_invalid_id_is_looked_for(
    after: int, serve: Serve, root: Path
) -> None:
    """What is refused from then on says nothing of the IDs, though others were accepted before."""
    recordings, ids = mixed(40, [7])
    service = serve(recordings, rate_limit=None, refused_token_status=403)
    rest = iter(range(after))

    def revoke(_: object) -> None:
        if next(rest, None) is None:
            service.revoke()

    service.on_links.append(revoke)
    report = run_here(service, root, ids)
    assert report.exit_code == ExitCode.CREDENTIALS
    assert [*report.refused] in ([], [ids[7]])
    assert "refused" not in {states(root).get(id_) for id_ in ids if id_ != ids[7]}
    # 16 in a row are enough to look whether the token is still good.
    assert service.requests.counts["links"] <= most_calls(40, 17)


@pytest.mark.usefixtures("at_once")
def test_a_dry_run_that_is_cut_short_names_what_it_never_asked_for(
    serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("g2a_archive.service.client.LIST_LIMIT", 8)
    service = serve(24, rate_limit=None)
    service.on_links.append(lambda _: service.revoke())
    report = run_here(service, root, service.recordings, dry_run=True)
    assert (report.exit_code, report.would_fetch) == (ExitCode.CREDENTIALS, 8)
    assert [*report.unfinished] == list(service.recordings)[8:]
    assert ("yellow", "  not finished: 16; run again to go on with them") in report.summary()


@pytest.fixture
def no_renewal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that could be renewed, were the token endpoint there."""

    def renew(token: Token, stale: str) -> bool:
        raise UnreachableError("token endpoint localhost: connection refused")

    monkeypatch.setattr(Token, "renewable", True)
    monkeypatch.setattr(Token, "renew", renew)


@pytest.mark.usefixtures("at_once", "no_renewal")
def test_an_invalid_id_while_no_other_token_is_to_be_had(serve: Serve, root: Path) -> None:
    """A 403 may be about the ID: the others are archived by the token that there is."""
    service = serve(12, rate_limit=None)
    report = run_here(service, root, [*invalid(1), *service.recordings])
    assert [*report.refused] == invalid(1)
    assert report.failed_recordings == 0
    assert_archive_equals(service, root)
    assert report.exit_code == ExitCode.FAILED


@pytest.mark.usefixtures("at_once", "no_renewal")
@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("good", [0, 8])
def test_a_token_that_ran_out_while_no_other_is_to_be_had(
    good: int, status: int, serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token endpoint is what failed (7, or 1): nobody refused the credentials (4). It is not
    asked for each of a hundred chunks."""
    monkeypatch.setattr("g2a_archive.service.client.LIST_LIMIT", 8)
    service = serve(8 + 90, rate_limit=None, refused_token_status=status)
    service.on_links.append(lambda _: service.revoke())
    if not good:
        service.revoke()
    report = run_here(service, root, service.recordings)
    assert report.exit_code == (ExitCode.FAILED if good else ExitCode.SERVICE)
    assert (report.archived, len(report.refused)) == (good, 0)
    assert report.failed_recordings == 8 + 90 - good
    tried = [one for one in report.failed if not one.reason.startswith("not tried")]
    assert len(tried) < 90
    reasons = {one.reason for one in tried}
    told = "token endpoint localhost: connection refused"
    assert reasons <= {told, f"no new link: {told}"}, reasons
    assert "refused" not in states(root).values()


@pytest.mark.usefixtures("at_once", "no_renewal")
def test_a_token_that_ran_out_within_a_chunk_makes_no_id_invalid(serve: Serve, root: Path) -> None:
    """What was asked for alone from then on was refused, and nothing was accepted after it."""
    service = serve(9, rate_limit=None)
    ids = [*sorted(service.recordings), *invalid(1)]
    service.on_links.append(lambda _: service.revoke())
    report = run_here(service, root, ids)
    assert (report.archived, len(report.refused)) == (5, 0)
    assert report.failed_recordings == 5
    assert "refused" not in states(root).values()


@pytest.mark.usefixtures("at_once")
def test_two_refusals_of_six_are_not_all_of_them(
    serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no other call was answered, they prove nothing, of the credentials or of the IDs."""
    monkeypatch.setattr("g2a_archive.service.client.LIST_LIMIT", 4)
    service = serve(4, rate_limit=None)
    ids = sorted(service.recordings)
    service.fail(faults.status(500), call="links", times=2)  # it is tried again once
    report = run_here(service, root, [*ids, *invalid(2)])
    assert report.exit_code == ExitCode.SERVICE
    assert sorted(report.failed.ids) == [*ids, *invalid(2)]
    reasons = {failure.id: failure.reason for failure in report.failed}
    assert reasons[invalid(1)[0]].startswith("refused with 403: an invalid ID, or the credentials")
    assert run_here(service, root, [], owed=True).archived == 4


@pytest.mark.usefixtures("at_once")
def test_a_renewable_token_is_renewed(serve: Serve, root: Path) -> None:
    service = serve(4, rate_limit=None)
    revoked: list[bool] = []

    def expire(_: object) -> None:
        if not revoked:
            revoked.append(True)
            service.revoke()
            service.expire_links()

    service.on_links.append(expire)
    result = cli_here(download_args(root, *service.recordings), service.environment(renewable=True))
    assert (result.returncode, result.stderr) == (0, "")
    assert_archive_equals(service, root)
    assert service.requests.counts["token"] == 2


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("bad", [1, 5])
def test_a_good_renewable_token_is_renewed_once_a_chunk_at_most(
    bad: int, serve: Serve, root: Path
) -> None:
    service = serve(12, rate_limit=None)
    ids = [*service.recordings, *invalid(bad)]
    result = cli_here(download_args(root, *ids), service.environment(renewable=True))
    assert result.returncode == 1
    assert service.requests.counts["token"] == 2  # the first, and one renewal
    assert_archive_equals(service, root)


@pytest.mark.usefixtures("at_once")
def test_414_halves_the_chunk_and_those_after_it(serve: Serve, root: Path) -> None:
    recordings = waiting(1001)  # the first chunk is halved, and two come after it
    service = serve(recordings, rate_limit=None, most_target_bytes=3200)
    report = run_here(service, root, service.recordings)
    assert report.exit_code == ExitCode.UNAVAILABLE
    assert (len(report.unavailable), report.archived) == (1000, 1)
    answered = service.requests.statuses["links", 200]
    assert answered == math.ceil(1001 / 125)
    # 500 and 250 are too long; then it is known, as the first call is alone.
    assert service.requests.statuses["links", 414] == 2


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("status", [413, 414, 431])
def test_a_call_that_is_too_long_is_halved(
    status: int, service: SimulatedService, root: Path
) -> None:
    def too_long(request: Request) -> Response | None:
        return Response(status) if request.call == "links" and len(request.query) > 2 else None

    service.on_request.append(too_long)
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_archive_equals(service, root)


def test_414_to_a_single_id_fails_that_recording(service: SimulatedService, root: Path) -> None:
    service.fail(faults.status(414), call="links")
    id_ = next(iter(service.recordings))
    report = run_here(service, root, [id_])
    (failure,) = report.failed
    assert (failure.id, failure.file) == (id_, None)
    assert "414" in failure.reason
    assert report.exit_code == ExitCode.SERVICE


def test_400_points_at_id_attribute(service: SimulatedService, root: Path) -> None:
    report = run_here(service, root, service.recordings, id_attribute="ids")
    assert report.exit_code == ExitCode.SERVICE
    assert len(report.failed) == 8
    assert all("--id-attribute" in failure.reason for failure in report.failed)
    assert all("'ids'" in failure.reason for failure in report.failed)
    assert service.requests.counts["links"] == 1  # it would not change


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(("most", "calls"), [(250, 1), (125, 2)])
def test_a_400_to_a_long_query_may_mean_its_length(
    most: int, calls: int, serve: Serve, root: Path
) -> None:
    recordings = waiting(700)
    service = serve(recordings, rate_limit=None)

    def proxy(request: Request) -> Response | None:
        return Response(400) if request.call == "links" and len(request.query) > most else None

    service.on_request.append(proxy)
    report = run_here(service, root, service.recordings)
    assert report.exit_code == ExitCode.UNAVAILABLE
    assert (len(report.unavailable), report.archived, len(report.failed)) == (699, 1, 0)
    # Once it is known what is too long, nothing so long is asked for again.
    assert service.requests.statuses["links", 400] == calls
    assert service.requests.statuses["links", 200] == math.ceil(700 / most)


@pytest.mark.usefixtures("at_once")
def test_a_400_that_a_short_query_gets_too_is_believed(serve: Serve, root: Path) -> None:
    service = serve(waiting(1001), rate_limit=None, id_attribute="recordingId")
    report = run_here(service, root, service.recordings)
    assert report.exit_code == ExitCode.SERVICE
    assert len(report.failed) == 1001
    assert len({failure.reason for failure in report.failed}) == 1
    assert "the next guess is 'recordingId'" in next(iter(report.failed)).reason
    # 500, 250, 125 and 63 of them, and the other two chunks: it is not the length.
    assert service.requests.counts["links"] == 4 + 2
    again = run_here(service, root, service.recordings, id_attribute="recordingId")
    assert again.exit_code == ExitCode.UNAVAILABLE


def test_never_more_than_ten_calls_in_a_second(serve: Serve, root: Path) -> None:
    recordings, ids = mixed(130, [0])  # the first place costs most calls
    service = serve(recordings)
    report = run_here(service, root, ids)
    assert len(report.refused) == 1
    assert service.requests.counts["links"] > 12
    assert service.requests.peak_rate() <= 10
    assert service.requests.statuses["links", 429] == 0
    assert CALL_INTERVAL > 0.1


def test_an_answer_that_trickles_comes_too_slowly(
    service: SimulatedService, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("g2a_archive.service.session._LONGEST_CALL", 0.0)
    service.fail(faults.trickle(50), call="links")  # never a time-out without a byte
    report = run_here(service, root, service.recordings, retries=0, timeout=0.5)
    assert report.exit_code == ExitCode.SERVICE
    assert {f.reason for f in report.failed} == {"link call: the answer came too slowly"}
