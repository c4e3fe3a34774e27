"""Which files a check reads, and in which order."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.archive import Archive
from support.memory import peak_of

from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.errors import Interrupted
from g2a_archive.fixity import selection
from g2a_archive.fixity.selection import FileCandidate, VerifyOptions, choose, selected
from g2a_archive.models import MAX_ID, FileKind

NOW = "2026-06-01T00:00:00Z"


def entry(
    recording: int, size: int = 1, started: str | None = None, archived: str = "", checked: str = ""
) -> FileCandidate:
    return FileCandidate(
        recording, "mp4", size, started, archived or "2020-01-01T00:00:00Z", checked or None
    )


def chosen(entries: Iterable[FileCandidate], seed: str = "", **options: Any) -> list[int]:
    entries = list(entries)
    with closing(sqlite3.connect("")) as db:
        keys, count, size = choose(db, entries, VerifyOptions(**options), seed, NOW)
        recordings = [recording for recording, _ in keys]
    assert count == len(recordings)
    assert size == sum(one.size for one in entries if one.recording in recordings)
    return recordings


def test_the_largest_come_first_or_those_unchecked_for_longest() -> None:
    entries = [
        entry(1, 5 << 20, checked="2026-01-02T00:00:00Z"),
        entry(2, 9 << 20, checked="2026-01-01T00:00:00Z"),
        entry(4, (7 << 20) + 1),
        entry(3, 7 << 20),
    ]
    assert chosen(entries) == [2, 3, 4, 1]
    assert chosen(entries, oldest_first=True) == [3, 4, 2, 1]
    # A check of the future is none: its file would come last for years.
    entries += [entry(5, checked="2027-01-01T00:00:00Z"), entry(6, checked=NOW)]
    assert chosen(entries, oldest_first=True) == [3, 4, 5, 2, 1, 6]


@pytest.mark.parametrize(
    ("started", "archived", "expected"),
    [
        ("2014-05-06T00:00:00Z", "2014-05-06T00:00:00Z", False),
        ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", True),
        ("2014-05-06T00:00:00Z", "2026-01-01T00:00:00Z", True),
        ("2025-12-31T23:00:00-02:00", "2014-05-06T00:00:00Z", True),
        ("2026-01-01T00:30:00+01:00", "2014-05-06T00:00:00Z", False),
        ("2026-01-01T00:00:00", "2014-05-06T00:00:00Z", True),
        ("20260101T000000Z", "2014-05-06T00:00:00Z", True),
        (None, "2026-01-01T00:00:00Z", True),
        ("no time", "2014-05-06T00:00:00Z", False),
    ],
)
def test_since(started: str | None, archived: str, expected: bool) -> None:
    since = datetime(2026, 1, 1, tzinfo=UTC)
    assert bool(chosen([entry(1, 1, started, archived)], since=since)) is expected


@pytest.mark.parametrize(
    ("count", "share", "expected"),
    [(100, 0.05, 5), (100, 0.07, 7), (3, 0.05, 1), (0, 0.05, 0), (10, 0.11, 2), (10, 1.0, 10)],
)
def test_a_sample_is_a_share_rounded_up(count: int, share: float, expected: int) -> None:
    assert len(chosen([entry(n) for n in range(count)], sample=share)) == expected


def test_a_sample_depends_on_the_date_alone() -> None:
    entries = [entry(n) for n in range(1000)]
    monday = chosen(entries, sample=0.1, seed="2026-11-23")
    assert monday == chosen(reversed(entries), sample=0.1, seed="2026-11-23")
    days = [chosen(entries, sample=0.1, seed=str(day)) for day in range(60)]
    assert len({n for day in days for n in day}) > 950


@pytest.mark.parametrize("limit", [20_000, 0])
def test_what_is_chosen_comes_from_the_catalogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """Whether all of it is sorted, or there is too much of it for that."""
    for name, few in (("_SORTED", limit), ("_PAGE", 4), ("_SOME", 4)):
        monkeypatch.setattr(selection, name, few)
    archive = Archive(tmp_path)
    files = {file for recording in (*range(1, 9), MAX_ID) for file in archive.add(recording)}
    for options in (VerifyOptions(), VerifyOptions(oldest_first=True)):
        with selected(archive.catalog, options, "") as some:
            assert (some.count, some.size) == (27, sum(file.size for file in files))
            found = list(some.files)
        assert set(found) == files
        assert len(found) == 27
        assert found == sorted(found, key=lambda file: (file.recording, file.kind))
    archive.catalog.mark_damaged([(1, FileKind.MP4, "changed")])
    with selected(archive.catalog, VerifyOptions(), "") as some:
        assert some.count == len(list(some.files)) == 27
    with selected(archive.catalog, VerifyOptions(ids=[3, 99]), "") as some:
        assert {file.recording for file in some.files} == {3}
        assert some.count == 3
    with selected(archive.catalog, VerifyOptions(sample=0.2), "today") as some:
        assert len({*some.files} & files) == some.count == 6
    archive.catalog.close()


def test_choosing_takes_little_memory() -> None:
    entries = (entry(n, checked=f"2026-01-0{n % 9 + 1}T00:00:00Z") for n in range(25_000))
    options = VerifyOptions(oldest_first=True, sample=0.9)

    def chosen() -> None:
        with closing(sqlite3.connect("")) as db:
            keys, count, _ = choose(db, entries, options, "", NOW)
            assert sum(1 for _ in keys) == count == 22_500

    assert peak_of(chosen) < 500_000


@pytest.mark.parametrize("options", [{}, {"sample": 0.5}, {"oldest_first": True}], ids=str)
def test_a_stop_ends_the_choosing(
    options: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To choose among a million recordings takes most of a minute."""
    monkeypatch.setattr(selection, "_SORTED", 0)
    archive = Archive(root)
    archive.add(1)
    archive.catalog.close()
    with (
        Catalog(archive.database, interrupted=lambda: True) as catalog,
        pytest.raises(Interrupted),
        selected(catalog, VerifyOptions(**options), "") as some,
    ):
        assert not list(some.files)


def test_a_check_that_is_stopped_while_it_chooses_has_checked_nothing(root: Path) -> None:
    archive = Archive(root)
    archive.add(1)
    archive.catalog.close()
    with Catalog(archive.database, interrupted=lambda: True) as archive.catalog:
        outcome = archive.verify(stop=lambda: True)
    assert outcome.interrupted
    assert (outcome.files, outcome.findings) == (0, [])


@pytest.mark.parametrize(("more", "left"), [(60.0, 0), (0.0, 3)])
def test_choosing_counts_as_time_that_a_check_may_take(root: Path, more: float, left: int) -> None:
    archive = Archive(root)
    archive.add(1)
    with closing(archive.catalog):
        options = VerifyOptions(until=time.monotonic() + more)
        outcome = archive.verify(options)
        assert (outcome.left, outcome.files) == (left, 3 - left)
