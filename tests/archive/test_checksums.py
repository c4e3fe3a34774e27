"""`SHA256SUMS`: what `sha256sum` itself makes of it, and what survives what."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g2a_archive.archive import checksums
from g2a_archive.archive.revisions import DirectorySums
from g2a_archive.errors import Interrupted, StorageError
from g2a_archive.models import FileKind, StoredFile

DAY = "2014/05/06"
A, B = "a" * 64, "b" * 64


def store(root: Path, recording: int, content: bytes, day: str = DAY) -> StoredFile:
    path = root / day / f"{recording}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return StoredFile(recording, FileKind.MP4, f"{day}/{path.name}", len(content), digest)


def sums(root: Path) -> str:
    return (root / DAY / "SHA256SUMS").read_text()


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
def test_sha256sum_itself_accepts_the_file_and_finds_a_flipped_byte(tmp_path: Path) -> None:
    files = [store(tmp_path, n, b"content %d" % n) for n in (3, 1, 2)]
    assert checksums.update(tmp_path, DAY, files).files == 3
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
    first = checksums.update(tmp_path, DAY, files)
    assert first.sha256 == hashlib.sha256(sums(tmp_path).encode()).hexdigest()
    before = os.stat(tmp_path / DAY / "SHA256SUMS")
    assert checksums.update(tmp_path, DAY, files) == first
    after = os.stat(tmp_path / DAY / "SHA256SUMS")
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    second = checksums.update(tmp_path, DAY, [*files, store(tmp_path, 2, b"two")])
    assert second.sha256 != first.sha256
    assert os.stat(tmp_path / DAY / "SHA256SUMS").st_ino != after.st_ino


def test_sums_of_a_lost_catalogue_are_kept_while_their_files_exist(tmp_path: Path) -> None:
    known = store(tmp_path, 1, b"one")
    store(tmp_path, 2, b"two")
    path = tmp_path / DAY / "SHA256SUMS"
    path.write_text(f"{A} *2.mp4\n{B}  3.mp4\n{B}  1.mp4\n")
    kept = ("1.mp4", f"{A}  2.mp4\n".encode())
    assert checksums.update(tmp_path, DAY, [known]).others == (kept,)
    assert checksums.read(path) == {"1.mp4": known.sha256, "2.mp4": A}


def test_only_files_of_this_directory_are_listed(tmp_path: Path) -> None:
    here = store(tmp_path, 1, b"one")
    checksums.update(tmp_path, DAY, [here, store(tmp_path, 2, b"two", "2014/05/07")])
    assert sums(tmp_path) == f"{here.sha256}  1.mp4\n"


def test_a_directory_with_nothing_left_has_no_empty_file(tmp_path: Path) -> None:
    file = store(tmp_path, 1, b"one")
    checksums.update(tmp_path, DAY, [file])
    (tmp_path / file.path).unlink()
    assert checksums.update(tmp_path, DAY, []) == DirectorySums(DAY)
    assert not (tmp_path / DAY / "SHA256SUMS").exists()
    assert checksums.update(tmp_path, DAY, []) == DirectorySums(DAY)


def test_a_killed_run_s_leftover_is_replaced_and_a_link_not_followed(tmp_path: Path) -> None:
    file = store(tmp_path, 1, b"one")
    victim = tmp_path / "victim"
    victim.write_text("keep me")
    (tmp_path / DAY / ".SHA256SUMS.tmp").symlink_to(victim)
    checksums.update(tmp_path, DAY, [file])
    assert victim.read_text() == "keep me"
    assert sorted(os.listdir(tmp_path / DAY)) == ["1.mp4", "SHA256SUMS"]


def test_a_failing_disk_leaves_the_old_file_and_nothing_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checksums.update(tmp_path, DAY, [store(tmp_path, 1, b"one")])
    before = sums(tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"cannot write .*SHA256SUMS: No space left") as caught:
        checksums.update(tmp_path, DAY, [store(tmp_path, 2, b"two")])
    assert "free some space" in caught.value.hint
    assert sums(tmp_path) == before
    assert not (tmp_path / DAY / ".SHA256SUMS.tmp").exists()


def test_a_vanished_directory_is_a_storage_error(tmp_path: Path) -> None:
    file = StoredFile(1, FileKind.MP4, f"{DAY}/1.mp4", 1, A)
    with pytest.raises(StorageError, match="cannot write"):
        checksums.update(tmp_path, DAY, [file])
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot read"):
        checksums.read(tmp_path / "file" / "SHA256SUMS")


@pytest.mark.parametrize("flush", [True, False])
def test_the_directory_is_flushed_unless_the_caller_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flush: bool
) -> None:
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda fd: flushed.append(os.path.isdir(f"/dev/fd/{fd}")))
    checksums.update(tmp_path, DAY, [store(tmp_path, 1, b"one")], flush_directory=flush)
    assert flushed == ([False, True] if flush else [False])


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


@given(st.binary())
def test_reading_never_fails_on_content(content: bytes) -> None:
    assert all(len(digest) == 64 for digest in checksums._parse(content).values())


def test_a_missing_file_holds_no_sums(tmp_path: Path) -> None:
    assert checksums.read(tmp_path / "SHA256SUMS") == {}


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) * 2 + 17])
def test_hashing_reports_size_sum_and_every_byte(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    path = tmp_path / "file"
    path.write_bytes(content)
    heard: list[int] = []
    assert checksums.hash_file(path, stop=lambda: False, on_bytes=heard.append) == (
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
        checksums.hash_file(path, stop=lambda: len(heard) == 2, on_bytes=heard.append)
    assert len(heard) == 2
