"""`sync --shard`: each shard finds, archives, marks and gives up its own recordings only."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest
from support import assert_archive_equals, catalog_rows, run_here, states
from support import sync as sync_support
from support.service import Serve
from support.sync import FEW, change, counts, small, spread, sync_here

from g2a_archive.demo import SimulatedService
from g2a_archive.models import Shard
from g2a_archive.service import pace

few = sync_support.few

pytestmark = pytest.mark.usefixtures("no_backoff")

HALVES = (Shard(1, 2), Shard(2, 2))


@pytest.fixture(autouse=True)
def unpaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of runs in this process follow each other at once."""
    monkeypatch.setattr(pace, "CALL_INTERVAL", 1e-9)


@pytest.fixture
def service(serve: Serve) -> SimulatedService:
    return serve(small(12), rate_limit=None)


def mine(service: SimulatedService, shard: Shard) -> set[int]:
    return set(shard.select(service.recordings))


def test_each_shard_archives_and_marks_its_own(service: SimulatedService, tmp_path: Path) -> None:
    for shard in HALVES:
        before = set(service.archived)
        root = tmp_path / str(shard.number)
        report = sync_here(service, root, run={"shard": shard}, mark_archived=True)
        own = mine(service, shard)
        assert (report.exit_code, report.requested, report.archived) == (0, len(own), len(own))
        assert report.sync is not None
        assert (report.sync.listed, report.sync.marked) == (len(own), len(own))
        assert service.archived - before == own
        assert set(states(root)) == own  # nothing of the other is owed
        assert_archive_equals(service, root, own)


def test_only_its_own_are_transcoded(serve: Serve, root: Path) -> None:
    service = serve(small(12, transcode_every=1), rate_limit=None)
    report = sync_here(service, root, run={"shard": HALVES[0]}, transcode=True)
    own = mine(service, HALVES[0])
    assert report.sync is not None
    assert report.sync.transcoding == len(own)
    assert set(report.unavailable) == own
    asked = {row[0] for row in catalog_rows(root, "SELECT id FROM recording")}
    assert asked == own


def test_what_the_other_shard_owes_here_is_neither_tried_nor_given_up(
    service: SimulatedService, root: Path
) -> None:
    for id_ in service.recordings:
        service.set_state(id_, "unavailable")
    run_here(service, root, service.recordings)
    change(root, "UPDATE recording SET owed_since = '2020-01-01T00:00:00Z', tries = 9")
    report = sync_here(service, root, run={"shard": HALVES[1]}, give_up_after=86400.0)
    own = mine(service, HALVES[1])
    assert report.sync is not None
    assert set(report.sync.lost) == own
    assert set(report.unavailable) == own
    assert {id_ for id_, state in states(root).items() if state == "lost"} == own


def test_what_the_other_shard_archived_here_is_not_marked(
    service: SimulatedService, root: Path
) -> None:
    sync_here(service, root)
    sync_here(service, root, run={"shard": HALVES[0]}, mark_archived=True)
    assert service.archived == mine(service, HALVES[0])


@pytest.mark.usefixtures("few")
def test_how_far_one_shard_has_looked_says_nothing_of_the_other(serve: Serve, root: Path) -> None:
    """Both into one archive: the second looks at all times again, and at its end once a night."""
    service = serve(spread(100, 24), rate_limit=None, most_ids=FEW)
    for shard in HALVES:
        sync_here(service, root, run={"shard": shard})
        assert mine(service, shard) <= set(states(root))
    assert_archive_equals(service, root)
    scans = dict(catalog_rows(root, "SELECT * FROM scan"))
    assert set(scans) == {shard.scope("accountKey=1000") for shard in HALVES}
    counts(service)
    for shard in HALVES:
        sync_here(service, root, run={"shard": shard})
        assert counts(service)["list"] == 1


@pytest.mark.usefixtures("few")
def test_what_a_whole_run_has_looked_at_a_shard_need_not(serve: Serve, root: Path) -> None:
    service = serve(spread(100, 24), rate_limit=None, most_ids=FEW)
    sync_here(service, root)
    [(_, until)] = catalog_rows(root, "SELECT * FROM scan")
    assert datetime.fromisoformat(until)
    counts(service)
    sync_here(service, root, run={"shard": HALVES[0]})
    assert counts(service)["list"] == 1
