"""`SHA256SUMS`: what `sha256sum` itself makes of it, and what survives what."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.memory import peak_of

from g2a_archive.archive import checksums
from g2a_archive.archive.database.catalog import Catalog, RecordingResult
from g2a_archive.archive.database.revisions import DirectorySums, lines_of
from g2a_archive.archive.disk.hashing import hash_file
from g2a_archive.errors import Interrupted, StorageError
from g2a_archive.models import FileKind, State, StoredFile

DAY = "2014/05/06"
A, B = "a" * 64, "b" * 64
TEN = f"{hashlib.sha256(b'10').hexdigest()}  10.mp4"


def store(root: Path, recording: int, content: bytes, day: str = DAY) -> StoredFile:
    path = root / day / f"{recording}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return StoredFile(recording, FileKind.MP4, f"{day}/{path.name}", len(content), digest)


def update(root: Path, files: Iterable[StoredFile]) -> DirectorySums:
    names = sorted((Path(file.path).name, file.sha256) for file in files)
    return checksums.update(root, DAY, lines(names))


def lines(sums: Iterable[tuple[str, str]]) -> list[bytes]:
    return [f"{digest}  {name}\n".encode() for name, digest in sums]


def sums(root: Path) -> str:
    return (root / DAY / "SHA256SUMS").read_text()


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
def test_sha256sum_itself_accepts_the_file_and_finds_a_flipped_byte(tmp_path: Path) -> None:
    files = [store(tmp_path, n, b"content %d" % n) for n in (3, 1, 2)]
    assert update(tmp_path, files).files == 3
    command = ["sha256sum", "--strict", "-c", "SHA256SUMS"]
    good = subprocess.run(command, cwd=tmp_path / DAY, capture_output=True, text=True)
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout == "1.mp4: OK\n2.mp4: OK\n3.mp4: OK\n"

    (tmp_path / DAY / "2.mp4").write_bytes(b"Content 2")
    bad = subprocess.run(command, cwd=tmp_path / DAY, capture_output=True, text=True)
    assert bad.returncode == 1
    assert "2.mp4: FAILED" in bad.stdout


def test_what_is_up_to_date_is_not_written_again(tmp_path: Path) -> None:
    files = [store(tmp_path, 1, b"one")]
    first = update(tmp_path, files)
    assert first.sha256 == hashlib.sha256(sums(tmp_path).encode()).hexdigest()
    before = os.stat(tmp_path / DAY / "SHA256SUMS")
    (tmp_path / DAY / ".SHA256SUMS.tmp").write_text("of a killed run")
    assert update(tmp_path, files) == first
    assert sorted(os.listdir(tmp_path / DAY)) == ["1.mp4", "SHA256SUMS"]
    after = os.stat(tmp_path / DAY / "SHA256SUMS")
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert update(tmp_path, [*files, store(tmp_path, 2, b"two")]) != first
    assert os.stat(tmp_path / DAY / "SHA256SUMS").st_ino != after.st_ino


def test_sums_of_a_lost_catalogue_are_kept_while_their_files_exist(tmp_path: Path) -> None:
    known = store(tmp_path, 1, b"one")
    store(tmp_path, 2, b"two")
    path = tmp_path / DAY / "SHA256SUMS"
    path.write_text(f"{A} *2.mp4\n{B}  3.mp4\n{B}  1.mp4\n")
    others = [("1.mp4", f"{A}  2.mp4\n".encode())]
    assert [*update(tmp_path, [known]).others] == others
    assert checksums.read(path) == {"1.mp4": known.sha256, "2.mp4": A}


def old_and_new(root: Path, old: str, *recordings: int) -> list[str]:
    """What becomes of the lines of an old file where the catalogue holds these recordings."""
    files = [store(root, n, b"%d" % n) for n in recordings]
    (root / DAY / "SHA256SUMS").write_text(old)
    told = update(root, files)
    text = sums(root)
    assert told.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert told.files == len(re.findall("^[0-9a-f]{64} ", text, re.MULTILINE))
    # What it was at this time can be made again.
    held = sorted((Path(file.path).name, file.sha256) for file in files)
    assert b"".join(lines_of(lines(held), told.others)) == text.encode()
    inode = os.stat(root / DAY / "SHA256SUMS").st_ino
    assert update(root, files) == told
    assert os.stat(root / DAY / "SHA256SUMS").st_ino == inode
    right = {f"{file.sha256}  {Path(file.path).name}": Path(file.path).stem for file in files}
    return [right.get(line, line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("old", "expected"),
    [
        ("", ["10", "12", "9"]),
        (f"{A}  10.mp4\n{A}  9.mp4\n", ["10", "12", "9"]),
        # Not in order, twice the same, vanished, still there.
        (f"{A}  9.mp4\n{A}  10.mp4\n", ["10", "12", "9"]),
        (f"{A}  9.mp4\n{A}  9.mp4\n{B}  10.mp4\n", ["10", "12", "9"]),
        (f"{A}  11.mp4\n", ["10", "12", "9"]),
        (f"{A} *8.mp4\n", ["10", "12", f"{A}  8.mp4", "9"]),
        (f"{B}  8.mp4\n{A}  8.mp4\n", ["10", "12", f"{A}  8.mp4", "9"]),
        # Somebody else's lines stay where they are, or come first where nothing is in order.
        ("# mine", ["# mine", "10", "12", "9"]),
        (f"# mine\n{A}  10.mp4\n\n# end\n", ["# mine", "10", "", "# end", "12", "9"]),
        (f"{A}  9.mp4\n# ten\n{A}  10.mp4\n", ["# ten", "10", "12", "9"]),
        (f"{A}  12.mp4\n# 8\n{A}  8.mp4\n# 9\n", ["10", "12", "# 8", f"{A}  8.mp4", "# 9", "9"]),
        ("#" * 70_000, ["#" * 70_000, "10", "12", "9"]),
        (f"{B} *notes.txt\n", [f"{B} *notes.txt", "10", "12", "9"]),
        (f"\\{B}  a\\nb\n", [f"\\{B}  a\\nb", "10", "12", "9"]),
        # Half a line of ours, as of a file that was cut, or whose end never came to the disk.
        (TEN[:1], ["10", "12", "9"]),
        (TEN[:40], ["10", "12", "9"]),
        (TEN[:70], ["10", "12", "9"]),
        (f"{TEN[:-1]}\n", ["10", "12", "9"]),
        (f"{TEN}\n" + "\0" * 70_000, ["10", "12", "9"]),
        (TEN[:20] + "\0" * 70_000, ["10", "12", "9"]),
        (f"{TEN}\n{A[:20]}", ["10", A[:20], "12", "9"]),
    ],
)
def test_what_becomes_of_old_lines(tmp_path: Path, old: str, expected: list[str]) -> None:
    store(tmp_path, 8, b"not in the catalogue")
    assert old_and_new(tmp_path, old, 9, 10, 12) == expected


def test_somebody_else_s_lines_are_kept_when_no_recording_is_left(tmp_path: Path) -> None:
    file = store(tmp_path, 1, b"one")
    (tmp_path / DAY / "SHA256SUMS").write_text(f"# mine\n{A}  1.mp4\n")
    (tmp_path / file.path).unlink()
    update(tmp_path, [])
    assert sums(tmp_path) == "# mine\n"


@settings(deadline=None, max_examples=40)
@given(
    old=st.lists(st.tuples(st.integers(1, 30), st.sampled_from([A, B])), max_size=20),
    new=st.dictionaries(st.integers(1, 30), st.sampled_from([A, B]), max_size=20),
)
def test_whatever_was_there_the_catalogue_has_the_last_word(
    tmp_path_factory: pytest.TempPathFactory, old: list[tuple[int, str]], new: dict[int, str]
) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path_factory.getbasetemp()) as folder:
        path = Path(folder, "day", "SHA256SUMS")
        path.parent.mkdir()
        path.write_text("".join(f"{digest}  {n}.mp4\n" for n, digest in old))
        rows = lines(sorted((f"{n}.mp4", digest) for n, digest in new.items()))
        checksums.update(Path(folder), "day", rows)
        left = path.read_bytes() if path.exists() else b""
    assert left == b"".join(rows)


def test_a_long_file_takes_little_memory(tmp_path: Path) -> None:
    count = 50_000
    (tmp_path / DAY).mkdir(parents=True)
    with Catalog(tmp_path / "catalog.sqlite3") as catalog:
        files = (StoredFile(n, FileKind.MP4, f"{DAY}/{n}.mp4", 1, A) for n in range(1, count + 1))
        held = (
            RecordingResult(f.recording, State.ARCHIVED, 1, directory=DAY, files=[f]) for f in files
        )
        catalog.record_results(held)
        (tmp_path / DAY / "1.mp4").touch()
        checksums.write_checksums(catalog, tmp_path)
        more = StoredFile(count + 7, FileKind.MP4, f"{DAY}/{count + 7}.mp4", 1, B)
        catalog.record_results(
            [RecordingResult(more.recording, State.ARCHIVED, 1, directory=DAY, files=[more])]
        )
        assert peak_of(lambda: checksums.write_checksums(catalog, tmp_path)) < 12_000_000
        told = catalog.rows("SELECT sha256, files FROM sums ORDER BY revision DESC LIMIT 1")
        with (tmp_path / DAY / "SHA256SUMS").open("rb") as file:
            assert told == [(hashlib.file_digest(file, "sha256").hexdigest(), count + 1)]


@pytest.mark.parametrize("many", [False, True])
def test_the_catalogue_s_files_of_each_directory_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    done: list[str] = []
    if many:  # then the lines of one directory are in memory at a time
        monkeypatch.setattr(checksums, "_MANY", 0)
        for step in (checksums._begun, checksums._updated):

            def noted(*args: Any, step: Callable[..., Any] = step) -> Any:
                result = step(*args)
                done.append(step.__name__)
                return result

            monkeypatch.setattr(checksums, step.__name__, noted)
    days = (DAY, "2014/05/0", "2014/05/07")
    with Catalog(tmp_path / "catalog.sqlite3") as catalog:
        files = [store(tmp_path, n, b"%d" % n, day) for n, day in enumerate(days * 3)]
        # A file may lie elsewhere than in its recording's directory.
        catalog.record_results(
            RecordingResult(n, State.ARCHIVED, 1, directory=day, files=[file])
            for n, (file, day) in enumerate(zip(files, [*days * 2, DAY, DAY, DAY], strict=True))
        )
        far = files[0]._replace(recording=99, path="gone/99.mp4")
        catalog.record_results(
            [RecordingResult(99, State.ARCHIVED, 1, directory="gone", files=[far])]
        )
        checksums.write_checksums(catalog, tmp_path)
        assert catalog.stale_directories() == ["gone"]  # out of sight, perhaps
        told = catalog.fingerprint()
    assert told is not None
    assert told.files == 7
    assert done == ["_updated", "_begun"] * 4 * many
    for day, recordings in zip(days, ((0, 3, 6), (1, 4), (2, 5)), strict=True):
        text = "".join(f"{files[n].sha256}  {n}.mp4\n" for n in recordings)
        assert (tmp_path / day / "SHA256SUMS").read_text() == text


@pytest.mark.parametrize(
    ("blocked", "told"),
    [
        ([6], ""),
        ([1, 6], "; nor {root}/2014/05/06/SHA256SUMS"),
        ([*range(1, 7)], "/2014/05/03/SHA256SUMS, {root}/2014/05/04/SHA256SUMS, 2 more"),
    ],
)
def test_directories_that_cannot_be_written_keep_no_other_back(
    blocked: list[int], told: str, tmp_path: Path
) -> None:
    days = [f"2014/05/0{n}" for n in range(1, 8)]
    with Catalog(tmp_path / "catalog.sqlite3") as catalog:
        for n, day in enumerate(days, 1):
            file = store(tmp_path, n, b"%d" % n, day)
            catalog.record_results(
                [RecordingResult(n, State.ARCHIVED, 1, directory=day, files=[file])]
            )
        for n in blocked:
            (tmp_path / days[n - 1] / "SHA256SUMS").mkdir()
        with pytest.raises(StorageError) as error:
            checksums.write_checksums(catalog, tmp_path)
        first = f"cannot read {tmp_path}/2014/05/0{blocked[0]}/SHA256SUMS: "
        assert error.value.message.startswith(first)
        assert error.value.message.endswith(told.format(root=tmp_path))
        assert catalog.stale_directories() == [days[n - 1] for n in blocked]
    assert (tmp_path / days[6] / "SHA256SUMS").is_file()


def test_a_directory_with_nothing_left_has_no_empty_file(tmp_path: Path) -> None:
    file = store(tmp_path, 1, b"one")
    update(tmp_path, [file])
    (tmp_path / file.path).unlink()
    for _ in range(2):
        assert update(tmp_path, []) == DirectorySums(DAY)
        assert not (tmp_path / DAY / "SHA256SUMS").exists()
    for left in (bytes(70), b""):  # whose end, or anything of it, never came to the disk
        (tmp_path / DAY / "SHA256SUMS").write_bytes(left)
        assert update(tmp_path, []) == DirectorySums(DAY)
        assert not (tmp_path / DAY / "SHA256SUMS").exists()


def test_what_a_killed_run_had_moved_aside_is_not_lost(tmp_path: Path) -> None:
    """On a share that does not rename over a file that is there."""
    file = store(tmp_path, 1, b"one")
    (tmp_path / DAY / "SHA256SUMS.old").write_text("# mine\n")
    update(tmp_path, [file])
    assert sums(tmp_path) == f"# mine\n{file.sha256}  1.mp4\n"
    assert sorted(os.listdir(tmp_path / DAY)) == ["1.mp4", "SHA256SUMS"]


def test_a_killed_run_s_leftover_is_replaced_and_a_link_not_followed(tmp_path: Path) -> None:
    file = store(tmp_path, 1, b"one")
    victim = tmp_path / "victim"
    victim.write_text("keep me")
    (tmp_path / DAY / ".SHA256SUMS.tmp").symlink_to(victim)
    update(tmp_path, [file])
    assert victim.read_text() == "keep me"
    assert sorted(os.listdir(tmp_path / DAY)) == ["1.mp4", "SHA256SUMS"]


def test_a_failing_disk_leaves_the_old_file_and_nothing_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update(tmp_path, [store(tmp_path, 1, b"one")])
    before = sums(tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"cannot write .*SHA256SUMS: No space left") as caught:
        update(tmp_path, [store(tmp_path, 2, b"two")])
    assert "free some space" in caught.value.hint
    assert sums(tmp_path) == before
    assert not (tmp_path / DAY / ".SHA256SUMS.tmp").exists()


def test_a_vanished_directory_is_a_storage_error(tmp_path: Path) -> None:
    file = StoredFile(1, FileKind.MP4, f"{DAY}/1.mp4", 1, A)
    with pytest.raises(StorageError, match="cannot write"):
        update(tmp_path, [file])
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot read"):
        checksums.read(tmp_path / "file" / "SHA256SUMS")


def test_the_directory_is_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda fd: flushed.append(os.path.isdir(f"/dev/fd/{fd}")))
    update(tmp_path, [store(tmp_path, 1, b"one")])
    assert flushed == [False, True]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", {}),
        (f"{A}  1.mp4\n".encode(), {"1.mp4": A}),
        (f"{A} *1.mp4\r\n{B}  2.mp4\r\n".encode(), {"1.mp4": A, "2.mp4": B}),
        (f"\ufeff{A.upper()}  1.mp4".encode(), {"1.mp4": A}),
        (f"{A}  ./1.mp4\n".encode(), {"1.mp4": A}),
        (f"\\{A}  1\\n2.mp4\n{B}  2.mp4\n".encode(), {"2.mp4": B}),
        (f"# note\n\n{A[1:]}  1.mp4\n{A} 2.mp4\n{A}  \n{'g' * 64}  3.mp4\n".encode(), {}),
        (f"{A}  1.mp4\n{B}  1.mp4\n".encode(), {"1.mp4": B}),
        (f"{A}  ".encode() + b"\xff.mp4\n", {"\udcff.mp4": A}),
    ],
)
def test_reading(tmp_path: Path, content: bytes, expected: dict[str, str]) -> None:
    path = tmp_path / "SHA256SUMS"
    path.write_bytes(content)
    assert checksums.read(path) == expected


@settings(deadline=None, max_examples=40)
@given(content=st.binary())
def test_reading_never_fails_on_content(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path_factory.getbasetemp()) as folder:
        path = Path(folder, "SHA256SUMS")
        path.write_bytes(content)
        assert all(len(digest) == 64 for digest in checksums.read(path).values())


def test_a_missing_file_holds_no_sums(tmp_path: Path) -> None:
    assert checksums.read(tmp_path / "SHA256SUMS") == {}


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) * 2 + 17])
def test_hashing_reports_size_sum_and_every_byte(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    path = tmp_path / "file"
    path.write_bytes(content)
    heard: list[int] = []
    assert hash_file(path, stop=lambda: False, on_bytes=heard.append) == (
        size,
        hashlib.sha256(content).hexdigest(),
    )
    assert sum(heard) == size
    assert max(heard, default=0) <= 1 << 20


def test_hashing_stops_between_two_pieces(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(3 << 20))
    heard: list[int] = []
    with pytest.raises(Interrupted):
        hash_file(path, stop=lambda: len(heard) == 2, on_bytes=heard.append)
    assert len(heard) == 2
