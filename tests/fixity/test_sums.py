"""`verify` and the `SHA256SUMS`, by which others prove a day: what is lost of one is found."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support import archives, assert_checksums, cli_here, plain_args, run_cli

from g2a_archive.demo import SimulatedService

original = archives.original
archive = archives.archive
service = archives.service


def sums(archive: Path) -> Path:
    return max(archive.rglob("SHA256SUMS"), key=lambda path: path.stat().st_size)


def problems(archive: Path, *args: str) -> list[str]:
    """The lines of `verify` that tell what is wrong."""
    result = run_cli(["verify", "--dest", archive, *args])
    wrong = [line for line in result.stdout.splitlines() if line.startswith("20")]
    assert result.returncode == (1 if wrong else 0), result
    return wrong


def flip(path: Path) -> None:
    line = path.read_text()
    path.write_text(("0" if line[0] != "0" else "1") + line[1:])


def cut(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def on_windows(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def with_a_mark(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def into_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (flip, "changed: it does not tell what was archived of 1 file"),
    (cut, "changed: it does not tell what was archived of 1 file"),
    (lambda path: path.write_bytes(b""), "changed: it does not tell what was archived of 6 files"),
    (on_windows, "changed: it does not tell what was archived of 6 files"),
    (with_a_mark, "changed: it does not tell what was archived of 1 file"),
    (Path.unlink, "missing"),
    (into_a_pipe, "unreadable: Invalid argument"),
]


@pytest.mark.parametrize(
    ("damage", "told"), DAMAGE, ids=["flip", "cut", "empty", "CRLF", "BOM", "gone", "pipe"]
)
def test_what_no_longer_proves_a_day_is_named_until_a_run_writes_it(
    damage: Callable[[Path], object], told: str, archive: Path, service: SimulatedService
) -> None:
    path = sums(archive)
    before = path.read_bytes()
    damage(path)
    name = path.relative_to(archive)
    for _ in range(2):
        assert problems(archive) == [f"{name}: {told}"]
    if path.is_fifo():
        path.unlink()
    run = cli_here(plain_args(archive, next(iter(service.recordings))), service.environment())
    assert run.returncode == 0, run.stderr
    assert path.read_bytes() == before
    assert problems(archive) == []


def test_lines_of_others_are_theirs(archive: Path) -> None:
    path = sums(archive)
    path.write_text(f"# a note\n{path.read_text()}{'0' * 64}  elsewhere.txt\n")
    assert problems(archive) == []


def test_of_a_day_that_is_gone_its_files_tell(archive: Path) -> None:
    day = archive / "2014/01"
    shutil.rmtree(max(day.iterdir()))
    assert all(line.endswith(": missing") and "SUMS" not in line for line in problems(archive))


def test_what_a_killed_run_had_not_written_yet_is_no_fault(
    service: SimulatedService, root: Path
) -> None:
    """The next run writes it: a file that is recorded is proven by the catalogue meanwhile."""
    from support.crash import crash

    ids = sorted(service.recordings)
    assert cli_here(plain_args(root, ids[0]), service.environment()).returncode == 0
    crash("checksums._begun", "before", 1, plain_args(root, *ids), service.environment())
    assert problems(root) == []
    assert cli_here(plain_args(root, *ids), service.environment()).returncode == 0
    assert problems(root) == []
    assert_checksums(root)
