"""`remove --before AGE` by a clock that is ahead: it must not remove a year too much."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support import states
from support.archive import Archive
from support.clocks import YEAR, clock_off_by
from support.merging import change

from g2a_archive.cli import main
from g2a_archive.models import iso

Say = Callable[..., tuple[int, str, str]]
DAY = 86400


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """Recordings 1 to 4, which started so many times 30 days ago."""
    made = Archive(tmp_path / "recordings")
    for number in range(1, 5):
        day = datetime.fromtimestamp(time.time() - 30 * number * DAY, UTC)
        made.add(number, f"{day:%Y/%m/%d}")
    yield made
    made.catalog.close()


@pytest.fixture
def say(archive: Archive, capsys: pytest.CaptureFixture[str]) -> Say:
    def run(*args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main.run(["remove", "--dest", str(archive.root), *map(str, args)])
        return code, *capsys.readouterr()

    return run


def here(archive: Archive) -> set[int]:
    return {id_ for id_, state in states(archive.root).items() if state == "archived"}


@pytest.mark.parametrize("yes", [["--yes"], []])
def test_a_year_ahead_nothing_is_removed(archive: Archive, say: Say, yes: list[str]) -> None:
    with clock_off_by(YEAR):
        code, out, err = say("--before", "75d", *yes)
    assert (code, out) == (2, "")
    assert "this machine's clock is 365 days ahead of the newest that this archive knows" in err
    assert err.count("\n") == 1
    assert here(archive) == {1, 2, 3, 4}
    assert say("--before", "75d", *yes)[0] == 0
    assert here(archive) == ({1, 2} if yes else {1, 2, 3, 4})


def test_some_days_ahead_the_age_counts_from_what_is_known(archive: Archive, say: Say) -> None:
    """As after some weeks without a run, where this is on the safe side."""
    newest = archive.catalog.scalar("SELECT max(archived_at) FROM recording")
    with clock_off_by(20 * DAY):
        code, _, err = say("--yes", "--before", "75d")
        again = say("--before", "75d")
    assert (code, here(archive)) == (0, {1, 2})
    assert f"WARNING the age counts from {newest}, the newest that this archive knows of" in err
    assert "clock is 20.0 days ahead" in err
    assert again[1].startswith("Nothing to remove")


def test_a_date_is_taken_as_it_is(archive: Archive, say: Say) -> None:
    """Whoever keeps an archive to which nothing comes any more names one."""
    limit = iso(int(time.time()) - 75 * DAY)[:10]
    with clock_off_by(3 * YEAR):
        assert say("--yes", "--before", limit)[::2] == (0, "")
    assert here(archive) == {1, 2}


@pytest.mark.parametrize("table", ["recording SET last_try", "scan SET complete_until"])
def test_what_the_service_told_later_counts(archive: Archive, say: Say, table: str) -> None:
    change(archive.root, "INSERT INTO scan VALUES ('x', '2014-01-01T00:00:00Z')")
    with clock_off_by(YEAR):
        change(archive.root, f"UPDATE {table} = ?", iso(int(time.time()) - 3600))
        assert say("--yes", "--before", "440d")[::2] == (0, "")
    assert here(archive) == {1, 2}


def test_a_clock_that_is_behind_removes_less(archive: Archive, say: Say) -> None:
    with clock_off_by(-35 * DAY):
        assert say("--yes", "--before", "75d")[::2] == (0, "")
    assert here(archive) == {1, 2, 3}
