"""A lost catalogue, brought back from the files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import mounts, run_cli
from support.archive import MP4, THUMBNAIL, Archive, video

from g2a_archive.archive import layout
from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.cli import main
from g2a_archive.errors import Domain, ExitCode, LocalError
from g2a_archive.fixity import rebuild as rebuilding
from g2a_archive.fixity.rebuild import rebuild
from g2a_archive.models import FileKind


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    made = Archive(tmp_path / "recordings")
    yield made
    made.catalog.close()


@pytest.fixture
def lost(archive: Archive) -> Iterator[Archive]:
    """An archive of 5 recordings whose catalogue is lost."""
    for recording in range(1, 6):
        archive.add(recording, f"2014/05/0{recording}")
    archive.catalog.close()
    archive.database.unlink()
    archive.catalog = Catalog(archive.database)
    yield archive
    archive.catalog.close()


def rows(archive: Archive) -> list[tuple[int, str, str, int, str]]:
    sql = "SELECT recording, kind, path, size, sha256 FROM file ORDER BY recording, kind"
    return archive.catalog.rows(sql)


def test_a_lost_catalogue_is_rebuilt_and_verifies(archive: Archive) -> None:
    for recording in range(1, 6):
        archive.add(recording, f"2014/05/0{recording}")
    before = rows(archive)
    archive.catalog.close()
    archive.database.unlink()
    archive.catalog = Catalog(archive.database)

    outcome = rebuild(archive.catalog, archive.root)
    assert (outcome.files, outcome.findings) == (15, [])
    assert rows(archive) == before
    assert archive.state(3) == ("archived", 7, None)
    assert archive.problems() == {}
    again = rebuild(archive.catalog, archive.root)
    assert (again.files, again.findings) == (0, [])


def test_rebuilding_finds_what_the_sums_tell(lost: Archive) -> None:
    lost.write("2014/05/01/1.mp4", video("Recording 1"))
    (lost.root / "2014/05/02/2.events").unlink()
    (lost.root / "2014/05/03/3.mp4").unlink()
    (lost.root / "2014/05/03/SHA256SUMS").unlink()
    lost.write("2014/05/04/notes.txt", b"a note")
    lost.write("2014/06/4.mp4", video("recording 4"))
    (lost.root / "2014/05/05/5.events").rename(lost.root / "2014/05/5.events")
    outcome = rebuild(lost.catalog, lost.root)
    assert {one.path: one.problem for one in outcome.findings} == {
        "2014/05/01/1.mp4": "changed: not what SHA256SUMS lists",
        "2014/05/02/2.events": "missing: SHA256SUMS lists it",
        "2014/05/04/notes.txt": "unknown: not a recording's file",
        "2014/06/4.mp4": "unknown: a second 2014/05/04/4.mp4",
    }
    assert lost.state(1) == ("failed", 6, "mp4: changed: not what SHA256SUMS lists")
    assert lost.state(2) == ("failed", 5, "events: missing: SHA256SUMS lists it")
    assert lost.state(3) == ("failed", 6, "mp4: not found")
    assert lost.state(4) == ("archived", 7, None)
    assert sorted([*lost.catalog.owed()]) == [1, 2, 3]


def test_files_in_no_directory_of_a_layout_are_told_and_left(lost: Archive) -> None:
    """No run could add to them there, and no `SHA256SUMS` would list them."""
    stray = ("6.mp4", "100%/7.mp4", "2014/05 /8.mp4")
    for name in stray:
        lost.write(name, video(name))
    (lost.root / "2014/05/01/1.mp4").rename(lost.root / "1.mp4")
    outcome = rebuild(lost.catalog, lost.root)
    assert {one.path: one.problem for one in outcome.findings} == {
        "2014/05/01/1.mp4": "missing: SHA256SUMS lists it",
        **dict.fromkeys(("1.mp4", *stray), "unknown: in no directory that a layout makes"),
    }
    assert [*lost.catalog.owed()] == [1]
    assert rows(lost) == [row for row in rows(lost) if row[2].startswith("2014/05/0")]


def test_a_list_of_sums_that_cannot_be_read_stops_its_directory_only(lost: Archive) -> None:
    sums = lost.root / "2014/05/02/SHA256SUMS"
    kept = sums.rename(sums.with_name(".kept"))
    sums.mkdir()
    outcome = rebuild(lost.catalog, lost.root)
    assert {one.path: one.problem for one in outcome.findings} == {
        "2014/05/02/SHA256SUMS": "unreadable: Is a directory; its files were left"
    }
    assert outcome.files == 12
    sums.rmdir()
    kept.rename(sums)
    outcome = rebuild(lost.catalog, lost.root)
    assert (outcome.files, outcome.findings) == (3, [])


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        (0, "2014/05/02/SHA256SUMS: unreadable: Permission denied; its files were left"),
        (0o111, "2014/05/02: unreadable: Permission denied"),
    ],
)
def test_a_directory_that_cannot_be_read_is_told(mode: int, told: str, lost: Archive) -> None:
    """What it holds is neither damaged nor missing."""
    lost.catalog.close()
    sizes = [path.stat().st_size for path in lost.root.glob("2014/05/0[1345]/[0-9]*")]
    (lost.root / "2014/05/02").chmod(mode)
    args = ["verify", "--rebuild", "--dest", str(lost.root)]
    result = run_cli(args, before=mounts.need_modes())
    (lost.root / "2014/05/02").chmod(0o755)
    assert result.returncode == 1
    first, last = result.stdout.splitlines()
    assert first == told
    assert last.startswith(f"Checked 12 files, {sum(sizes)} B, ")
    lost.catalog = Catalog(lost.database)
    assert {lost.state(number) for number in (1, 3, 4, 5)} == {("archived", 7, None)}
    assert lost.catalog.scalar("SELECT count(*) FROM recording") == 4


def test_a_list_of_sums_that_cannot_be_written_is_told_after_what_was_found(
    lost: Archive, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusing(*_: object) -> None:
        raise LocalError("cannot write it", domain=Domain.DIRECTORY)

    monkeypatch.setattr("g2a_archive.cli.commands.verify.write_checksums", refusing)
    assert main.run(["verify", "--rebuild", "--dest", str(lost.root)]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("Checked 15 files")
    assert "cannot write it" in err


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("9.mp4", video("fine"), None),
        ("9.events", b"anything", None),
        ("9.mp4", b"", "changed: it is empty"),
        ("9.mp4", b"no video at all", "changed: it is no MP4 video"),
        ("9.mp4", video("cut off")[:-2], "changed: it is truncated, or damaged"),
        ("9.events", b"<!DOCTYPE html><html>expired", "changed: it is a web page"),
        ("9.jpg", b"", "changed: it is empty"),
    ],
)
def test_a_file_without_a_sum_must_be_plausible(
    archive: Archive, name: str, content: bytes, problem: str | None
) -> None:
    archive.write(f"2014/05/09/{name}", content)
    outcome = rebuild(archive.catalog, archive.root)
    assert [one.problem for one in outcome.findings] == ([problem] if problem else [])
    assert outcome.files == (0 if problem else 1)


def test_what_another_downloader_left_is_not_taken_for_whole(archive: Archive) -> None:
    for recording in (7, 8, 9):
        archive.write(f"2014/05/09/{recording}.mp4", video("not all here" * 9000))
    archive.write("2014/05/09/7.mp4.aria2", b"control")
    with open(archive.root / "2014/05/09/8.mp4", "r+b") as file:
        file.truncate(8192)
        file.truncate(len(video("not all here" * 9000)))
        file.flush()
        os.fsync(file.fileno())
        if os.lseek(file.fileno(), 0, os.SEEK_HOLE) == os.fstat(file.fileno()).st_size:
            pytest.skip("this file system does not tell of holes")
    outcome = rebuild(archive.catalog, archive.root)
    assert {one.path: one.problem for one in outcome.findings if one.damage} == {
        "2014/05/09/7.mp4": "changed: another downloader has not finished it",
        "2014/05/09/8.mp4": "changed: parts of it were never written",
    }
    assert [*archive.catalog.owed()] == [7, 8]
    assert archive.state(9)[0] == "archived"


def test_rebuilding_keeps_what_the_catalogue_knows(archive: Archive) -> None:
    first, second, third = archive.add(1)
    archive.catalog.mark_damaged([(1, MP4, "missing")])
    archive.write("2014/05/06/2.mp4", video("two"))
    archive.write("2014/05/06/1.png", b"\x89PNG\r\n\x1a\n another")
    outcome = rebuild(archive.catalog, archive.root)
    assert outcome.files == 1
    assert [one.path for one in outcome.findings] == ["2014/05/06/1.png"]
    assert archive.state(1) == ("damaged", 6, "mp4: missing")
    assert archive.state(2) == ("archived", 1, None)
    assert set(archive.catalog.files_of(1).values()) == {first, second, third}


def test_a_year_on_another_disk_is_rebuilt_too(lost: Archive, tmp_path: Path) -> None:
    (lost.root / "2014").rename(tmp_path / "disk")
    (lost.root / "2014").symlink_to(tmp_path / "disk")
    (lost.root / "2014/round").symlink_to(lost.root)
    outcome = rebuild(lost.catalog, lost.root)
    assert [one.path for one in outcome.findings] == ["2014/round"]
    assert outcome.files == 15
    assert lost.state(5) == ("archived", 7, None)


def test_a_directory_of_many_is_taken_some_at_a_time(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All files of a recording together, whatever is between them in the order of names."""
    for name in ("_TOGETHER", "_PAGE"):
        monkeypatch.setattr(rebuilding, name, 2)
    recordings = (1, 10, 100, 1000, 2, 20, 3)
    for recording in recordings:
        archive.add(recording)
    (archive.root / "2014/05/06/100.events").unlink()
    (archive.root / "2014/05/06/20.mp4").unlink()
    for kind in ("mp4", "events", "jpg"):
        (archive.root / f"2014/05/06/3.{kind}").unlink()
    before = set(rows(archive))
    archive.catalog.close()
    archive.database.unlink()
    archive.catalog = Catalog(archive.database)
    seen: list[int] = []
    outcome = rebuild(archive.catalog, archive.root, on_begin=seen.append, on_files=seen.append)
    assert outcome.files == 16
    assert seen[0] == sum(seen[1:]) == 16
    assert before - set(rows(archive)) == {row for row in before if "3." in row[2]} | {
        row for row in before if row[2][-10:] in ("100.events", "/06/20.mp4")
    }
    assert sorted([*archive.catalog.owed()]) == [3, 20, 100]
    assert archive.state(100) == ("failed", 5, "events: missing: SHA256SUMS lists it")
    assert archive.state(1000) == ("archived", 7, None)


def test_rebuilding_does_not_take_links(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(video("secret"))
    (archive.root / "2014").mkdir()
    (archive.root / "2014" / "1.mp4").symlink_to(tmp_path / "secret")
    outcome = rebuild(archive.catalog, archive.root)
    assert [one.problem for one in outcome.findings] == ["changed: it is no file"]
    assert outcome.files == 0


def test_a_month_that_is_a_link_to_nowhere_is_not_mounted(archive: Archive) -> None:
    archive.add(1)
    (archive.root / "2014/07").symlink_to("/nowhere/at/all")
    outcome = rebuild(archive.catalog, archive.root)
    assert [part.directory for part in outcome.unmounted] == ["2014/07"]
    assert outcome.findings == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("1.mp4", (1, MP4)),
        ("9223372036854775807.webp", (2**63 - 1, THUMBNAIL)),
        ("9223372036854775808.mp4", None),
        ("99999999999999999999999.mp4", None),
        ("0.mp4", None),
        ("01.mp4", None),
        ("1.MP4", None),
        ("1.mp4\n", None),
        ("\u0661.mp4", None),
        ("1.txt", None),
    ],
)
def test_names(name: str, expected: tuple[int, FileKind] | None) -> None:
    assert layout.parse_name(name) == expected


def test_a_year_that_is_a_link_to_nowhere(
    lost: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost.add(9, "2015/01/01")
    (lost.root / "2014").rename(tmp_path / "drive")
    (lost.root / "2014").symlink_to(tmp_path / "unplugged")
    (lost.root / "odd\udce9").symlink_to("nowhere")
    args = ["verify", "--dest", str(lost.root), "--rebuild"]
    assert main.run(args) == ExitCode.STORAGE
    out, err = capsys.readouterr()
    assert r"odd\udce9: unknown: not a recording's file" in out
    assert "2014: unknown" not in out
    assert f"{lost.root}/2014 is a link that leads nowhere (is the drive mounted?" in err
    (lost.root / "odd\udce9").unlink()
    (tmp_path / "drive").rename(tmp_path / "unplugged")
    assert main.run(args) == ExitCode.OK
    assert len(rows(lost)) == 18
    assert main.run(args[:3]) == ExitCode.OK
