"""Schema 2: made anew, and made of the catalogue that version 0.1 wrote (`schema_1.sql`)."""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support import (
    assert_archive_equals,
    catalog_path,
    catalog_rows,
    cli_here,
    mounts,
    plain_args,
    run_cli,
    run_here,
    states,
)

from g2a_archive.archive.database import schema
from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.database.lookup import known
from g2a_archive.demo import SimulatedService, expected_bytes
from g2a_archive.demo.recordings import SUFFIXES, Kind
from g2a_archive.errors import CatalogError, ExitCode
from g2a_archive.models import FileKind

SQL = Path(__file__).with_name("schema_1.sql").read_text(encoding="utf-8")
FIRST = 1_400_000_001
KEPT = "catalog.sqlite3.schema-1"

ARCHIVED, DAMAGED, QUEUED = FIRST, FIRST + 1, FIRST + 4
ONLY_MP4, THUMBNAIL_FAILED, ONLY_MP4_FAILED = FIRST + 5, FIRST + 6, FIRST + 7


@pytest.fixture
def old(service: SimulatedService, root: Path) -> Path:
    """An archive of version 0.1: its catalogue, and the files that this speaks of."""
    catalog = catalog_path(root)
    catalog.parent.mkdir(parents=True)
    with closing(sqlite3.connect(catalog)) as db:
        db.executescript(SQL)
        rows = db.execute("SELECT recording, kind, path FROM file WHERE damage IS NULL").fetchall()
    for id_, kind, path in rows:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"".join(expected_bytes(service.recordings[id_], kind)))
    return root


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        found: int = db.execute("PRAGMA user_version").fetchone()[0]
        return found


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        return list(db.iterdump())


def shape(path: Path) -> dict[str, set[tuple[object, ...]]]:
    """The columns of each table, and the names of indexes and triggers."""
    with closing(sqlite3.connect(path)) as db:
        names = db.execute("SELECT type, name FROM sqlite_master").fetchall()
        columns = {
            name: {row[1:] for row in db.execute(f"PRAGMA table_info({name})")}
            for type_, name in names
            if type_ == "table"
        }
    # Where a column stands among the others is of no account.
    return {**columns, "rest": {(type_, name) for type_, name in names if type_ != "table"}}


def wanted(root: Path) -> dict[int, int]:
    return dict(catalog_rows(root, "SELECT id, wanted FROM recording"))


# --- an older one ----------------------------------------------------------------------------


def test_the_schema_is_the_same_whether_it_was_made_or_migrated(old: Path, tmp_path: Path) -> None:
    Catalog(catalog_path(old)).close()
    Catalog(tmp_path / "new.sqlite3").close()
    assert shape(catalog_path(old)) == shape(tmp_path / "new.sqlite3")
    with closing(sqlite3.connect(catalog_path(old))) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        assert db.execute("PRAGMA application_id").fetchone() == (schema.APPLICATION_ID,)


def test_nothing_is_lost_and_the_old_catalogue_is_kept(old: Path) -> None:
    before = dump(catalog_path(old))
    tables = "recording", "file", "run"
    with closing(sqlite3.connect(catalog_path(old))) as db:
        db.row_factory = sqlite3.Row
        rows = {name: [dict(row) for row in db.execute(f"SELECT * FROM {name}")] for name in tables}
    Catalog(catalog_path(old)).close()
    assert version(catalog_path(old)) == 2
    assert dump(catalog_path(old).with_name(KEPT)) == before
    assert version(catalog_path(old).with_name(KEPT)) == 1
    with closing(sqlite3.connect(catalog_path(old))) as db:
        db.row_factory = sqlite3.Row
        for name in tables:
            now = [dict(row) for row in db.execute(f"SELECT * FROM {name}")]
            assert [
                {key: row[key] for key in was} for was, row in zip(rows[name], now, strict=True)
            ] == rows[name]


def test_what_was_asked_for_is_concluded(old: Path) -> None:
    """From what came, what was damaged, and what the reason says of the rest."""
    Catalog(catalog_path(old)).close()
    bits = wanted(old)
    assert bits[ARCHIVED] == 7
    assert bits[DAMAGED] == 7
    assert bits[ONLY_MP4] == 1
    assert bits[THUMBNAIL_FAILED] == 7
    assert bits[ONLY_MP4_FAILED] == 1
    assert bits[QUEUED] == 0


def test_the_next_run_goes_on_with_an_older_archive(service: SimulatedService, old: Path) -> None:
    assert run_here(service, old, [], owed=True).exit_code == 0
    assert set(states(old).values()) == {"archived"}
    assert run_here(service, old, service.recordings).exit_code == 0
    assert_archive_equals(service, old)
    # All SHA256SUMS were looked at once, not only those of what was owed.
    (files,) = catalog_rows(old, "SELECT files FROM revision ORDER BY id DESC LIMIT 1")[0]
    assert files == sum(
        r.size(k) is not None for r in service.recordings.values() for k in SUFFIXES
    )


def test_a_reader_changes_nothing(old: Path) -> None:
    catalog = catalog_path(old)
    before = catalog.read_bytes()
    for args in (["status"], ["status", str(FIRST)], ["export", "--csv"], ["status", "--owed"]):
        result = cli_here([*args, "--dest", old])
        assert (result.returncode, result.stderr) == (0, ""), args
    assert catalog.read_bytes() == before
    assert not catalog.with_name(KEPT).exists()
    assert os.listdir(catalog.parent) == [catalog.name]


def test_verify_reads_an_older_catalogue_that_it_cannot_write(old: Path) -> None:
    own = catalog_path(old).parent
    for path, mode in ((catalog_path(old), 0o444), (own, 0o555)):
        path.chmod(mode)
    try:
        result = run_cli(["verify", "--dest", old, str(ARCHIVED)], before=mounts.need_modes())
    finally:
        own.chmod(0o755)
    assert result.returncode == 0, result.stderr
    assert "what is found cannot be recorded" in result.stderr
    assert version(catalog_path(old)) == 1


def test_a_read_only_catalogue_is_read_migrated(old: Path) -> None:
    with Catalog(catalog_path(old), readonly=True) as catalog:
        assert {one.id for one in known(catalog, [ARCHIVED, QUEUED])} == {ARCHIVED, QUEUED}
        assert catalog.scalar("SELECT wanted FROM recording WHERE id = ?", ONLY_MP4) == 1
        with pytest.raises(CatalogError, match=r"readonly|read-only"):
            catalog.queue([1])
    assert version(catalog_path(old)) == 1


_CRASH = """
import os, signal
from pathlib import Path
from g2a_archive.archive.database import schema
from g2a_archive.archive.database.catalog import Catalog
where, number, path = {where!r}, {number}, {path!r}

def die():
    os.kill(os.getpid(), signal.SIGKILL)

if where == "statement":
    schema._FROM_1 = schema._FROM_1[:number]
    real = schema.migrate
    schema.migrate = lambda db: (real(db), die())
elif where == "replace":
    replace = os.replace
    def crash(*args):
        number or die()
        replace(*args)
        die()
    os.replace = crash
Catalog(Path(path))
"""


@pytest.mark.parametrize(
    ("where", "number"),
    [("replace", 0), ("replace", 1), *(("statement", n) for n in (1, 2, 4, 8, 100))],
)
def test_killed_while_migrating(
    where: str, number: int, service: SimulatedService, old: Path
) -> None:
    before = dump(catalog_path(old))
    migrate = _CRASH.format(where=where, number=number, path=str(catalog_path(old)))
    result = run_cli(["--version"], before=migrate)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert dump(catalog_path(old)) == before
    assert version(catalog_path(old)) == 1
    assert run_here(service, old, service.recordings).exit_code == 0
    assert_archive_equals(service, old)
    own = sorted(path.name for path in catalog_path(old).parent.iterdir())
    assert own == ["catalog.sqlite3", KEPT, "lock", "partial"]


def test_two_programs_that_migrate_at_once(old: Path) -> None:
    """The second one waited for the first one's transaction, and finds nothing left to do."""
    with Catalog(catalog_path(old)) as catalog:
        kept = catalog_path(old).with_name(KEPT).read_bytes()
        before = dump(catalog_path(old))
        catalog._migrate()
        assert dump(catalog_path(old)) == before
    assert catalog_path(old).with_name(KEPT).read_bytes() == kept


def test_a_disk_too_full_for_the_copy_leaves_the_old_catalogue(
    old: Path, service: SimulatedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dump(catalog_path(old))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("g2a_archive.archive.database.connection.os.fsync", full)
        report = run_here(service, old, service.recordings)
    assert report.exit_code == ExitCode.STORAGE
    assert dump(catalog_path(old)) == before
    assert not catalog_path(old).with_name(KEPT).exists()


def test_a_program_of_schema_1_refuses_it(
    old: Path, service: SimulatedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the rule that the code has kept since: a `user_version` that is larger than its own."""
    Catalog(catalog_path(old)).close()
    before = dump(catalog_path(old))
    monkeypatch.setattr(schema, "VERSION", 1)
    for readonly in (True, False):
        with pytest.raises(CatalogError, match=r"newer g2a-archive \(schema 2, this program kn"):
            Catalog(catalog_path(old), readonly=readonly)
    assert dump(catalog_path(old)) == before
    assert CatalogError.exit_code == ExitCode.STORAGE


# --- what was asked for stays owed -----------------------------------------------------------


def fail_thumbnails(service: SimulatedService) -> None:
    from g2a_archive.demo import faults

    service.fail_files(faults.status(404), "thumbnail")


@pytest.mark.parametrize("only", ["mp4", "events"])
def test_a_failure_of_another_kind_stays_owed_after_a_run_with_only(
    only: str, service: SimulatedService, root: Path
) -> None:
    id_ = next(iter(service.recordings))
    fail_thumbnails(service)
    assert run_here(service, root, [id_], retries=0).exit_code == 1
    reason = catalog_rows(root, "SELECT reason FROM recording")
    assert run_here(service, root, [id_], kinds=(FileKind(only),)).exit_code == 0
    assert states(root) == {id_: "failed"}
    assert catalog_rows(root, "SELECT reason FROM recording") == reason
    service.on_request.clear()
    assert run_here(service, root, [], owed=True).exit_code == 0
    assert states(root) == {id_: "archived"}
    assert_archive_equals(service, root, [id_])


def test_what_a_killed_run_asked_for_stays_owed_after_a_run_with_only(
    service: SimulatedService, root: Path
) -> None:
    id_ = next(iter(service.recordings))
    run_here(service, root, [])
    catalog_path(root).parent.mkdir(parents=True)
    with Catalog(catalog_path(root)) as catalog:
        catalog.queue([id_], 7)
    assert run_here(service, root, [id_], kinds=(FileKind.MP4,)).exit_code == 0
    assert states(root) == {id_: "queued"}
    assert run_here(service, root, [], owed=True).exit_code == 0
    assert_archive_equals(service, root, [id_])


def test_who_only_ever_asked_for_videos_owes_nothing_else(
    service: SimulatedService, root: Path
) -> None:
    id_ = next(iter(service.recordings))
    videos: tuple[Kind, ...] = ("mp4",)
    assert run_here(service, root, [id_], kinds=(FileKind.MP4,)).exit_code == 0
    assert states(root) == {id_: "archived"}
    assert wanted(root) == {id_: 1}
    assert_archive_equals(service, root, [id_], videos)
    assert cli_here(plain_args(root, "--owed"), service.environment()).returncode == 0
    assert service.requests.counts["links"] == 1
