"""`examples/second-copy.sh`, as it is, against what `rclone serve` makes of a directory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import archive_files, archives, clean_environment, run_here

from g2a_archive.demo import Behaviour, SimulatedService, sample_recordings

ENVIRONMENT = {
    "RCLONE_CONFIG": os.devnull,
    "RCLONE_RETRIES": "1",  # what is refused over loopback is refused again
    "RCLONE_LOW_LEVEL_RETRIES": "1",
}
SCRIPT = Path(__file__).parents[2] / "examples" / "second-copy.sh"

archive = archives.archive


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
    line = ["rclone", "serve", "webdav", str(there), "--addr", "127.0.0.1:0"]
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


def second_copy(archive: Path, remote: str, code: int) -> str:
    """Run the script; what it said."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**clean_environment(), **ENVIRONMENT, "PATH": path}
    result = subprocess.run(
        [SCRIPT, archive, remote], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == code, result.stderr
    return result.stdout + result.stderr


def test_copied_and_proved(archive: Path, far: tuple[Path, str]) -> None:
    there, remote = far
    own = archive / ".g2a-archive"
    (own / "partial" / "7.mp4.part").write_bytes(b"half")
    files = {name: path.read_bytes() for name, path in archive_files(archive).items()}
    new = archive / "2014/05/06/99.mp4"  # of a run that is under way: no sum yet
    new.parent.mkdir(parents=True, exist_ok=True)
    new.write_bytes(b"whole")
    said = second_copy(archive, remote, 0)
    assert f"{len(files)} of {len(files)} files are right" in said
    copied = archive_files(there / "copy")
    assert {name: path.read_bytes() for name, path in copied.items()} == {
        **files, "2014/05/06/99.mp4": b"whole"
    }  # fmt: skip
    for name in archive.rglob("SHA256SUMS"):
        copy = there / "copy" / name.relative_to(archive)
        assert copy.read_bytes() == name.read_bytes()
    assert not (there / "copy" / ".g2a-archive").exists()
    second_copy(archive, remote, 0)  # every night


def test_a_year_on_a_disk_of_its_own(archive: Path, far: tuple[Path, str]) -> None:
    """It is copied; where it is not mounted, that is said, and the copy stays as it is."""
    files = archive_files(archive).keys()
    year, disk = archive / "2014", archive.parent / "disk"
    year.rename(disk)
    year.symlink_to(disk)
    second_copy(archive, far[1], 0)
    assert archive_files(far[0] / "copy").keys() == files
    disk.rename(archive.parent / "away")
    assert "is every disk mounted?" in second_copy(archive, far[1], 6)
    assert archive_files(far[0] / "copy").keys() == files


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def test_what_differs_is_found_and_the_copy_never_overwritten(
    archive: Path, far: tuple[Path, str]
) -> None:
    there, remote = far
    second_copy(archive, remote, 0)
    name = next(name for name in archive_files(archive) if name.endswith(".mp4"))
    copy = there / "copy" / name
    before = copy.read_bytes()
    flip(copy)
    assert name in second_copy(archive, remote, 1)
    flip(copy)
    (archive / name).write_bytes(b"another")
    said = second_copy(archive, remote, 1)
    assert name in said
    assert "immutable" in said
    assert copy.read_bytes() == before


def test_what_cannot_be_reached_is_not_proved(archive: Path) -> None:
    if shutil.which("rclone") is None:
        pytest.skip("there is no rclone here: the second copy was not tried")
    said = second_copy(archive, ":webdav,url='http://127.0.0.1:9/':copy", 1)
    assert re.search(r"second-copy: 0 of \d+ files are right", said)


def test_an_archive_that_is_not_mounted(tmp_path: Path) -> None:
    assert "is it mounted?" in second_copy(tmp_path, "nowhere:", 6)
