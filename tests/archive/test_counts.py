"""The counts that triggers keep are those that one would count."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from g2a_archive.archive.database import counts, inventory, schema
from g2a_archive.archive.database.catalog import Catalog, RecordingResult
from g2a_archive.archive.database.tombstones import begin_removal
from g2a_archive.curation import merge_rows
from g2a_archive.models import FileKind, State, StoredFile, utc_now

_STARTS = (None, "2014-05-06T09:30:00Z", "2014-05-07T23:00:00+02:00", "20140508T000000Z", "")
_DIRECTORIES = (None, "2014/05/06", "2014/05/07", "flat")
_TIMES = ("2020-01-01T00:00:00Z", "2020-02-01T00:00:00Z", "2020-03-01T00:00:00Z")


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(tmp_path / "catalog.sqlite3") as one:
        one._db.execute("PRAGMA synchronous = OFF")
        yield one


def kept(catalog: Catalog) -> dict[str, list[tuple[object, ...]]]:
    """What the tables say, without rows of nothing."""
    return {
        table: sorted(tuple(row) for row in catalog.rows(f"SELECT * FROM {table}") if any(row[1:]))
        for table in counts.COUNTED
    }


def counted(catalog: Catalog) -> dict[str, list[tuple[object, ...]]]:
    return {
        table: sorted(tuple(row) for row in catalog.rows(sql) if any(row[1:]))
        for table, sql in counts.COUNTED.items()
    }


def stored(chance: random.Random, recording: int) -> list[StoredFile]:
    kinds = chance.sample(list(FileKind), chance.randrange(4))
    return [
        StoredFile(recording, kind, f"d{chance.randrange(2)}/{recording}", chance.randrange(9), "a")
        for kind in kinds
    ]


def change(catalog: Catalog, chance: random.Random) -> str:
    """Do one of all that writes to a catalogue."""
    ids = chance.sample(range(1, 7), 3)
    catalog.now = lambda: chance.choice(_TIMES)
    files = [
        StoredFile(row[0], FileKind(row[1]), *row[2:])
        for row in catalog.rows("SELECT recording, kind, path, size, sha256 FROM file")
        if row[0] in ids
    ]
    what = chance.choice(["queue", "settle", "settle", "check", "damage", "adopt", "remove", "sql"])
    if what == "queue":
        start = chance.choice([one for one in _STARTS if one])
        catalog.queue(ids, 7, [(id_, chance.choice(_DIRECTORIES) or "2014", start) for id_ in ids])
    elif what == "settle":
        catalog.record_results(
            RecordingResult(
                id_,
                chance.choice(list(State)[:7]),
                start_time=chance.choice(_STARTS),
                directory=chance.choice(_DIRECTORIES),
                files=stored(chance, id_),
            )
            for id_ in ids
        )
    elif what == "check":
        half = len(files) // 2
        catalog.record_check(files[half:], [(file, "changed") for file in files[:half]])
    elif what == "damage":
        catalog.mark_damaged((file.recording, file.kind, "missing") for file in files)
    elif what == "adopt":
        catalog.adopt([file for id_ in ids for file in stored(chance, id_)], {ids[0]: "broken"})
    elif what == "remove":
        begin_removal(catalog, ids[:1], None) if chance.random() < 0.5 else merge_rows.forget(
            catalog, ids
        )
    else:  # whatever a conflict makes of the outer statement, it is not done to the counts
        how = chance.choice(["IGNORE", "REPLACE"])
        with catalog.transaction() as db:
            new = chance.randrange(100, 10**9)
            db.execute(f"INSERT OR {how} INTO recording (id, state) VALUES (?, 'failed')", (new,))
            db.execute(f"UPDATE OR {how} recording SET state = 'lost' WHERE id = ?", (ids[1],))
    return what


@pytest.mark.parametrize("seed", range(8))
def test_the_counts_are_right_whatever_is_written(catalog: Catalog, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(60):
        what = change(catalog, chance)
        assert kept(catalog) == counted(catalog), what
    assert catalog.scalar("SELECT count(*) FROM check_count WHERE files < 0") == 0


def test_times_of_checks_that_are_past_are_forgotten(catalog: Catalog) -> None:
    file = StoredFile(1, FileKind.MP4, "d/1.mp4", 5, "a")
    catalog.record_results([RecordingResult(1, State.ARCHIVED, 1, directory="d", files=[file])])
    for time in _TIMES:
        catalog.now = lambda time=time: time  # type: ignore[misc]
        catalog.record_check([file])
    assert catalog.rows("SELECT * FROM check_count") == [(_TIMES[-1], 1)]
    assert inventory.summary(catalog).oldest_check == _TIMES[-1]


def without_counts(path: Path) -> None:
    """Make a catalogue what the first programs of this schema made."""
    with closing(sqlite3.connect(path)) as db:
        for name in [name.split()[0] for name in counts._TRIGGERS]:
            db.execute(f"DROP TRIGGER {name}")
        db.execute("DROP TRIGGER recording_elsewhere")
        db.execute("DROP INDEX recording_owed_since")
        for table in counts.COUNTED:
            db.execute(f"DROP TABLE {table}")


def test_a_catalogue_from_before_there_were_counts(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite3"
    with Catalog(path) as catalog:
        chance = random.Random(1)
        for _ in range(20):
            change(catalog, chance)
        catalog.now = utc_now
        right = counted(catalog)
        told = inventory.summary(catalog), inventory.by_period(catalog, "day")
        owed, stale = catalog.owed_count(), catalog.stale_directories()
    without_counts(path)
    before = path.read_bytes()
    with Catalog(path, readonly=True) as reader:
        assert (inventory.summary(reader), inventory.by_period(reader, "day")) == told
        assert (reader.owed_count(), reader.stale_directories()) == (owed, stale)
    assert path.read_bytes() == before
    with Catalog(path) as catalog:
        assert kept(catalog) == right
        assert catalog.scalar("PRAGMA user_version") == schema.VERSION
        assert (inventory.summary(catalog), inventory.by_period(catalog, "day")) == told
