"""Where a bag cannot be made there is none: one sentence, the archive untouched, nothing left."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import bagit
import pytest
from support import archives, cli_here
from support.cli import tree
from support.crash import crash
from support.mounts import tmpfs

from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.disk.lock import RunLock
from g2a_archive.curation import bag as module
from g2a_archive.curation.bag import Bagging, place
from g2a_archive.curation.selection import choose_time
from g2a_archive.errors import InputError, StorageError

OWED = 1400000004


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An archive of five recordings, one of which is owed."""
    with archives.made(tmp_path_factory, 5) as (_, root):
        next(root.rglob(f"{OWED}.mp4")).unlink()
        assert cli_here(["verify", "--dest", root, OWED]).returncode == 1
        yield root


@pytest.fixture
def archive(made: Path, root: Path) -> Path:
    """A copy of it for one test."""
    shutil.copytree(made, root)
    return root


def refused(archive: Path, *args: object, code: int) -> str:
    """The one sentence of a `bag` that makes no bag and changes nothing."""
    before = tree(archive.parent)
    result = cli_here(["bag", "--dest", archive, *map(str, args)], cwd=archive.parent)
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("g2a-archive: ")
    assert tree(archive.parent) == before
    return lines[0]


# --- what is wrong before anything is begun ----------------------------------------------------


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["case"], 2, "no recordings were named"),
        (["case", "12x"], 2, "not a recording ID"),
        (["case", "-f", "nowhere.txt"], 2, "nowhere.txt"),
        (["case", "--since", "2014-05-07", "--until", "2014-05-06"], 2, "not before --until"),
        (["case", "1400000001", "--contact", "a\nb"], 2, "--contact: "),
        (["caf\udce9", "1400000001"], 2, "the bag's name must be text in UTF-8"),
        (["full", "1400000001"], 2, "full is not empty"),
        (["file", "1400000001"], 2, "file is there already"),
        (["file/case", "1400000001"], 2, "there is no directory"),
        (["nowhere/case", "1400000001"], 2, "there is no directory"),
        (["archive/case", "1400000001"], 2, "lies in the archive"),
        (["archive", "1400000001"], 2, "lies in the archive"),
        (["link/2014/case", "1400000001"], 2, "lies in the archive"),
        (["case", "77", "1400000001"], 1, "77 is not known here"),
        (["case", "1400000004", "1400000001"], 1, "1400000004 is not archived (damaged)"),
        (["case", *map(str, range(1, 14))], 1, "10 is not known here; and 3 more"),
        (["case", "1400000001", "--catalog", "none.sqlite3"], 6, "there is no archive"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_bad_input(archive: Path, args: list[str], code: int, words: str) -> None:
    (archive.parent / "full").mkdir()
    (archive.parent / "full" / "letter.txt").write_text("dear")
    (archive.parent / "file").write_text("old")
    (archive.parent / "link").symlink_to(archive)
    assert words in refused(archive, *args, code=code)


def test_what_was_removed_is_had_by_again_alone(archive: Path) -> None:
    assert cli_here(["remove", "--dest", archive, "--yes", "1400000001"]).returncode == 0
    said = refused(archive, "case", "1400000001", code=1)
    assert "1400000001 was removed (only `download --again 1400000001` fetches it)" in said


def test_the_top_of_a_drive(archive: Path) -> None:
    with tmpfs(archive.parent / "stick", "4m"):
        assert "is the top of a drive" in refused(archive, "stick", "1400000001", code=2)


# --- files that are not what was archived ------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped": (flip, "SHA-256 is "),
    "cut": (lambda path: os.truncate(path, 100), "100 bytes, "),
    "longer": (lambda path: path.write_bytes(path.read_bytes() + b"more"), "were archived"),
    "gone": (Path.unlink, "is missing"),
    "a pipe": (pipe, "is no file any more"),
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_file_that_is_not_what_was_archived(archive: Path, how: str) -> None:
    do, words = BREAKS[how]
    do(next(archive.rglob("1400000003.mp4")))
    said = refused(archive, "case", "--json", "1400000001", "1400000003", "1400000005", code=1)
    assert "no bag was made" in said
    assert "1400000003.mp4" in said
    assert words in said


def test_a_year_that_is_not_mounted(archive: Path) -> None:
    """The drive is told, not a loss: exit 6."""
    year = next(archive.rglob("1400000003.mp4")).relative_to(archive).parts[0]
    shutil.move(archive / year, archive.parent / "elsewhere")
    (archive / year).mkdir()
    said = refused(archive, "case", "1400000003", code=6)
    assert f"{archive / year} is empty" in said
    assert "is the drive mounted?" in said


# --- disks, and others at the same place --------------------------------------------------------


def test_a_disk_that_is_too_small_is_known_beforehand(archive: Path) -> None:
    with tmpfs(archive.parent / "disk", "1m"):
        said = refused(archive, "disk/case", "1400000001", "1400000002", code=6)
    assert "not enough space for the bag" in said


def test_a_disk_that_fills_up(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_check_space", lambda where, need: None)
    with tmpfs(archive.parent / "disk", "96k") as disk:
        before = tree(archive.parent)
        with pytest.raises(StorageError, match="No space left on device"):
            make(archive, disk / "case")
        assert tree(archive.parent) == before


def make(archive: Path, target: Path) -> None:
    """Make a bag of everything in this process."""
    with Catalog(archive / ".g2a-archive" / "catalog.sqlite3", readonly=True) as catalog:
        choice = choose_time(catalog, 0, None)
        where = place(str(target), archive)
        Bagging(archive=archive, catalog=catalog, choice=choice).make(where)


def test_what_comes_to_its_place_meanwhile_stays(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = archive.parent / "case"
    flush = module._flush

    def come(*args: object) -> None:
        flush(*args)  # type: ignore[arg-type]
        target.mkdir()
        (target / "mine").write_text("mine")

    monkeypatch.setattr(module, "_flush", come)
    with pytest.raises(InputError, match="meanwhile"):
        make(archive, target)
    assert (target / "mine").read_text() == "mine"
    assert sorted(path.name for path in archive.parent.iterdir()) == ["archive", "case"]


def test_a_share_that_does_not_rename_over_an_empty_directory(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = archive.parent / "case"
    target.mkdir()
    rename = os.rename

    def refuse(source: Path, place: Path) -> None:
        if os.path.lexists(place):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        rename(source, place)

    monkeypatch.setattr(os, "rename", refuse)
    make(archive, target)
    assert (target / "bagit.txt").is_file()


def test_two_at_the_same_place(archive: Path) -> None:
    work = archive.parent / ".case.g2a-bag"
    (work / "bag").mkdir(parents=True)
    (work / "bag" / "half.mp4").write_text("of the other one")
    lock = RunLock(work / "lock")
    lock.acquire()
    try:
        said = refused(archive, "case", "1400000001", code=5)
    finally:
        lock.release()
    assert "another process is making the bag" in said
    # It was killed: the next one takes what it left away, but nothing that isn't a bag's.
    (work / "of-mine.txt").write_text("mine")
    result = cli_here(["bag", "--dest", archive, archive.parent / "case", 1400000001])
    assert result.returncode == 0
    assert [path.name for path in work.iterdir()] == ["of-mine.txt"]


# --- killed ------------------------------------------------------------------------------------

STEPS = [
    ("RunLock.acquire", 1, "before"),
    ("RunLock.acquire", 1, "after"),
    ("Bagging._copy", 1, "before"),
    ("Bagging._copy", 8, "after"),
    ("Bag.finish", 1, "before"),
    ("Bag.finish", 1, "after"),
    ("bag._publish", 1, "before"),
    ("bag._publish", 1, "after"),
    ("bag.flush_directory", 1, "before"),
]


LINE = ("bag", "--dest", "archive", "case", "--since", "2000-01-01", "--until", "2100-01-01")


@pytest.mark.parametrize(("where", "number", "when"), STEPS)
def test_killed_between_two_steps(archive: Path, where: str, number: int, when: str) -> None:
    before = tree(archive)
    crash(where, when, number, LINE, cwd=archive.parent)
    target = archive.parent / "case"
    assert tree(archive) == before
    made = target.exists()
    assert not made or where == "bag.flush_directory" or when == "after"
    line = ["bag", "--dest", archive, target, "--since", "2000-01-01", "--quiet"]
    # It is there already, or made now, and one is owed.
    assert cli_here([*map(str, line)]).returncode == (2 if made else 3)
    assert sorted(path.name for path in archive.parent.iterdir()) == ["archive", "case"]
    assert bagit.Bag(str(target)).is_valid()


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGTERM])
def test_stopped_tidily(archive: Path, kill: signal.Signals) -> None:
    before = tree(archive.parent)
    said = crash("Bagging._copy", "after", 3, LINE, cwd=archive.parent, by=kill)
    assert said.splitlines() == ["g2a-archive: interrupted; no bag was made"]
    assert tree(archive.parent) == before


# --- a disk without a common flush ---------------------------------------------------------------


def test_a_bag_is_flushed_by_its_files_where_there_is_no_other_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bag" / "data" / "2014").mkdir(parents=True)
    for name in ("bagit.txt", "data/a", "data/2014/b"):
        (tmp_path / "bag" / name).touch()
    flushed: list[int] = []
    flush = os.fsync

    def seen(fd: int) -> None:
        flushed.append(os.fstat(fd).st_ino)
        flush(fd)

    monkeypatch.setattr(os, "fsync", seen)
    module._flush(tmp_path / "bag", None)
    names = ("", "bagit.txt", "data", "data/a", "data/2014", "data/2014/b")
    assert sorted(flushed) == sorted((tmp_path / "bag" / name).stat().st_ino for name in names)
    assert flushed[-1] == (tmp_path / "bag").stat().st_ino
