"""`remove` of very many: directory by directory, in the memory of one of them."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from support.memory import peak_of

from g2a_archive.archive.database import connection, inventory, removed_list, tombstones
from g2a_archive.archive.database.catalog import Catalog, RecordingResult
from g2a_archive.models import FileKind, State, StoredFile

_A_DAY = 100


def archive(root: Path, days: int) -> Path:
    """The catalogue of some days, all of which is to be removed: the claim is made."""
    (root / ".g2a-archive").mkdir(parents=True)
    path = root / ".g2a-archive" / "catalog.sqlite3"
    ids = range(1, 1 + days * _A_DAY)
    settled = []
    for id_ in ids:
        day = f"2014/05/{1 + (id_ - 1) // _A_DAY:02d}"
        (root / day).mkdir(parents=True, exist_ok=True)
        file = StoredFile(id_, FileKind.MP4, f"{day}/{id_}.mp4", 0, "a" * 64)
        (root / file.path).touch()
        settled.append(RecordingResult(id_, State.ARCHIVED, 7, 6, directory=day, files=[file]))
    with Catalog(path) as catalog:
        catalog.record_results(settled)
        tombstones.begin_removal(catalog, ids, "old")
    return path


def peak(root: Path, days: int) -> int:
    """The most memory that the removal takes, which is then done."""
    path = archive(root, days)

    def remove() -> None:
        with Catalog(path) as catalog:
            removed = tombstones.finish_removals(catalog, root)
            assert (removed.deleted, removed.gone, removed.failed) == (days * _A_DAY, [], [])

    most = peak_of(remove)
    with Catalog(path) as catalog:
        assert catalog.rows("SELECT * FROM removal") == []
    assert [p.name for p in root.iterdir()] == [".g2a-archive"]
    with open(root / ".g2a-archive" / "removed.csv", newline="") as file:
        assert [int(row["id"]) for row in csv.DictReader(file)] == [*range(1, 1 + days * _A_DAY)]
    return most


def test_more_directories_take_no_more_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tombstones, "_AT_ONCE", _A_DAY)
    monkeypatch.setattr(removed_list, "_TOGETHER", _A_DAY)
    monkeypatch.setattr(connection, "VALUES", _A_DAY)
    few = peak(tmp_path / "few", 1)
    many = peak(tmp_path / "many", 8)
    assert many < few + 50_000


def restored(root: Path, days: int) -> int:
    """The most memory that it takes to bring tombstones back into a catalogue that was lost."""
    peak(root, days)
    kept = root / ".g2a-archive" / "removed.csv"
    text = kept.read_text()
    kept.write_text(text + text.partition("\n")[2].replace("old", "older"))  # the last counts
    path = root / ".g2a-archive" / "catalog.sqlite3"
    path.unlink()

    def restore() -> None:
        with Catalog(path) as catalog, catalog.transaction() as db:
            assert tombstones.restore_tombstones(db, root) == days * _A_DAY

    most = peak_of(restore)
    with Catalog(path) as catalog:
        assert catalog.rows("SELECT DISTINCT state, reason FROM recording") == [
            ("removed", "older")
        ]
        with catalog.transaction() as db:
            assert tombstones.restore_tombstones(db, root) == 0
    return most


def test_more_tombstones_come_back_in_no_more_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removed_list, "_TOGETHER", _A_DAY)
    monkeypatch.setattr(connection, "VALUES", _A_DAY)
    restored(tmp_path / "first", 1)  # what is loaded as it is needed
    assert restored(tmp_path / "many", 8) < restored(tmp_path / "few", 1) + 50_000


@pytest.mark.parametrize("sql", [tombstones._TO_DELETE, tombstones._LEFT_EMPTY])
def test_a_directory_of_ten_times_as_many_takes_ten_times_as_long(tmp_path: Path, sql: str) -> None:
    """As SQLite counts its steps, so that no clock is asked."""
    steps = []
    for count in (100, 1000):
        with Catalog(tmp_path / f"{count}.sqlite3") as catalog:
            ids = range(1, 1 + count)
            catalog.record_results(
                RecordingResult(id_, State.QUEUED, directory="2014") for id_ in ids
            )
            tombstones.begin_removal(catalog, ids, None)
            done: list[int] = []
            catalog._db.set_progress_handler(lambda done=done: done.append(1), 10)  # type: ignore[misc]
            catalog.rows(sql, ("2014", 0)[2 - sql.count("?") :])
            steps.append(len(done))
    assert steps[0] > 10
    assert steps[1] < 12 * steps[0]


def test_of_what_was_removed_twice_the_last_files_are_known(tmp_path: Path) -> None:
    (tmp_path / ".g2a-archive").mkdir()
    with Catalog(tmp_path / "catalog.sqlite3") as catalog:
        for sha256 in ("b" * 64, "a" * 64):
            file = StoredFile(1, FileKind.MP4, "2014/1.mp4", 1, sha256)
            catalog.record_results(
                [RecordingResult(1, State.ARCHIVED, 1, directory="2014", files=[file])]
            )
            tombstones.begin_removal(catalog, [1], None)
            tombstones.finish_removals(catalog, tmp_path)
        detail = inventory.recording_detail(catalog, 1)
    assert detail is not None
    assert [file.sha256 for file in detail.files] == ["a" * 64]
    lines = removed_list.read(tmp_path)
    assert [line["mp4_sha256"] for line in lines] == ["b" * 64, "a" * 64]
