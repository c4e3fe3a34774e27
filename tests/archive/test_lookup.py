"""What the catalogue says of many recordings is what it says of each, in little memory."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.memory import peak_of

from g2a_archive import models
from g2a_archive.archive.database import lookup
from g2a_archive.archive.database.catalog import Catalog, RecordingResult
from g2a_archive.archive.database.lookup import archived, begun, failures, known
from g2a_archive.download.plan import make_plan
from g2a_archive.models import ALL_KINDS, FileKind, State, StoredFile, distinct, sorted_ids

_STATES = (State.ARCHIVED, State.QUEUED, State.UNAVAILABLE, State.FAILED, State.REMOVED)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    """Recordings of all states, every third ID."""
    with Catalog(tmp_path / "catalog.sqlite3") as made:
        made.record_results(
            RecordingResult(
                id_, _STATES[id_ % len(_STATES)], id_ % 8, directory=f"2014/{id_ % 12 + 1}"
            )
            for id_ in range(3, 600, 3)
        )
        yield made


@pytest.mark.parametrize("seed", range(3))
def test_many_are_found_as_each_is(
    seed: int, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = random.Random(seed).sample(range(-5, 700), 100 + 150 * seed)
    each: list[list[object]] = [
        [row for id_ in ids for row in archived(catalog, [id_], 3)],
        [row for id_ in ids for row in known(catalog, [id_])],
        [row for id_ in ids for row in begun(catalog, [id_], 7)],
        [row for id_ in ids for row in failures(catalog, [id_])],
    ]
    assert all(each)
    monkeypatch.setattr(lookup, "_MANY", 10)
    many: list[Iterator[object]] = [
        archived(catalog, ids, 3),
        known(catalog, ids),
        begun(catalog, ids, 7),
        failures(catalog, ids),
    ]
    for some, alone in zip(many, each, strict=True):
        found = list(some)
        assert len(found) == len(alone)
        assert {*found} == {*alone}


def test_more_is_known_of_those_that_were_begun(catalog: Catalog) -> None:
    catalog.record_results(
        [
            RecordingResult(1000, State.QUEUED),
            RecordingResult(1001, State.UNAVAILABLE),
            RecordingResult(1002, State.FAILED),
            RecordingResult(1003, State.QUEUED, directory="2014/01"),
            RecordingResult(1004, State.ARCHIVED, 7),
            RecordingResult(1005, State.ARCHIVED, 1),
            RecordingResult(1006, State.REMOVED),
            RecordingResult(1007, State.FAILED, directory="2014/01"),
            RecordingResult(1008, State.FAILED, 2, directory="2014/01"),
        ]
    )
    ids = range(1000, 1009)
    assert [one.id for one in begun(catalog, ids, 7)] == [1003, 1005, 1006, 1008]
    assert [one.id for one in begun(catalog, ids, 1)] == [1003, 1006, 1008]
    assert [*failures(catalog, ids)] == [(1002, 2), (1007, 2), (1008, 2)]


@pytest.mark.parametrize("seed", range(20))
def test_each_once_in_their_order(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_SORTED_AT_ONCE", 7)
    chance = random.Random(seed)
    ids = chance.choices(range(1, 30), k=seed * 3)
    assert [*distinct(ids)] == [*dict.fromkeys(ids)]
    assert [*sorted_ids(ids)] == sorted(ids)
    assert [*distinct(sorted(ids))] == [*dict.fromkeys(sorted(ids))]


def _settled(id_: int, state: State) -> RecordingResult:
    if state is State.QUEUED:
        return RecordingResult(id_, state)
    day = f"2014/{id_ % 50}"
    if state is State.FAILED:
        return RecordingResult(id_, state, directory=day)
    files = [StoredFile(id_, FileKind.MP4, f"{day}/{id_}.mp4", 0, "a" * 64)]
    return RecordingResult(id_, state, 7, 6, directory=day, files=files)


def _peak(root: Path, count: int, state: State, *, shuffled: bool) -> int:
    """The memory of a plan for so many recordings, all but one of which have their files."""
    ids = list(range(10**9, 10**9 + count))
    settled = [_settled(id_, state) for id_ in ids]
    root.mkdir()
    with Catalog(root / "catalog.sqlite3") as catalog:
        catalog.record_results(settled)
    for one in settled[1:]:
        for file in one.files:
            (root / file.path).parent.mkdir(parents=True, exist_ok=True)
            (root / file.path).touch()
    if shuffled:
        random.Random(1).shuffle(ids)
    wanted = distinct(ids)

    def planned() -> None:
        with Catalog(root / "catalog.sqlite3") as catalog:
            plan = make_plan(catalog, root, wanted, ALL_KINDS)
        assert len(plan.todo) == (1 if state is State.ARCHIVED else count)

    return peak_of(planned)


@pytest.mark.parametrize(
    ("state", "shuffled"),
    [(State.ARCHIVED, True), (State.QUEUED, False), (State.QUEUED, True), (State.FAILED, True)],
)
def test_a_plan_takes_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: State, *, shuffled: bool
) -> None:
    monkeypatch.setattr(lookup, "_MANY", 250)
    monkeypatch.setattr(models, "_SORTED_AT_ONCE", 250)
    few = _peak(tmp_path / "few", 500, state, shuffled=shuffled)
    many = _peak(tmp_path / "many", 1_500, state, shuffled=shuffled)
    # Some arrays of them, no list and no set; what is known of each would take a lot.
    assert many - few < 1_000 * 60


def test_rows_that_nobody_reads_to_their_end(catalog: Catalog) -> None:
    """As of a command that a signal ends: Python would tell of it, with a traceback."""
    rows = catalog.stream("SELECT id FROM recording ORDER BY id")
    assert next(rows) == (3,)
    catalog.close()
    rows.close()  # type: ignore[attr-defined]
