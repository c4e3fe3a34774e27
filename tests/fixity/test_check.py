"""What a check makes of links, rights, drives, a run beside it, signals and limits."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.archive import MP4, Archive, video

from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.disk import hashing
from g2a_archive.cli import main
from g2a_archive.errors import CatalogError, ExitCode, Interrupted, StorageError
from g2a_archive.fixity import check, tree
from g2a_archive.fixity.check import Finding
from g2a_archive.fixity.selection import VerifyOptions
from g2a_archive.fixity.verify import open_catalog, verify
from g2a_archive.models import FileKind, StoredFile


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    made = Archive(tmp_path / "recordings")
    yield made
    made.catalog.close()


def test_a_file_that_is_a_link_out_of_the_archive_is_not_followed_and_is_no_damage(
    archive: Archive, tmp_path: Path
) -> None:
    file = archive.add(1)[0]
    (archive.root / file.path).rename(tmp_path / "outside.mp4")
    (archive.root / file.path).symlink_to(tmp_path / "outside.mp4")
    found = archive.problems(VerifyOptions(ids=[1]))
    assert found == {file.path: "unreadable: it lies outside the archive"}
    assert [*archive.catalog.owed()] == []


def test_a_file_that_is_a_link_to_nowhere_is_missing(archive: Archive, tmp_path: Path) -> None:
    file = archive.add(1)[0]
    (archive.root / file.path).unlink()
    (archive.root / file.path).symlink_to(tmp_path / "nowhere" / "1.mp4")
    assert archive.problems() == {file.path: "missing"}
    assert [*archive.catalog.owed()] == [1]


def test_a_year_on_another_disk_is_followed(archive: Archive, tmp_path: Path) -> None:
    archive.add(1)
    archive.add(2, "2015/01/01")
    (archive.root / "2015").rename(tmp_path / "disk")
    (archive.root / "2015").symlink_to(tmp_path / "disk")
    archive.write("2015/notes.txt", b"a note")
    # Round and round, and the same disk once more.
    (archive.root / "2015/archive").symlink_to(archive.root)
    (archive.root / "2015/again").symlink_to(tmp_path / "disk")
    (archive.root / "2016").symlink_to(tmp_path / "disk")
    unknown = ("2015/again", "2015/archive", "2015/notes.txt", "2016")
    assert archive.problems() == dict.fromkeys(unknown, "unknown: not in the catalogue")
    (tmp_path / "disk/01/01/2.mp4").write_bytes(video("Recording 2"))
    (tmp_path / "disk/01/01/2.jpg").unlink()
    found = archive.problems()
    assert found["2015/01/01/2.jpg"] == "missing"
    assert found["2015/01/01/2.mp4"].startswith("changed: SHA-256 is ")
    assert [*archive.catalog.owed()] == [2]


def test_a_link_inside_the_archive_is_followed(archive: Archive) -> None:
    file = archive.add(1)[0]
    (archive.root / "2015").mkdir()
    (archive.root / file.path).rename(archive.root / "2015/1.mp4")
    (archive.root / file.path).symlink_to("../../../2015/1.mp4")
    assert archive.verify(VerifyOptions(ids=[1])).findings == []


def test_a_link_that_goes_round_is_told_once(archive: Archive) -> None:
    archive.add(1)
    (archive.root / "2014" / "round").symlink_to("..")
    assert archive.problems() == {"2014/round": "unknown: not in the catalogue"}


def failing(monkeypatch: pytest.MonkeyPatch, error: OSError, *names: str) -> None:
    """Let reading the files called `names` (all, where none is given) fail."""
    real = hashing.hash_file

    def read(path: str, **options: Callable[..., object]) -> tuple[int, str]:
        if not names or os.path.basename(path) in names:
            raise error
        return real(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(check, "hash_file", read)


def test_a_file_that_we_may_not_read_is_told_but_is_no_damage(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.add(1)
    failing(monkeypatch, PermissionError(errno.EACCES, "Permission denied"), "1.mp4")
    assert archive.problems() == {"2014/05/06/1.mp4": "unreadable: Permission denied"}
    assert [*archive.catalog.owed()] == []


@pytest.mark.parametrize("name", ["1.mp4", "1.events", "1.jpg"])
def test_a_bad_sector_is_damage(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    archive.add(1)
    failing(monkeypatch, OSError(errno.EIO, "Input/output error"), name)
    assert archive.problems() == {f"2014/05/06/{name}": "unreadable: Input/output error"}
    assert [*archive.catalog.owed()] == [1]


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_dying_drive_or_share_damages_nothing(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    for recording in range(1, 20):
        archive.add(recording)
    failing(monkeypatch, OSError(code, os.strerror(code)))
    with pytest.raises(StorageError, match="cannot read"):
        archive.verify()
    assert [*archive.catalog.owed()] == []
    assert archive.checked() == 0


@pytest.mark.parametrize("empty_mount_point", [True, False])
def test_an_archive_that_vanishes_damages_nothing(
    archive: Archive,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    empty_mount_point: bool,
) -> None:
    for recording in range(1, 20):
        archive.add(recording)
    real = hashing.hash_file

    def unplugged(path: str, **options: Callable[..., object]) -> tuple[int, str]:
        result = real(path, **options)  # type: ignore[arg-type]
        if archive.root.exists():
            archive.root.rename(tmp_path / "unplugged")
            if empty_mount_point:
                archive.root.mkdir()
        return result

    files = list(archive.catalog.files(range(1, 20)))
    monkeypatch.setattr(check, "hash_file", unplugged)
    recorded: list[Finding] = []
    with pytest.raises(StorageError, match="is the drive still mounted"):
        check.check(
            archive.root,
            files,
            len(files),
            current=lambda recording, kind: next(
                f for f in files if (f.recording, f.kind) == (recording, kind)
            ),
            record=lambda good, findings: recorded.extend(findings),
            jobs=1,
        )
    assert recorded == []


def test_no_archive_at_all_is_a_storage_error(archive: Archive) -> None:
    archive.add(1)
    with pytest.raises(StorageError, match="is the drive mounted"):
        verify(archive.catalog, archive.root / "gone", VerifyOptions())


def test_a_file_replaced_meanwhile_is_compared_with_its_new_row(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = archive.add(1)[0]
    real = hashing.hash_file
    calls: list[str] = []

    def replaced(path: str, **options: Callable[..., object]) -> tuple[int, str]:
        calls.append(path)
        if path.endswith("1.mp4") and len(calls) == 1:
            return 0, "0" * 64
        return real(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(check, "hash_file", replaced)

    def rows(recording: int, kind: FileKind) -> StoredFile | None:
        # The archiver stores another file after the old one was read, and before it is told.
        if len(calls) == 1:
            new = archive.put(recording, kind, video("another, longer recording"), "2014/05/06")
            archive.settle(1, [new])
        return archive.catalog.files_of(recording).get(kind)

    heard: list[StoredFile] = []
    outcome = check.check(
        archive.root,
        [file],
        1,
        current=rows,
        record=lambda good, findings: heard.extend(good),
    )
    assert outcome.findings == []
    assert heard == [archive.catalog.files_of(1)[MP4]]
    assert heard[0] != file


def test_the_same_file_fetched_again_meanwhile_is_no_damage(archive: Archive) -> None:
    """Its row looks the same, byte for byte: only the file itself tells."""
    file = archive.add(1)[0]
    archive.write(file.path, video("Recording 1"))

    def rows(recording: int, kind: FileKind) -> StoredFile | None:
        archive.write("new", video("recording 1"))
        os.replace(archive.root / "new", archive.root / file.path)
        return archive.catalog.files_of(recording).get(kind)

    outcome = check.check(archive.root, [file], 1, current=rows, record=lambda good, findings: None)
    assert (outcome.findings, outcome.files) == ([], 1)


def test_a_file_in_place_whose_row_comes_later_is_no_damage(archive: Archive) -> None:
    """The archiver renames a file first, and records it after that."""
    old = archive.add(1)[0]
    new = archive.put(1, MP4, video("another recording"), "2014/05/06")

    def rows(recording: int, kind: FileKind) -> StoredFile | None:
        archive.settle(1, [new])
        return archive.catalog.files_of(recording).get(kind)

    outcome = check.check(archive.root, [old], 1, current=rows, record=lambda good, findings: None)
    assert (outcome.findings, outcome.files) == ([], 1)


def test_a_row_that_changed_before_recording_is_left_alone(archive: Archive) -> None:
    new = archive.add(1)[0]
    for old in (
        new._replace(size=new.size - 1),
        new._replace(path="1.mp4"),
        new._replace(sha256="0" * 64),
    ):
        archive.catalog.record_check([old], [(old, "missing")])
    assert [*archive.catalog.owed()] == []
    assert archive.checked() == 0
    archive.catalog.record_check([], [(new, "missing")])
    assert [*archive.catalog.owed()] == [1]


@pytest.mark.parametrize("how", ["its directory is not mounted", "it is replaced ceaselessly"])
def test_what_cannot_be_judged_is_left(archive: Archive, how: str) -> None:
    file = archive.add(1)[0]
    (archive.root / file.path).unlink()
    sizes = itertools.count(1)

    def current(recording: int, kind: FileKind) -> StoredFile:
        return file._replace(size=next(sizes)) if "replaced" in how else file

    outcome = check.check(
        archive.root,
        [file],
        1,
        current=current,
        unmounted=lambda directories: directories if "mounted" in how else set(),
        record=lambda good, findings: None,
    )
    assert (outcome.findings, outcome.files, outcome.left) == ([], 0, 1)


def test_a_recording_that_left_the_catalogue_is_not_told(archive: Archive) -> None:
    file = archive.add(1)[0]
    (archive.root / file.path).unlink()
    outcome = check.check(
        archive.root,
        [file],
        1,
        current=lambda recording, kind: None,
        record=lambda good, findings: None,
    )
    assert outcome.findings == []


def test_an_unwritable_catalogue_is_still_verified_against(archive: Archive) -> None:
    for recording in (1, 2):
        archive.add(recording)
    (archive.root / "2014/05/06/2.mp4").unlink()
    with Catalog(archive.database, readonly=True) as catalog:
        outcome = verify(catalog, archive.root, VerifyOptions())
    assert [one.path for one in outcome.findings] == ["2014/05/06/2.mp4"]
    assert not outcome.recorded
    assert [*archive.catalog.owed()] == []


def test_a_catalogue_that_stops_taking_writes_draws_one_warning(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    archive.add(1)
    monkeypatch.setattr(check, "_BATCH_FILES", 1)

    def refuse(*_: object) -> None:
        raise CatalogError("attempt to write a readonly database")

    monkeypatch.setattr(archive.catalog, "record_check", refuse)
    outcome = archive.verify()
    assert (outcome.files, outcome.recorded) == (3, False)
    (warning,) = caplog.messages
    assert "readonly" in warning


def test_opening_the_catalogue_for_a_check_never_makes_one(tmp_path: Path) -> None:
    with pytest.raises(CatalogError):
        open_catalog(tmp_path / "catalog.sqlite3")
    assert os.listdir(tmp_path) == []


def test_a_signal_keeps_what_was_done(archive: Archive) -> None:
    for recording in range(1, 5):
        archive.add(recording)
    while_they_are_chosen = iter((False, False))
    outcome = archive.verify(stop=lambda: next(while_they_are_chosen, True))
    assert outcome.interrupted
    assert outcome.left == 12 - outcome.files
    assert outcome.findings == []


def test_after_the_time_is_up_no_file_is_begun(archive: Archive) -> None:
    files = [file for recording in range(1, 5) for file in archive.add(recording)]
    ticks = iter(range(1000))
    lock = threading.Lock()

    def clock() -> float:
        with lock:
            return next(ticks)

    seen: list[StoredFile] = []
    outcome = check.check(
        archive.root,
        files,
        len(files),
        current=lambda recording, kind: None,
        record=lambda good, findings: seen.extend(good),
        jobs=1,
        until=6,
        clock=clock,
    )
    assert 0 < len(seen) < 12
    assert seen == files[: len(seen)]
    assert outcome.left == 12 - len(seen)
    assert not outcome.interrupted
    assert outcome.timed_out


@pytest.mark.parametrize("more", [[], ["--readers", "1", "--oldest-first"], ["--rebuild"], ["1"]])
def test_what_the_time_did_not_suffice_for_is_exit_8(
    archive: Archive, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    archive.add(1)
    archive.write("unknown.txt", b"unknown")

    def verify_for(duration: str) -> int:
        return main.run(["verify", "--dest", str(archive.root), "--max-duration", duration, *more])

    assert verify_for("0") == ExitCode.MAX_DURATION
    out = capsys.readouterr().out
    assert ("Stopped at --max-duration" if "--rebuild" in more else "3 files not reached") in out
    assert verify_for("1d") == (ExitCode.OK if more == ["1"] else ExitCode.FAILED)
    capsys.readouterr()
    archive.write("2014/05/06/1.events", b"changed")
    if "--rebuild" not in more:
        assert verify_for("1d") == ExitCode.FAILED


def test_workers_errors_and_stops_reach_the_caller() -> None:
    def work(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    with pytest.raises(ValueError, match="three"):
        list(tree.in_parallel(iter(range(10)), work, 2, lambda: False))
    assert sorted(n for n in tree.in_parallel(iter([1, 2]), work, 2, lambda: False) if n) == [1, 2]
    with pytest.raises(Interrupted):
        list(tree.in_parallel(iter([1]), work, 2, lambda: True))


def test_small_files_are_handed_over_together() -> None:
    sizes = [20 << 20, 5 << 20, 4 << 20, *[1] * 100]
    files = [StoredFile(n, MP4, f"{n}.mp4", size, "") for n, size in enumerate(sizes)]
    bunches = list(tree.in_bunches(files))
    assert [len(bunch) for bunch in bunches] == [1, 1, 64, 37]
    assert [file for bunch in bunches for file in bunch] == files
    assert list(tree.in_bunches([])) == []
