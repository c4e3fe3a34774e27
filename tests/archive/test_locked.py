"""A catalogue that another program holds locked, and a run that is asked to stop meanwhile."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support import archives, catalog_path, plain_args, start_cli

from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.demo import SimulatedService

original = archives.original
archive = archives.archive
service = archives.service

_SAYS_WHEN_IT_WAITS = """
import sys
from g2a_archive.archive.database import connection

connection._WARN_AFTER = 0.0
connection._GRACE = 0.1
"""


@pytest.mark.parametrize("command", ["download", "dry-run", "verify", "bag", "remove", "merge"])
def test_a_signal_while_it_is_waited_for(
    command: str, archive: Path, service: SimulatedService, tmp_path: Path
) -> None:
    """Of the codes that hold, the signal's is the first; nobody waits for half a minute."""
    id_ = next(iter(service.recordings))
    more: dict[str, list[str | int | Path]] = {
        "download": plain_args(archive, id_),
        "dry-run": plain_args(archive, "--dry-run", id_),
        "verify": ["verify", "--dest", archive],
        "bag": ["bag", tmp_path / "bag", id_, "--dest", archive],
        "remove": ["remove", id_, "--dest", archive],
        "merge": ["merge", archive, "--dest", tmp_path / "target"],
    }
    with closing(sqlite3.connect(catalog_path(archive))) as other:
        other.execute("BEGIN EXCLUSIVE")
        with start_cli(more[command], service.environment(), before=_SAYS_WHEN_IT_WAITS) as process:
            assert process.stderr is not None
            assert "waiting for the catalogue" in process.stderr.readline()
            process.terminate()
            _, err = process.communicate(timeout=30)
    assert process.returncode == 143, err
    assert "for 30 s" not in err


def test_what_is_to_be_recorded_waits_for_a_reader_though_the_run_is_to_stop(
    archive: Path,
) -> None:
    """A run at the end of `--max-duration`, or stopped by a signal, beside a `SELECT`."""
    path = catalog_path(archive)
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM recording").fetchall()

        def stopped() -> bool:
            reader.rollback()  # which the first look, that finds it locked, brings about
            return True

        with Catalog(path, interrupted=stopped) as catalog:
            number = catalog.begin_run("download")
        found = reader.execute("SELECT command FROM run WHERE id = ?", (number,)).fetchall()
    assert found == [("download",)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_reader_of_it_alone_ends_at_once(number: signal.Signals, archive: Path) -> None:
    with closing(sqlite3.connect(catalog_path(archive))) as other:
        other.execute("BEGIN EXCLUSIVE")
        with start_cli(["status", "--dest", archive], before=_SAYS_WHEN_IT_WAITS) as process:
            assert process.stderr is not None
            assert "waiting for the catalogue" in process.stderr.readline()
            process.send_signal(number)
            process.communicate(timeout=30)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
