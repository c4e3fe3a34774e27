"""`merge`: locks, drives that are not there, sources that cannot be read, what cannot be meant."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from support import (
    archive_files,
    assert_archive_equals,
    catalog_path,
    catalog_rows,
    cli_here,
    merging,
    relative_path,
    run_cli,
    run_here,
    states,
)
from support.merging import (
    assert_proven,
    change,
    content,
    merge_args,
    merge_here,
)
from support.mounts import bind, need_modes, need_root
from support.odd_drive import Fault, playing
from support.service import Serve

from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.disk.lock import RunLock
from g2a_archive.curation import merge_rows
from g2a_archive.demo import SimulatedService
from g2a_archive.download.stopping import StopSwitch
from g2a_archive.errors import CatalogError, ExitCode, InputError, LockedError, StorageError
from g2a_archive.models import Shard

shard_originals = merging.shard_originals
service = merging.service
parts = merging.parts


@pytest.mark.parametrize("above", [0, 1, 2])
def test_what_was_not_flushed_is_not_recorded(
    above: int, service: SimulatedService, parts: list[Path], root: Path
) -> None:
    """Be it the name of its directory, in the one above, which may be lost."""
    first = min(service.recordings)
    day = (root / relative_path(service.recordings[first], "mp4")).parents[above]
    held = {
        i
        for i, r in service.recordings.items()
        if relative_path(r, "mp4").startswith(f"{day.relative_to(root)}/")
    }
    result = run_cli(
        merge_args(root, parts, "--move"), playing([Fault("fsync", str(day), errno.EIO)])
    )
    assert result.returncode == 1
    assert f"cannot flush the directory {day}: Input/output error" in result.stderr
    assert states(root).keys() == service.recordings.keys() - held
    assert {id_ for part in parts for id_ in states(part)} == held
    assert run_cli(merge_args(root, parts, "--move")).returncode == 0
    assert_archive_equals(service, root)


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.skipif(sys.platform != "linux", reason="syncfs is a call of Linux")
def test_what_was_just_copied_there_is_on_disk_before_it_is_taken(
    there: bool, service: SimulatedService, parts: list[Path], root: Path
) -> None:
    """Linked, or here as well: whatever copied it may have left it in memory."""
    if there:
        assert run_here(service, root, service.recordings).exit_code == 0
    before = [archive_files(part) for part in parts]
    faults = [Fault("syncfs", "*", errno.EIO)]
    result = run_cli(merge_args(root, parts, "--move"), playing(faults))
    assert result.returncode == 1
    assert "cannot flush the directory" in result.stderr
    assert [archive_files(part) for part in parts] == before
    assert ("archived" in states(root).values()) == there
    assert run_cli(merge_args(root, parts, "--move")).returncode == 0
    assert_archive_equals(service, root)
    assert [archive_files(part) for part in parts] == [{}] * len(parts)


def test_a_disk_that_flushes_nothing_ends_a_merge(parts: list[Path], root: Path) -> None:
    """Once, and not recording by recording."""
    places = (f"{root}/20*", f"{root}/.g2a-archive/partial*")
    faults = [Fault("fsync", place, errno.EIO) for place in places]
    result = run_cli(merge_args(root, parts), playing([*faults, Fault("syncfs", "*", errno.EIO)]))
    assert result.returncode == 6
    assert result.stderr.count("Input/output error") == 1
    assert states(root) == {}


def test_what_stands_in_a_file_s_place_and_cannot_be_read(
    service: SimulatedService, parts: list[Path], root: Path
) -> None:
    """It is told, and keeps no others out."""
    first = min(states(parts[0]))
    name = relative_path(service.recordings[first], "mp4")
    (root / name).parent.mkdir(parents=True)
    shutil.copyfile(parts[0] / name, root / name)
    (root / name).chmod(0)
    result = run_cli(merge_args(root, parts), before=need_modes())
    assert result.returncode == 1
    assert f"recording {first}: mp4: what stands in its place cannot be read" in result.stderr
    assert {i for i, state in states(root).items() if state == "archived"} == {
        *service.recordings
    } - {first}


def test_sums_that_cannot_be_written_are_told(
    service: SimulatedService, parts: list[Path], root: Path
) -> None:
    """What is merged by then is there; the next merge, or run, ends the job."""
    first = min(service.recordings)
    sums = root / Path(relative_path(service.recordings[first], "mp4")).parent / "SHA256SUMS"
    (sums / "in the way").mkdir(parents=True)
    result = cli_here(merge_args(root, parts))
    assert result.returncode == 1
    assert str(sums) in result.stderr
    assert set(states(root).values()) == {"archived"}
    (sums / "in the way").rmdir()
    sums.rmdir()
    assert cli_here(merge_args(root, parts)).returncode == 0
    assert_proven(root)


# --- who may, and what is refused ---------------------------------------------------------------


def test_a_source_at_work_does_not_keep_the_others_out(
    service: SimulatedService, parts: list[Path], root: Path
) -> None:
    lock = RunLock(parts[0] / ".g2a-archive" / "lock")
    lock.acquire()
    try:
        result = cli_here(merge_args(root, parts))
        assert result.returncode == 5
        assert f"{parts[0]}: another run is working on this archive: host" in result.stderr
        assert set(states(root)) == set(states(parts[1])) | set(states(parts[2]))
    finally:
        lock.release()
    assert merge_here(root, parts).exit_code == 0
    assert_archive_equals(service, root)


def test_locks_are_held_and_let_go(
    service: SimulatedService,
    parts: list[Path],
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = []

    def look(*_: object) -> None:
        for place in (root, parts[0]):
            with pytest.raises(LockedError):
                RunLock(place / ".g2a-archive" / "lock").acquire()
            tried.append(place)

    monkeypatch.setattr("g2a_archive.curation.merge_rows.merge_scans", look)
    merge_here(root, parts[:1])
    assert tried == [root, parts[0]]
    for place in (root, parts[0]):
        lock = RunLock(place / ".g2a-archive" / "lock")
        lock.acquire()
        lock.release()
    lock = RunLock(root / ".g2a-archive" / "lock")
    lock.acquire()
    with pytest.raises(LockedError):
        merge_here(root, parts)
    lock.release()


def test_a_source_that_is_read_only(
    service: SimulatedService, parts: list[Path], root: Path, tmp_path: Path
) -> None:
    need_root("mount")
    with bind(parts[0], tmp_path / "read-only") as source:
        subprocess.run(["mount", "-o", "remount,ro,bind", source], check=True)
        report = merge_here(root, [source])
        assert (report.exit_code, report.copied) == (0, report.files)
        assert_archive_equals(service, root, Shard(1, 3).select(service.recordings))
        # A run that works there, by another way, is seen all the same.
        lock = RunLock(parts[0] / ".g2a-archive" / "lock")
        lock.acquire()
        assert merge_here(root, [source]).exit_code == 5
        lock.release()
        assert merge_here(root, [source], move=True).exit_code == 6
        assert len(archive_files(source)) == report.files


def test_a_drive_of_a_source_that_is_not_mounted_is_no_damage(
    service: SimulatedService, parts: list[Path], root: Path
) -> None:
    change(parts[0], "INSERT INTO scan VALUES ('accountKey=1', '2026-02-01T00:00:00Z')")
    years = [path for path in parts[0].iterdir() if path.name.isdigit()]
    for year in years:
        year.rename(year.with_name(f".{year.name}"))
        year.mkdir()  # as a mount point without its drive is
    report = merge_here(root, parts, move=True)
    assert report.exit_code == 6
    assert not report.failed
    assert set(states(root)) == set(Shard(2, 3).select(service.recordings)) | set(
        Shard(3, 3).select(service.recordings)
    )
    assert catalog_rows(root, "SELECT * FROM scan") == []  # not all of it is here
    for year in years:
        year.rmdir()
        year.with_name(f".{year.name}").rename(year)
    assert merge_here(root, parts, move=True).exit_code == 0
    assert_archive_equals(service, root)


def test_what_is_here_already_is_not_taken_out_of_a_drive_that_is_not_mounted(
    service: SimulatedService, parts: list[Path], root: Path
) -> None:
    merge_here(root, parts[:1])
    there = states(parts[0])
    away = parts[0].with_name("away")
    away.mkdir()
    for year in [path for path in parts[0].iterdir() if path.name.isdigit()]:
        year.rename(away / year.name)
        year.mkdir()
    report = merge_here(root, parts[:1], move=True)
    assert (report.exit_code, report.moved) == (6, 0)
    assert states(parts[0]) == there
    for year in away.iterdir():
        (parts[0] / year.name).rmdir()
        year.rename(parts[0] / year.name)
    assert merge_here(root, parts[:1], move=True).moved == len(there)
    assert archive_files(parts[0]) == {}


def test_a_source_whose_catalogue_ends_in_the_middle_does_not_keep_the_others_out(
    service: SimulatedService, parts: list[Path], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(parts[0], "INSERT INTO scan VALUES ('accountKey=1', '2026-02-01T00:00:00Z')")
    whole = merge_rows.page

    def page(catalog: Catalog, after: int) -> list[merge_rows.RecordingRows]:
        if after and catalog.path.is_relative_to(parts[0]):
            raise CatalogError("damaged")
        return whole(catalog, after)

    monkeypatch.setattr(merge_rows, "PAGE", 1)
    monkeypatch.setattr(merge_rows, "page", page)
    report = merge_here(root, parts)
    assert (report.exit_code, report.abort_messages) == (6, [f"{parts[0]}: damaged"])
    first = min(states(parts[0]))
    assert set(states(root)) == {first, *states(parts[1]), *states(parts[2])}
    # What `sync` has found there is not all here: it must be looked for again.
    assert catalog_rows(root, "SELECT * FROM scan") == []
    monkeypatch.undo()
    assert merge_here(root, parts).exit_code == 0
    assert len(catalog_rows(root, "SELECT * FROM scan")) == 1
    assert_archive_equals(service, root)


@pytest.mark.parametrize(("code", "ends"), [(errno.EPERM, 1), (errno.EROFS, 6)])
def test_what_cannot_be_taken_out_of_a_source_stays_there_alone(
    service: SimulatedService,
    parts: list[Path],
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    code: int,
    ends: int,
) -> None:
    first = min(states(parts[0]))
    stuck = {
        str(path) for path in archive_files(parts[0]).values() if path.name == f"{first}.events"
    }
    unlink = os.unlink

    def refusing(path: str | Path, **more: int) -> None:
        if str(path) in stuck:
            raise OSError(code, os.strerror(code))
        unlink(path, **more)

    monkeypatch.setattr(os, "unlink", refusing)
    report = merge_here(root, parts, move=True)
    assert report.exit_code == ends
    assert len(report.failed) + len(report.abort_messages) == 1
    assert_archive_equals(service, root)
    left = {id_ for part in parts for id_ in states(part)}
    assert first in left
    assert (len(left) == 1) == (
        code == errno.EPERM
    )  # of a disk that is read-only, nothing more is tried
    assert states(parts[1]) == states(parts[2]) == {}
    monkeypatch.undo()
    assert merge_here(root, parts, move=True).exit_code == 0
    assert [archive_files(part) for part in parts] == [{}, {}, {}]
    assert_archive_equals(service, root)


def test_nothing_is_written_where_a_drive_of_this_archive_is_not_mounted(
    service: SimulatedService, parts: list[Path], root: Path
) -> None:
    merge_here(root, parts[:1])
    year = min(path for path in root.iterdir() if path.name.isdigit())
    kept = year.rename(year.with_name(f".{year.name}"))
    year.mkdir()
    before = states(root)
    report = merge_here(root, parts, move=True)
    assert (report.exit_code, report.failed) == (6, [])
    assert [
        text for text in report.abort_messages if "is empty: nothing is there" in text
    ] == report.abort_messages
    assert report.abort_messages
    assert list(year.iterdir()) == []
    assert merge_here(root, parts, dry_run=True).exit_code == 6
    year.rmdir()
    kept.rename(year)
    assert before.items() <= states(root).items()
    assert "damaged" not in states(root).values()
    assert merge_here(root, parts, move=True).exit_code == 0
    assert_archive_equals(service, root)


def test_a_newer_source_is_refused_before_anything_is_touched(
    parts: list[Path], root: Path
) -> None:
    change(parts[2], "PRAGMA user_version = 99")
    result = cli_here(merge_args(root, parts))
    assert result.returncode == 6
    assert "is of a newer g2a-archive (schema 99" in result.stderr
    assert not root.exists()


def lose(source: Path) -> None:
    source.rename(source.with_name("elsewhere"))


def damage(source: Path) -> None:
    catalog_path(source).write_bytes(b"\0garbage" * 4000)


@pytest.mark.parametrize("spoil", [lose, damage])
def test_a_source_that_cannot_be_read_does_not_keep_the_others_out(
    spoil: Callable[[Path], None], service: SimulatedService, parts: list[Path], root: Path
) -> None:
    """As a shard on a drive that is not mounted; alone, it is refused."""
    spoil(parts[0])
    for move in (False, True):
        report = merge_here(root, parts, move=move)
        assert report.exit_code == 6
        assert [
            text for text in report.abort_messages if text.startswith(f"{parts[0]}: ")
        ] == report.abort_messages
        assert len(report.abort_messages) == 1
        others = [id_ for number in (2, 3) for id_ in Shard(number, 3).select(service.recordings)]
        assert states(root) == dict.fromkeys(others, "archived")
    assert_archive_equals(service, root, others)
    with pytest.raises(StorageError):
        merge_here(root, parts[:1])


SQL = Path(__file__).parents[1] / "archive" / "schema_1.sql"


def test_a_source_of_the_first_schema_is_read(serve: Serve, tmp_path: Path, root: Path) -> None:
    service, source = serve(8, rate_limit=None), tmp_path / "old"
    run_here(service, source, service.recordings)
    catalog_path(source).unlink()
    with closing(sqlite3.connect(catalog_path(source))) as db:
        db.executescript(SQL.read_text(encoding="utf-8"))
    whole = {i for i, state in states(source).items() if state == "archived"}
    before = content(source)
    for move in (False, True):
        target = root / f"move-{move}"
        report = merge_here(target, [source], move=move)
        assert states(target).keys() >= whole
        assert {i for i, state in states(target).items() if state == "archived"} == whole
        if not move:
            assert content(source) == before  # not migrated either
        assert [one.id for one in report.failed] == [1400000002]  # whose events file was lost
        assert cli_here(["verify", "--dest", target]).returncode == 0


def test_what_cannot_be_meant(parts: list[Path], root: Path, tmp_path: Path) -> None:
    merge_here(root, parts)
    link = tmp_path / "link"
    link.symlink_to(parts[0])
    inner = parts[0] / "inner"
    refusals: list[tuple[list[Path | str], type[Exception], str]] = [
        ([root], InputError, "is the archive that it is to be merged into"),
        ([root / "2014"], InputError, "one lies within the other"),
        ([parts[0], link], InputError, "has the same catalogue as"),
        ([parts[0], f"{parts[1]}={catalog_path(root)}"], InputError, "has the same catalogue as"),
        ([""], InputError, "the name of an archive must not be empty"),
        ([tmp_path / "nowhere"], StorageError, "there is no archive at"),
        ([f"{parts[0]}={tmp_path}/none.sqlite3"], StorageError, "there is no archive at"),
    ]
    for sources, error, text in refusals:
        with pytest.raises(error, match=text):
            merge_here(root, sources)
    with pytest.raises(InputError, match="one lies within the other"):
        merge_here(inner, [parts[0]])
    assert not inner.exists()
    assert cli_here(["merge", "--dest", root]).returncode == 2
    assert cli_here(["merge", "--dest", root, "--no-create", tmp_path / "x"]).returncode == 6


def test_the_archive_itself_through_another_mount(
    parts: list[Path], root: Path, tmp_path: Path
) -> None:
    """No other run, which one might wait for."""
    merge_here(root, parts)
    before = content(root)
    with bind(root, tmp_path / "mount"):
        for move in ([], ["--move"], ["--dry-run"]):
            refused = cli_here(["merge", "--dest", root, *move, tmp_path / "mount"])
            assert refused.returncode == 2
            assert "is the archive that it is to be merged into" in refused.stderr
    assert content(root) == before


def test_a_name_with_an_equals_sign(service: SimulatedService, tmp_path: Path, root: Path) -> None:
    source = tmp_path / "year=2014"
    run_here(service, source, service.recordings)
    assert merge_here(root, [source]).exit_code == 0
    assert_archive_equals(service, root)


def test_no_create_wants_an_archive(parts: list[Path], root: Path) -> None:
    with pytest.raises(StorageError, match="not an archive yet, and --no-create"):
        merge_here(root, parts, no_create=True)
    assert not root.exists()


def test_dry_run_says_what_would_come_and_does_nothing(
    service: SimulatedService, parts: list[Path], root: Path
) -> None:
    real = merge_here(root.with_name("real"), parts)
    next(iter(archive_files(parts[1]).values())).unlink()
    before = [content(part) for part in parts]
    for _ in range(2):
        report = merge_here(root, parts, dry_run=True, move=True)
        assert (report.exit_code, report.merged, report.archived) == (1, 5, 5)
        assert report.files == real.files - 1
        assert [one.reason for one in report.failed] == ["missing"]
        assert [content(part) for part in parts] == before
        assert not root.exists()
    report = merge_here(root.with_name("real"), parts, dry_run=True)
    assert (report.exit_code, report.merged, report.alike) == (0, 0, 5)


def test_dry_run_into_an_archive_that_no_run_came_to_fill(parts: list[Path], root: Path) -> None:
    own = root / ".g2a-archive"
    own.mkdir(parents=True)
    (own / "catalog.sqlite3").touch()
    report = merge_here(root, parts, dry_run=True)
    assert (report.exit_code, report.merged) == (0, 5)
    assert merge_here(root, parts).merged == 5


def test_the_summary_and_quiet(parts: list[Path], root: Path) -> None:
    args: list[str | Path] = ["merge", "--dest", root, "--min-free", "0", *parts]
    first = cli_here(args)
    assert first.returncode == 0
    assert first.stdout.startswith("Merged 5 of 5 recordings: ")
    assert "linked, 0 copied)" in first.stdout
    assert cli_here([*args, "-q"]).stdout == ""
    assert "5 alike" in cli_here(args).stdout
    status = cli_here(["status", "--dest", root]).stdout
    assert "merge" in status


def test_asked_to_stop_it_keeps_what_has_come(
    service: SimulatedService, parts: list[Path], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch = StopSwitch()
    write = merge_rows.write

    def stopping(*args: object) -> None:
        write(*args)  # type: ignore[arg-type]
        switch.stop(ExitCode.SIGTERM)

    monkeypatch.setattr(merge_rows, "write", stopping)
    report = merge_here(root, parts, switch=switch)
    assert report.exit_code == 143
    assert set(states(root)) == set(states(parts[0]))
    assert_archive_equals(service, root, Shard(1, 3).select(service.recordings))
    monkeypatch.undo()
    assert merge_here(root, parts).exit_code == 0
    assert_archive_equals(service, root)
