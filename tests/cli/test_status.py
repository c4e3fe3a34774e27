"""The command `status` in each of its forms; what the text looks like, `tests/console` knows."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from support import archives, cli_here, run_cli
from support.cli import FIRST
from support.sync import change

archive = archives.archive
original = archives.original
service = archives.service


def rows_of(root: Path, *args: str) -> list[dict[str, str]]:
    result = cli_here(["status", "--dest", root, "--csv", *args])
    assert (result.returncode, result.stderr) == (0, "")
    return [*csv.DictReader(result.stdout.splitlines())]


def json_of(root: Path, *args: str) -> Any:
    result = cli_here(["status", "--dest", root, "--json", *args])
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


@pytest.fixture
def owing(archive: Path) -> Path:
    """Eight recordings, of which one is owed."""
    sql = "UPDATE recording SET state = 'failed', reason = 'for „no“ reason' WHERE id = ?"
    change(archive, sql, FIRST)
    return archive


def test_the_archive_as_a_whole(owing: Path) -> None:
    counts = {row["state"]: row["recordings"] for row in rows_of(owing)}
    assert counts == {"archived": "7", "failed": "1", "lost": "0", "removed": "0"}
    told = json_of(owing)
    assert (told["archived"], told["owed_count"], [*told["owed"]]) == (7, 1, ["failed"])


def test_by_period(owing: Path) -> None:
    years = {row["period"]: int(row["recordings"]) for row in rows_of(owing, "--by", "year")}
    assert sum(years.values()) == 7
    assert {one["name"]: one["recordings"] for one in json_of(owing, "--by", "year")} == years


@pytest.mark.parametrize("args", [["--owed"], [str(FIRST)]])
def test_a_recording(owing: Path, args: list[str]) -> None:
    (row,) = rows_of(owing, *args)
    (told,) = json_of(owing, *args)
    assert row["id"] == told["id"] == str(FIRST)
    assert row["state"] == told["state"] == "failed"
    assert row["reason"] == told["reason"] == "for „no“ reason"


@pytest.mark.parametrize("args", [["--owed"], [str(FIRST)]])
def test_csv_is_utf_8_everywhere(owing: Path, args: list[str]) -> None:
    env = {"PYTHONIOENCODING": "ascii"}
    result = run_cli(["status", "--dest", owing, "--csv", *args], env)
    assert "for „no“ reason" in result.stdout


def test_a_recording_that_nobody_knows(archive: Path) -> None:
    assert rows_of(archive, "99") == []
    assert json_of(archive, "99") == [{"id": "99", "state": "unknown"}]
