"""One directory's `SHA256SUMS` from run to run, whatever came, went, or was changed in it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from g2a_archive.archive import checksums
from g2a_archive.archive.database.catalog import Catalog, RecordingResult
from g2a_archive.fixity.fingerprint import prove
from g2a_archive.models import FileKind, State, StoredFile

DAY = "2014/05/06"
EXTENSIONS = {FileKind.EVENTS: "events", FileKind.THUMBNAIL: "jpg", FileKind.MP4: "mp4"}


class Day:
    """A directory of some recordings, whose `SHA256SUMS` is written."""

    def __init__(self, root: Path, catalog: Catalog) -> None:
        self.root, self.catalog = root, catalog
        (root / DAY).mkdir(parents=True)
        self.add(*range(10, 30))
        self.write()

    def add(self, *recordings: int, content: str = "", picture: str = "jpg") -> None:
        settled = []
        for id_ in recordings:
            files = []
            for kind, extension in {**EXTENSIONS, FileKind.THUMBNAIL: picture}.items():
                path = f"{DAY}/{id_}.{extension}"
                data = f"{id_}.{kind}{content}".encode()
                (self.root / path).write_bytes(data)
                digest = hashlib.sha256(data).hexdigest()
                files.append(StoredFile(id_, kind, path, len(data), digest))
            settled.append(RecordingResult(id_, State.ARCHIVED, 7, directory=DAY, files=files))
        self.catalog.record_results(settled)

    def write(self) -> None:
        checksums.write_checksums(self.catalog, self.root)
        assert self.catalog.stale_directories() == []

    @property
    def path(self) -> Path:
        return self.root / DAY / checksums.NAME

    def check(self) -> None:
        """The file is what `sha256sum *` would make of the directory, and the catalogue knows."""
        names = sorted(p for p in (self.root / DAY).iterdir() if p != self.path)
        sums = (hashlib.sha256(p.read_bytes()).hexdigest() for p in names)
        text = "".join(f"{sha256}  {p.name}\n" for p, sha256 in zip(names, sums, strict=True))
        assert self.path.read_text() == text
        row = self.catalog.rows("SELECT sha256, files FROM sums ORDER BY revision DESC LIMIT 1")
        assert row == [(hashlib.sha256(text.encode()).hexdigest(), len(names))]


@pytest.fixture
def day(tmp_path: Path) -> Iterator[Day]:
    with Catalog(tmp_path / "catalog.sqlite3") as catalog:
        yield Day(tmp_path, catalog)


def test_some_recordings_more(day: Day) -> None:
    inode = day.path.stat().st_ino
    day.add(5, 15, 31)
    day.write()
    day.check()
    assert day.path.stat().st_ino not in (inode, 0)
    day.add(15, content=" that came again, and is another")
    day.write()
    day.check()
    written = day.path.stat()
    day.add(15, content=" that came again, and is another")
    day.write()
    assert day.path.stat() == written


def comment(day: Day) -> None:
    day.path.write_text("# mine\n" + day.path.read_text())


def damage(day: Day) -> None:
    day.path.write_text(day.path.read_text().replace("a", "b"))


@pytest.mark.parametrize("odd", [damage, lambda day: day.path.unlink()])
def test_what_somebody_changed_is_put_right(day: Day, odd: Callable[[Day], object]) -> None:
    odd(day)
    day.add(31)
    day.write()
    day.check()


def test_somebody_s_comment_stays(day: Day) -> None:
    comment(day)
    for more in (31, 32):
        day.add(more)
        day.write()
        first, _, rest = day.path.read_text().partition("\n")
        assert (first, rest.count("\n")) == ("# mine", 60 + 3 * (more - 30))


def test_a_file_that_has_another_name_now(day: Day) -> None:
    day.add(15, picture="png")
    (day.root / DAY / "15.jpg").unlink()
    day.write()
    day.check()


@pytest.mark.parametrize("gone", [True, False])
def test_what_came_again_elsewhere_leaves_the_directory_that_it_was_in(
    day: Day, gone: bool
) -> None:
    """Else the fingerprint would tell of a line that the catalogue knows nothing of."""
    day.catalog.now = lambda: "2020-01-01T00:00:00Z"
    data = b"15, under another layout"
    (day.root / "2014").mkdir(exist_ok=True)
    (day.root / "2014" / "15.mp4").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    file = StoredFile(15, FileKind.MP4, "2014/15.mp4", len(data), digest)
    for kind in ("events", "jpg", "mp4")[: 3 * gone]:
        (day.root / DAY / f"15.{kind}").unlink()
    day.catalog.record_results(
        [RecordingResult(15, State.ARCHIVED, 7, directory="2014", files=[file])]
    )
    assert day.catalog.stale_directories() == ["2014", DAY]
    day.write()
    kept = day.path.read_text().count(" 15.")
    assert kept == (0 if gone else 3)
    line = day.catalog.fingerprint()
    assert line is not None
    proof = prove(day.catalog, day.root, line)
    assert [one.problem for one in proof.findings] == []


def test_a_killed_run_leaves_it_to_the_next_one(day: Day) -> None:
    day.add(31)
    assert day.catalog.stale_directories() == [DAY]
    day.add(32)
    day.write()
    day.check()
