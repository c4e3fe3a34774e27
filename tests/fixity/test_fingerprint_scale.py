"""A fingerprint is proven in the same memory, however many recordings a directory has."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from support.memory import peak_of

from g2a_archive.archive.checksums import write_checksums
from g2a_archive.archive.database.catalog import Catalog, RecordingResult
from g2a_archive.fixity.fingerprint import prove
from g2a_archive.models import FileKind, State, StoredFile

DAY = "2014/05/06"


def peak(root: Path, count: int) -> int:
    (root / DAY).mkdir(parents=True)
    (root / DAY / "1.mp4").touch()  # a directory without any is taken for one that is away
    path = root / "catalog.sqlite3"
    with Catalog(path) as catalog:
        catalog.record_results(
            RecordingResult(
                id_,
                State.ARCHIVED,
                7,
                directory=DAY,
                files=[StoredFile(id_, kind, f"{DAY}/{id_}.{kind}", 1, "a" * 64)],
            )
            for id_ in range(1, count + 1)
            for kind in FileKind
        )
        write_checksums(catalog, root)

    def proven() -> None:
        with Catalog(path) as catalog:
            one = catalog.fingerprint()
            assert one is not None
            proof = prove(catalog, root, one)
        assert (proof.files, proof.unchanged, proof.findings) == (3 * count, 3 * count, [])

    return peak_of(proven)


def test_more_recordings_take_no_more_memory(tmp_path: Path) -> None:
    assert peak(tmp_path / "many", 1500) < peak(tmp_path / "few", 100) + 100_000


def test_a_reader_waits_for_a_writer_before_the_first_row(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite3"
    with Catalog(path) as catalog:
        catalog.queue([1, 2])
    busy = [True]
    with Catalog(path, readonly=True) as reader, closing(sqlite3.connect(path)) as writer:
        reader._db.execute("PRAGMA busy_timeout = 1")
        writer.execute("BEGIN EXCLUSIVE")

        def still_waiting() -> bool:
            busy.append(writer.in_transaction)
            writer.rollback()
            return False

        reader._interrupted = still_waiting
        assert [row[0] for row in reader.stream("SELECT id FROM recording ORDER BY id")] == [1, 2]
    assert busy == [True, True]
