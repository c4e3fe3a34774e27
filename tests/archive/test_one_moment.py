"""What a reader tells beside a run that commits: of one moment, not half of two."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from support.archive import Archive

from g2a_archive.archive.database import inventory
from g2a_archive.archive.database.catalog import Catalog

COMMIT = """
BEGIN IMMEDIATE;
DELETE FROM file WHERE recording = 1;
UPDATE recording SET state = 'failed', kinds = 0, owed_since = '2026-11-23T02:00:05Z' WHERE id = 1;
COMMIT
"""


def summary(catalog: Catalog) -> tuple[int, int]:
    told = inventory.summary(catalog)
    return told.archived, told.files


def everything(catalog: Catalog) -> tuple[int, int]:
    told = list(inventory.everything(catalog))
    return sum(one.state == "archived" for one in told), sum(len(one.files) for one in told)


def named(catalog: Catalog) -> tuple[int, int]:
    told = list(inventory.recordings(catalog, [1, 2]))
    return sum(one.state == "archived" for one in told), sum(len(one.files) for one in told)


@pytest.mark.parametrize("ask", [summary, everything, named])
def test_a_commit_between_two_queries(
    ask: Callable[[Catalog], tuple[int, int]], tmp_path: Path
) -> None:
    """It comes before the second one, where it can."""
    archive = Archive(tmp_path)
    archive.add(1)
    archive.add(2)
    archive.catalog.close()
    asked: list[str] = []
    refused: list[str] = []

    def commit(statement: str) -> None:
        asked.append(statement)
        with closing(sqlite3.connect(archive.database, timeout=0, isolation_level=None)) as run:
            try:
                run.executescript(COMMIT)
            except sqlite3.OperationalError as error:
                refused.append(str(error))

    with Catalog(archive.database, readonly=True) as catalog:
        catalog._db.set_trace_callback(lambda one: commit(one) if asked else asked.append(one))
        assert ask(catalog) == (2, 6)
        assert {*refused} == {"database is locked"}
        catalog._db.set_trace_callback(None)
        with closing(sqlite3.connect(archive.database, isolation_level=None)) as run:
            run.executescript(COMMIT)  # now it comes
        assert ask(catalog) == (1, 3)
