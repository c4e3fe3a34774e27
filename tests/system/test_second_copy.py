"""`examples/second-copy.sh`, as it is, against what `rclone serve` makes of a directory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import archive_files, archives, clean_environment, on_path, run_here

from g2a_archive.demo import Behaviour, SimulatedService, sample_recordings

ENVIRONMENT = {
    "RCLONE_CONFIG": os.devnull,
    "RCLONE_RETRIES": "1",  # what is refused over loopback is refused again
    "RCLONE_LOW_LEVEL_RETRIES": "1",
}
SCRIPT = Path(__file__).parents[2] / "examples" / "second-copy.sh"

archive = archives.archive

Say = Callable[..., str]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[SimulatedService, Path]:
    """A service with few recordings, for each of which rclone asks several times, and a pause."""
    root = tmp_path_factory.mktemp("original") / "archive"
    with SimulatedService(sample_recordings(3), Behaviour(rate_limit=None)) as service:
        assert run_here(service, root, service.recordings).exit_code == 0
    return service, root


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A directory, and the address where rclone serves it by WebDAV over loopback."""
    if shutil.which("rclone") is None:
        pytest.skip("there is no rclone here: the second copy was not tried")
    there = tmp_path_factory.mktemp("far")
    line = ["rclone", "serve", "webdav", str(there), "--addr", "127.0.0.1:0", "--dir-cache-time=0s"]
    env = {**clean_environment(), **ENVIRONMENT}
    with subprocess.Popen(line, env=env, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            said = iter(server.stderr.readline, "")
            url = next(found[0] for row in said if (found := re.search(r"http://[\w.:]+", row)))
            yield there, url
        finally:
            server.kill()


@pytest.fixture
def far(served: tuple[Path, str], tmp_path: Path) -> tuple[Path, str]:
    """A directory there for one test, and how rclone reaches what is to be the copy in it."""
    there, url = served
    (there / tmp_path.name).mkdir()
    return there / tmp_path.name, f":webdav,url='{url}':{tmp_path.name}/copy"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with a `g2a-archive` that is the one under test."""
    with on_path.program(tmp_path_factory.mktemp("program") / "bin") as directory:
        yield directory


@pytest.fixture
def second_copy(program: Path) -> Say:
    """Runs the script, which must end with this code; what it said."""

    def run(archive: Path, remote: str, code: int, **more: str) -> str:
        path = f"{program}:{os.environ['PATH']}"
        env = {**clean_environment(), **ENVIRONMENT, "PATH": path, **more}
        line = [str(SCRIPT), str(archive), remote]
        result = subprocess.run(
            line, env=env, capture_output=True, text=True, timeout=120, check=False
        )
        assert result.returncode == code, result.stderr
        return result.stdout + result.stderr

    return run


def test_copied_and_proved(archive: Path, far: tuple[Path, str], second_copy: Say) -> None:
    """Also a year on a disk of its own; where that is not mounted, the copy stays as it is."""
    there, remote = far
    own = archive / ".g2a-archive"
    (own / "partial" / "7.mp4.part").write_bytes(b"half")
    files = {name: path.read_bytes() for name, path in archive_files(archive).items()}
    new = archive / "2015/05/06/99.mp4"  # of a run that is under way: no sum yet
    new.parent.mkdir(parents=True, exist_ok=True)
    new.write_bytes(b"whole")
    year, disk = archive / "2014", archive.parent / "disk"
    assert any(year in path.parents for path in archive_files(archive).values())
    year.rename(disk)
    year.symlink_to(disk)
    said = second_copy(archive, remote, 0)
    assert f"{len(files)} of {len(files)} files are right" in said
    copied = {name: path.read_bytes() for name, path in archive_files(there / "copy").items()}
    assert copied == {**files, "2015/05/06/99.mp4": b"whole"}
    sums = [Path(at, "SHA256SUMS") for at, _, names in os.walk(archive, followlinks=True)
            if "SHA256SUMS" in names]  # fmt: skip
    assert len(sums) == len({Path(name).parent for name in files})
    for one in sums:
        copy = there / "copy" / one.relative_to(archive)
        assert copy.read_bytes() == one.read_bytes()
    assert not (there / "copy" / ".g2a-archive").exists()
    second_copy(archive, remote, 0)  # every night
    disk.rename(archive.parent / "away")
    assert "is every disk mounted?" in second_copy(archive, remote, 6)
    still = {name: path.read_bytes() for name, path in archive_files(there / "copy").items()}
    assert still == copied


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def test_what_differs_is_found_and_the_copy_never_overwritten(
    archive: Path, far: tuple[Path, str], second_copy: Say
) -> None:
    """Of one recording the copy has changed, of another what is here."""
    there, remote = far
    shutil.copytree(archive, there / "copy", ignore=shutil.ignore_patterns(".g2a-archive"))
    flipped, other = [name for name in archive_files(archive) if name.endswith(".mp4")][:2]
    flip(there / "copy" / flipped)
    (archive / other).write_bytes(b"another")
    before = {name: path.read_bytes() for name, path in archive_files(there / "copy").items()}
    said = second_copy(archive, remote, 1)
    assert flipped in said, said
    assert re.search(rf"{other}.*immutable", said)
    after = {name: path.read_bytes() for name, path in archive_files(there / "copy").items()}
    assert after == before


def test_what_cannot_be_reached_is_not_proved(archive: Path, second_copy: Say) -> None:
    if shutil.which("rclone") is None:
        pytest.skip("there is no rclone here: the second copy was not tried")
    said = second_copy(archive, ":webdav,url='http://127.0.0.1:9/':copy", 1)
    assert re.search(r"second-copy: 0 of \d+ files are right", said)


def test_an_archive_that_is_not_mounted(tmp_path: Path, second_copy: Say) -> None:
    assert "is it mounted?" in second_copy(tmp_path, "nowhere:", 6)


def test_a_catalogue_that_is_elsewhere(archive: Path, second_copy: Say) -> None:
    """Without it nobody knows how many files there are, and whether a disk is away."""
    elsewhere = archive.parent / "catalog.sqlite3"
    (archive / ".g2a-archive" / "catalog.sqlite3").rename(elsewhere)
    shutil.rmtree(max(archive.glob("20*")))
    assert "does not exist" in second_copy(archive, "nowhere:", 6)
    said = second_copy(archive, "nowhere:", 6, G2A_ARCHIVE_CATALOG=str(elsewhere))
    assert "is every disk mounted?" in said
