"""What a night with little news asks of the catalogue does not grow with the archive."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support import catalog_path, run_here
from support.sync import sync_here

from g2a_archive.archive.database import inventory
from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.database.connection import Database
from g2a_archive.demo import SimulatedService, sample_recordings

_LARGE = (
    r"\bSCAN (recording|file|r|f|past_file)\b(?! USING (COVERING )?INDEX recording_(owed|unoff))"
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement that this process sends to a catalogue."""
    statements: list[str] = []
    prepare = Database._prepare

    def traced(self: Database) -> None:
        prepare(self)
        self._db.set_trace_callback(statements.append)

    monkeypatch.setattr(Database, "_prepare", traced)
    return statements


def scans(root: Path, statements: list[str]) -> list[str]:
    """Those that go through a whole table that has a row for each recording or file."""
    found = []
    with closing(sqlite3.connect(catalog_path(root))) as db:
        for sql in dict.fromkeys(statements):
            if re.match(r"\s*(SELECT|UPDATE|DELETE|INSERT|REPLACE|WITH)\b", sql):
                plan = "; ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}"))
                if re.search(_LARGE, plan):
                    found.append(f"{plan}: {sql}")
    return found


def test_a_night_goes_through_no_table(tmp_path: Path, asked: list[str]) -> None:
    recordings = sample_recordings(6, unavailable_every=3)
    root = tmp_path / "recordings"
    with SimulatedService(recordings) as service:
        ids = list(service.recordings)
        run_here(service, root, ids[:4])
        asked.clear()
        for some in (ids[:1], ids[4:5]):
            run_here(service, root, some)
        run_here(service, root, [], owed=True)
        sync_here(service, root)
        asked_before = len(asked)
        sync_here(service, root)
        assert len(asked) > asked_before > 20
    assert scans(root, asked) == []


def test_what_is_owed_is_found_by_an_index(tmp_path: Path, asked: list[str]) -> None:
    with SimulatedService(sample_recordings(4, unavailable_every=2)) as service:
        root = tmp_path / "recordings"
        run_here(service, root, service.recordings)
    asked.clear()
    with Catalog(catalog_path(root), readonly=True) as catalog:
        assert len(list(inventory.owed_list(catalog))) == len([*catalog.owed()]) == 2
        assert catalog.owed_count() == 2
    assert scans(root, asked) == []
    # The test itself sees a scan.
    assert len(scans(root, ["SELECT count(size) FROM file"])) == 1


@pytest.mark.parametrize("ask", ["summary", "year", "day"])
def test_status_goes_through_no_table(tmp_path: Path, asked: list[str], ask: str) -> None:
    with SimulatedService(sample_recordings(4, unavailable_every=2)) as service:
        root = tmp_path / "recordings"
        run_here(service, root, service.recordings)
    asked.clear()
    with Catalog(catalog_path(root), readonly=True) as catalog:
        if ask == "summary":
            found = inventory.summary(catalog, root)
            assert (found.archived, found.owed_count, found.files) == (2, 2, 6)
        else:
            periods = inventory.by_period(catalog, ask)
            assert sum(one.recordings for one in periods) == 2
    assert scans(root, asked) == []
    # Nor through the index of what is owed, which may be all that was ever removed.
    with closing(sqlite3.connect(catalog_path(root))) as db:
        plans = [row[3] for sql in asked for row in db.execute(f"EXPLAIN QUERY PLAN {sql}")]
    assert not [plan for plan in plans if re.search(r"\bSCAN (recording|file)", plan)]
