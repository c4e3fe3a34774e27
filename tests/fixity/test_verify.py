"""Proving the archive: real files, a real catalogue, and everything that can be wrong with them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support import archive_files, cli_here, run_here, states
from support.archive import MP4, Archive, video
from support.service import Serve

from g2a_archive.demo import sample_recordings
from g2a_archive.fixity.rebuild import rebuild
from g2a_archive.fixity.selection import VerifyOptions
from g2a_archive.models import ALL_KINDS, FileKind, State


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    made = Archive(tmp_path / "recordings")
    yield made
    made.catalog.close()


def test_a_sound_archive_has_no_findings_and_remembers_the_check(archive: Archive) -> None:
    for recording in range(1, 30):
        archive.add(recording, f"2014/05/{recording:02}")
    outcome = archive.verify()
    size = archive.catalog.scalar("SELECT sum(size) FROM file")
    assert (outcome.findings, outcome.files, outcome.bytes) == ([], 87, size)
    assert (outcome.left, outcome.interrupted, outcome.recorded) == (0, False, True)
    assert archive.checked() == 87
    assert archive.state(7) == ("archived", 7, None)


def test_every_kind_of_damage_is_found_named_and_recorded(archive: Archive) -> None:
    for recording in range(1, 9):
        archive.add(recording)
    day = archive.root / "2014/05/06"
    flipped = bytearray((day / "1.mp4").read_bytes())
    flipped[-1] ^= 1
    (day / "1.mp4").write_bytes(flipped)
    (day / "2.mp4").write_bytes((day / "2.mp4").read_bytes()[:-1])
    (day / "3.events").unlink()
    (day / "4.mp4").rename(day / "swap")
    (day / "5.mp4").rename(day / "4.mp4")
    (day / "swap").rename(day / "5.mp4")
    (day / "6.jpg").unlink()
    (day / "6.jpg").mkdir()
    archive.add(9, "2014/05/07")
    shutil.rmtree(archive.root / "2014/05/07")
    (archive.root / "2014/05/07").write_text("no directory")
    archive.write("2014/05/06/99.mp4", video("foreign"))
    archive.write("2014/notes.txt", b"a note")

    found = archive.problems()
    assert list(found) == sorted(found)
    size = len(video("recording 2"))
    assert found.pop("2014/05/06/2.mp4") == f"changed: {size - 1} bytes, {size} were archived"
    for recording in (1, 4, 5):
        assert found.pop(f"2014/05/06/{recording}.mp4").startswith("changed: SHA-256 is ")
    assert found == {
        "2014/05/06/3.events": "missing",
        "2014/05/06/6.jpg": "changed: it is no file any more",
        "2014/05/06/99.mp4": "unknown: not in the catalogue",
        "2014/05/07": "unknown: not in the catalogue",
        "2014/05/07/9.events": "missing",
        "2014/05/07/9.jpg": "missing",
        "2014/05/07/9.mp4": "missing",
        "2014/05/07/SHA256SUMS": "unreadable: Not a directory",
        "2014/notes.txt": "unknown: not in the catalogue",
    }
    assert [*archive.catalog.owed()] == [1, 2, 3, 4, 5, 6, 9]
    assert archive.state(3) == ("damaged", 5, "events: missing")
    assert archive.state(7) == ("archived", 7, None)
    sql = "SELECT damage FROM file WHERE recording = 3 ORDER BY kind"
    assert archive.catalog.rows(sql) == [("missing",), (None,), (None,)]


def test_all_that_is_damaged_of_a_recording_is_its_reason(archive: Archive) -> None:
    """However often it is looked at, and whatever came back of it."""
    archive.add(1)
    day = archive.root / "2014/05/06"
    kept = (day / "1.events").read_bytes()
    for name in ("1.mp4", "1.events", "1.jpg"):
        (day / name).unlink()
    for _ in range(2):
        archive.problems()
        reason = "events: missing; mp4: missing; thumbnail: missing"
        assert archive.state(1) == ("damaged", 0, reason)
    (day / "1.events").write_bytes(kept)
    archive.problems()
    assert archive.state(1) == ("damaged", 2, "mp4: missing; thumbnail: missing")


def test_a_file_that_came_back_clears_the_damage(archive: Archive) -> None:
    first, second, _ = archive.add(1)
    content = (archive.root / first.path).read_bytes()
    (archive.root / first.path).unlink()
    (archive.root / second.path).unlink()
    archive.verify()
    assert archive.state(1)[:2] == ("damaged", 4)

    archive.write(first.path, content)
    archive.catalog.record_check([first])
    assert archive.state(1)[:2] == ("damaged", 5)
    assert set(archive.problems()) == {second.path}
    assert archive.state(1)[:2] == ("damaged", 5)

    archive.write(second.path, b"events of recording 1")
    assert archive.problems() == {}
    assert archive.state(1) == ("archived", 7, None)
    assert [*archive.catalog.owed()] == []
    assert archive.catalog.scalar("SELECT count(damage) FROM file") == 0


def test_what_was_owed_for_another_reason_stays_owed(archive: Archive) -> None:
    file = archive.put(1, MP4, video("one"), "2014/05/06")
    archive.settle(1, [file], state=State.FAILED)
    archive.add(2)
    (archive.root / file.path).unlink()
    archive.verify()
    assert archive.state(1) == ("failed", 0, None)
    archive.write(file.path, video("one"))
    archive.verify()
    assert archive.state(1) == ("failed", 1, None)


@pytest.mark.parametrize("kinds", [ALL_KINDS, (FileKind.MP4,)], ids=["all", "only the MP4"])
def test_what_came_back_is_archived_though_the_service_has_it_no_more(
    kinds: tuple[FileKind, ...], serve: Serve, root: Path
) -> None:
    """All that was asked for is here again: but for a thumbnail, which was never offered."""
    service = serve([replace(one, thumbnail_size=None) for one in sample_recordings(3)])
    gone, new, _ = service.recordings
    run_here(service, root, [gone], kinds=kinds)
    path = next(path for name, path in archive_files(root).items() if name.endswith(".mp4"))
    path.rename(root / "elsewhere")
    assert cli_here(["verify", "--dest", root]).returncode == 1
    service.set_recordings([one for id_, one in service.recordings.items() if id_ != gone])
    run_here(service, root, [gone, new], kinds=kinds)
    assert states(root)[gone] == "refused"
    (root / "elsewhere").rename(path)
    assert cli_here(["verify", "--dest", root]).returncode == 0
    assert states(root)[gone] == "archived"


def test_sha256sum_agrees_about_the_archive(archive: Archive) -> None:
    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum here")
    archive.add(1)
    archive.add(2)
    folder = archive.root / "2014/05/06"
    command = ["sha256sum", "--strict", "--quiet", "-c", "SHA256SUMS"]
    assert subprocess.run(command, cwd=folder, capture_output=True).returncode == 0
    (folder / "2.events").write_bytes(b"Events of recording 2")
    assert set(archive.problems()) == {"2014/05/06/2.events"}
    told = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert (told.returncode, told.stdout) == (1, "2.events: FAILED\n")


def test_what_the_program_itself_makes_is_not_unknown(archive: Archive) -> None:
    archive.add(1)
    for path in ("index.html", "browse/2014.html", ".DS_Store", "2014/05/06/1.mp4.kept-12"):
        archive.write(path, b"x")
    assert archive.problems() == {}
    for path in ("2014/index.html", "2014/browse/x", "1.mp4.kept-x", "01.mp4", "a\x1b[2J\udcff"):
        archive.write(path, b"x")
    assert set(archive.problems()) == {
        *("2014/index.html", "2014/browse/x", "1.mp4.kept-x", "01.mp4", "a\\x1b[2J\\udcff"),
    }


LEFT_ABOUT = (
    *("2014/05/06/1.mp4:Zone.Identifier", "2014/05/06/1.mp4@SynoResource", "FOUND.000/1.mp4"),
    *("2014/05/06/Thumbs.db:encryptable",),
    *("lost+found/#123", "@eaDir/1.mp4@SynoEAStream", "#recycle/2014/05/06/1.mp4", "Thumbs.db"),
    *("2014/05/06/desktop.ini", "$RECYCLE.BIN/S-1-5/x.mp4", "System Volume Information/x"),
    *(".DS_Store", "2014/._05", ".snapshot/daily/2014/1.mp4", "2014/@EADIR/x", "2014/Icon\r"),
    *(".Trash-1000/files/1.mp4", "#snapshot/x/1.mp4", "2014/05/06/THUMBS.DB"),
    *("2014/05/06/.nfs0000000000a1b2c3000000d4", "2014/05/06/.fuse_hidden0000002a00000001"),
    *("2014/05/06/.smbdeleteAAA1", ".@__thumb/1.mp4", ".stversions/2014/1.mp4", ".localized"),
    *("2014/05/06/~$notes.docx", "2014/Folder.jpg", "2014/AlbumArt_{8B7F}_Large.jpg"),
)
"""What NAS systems, desktops and file systems leave about."""


def test_what_systems_leave_about_is_nobody_s_loss(archive: Archive) -> None:
    archive.add(1)
    for path in LEFT_ABOUT:
        archive.write(path, b"x")
    (archive.root / "lost+found").chmod(0)
    assert archive.problems() == {}
    outcome = rebuild(archive.catalog, archive.root)
    assert (outcome.findings, outcome.files) == ([], 0)
    archive.write("lost and found/1.mp4", b"x")
    assert set(archive.problems()) == {"lost and found/1.mp4"}


def test_files_of_an_owed_recording_are_not_unknown(archive: Archive) -> None:
    archive.add(1)
    archive.catalog.queue([2])
    archive.write("2014/05/06/2.mp4", video("arriving"))
    archive.write("2014/05/07/1.mp4", video("a copy elsewhere"))
    assert set(archive.problems()) == {"2014/05/07/1.mp4"}


def test_an_id_without_files_is_told(archive: Archive) -> None:
    archive.add(1)
    outcome = archive.verify(VerifyOptions(ids=[1, 7]))
    assert [(one.recording, one.problem) for one in outcome.findings] == [
        (7, "missing: the catalogue holds no file of this recording")
    ]
    assert outcome.files == 3
