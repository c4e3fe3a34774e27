"""Proving the archive: real files, a real catalogue, and everything that can be wrong with them."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from g2a_archive.archive import checksums, hashing, layout
from g2a_archive.archive.catalog import Catalog, Settlement
from g2a_archive.errors import CatalogError, Interrupted, StorageError
from g2a_archive.fixity import audit, tree, verify
from g2a_archive.fixity.audit import Wishes
from g2a_archive.fixity.verify import Entry, Finding, Outcome, choose
from g2a_archive.models import FileKind, State, StoredFile, kinds_mask

MP4, EVENTS, THUMBNAIL = FileKind.MP4, FileKind.EVENTS, FileKind.THUMBNAIL
SUFFIX = {MP4: "mp4", EVENTS: "events", THUMBNAIL: "jpg"}


def video(text: str) -> bytes:
    """The smallest MP4 whose boxes add up, with `text` in it."""
    body = text.encode()
    start = b"\x00\x00\x00\x10ftypisom\x00\x00\x02\x00"
    return start + (8 + len(body)).to_bytes(4, "big") + b"mdat" + body


class Archive:
    """An archive on disk with its catalogue, as a run leaves it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / ".g2a-archive").mkdir(parents=True)
        self.database = root / ".g2a-archive" / "catalog.sqlite3"
        self.catalog = Catalog(self.database)
        self.warnings: list[str] = []

    def write(self, path: str, content: bytes) -> None:
        full = self.root / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_bytes(content)

    def put(self, recording: int, kind: FileKind, content: bytes, day: str) -> StoredFile:
        path = f"{day}/{recording}.{SUFFIX[kind]}"
        self.write(path, content)
        digest = hashlib.sha256(content).hexdigest()
        return StoredFile(recording, kind, path, len(content), digest)

    def add(self, recording: int, day: str = "2014/05/06") -> list[StoredFile]:
        name = f"recording {recording}"
        files = [
            self.put(recording, MP4, video(name), day),
            self.put(recording, EVENTS, f"events of {name}".encode(), day),
            self.put(recording, THUMBNAIL, f"\xff\xd8\xff picture of {name}".encode(), day),
        ]
        self.settle(recording, files, day)
        checksums.write_checksums(self.catalog, self.root)
        return files

    def settle(
        self,
        recording: int,
        files: list[StoredFile],
        day: str = "2014/05/06",
        state: State = State.ARCHIVED,
    ) -> None:
        kinds = kinds_mask([file.kind for file in files])
        start = f"{day.replace('/', '-')}T15:00:00Z"
        one = Settlement(recording, state, kinds, 0, start, day, files=files)
        self.catalog.settle([one])

    def verify(
        self, wishes: Wishes | None = None, stop: Callable[[], bool] = lambda: False
    ) -> Outcome:
        return audit.verify(
            self.catalog, self.root, wishes or Wishes(), warn=self.warnings.append, stop=stop
        )

    def problems(self, wishes: Wishes | None = None) -> dict[str, str]:
        return {one.path: one.problem for one in self.verify(wishes).findings}

    def state(self, recording: int) -> tuple[str, int, str | None]:
        sql = "SELECT state, kinds, reason FROM recording WHERE id = ?"
        row: tuple[str, int, str | None] = self.catalog.rows(sql, (recording,))[0]
        return row

    def checked(self) -> int:
        count: int = self.catalog.scalar("SELECT count(checked_at) FROM file")
        return count


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    made = Archive(tmp_path / "recordings")
    yield made
    made.catalog.close()


# --- what is found ----------------------------------------------------------------------------


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
        "2014/notes.txt": "unknown: not in the catalogue",
    }
    assert archive.catalog.owed() == [1, 2, 3, 4, 5, 6]
    assert archive.state(3) == ("damaged", 5, "events: missing")
    assert archive.state(7) == ("archived", 7, None)
    sql = "SELECT damage FROM file WHERE recording = 3 ORDER BY kind"
    assert archive.catalog.rows(sql) == [("missing",), (None,), (None,)]


def test_a_file_that_came_back_clears_the_damage(archive: Archive) -> None:
    first, second, _ = archive.add(1)
    content = (archive.root / first.path).read_bytes()
    (archive.root / first.path).unlink()
    (archive.root / second.path).unlink()
    archive.verify()
    assert archive.state(1)[:2] == ("damaged", 4)

    archive.write(first.path, content)
    archive.catalog.checked([first])
    assert archive.state(1)[:2] == ("damaged", 5)
    assert set(archive.problems()) == {second.path}
    assert archive.state(1)[:2] == ("damaged", 5)

    archive.write(second.path, b"events of recording 1")
    assert archive.problems() == {}
    assert archive.state(1) == ("archived", 7, None)
    assert archive.catalog.owed() == []
    assert archive.catalog.scalar("SELECT count(damage) FROM file") == 0


def test_what_was_owed_for_another_reason_stays_owed(archive: Archive) -> None:
    file = archive.put(1, MP4, video("one"), "2014/05/06")
    archive.settle(1, [file], state=State.FAILED)
    (archive.root / file.path).unlink()
    archive.verify()
    assert archive.state(1) == ("failed", 0, None)
    archive.write(file.path, video("one"))
    archive.verify()
    assert archive.state(1) == ("failed", 1, None)


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


def test_files_of_an_owed_recording_are_not_unknown(archive: Archive) -> None:
    archive.add(1)
    archive.catalog.queue([2])
    archive.write("2014/05/06/2.mp4", video("arriving"))
    archive.write("2014/05/07/1.mp4", video("a copy elsewhere"))
    assert set(archive.problems()) == {"2014/05/07/1.mp4"}


def test_an_id_without_files_is_told(archive: Archive) -> None:
    archive.add(1)
    outcome = archive.verify(Wishes(ids=[1, 7, 7]))
    assert [(one.recording, one.problem) for one in outcome.findings] == [
        (7, "missing: the catalogue holds no file of this recording")
    ]
    assert outcome.files == 3


# --- links, rights, and drives ----------------------------------------------------------------


def test_a_link_out_of_the_archive_is_not_followed_and_is_no_damage(
    archive: Archive, tmp_path: Path
) -> None:
    file = archive.add(1)[0]
    archive.add(2, "2015/01/01")
    (archive.root / file.path).rename(tmp_path / "outside.mp4")
    (archive.root / file.path).symlink_to(tmp_path / "outside.mp4")
    (archive.root / "2015").rename(tmp_path / "2015")
    (archive.root / "2015").symlink_to(tmp_path / "2015")
    found = archive.problems(Wishes(ids=[1, 2]))
    assert len(found) == 4
    assert set(found.values()) == {"unreadable: it lies outside the archive"}
    assert archive.catalog.owed() == []


def test_a_link_inside_the_archive_is_followed(archive: Archive) -> None:
    file = archive.add(1)[0]
    (archive.root / "2015").mkdir()
    (archive.root / file.path).rename(archive.root / "2015/1.mp4")
    (archive.root / file.path).symlink_to("../../../2015/1.mp4")
    assert archive.verify(Wishes(ids=[1])).findings == []


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

    monkeypatch.setattr(verify, "hash_file", read)


def test_a_file_that_we_may_not_read_is_told_but_is_no_damage(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.add(1)
    failing(monkeypatch, PermissionError(errno.EACCES, "Permission denied"), "1.mp4")
    assert archive.problems() == {"2014/05/06/1.mp4": "unreadable: Permission denied"}
    assert archive.catalog.owed() == []


@pytest.mark.parametrize("name", ["1.mp4", "1.events", "1.jpg"])
def test_a_bad_sector_is_damage(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    archive.add(1)
    failing(monkeypatch, OSError(errno.EIO, "Input/output error"), name)
    assert archive.problems() == {f"2014/05/06/{name}": "unreadable: Input/output error"}
    assert archive.catalog.owed() == [1]


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_dying_drive_or_share_damages_nothing(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    for recording in range(1, 20):
        archive.add(recording)
    failing(monkeypatch, OSError(code, os.strerror(code)))
    with pytest.raises(StorageError, match="cannot read"):
        archive.verify()
    assert archive.catalog.owed() == []
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

    files = [entry.file for entry in audit.entries(archive.catalog)]
    monkeypatch.setattr(verify, "hash_file", unplugged)
    recorded: list[Finding] = []
    with pytest.raises(StorageError, match="is the drive still mounted"):
        verify.verify(
            archive.root,
            files,
            current=lambda recording, kind: next(
                f for f in files if (f.recording, f.kind) == (recording, kind)
            ),
            record=lambda good, findings: recorded.extend(findings),
            warn=archive.warnings.append,
            jobs=1,
        )
    assert recorded == []


def test_no_archive_at_all_is_a_storage_error(archive: Archive) -> None:
    archive.add(1)
    with pytest.raises(StorageError, match="cannot read"):
        audit.verify(archive.catalog, archive.root / "gone", Wishes(), warn=print)


# --- beside a running archiver ----------------------------------------------------------------


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

    monkeypatch.setattr(verify, "hash_file", replaced)

    def rows(recording: int, kind: FileKind) -> StoredFile | None:
        # The archiver stores another file after the old one was read, and before it is told.
        if len(calls) == 1:
            new = archive.put(recording, kind, video("another, longer recording"), "2014/05/06")
            archive.settle(1, [new])
        return archive.catalog.files_of(recording).get(kind)

    heard: list[StoredFile] = []
    outcome = verify.verify(
        archive.root,
        [file],
        current=rows,
        record=lambda good, findings: heard.extend(good),
        warn=archive.warnings.append,
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

    outcome = verify.verify(
        archive.root, [file], current=rows, record=lambda good, findings: None, warn=print
    )
    assert (outcome.findings, outcome.files) == ([], 1)


def test_a_file_in_place_whose_row_comes_later_is_no_damage(archive: Archive) -> None:
    """The archiver renames a file first, and records it after that."""
    old = archive.add(1)[0]
    new = archive.put(1, MP4, video("another recording"), "2014/05/06")

    def rows(recording: int, kind: FileKind) -> StoredFile | None:
        archive.settle(1, [new])
        return archive.catalog.files_of(recording).get(kind)

    outcome = verify.verify(
        archive.root, [old], current=rows, record=lambda good, findings: None, warn=print
    )
    assert (outcome.findings, outcome.files) == ([], 1)


def test_a_row_that_changed_before_recording_is_left_alone(archive: Archive) -> None:
    new = archive.add(1)[0]
    for old in (
        new._replace(size=new.size - 1),
        new._replace(path="1.mp4"),
        new._replace(sha256="0" * 64),
    ):
        archive.catalog.checked([old], [(old, "missing")])
    assert archive.catalog.owed() == []
    assert archive.checked() == 0
    archive.catalog.checked([], [(new, "missing")])
    assert archive.catalog.owed() == [1]


def test_a_recording_that_left_the_catalogue_is_not_told(archive: Archive) -> None:
    file = archive.add(1)[0]
    (archive.root / file.path).unlink()
    outcome = verify.verify(
        archive.root,
        [file],
        current=lambda recording, kind: None,
        record=lambda good, findings: None,
        warn=print,
    )
    assert outcome.findings == []


def test_an_unwritable_catalogue_is_still_verified_against(archive: Archive) -> None:
    for recording in (1, 2):
        archive.add(recording)
    (archive.root / "2014/05/06/2.mp4").unlink()
    with Catalog(archive.database, readonly=True) as catalog:
        outcome = audit.verify(catalog, archive.root, Wishes(), warn=archive.warnings.append)
    assert [one.path for one in outcome.findings] == ["2014/05/06/2.mp4"]
    assert not outcome.recorded
    assert archive.catalog.owed() == []


def test_a_catalogue_that_stops_taking_writes_draws_one_warning(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.add(1)
    monkeypatch.setattr(verify, "_BATCH_FILES", 1)

    def refuse(*_: object) -> None:
        raise CatalogError("attempt to write a readonly database")

    monkeypatch.setattr(archive.catalog, "checked", refuse)
    outcome = archive.verify()
    assert (outcome.files, outcome.recorded) == (3, False)
    assert len(archive.warnings) == 1
    assert "readonly" in archive.warnings[0]


def test_opening_the_catalogue_for_a_check_never_makes_one(tmp_path: Path) -> None:
    with pytest.raises(CatalogError):
        audit.open_catalog(tmp_path / "catalog.sqlite3", print)
    assert os.listdir(tmp_path) == []


# --- stopping, and limits ---------------------------------------------------------------------


def test_a_signal_keeps_what_was_done(archive: Archive) -> None:
    for recording in range(1, 5):
        archive.add(recording)
    outcome = archive.verify(stop=lambda: True)
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
    outcome = verify.verify(
        archive.root,
        files,
        current=lambda recording, kind: None,
        record=lambda good, findings: seen.extend(good),
        warn=print,
        jobs=1,
        max_duration=6,
        clock=clock,
    )
    assert 0 < len(seen) < 12
    assert seen == files[: len(seen)]
    assert outcome.left == 12 - len(seen)
    assert not outcome.interrupted


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


# --- which files ------------------------------------------------------------------------------


def entry(
    recording: int, size: int = 1, started: str | None = None, archived: str = "", checked: str = ""
) -> Entry:
    file = StoredFile(recording, MP4, f"{recording}.mp4", size, "")
    return Entry(file, started, archived or "2020-01-01T00:00:00Z", checked or None)


def chosen(files: list[StoredFile]) -> list[int]:
    return [file.recording for file in files]


def test_the_largest_come_first_or_those_unchecked_for_longest() -> None:
    entries = [
        entry(1, 5 << 20, checked="2026-01-02T00:00:00Z"),
        entry(2, 9 << 20, checked="2026-01-01T00:00:00Z"),
        entry(4, (7 << 20) + 1),
        entry(3, 7 << 20),
    ]
    assert chosen(choose(entries)) == [2, 3, 4, 1]
    assert chosen(choose(entries, oldest_first=True)) == [3, 4, 2, 1]
    assert chosen(choose(entries, recordings={1, 3})) == [3, 1]


@pytest.mark.parametrize(
    ("started", "archived", "expected"),
    [
        ("2014-05-06T00:00:00Z", "2014-05-06T00:00:00Z", False),
        ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", True),
        ("2014-05-06T00:00:00Z", "2026-01-01T00:00:00Z", True),
        ("2025-12-31T23:00:00-02:00", "2014-05-06T00:00:00Z", True),
        ("2026-01-01T00:30:00+01:00", "2014-05-06T00:00:00Z", False),
        ("2026-01-01T00:00:00", "2014-05-06T00:00:00Z", True),
        ("20260101T000000Z", "2014-05-06T00:00:00Z", True),
        (None, "2026-01-01T00:00:00Z", True),
        ("no time", "2014-05-06T00:00:00Z", False),
    ],
)
def test_since(started: str | None, archived: str, expected: bool) -> None:
    since = datetime(2026, 1, 1, tzinfo=UTC)
    assert bool(choose([entry(1, started=started, archived=archived)], since=since)) is expected


@pytest.mark.parametrize(
    ("count", "share", "expected"),
    [(100, 0.05, 5), (100, 0.07, 7), (3, 0.05, 1), (0, 0.05, 0), (10, 0.11, 2), (10, 1.0, 10)],
)
def test_a_sample_is_a_share_rounded_up(count: int, share: float, expected: int) -> None:
    assert len(choose([entry(n) for n in range(count)], sample=share)) == expected


def test_a_sample_depends_on_the_date_alone() -> None:
    entries = [entry(n) for n in range(1000)]
    monday = chosen(choose(entries, sample=0.1, seed="2026-11-23"))
    assert monday == chosen(choose(reversed(entries), sample=0.1, seed="2026-11-23"))
    days = [chosen(choose(entries, sample=0.1, seed=str(day))) for day in range(60)]
    assert len({n for day in days for n in day}) > 950


# --- rebuilding a lost catalogue --------------------------------------------------------------


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

    outcome = audit.rebuild(archive.catalog, archive.root)
    assert (outcome.files, outcome.findings) == (15, [])
    assert rows(archive) == before
    assert archive.state(3) == ("archived", 7, None)
    assert archive.problems() == {}
    again = audit.rebuild(archive.catalog, archive.root)
    assert (again.files, again.findings) == (0, [])


def test_rebuilding_finds_what_the_sums_tell(lost: Archive) -> None:
    lost.write("2014/05/01/1.mp4", video("Recording 1"))
    (lost.root / "2014/05/02/2.events").unlink()
    (lost.root / "2014/05/03/3.mp4").unlink()
    (lost.root / "2014/05/03/SHA256SUMS").unlink()
    lost.write("2014/05/04/notes.txt", b"a note")
    lost.write("2014/06/4.mp4", video("recording 4"))
    (lost.root / "2014/05/05/5.events").rename(lost.root / "2014/05/5.events")
    outcome = audit.rebuild(lost.catalog, lost.root)
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
    assert sorted(lost.catalog.owed()) == [1, 2, 3]


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
    outcome = audit.rebuild(archive.catalog, archive.root)
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
    outcome = audit.rebuild(archive.catalog, archive.root)
    assert {one.path: one.problem for one in outcome.findings if one.damage} == {
        "2014/05/09/7.mp4": "changed: another downloader has not finished it",
        "2014/05/09/8.mp4": "changed: parts of it were never written",
    }
    assert archive.catalog.owed() == [7, 8]
    assert archive.state(9)[0] == "archived"


def test_rebuilding_keeps_what_the_catalogue_knows(archive: Archive) -> None:
    first, second, third = archive.add(1)
    archive.catalog.damaged([(1, MP4, "missing")])
    archive.write("2014/05/06/2.mp4", video("two"))
    archive.write("2014/05/06/1.png", b"\x89PNG\r\n\x1a\n another")
    outcome = audit.rebuild(archive.catalog, archive.root)
    assert outcome.files == 1
    assert [one.path for one in outcome.findings] == ["2014/05/06/1.png"]
    assert archive.state(1) == ("damaged", 6, "mp4: missing")
    assert archive.state(2) == ("archived", 1, None)
    assert set(archive.catalog.files_of(1).values()) == {first, second, third}


def test_rebuilding_does_not_take_links(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(video("secret"))
    (archive.root / "1.mp4").symlink_to(tmp_path / "secret")
    outcome = audit.rebuild(archive.catalog, archive.root)
    assert [one.problem for one in outcome.findings] == ["changed: it is no file"]
    assert outcome.files == 0


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
