"""Where a bag cannot be made there is none: one sentence, the archive untouched, nothing left."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import bagit
import pytest
from support import archives, cli_here, run_cli
from support.cli import tree
from support.crash import crash
from support.mounts import tmpfs
from support.odd_drive import Fault, playing

from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.disk.lock import FileLock
from g2a_archive.curation import bag as module
from g2a_archive.curation.bag import Bagging, bag_target
from g2a_archive.curation.selection import choose_time
from g2a_archive.errors import ExitCode, InputError, StorageError

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
        (["caf\udce9", "--zip", "1400000001"], 2, "the bag's name must be text in UTF-8"),
        (["/", "1400000001"], 2, "a bag needs a name, not '/'"),
        (["", "--zip", "1400000001"], 2, "a bag needs a name, not ''"),
        (["full", "1400000001"], 2, "full is not empty"),
        (["file", "1400000001"], 2, "file is there already"),
        (["file/case", "1400000001"], 2, "there is no directory"),
        (["nowhere/case", "1400000001"], 2, "there is no directory"),
        (["archive/case", "1400000001"], 2, "lies in the archive"),
        (["archive", "1400000001"], 2, "lies in the archive"),
        (["link/2014/case", "1400000001"], 2, "lies in the archive"),
        (["old", "--zip", "1400000001"], 2, "old.zip is there already"),
        (["old.zip", "--zip", "1400000001"], 2, "old.zip is there already"),
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
    for name in ("file", "old.zip"):
        (archive.parent / name).write_text("old")
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
@pytest.mark.parametrize("form", ["--zip", "--json"])
def test_a_file_that_is_not_what_was_archived(archive: Path, how: str, form: str) -> None:
    do, words = BREAKS[how]
    do(next(archive.rglob("1400000003.mp4")))
    said = refused(archive, "case", form, "1400000001", "1400000003", "1400000005", code=1)
    assert "no bag was made" in said
    assert "1400000003.mp4" in said
    assert words in said


@pytest.mark.parametrize("call", ["open", "read"])
def test_a_file_that_cannot_be_read(archive: Path, tmp_path: Path, call: str) -> None:
    """It is one file's failure, and not the archive's."""
    env = playing([Fault(call, "*/1400000003.mp4", errno.EIO)])
    result = run_cli(["bag", "--dest", archive, tmp_path / "case", "1400000003"], env)
    assert result.returncode == ExitCode.FAILED
    assert "no bag was made: cannot read" in result.stderr
    assert "1400000003.mp4: Input/output error" in result.stderr
    assert not list(tmp_path.glob("*case*"))


@pytest.mark.parametrize("level", ["year", "day"])
def test_a_drive_that_is_not_mounted(archive: Path, level: str) -> None:
    """The drive is told, not a loss: exit 6."""
    day = next(archive.rglob("1400000003.mp4")).parent
    place = day if level == "day" else day.parents[1]
    shutil.move(place, archive.parent / "elsewhere")
    place.mkdir()
    said = refused(archive, "case", "1400000003", code=6)
    assert f"{place} is empty" in said
    assert "is the drive mounted?" in said


# --- disks, and others at the same place --------------------------------------------------------


def test_a_disk_that_is_too_small_is_known_beforehand(archive: Path) -> None:
    with tmpfs(archive.parent / "disk", "1m"):
        said = refused(archive, "disk/case", "1400000001", "1400000002", code=6)
    assert "not enough space for the bag" in said


@pytest.mark.parametrize("zipped", [True, False])
def test_a_disk_that_fills_up(archive: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_check_space", lambda where, need: None)
    with tmpfs(archive.parent / "disk", "96k") as disk:
        before = tree(archive.parent)
        with pytest.raises(StorageError, match="No space left on device"):
            make(archive, disk / "case", zipped=zipped)
        assert tree(archive.parent) == before


def make(archive: Path, target: Path, *, zipped: bool = False) -> None:
    """Make a bag of everything in this process."""
    with Catalog(archive / ".g2a-archive" / "catalog.sqlite3", readonly=True) as catalog:
        choice = choose_time(catalog, 0, None)
        where = bag_target(str(target), archive, zipped=zipped)
        Bagging(archive=archive, catalog=catalog, choice=choice).make(where)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("links", [True, False])
def test_what_comes_to_its_place_meanwhile_stays(
    archive: Path, zipped: bool, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = archive.parent / ("case.zip" if zipped else "case")
    mine = target if zipped else target / "mine"
    flush = module._flush

    def come(*args: object) -> None:
        flush(*args)  # type: ignore[arg-type]
        if not zipped:
            target.mkdir()
        mine.write_text("mine")

    def no_link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(module, "_flush", come)
    if not links:
        monkeypatch.setattr(os, "link", no_link)
    with pytest.raises(InputError, match="meanwhile"):
        make(archive, target, zipped=zipped)
    assert mine.read_text() == "mine"
    assert sorted(path.name for path in archive.parent.iterdir()) == ["archive", target.name]


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
    lock = FileLock(work / "lock")
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
    ("case", "FileLock.acquire", 1, "before"),
    ("case", "FileLock.acquire", 1, "after"),
    ("case", "BagWriter.payload", 1, "before"),
    ("case", "BagWriter.payload", 8, "after"),
    ("case", "BagWriter.finish", 1, "after"),
    ("case", "bag._publish", 1, "before"),
    ("case", "bag._publish", 1, "after"),
    ("case", "bag.flush_directory", 1, "before"),
    ("case.zip", "BagWriter.payload", 8, "after"),
    ("case.zip", "BagWriter.finish", 1, "before"),
    ("case.zip", "bag._publish", 1, "before"),
    ("case.zip", "os.link", 1, "after"),
]


LINE = ("bag", "--dest", "archive", "case", "--since", "2000-01-01", "--until", "2100-01-01")


@pytest.mark.parametrize(("form", "where", "number", "when"), STEPS)
def test_killed_between_two_steps(
    archive: Path, form: str, where: str, number: int, when: str
) -> None:
    before = tree(archive)
    zip_ = ["--zip"] if form == "case.zip" else []
    crash(where, when, number, [*LINE, *zip_], cwd=archive.parent)
    target = archive.parent / form
    assert tree(archive) == before
    made = target.exists()
    assert not made or where == "bag.flush_directory" or when == "after"
    line = ["bag", "--dest", archive, target, *zip_, "--since", "2000-01-01", "--quiet"]
    # It is there already, or made now, and one is owed.
    assert cli_here([*map(str, line)]).returncode == (2 if made else 3)
    assert sorted(path.name for path in archive.parent.iterdir()) == ["archive", form]
    if zip_:
        with zipfile.ZipFile(target) as file:
            file.extractall(archive.parent)
    assert bagit.Bag(str(archive.parent / "case")).is_valid()


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("zip_", [[], ["--zip"]])
def test_stopped_tidily(archive: Path, kill: signal.Signals, zip_: list[str]) -> None:
    before = tree(archive.parent)
    line = [*LINE, *zip_]
    said = crash("BagWriter.payload", "after", 3, line, cwd=archive.parent, by=kill)
    assert said.splitlines() == ["g2a-archive: interrupted; no bag was made"]
    assert tree(archive.parent) == before
