"""A merge that is killed loses nothing and claims nothing false; the next one ends the job.

`G2A_LONG_TESTS=1` kills it hundreds of times instead of a few. The seed is in each test's name.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import (
    LONG,
    archive_files,
    assert_archive_equals,
    assert_nothing_false,
    is_right,
    leftovers,
    relative_path,
    run_cli,
    start_cli,
    states,
)
from support.crash import crash
from support.merging import assert_proven, content, copies, merge_args, merge_here, shards
from support.mounts import tmpfs

from g2a_archive.demo import Behaviour, SimulatedService, sample_recordings
from g2a_archive.demo.recordings import KINDS

SEEDS = 40 if LONG else 1
KILLS = 6 if LONG else 4

# Each leaves another state on disk, as the last write before it was another one.
STEPS = [
    ("Catalog.begin_run", 1, "before"),
    ("Catalog.begin_run", 1, "after"),
    ("Storage.make_directory", 1, "after"),
    ("os.link", 1, "after"),
    ("os.link", 8, "before"),
    ("os.link", 8, "after"),
    ("FileImporter.flush", 1, "before"),
    ("merge_rows.write", 1, "after"),
    ("merge_rows.write", 2, "before"),
    ("merge_rows.write", 2, "after"),
    ("checksums.update", 1, "after"),
    ("checksums.update", 2, "after"),
    ("Catalog.record_sums", 1, "after"),
    ("Catalog.end_run", 1, "after"),
]
COPYING = [
    ("FileImporter._copy", 1),
    ("FileImporter._copy", 5),
    ("Storage.publish", 1),
    ("Storage.publish", 6),
]
MOVING = [
    ("merge_rows.write", 2, "before"),
    ("merge_rows.write", 2, "after"),
    ("os.unlink", 1, "before"),
    ("os.unlink", 1, "after"),
    ("os.unlink", 5, "before"),
    ("os.unlink", 5, "after"),
    ("merge_work.remove_files", 1, "after"),
    ("merge_rows.forget", 1, "after"),
    ("merge_rows.forget", 2, "before"),
    ("merge_rows.forget", 2, "after"),
    ("os.rmdir", 1, "before"),
    ("os.rmdir", 1, "after"),
]


Made = tuple[SimulatedService, list[Path]]


def made(recordings: int, seed: int, count: int, into: Path) -> Made:
    """A service, stopped by now, and its recordings in so many archives."""
    sample = sample_recordings(recordings, seed=seed)
    with SimulatedService(sample, Behaviour(rate_limit=None)) as service:
        return service, shards(service, into, count)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Two archives that are made once."""
    return made(4, 1, 2, tmp_path_factory.mktemp("originals"))


@pytest.fixture
def service(originals: Made) -> SimulatedService:
    """What they were made of."""
    return originals[0]


@pytest.fixture
def parts(originals: Made, tmp_path: Path) -> list[Path]:
    """A copy of both archives, on the target's file system."""
    return copies(originals[1], tmp_path)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Another file system than the target's."""
    with tmpfs(tmp_path / "disk", "50M") as at:
        yield at


def assert_nothing_lost(service: SimulatedService, places: list[Path]) -> None:
    """Every file of the service is in one of these archives, rightly, under its final name."""
    for recording in service.recordings.values():
        for kind in KINDS:
            if recording.size(kind) is not None:
                paths = [place / relative_path(recording, kind) for place in places]
                assert any(path.exists() and is_right(recording, kind, path) for path in paths)


def assert_done(service: SimulatedService, root: Path, parts: list[Path], *, move: bool) -> None:
    """The next merge ends the job, and then there is nothing left to do."""
    assert merge_here(root, parts, move=move).exit_code == 0
    assert_archive_equals(service, root)
    assert leftovers(root) == []
    assert merge_here(root, parts, move=move).files == 0
    if move:
        assert all(states(part) == {} and archive_files(part) == {} for part in parts)


@pytest.mark.parametrize(("where", "number", "when"), STEPS)
def test_killed_between_two_steps(
    where: str, number: int, when: str, service: SimulatedService, parts: list[Path], root: Path
) -> None:
    before = [content(part) for part in parts]
    crash(where, when, number, merge_args(root, parts))
    assert [content(part) for part in parts] == before
    assert_nothing_false(service, root)
    assert_done(service, root, parts, move=False)
    assert [content(part) for part in parts] == before


@pytest.mark.parametrize(("where", "number", "when"), MOVING)
def test_killed_while_moving(
    where: str, number: int, when: str, service: SimulatedService, parts: list[Path], root: Path
) -> None:
    crash(where, when, number, merge_args(root, parts, "--move"))
    assert_nothing_false(service, root)
    assert_nothing_lost(service, [root, *parts])
    assert_done(service, root, parts, move=True)
    assert_proven(root)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("where", "number"), COPYING)
def test_killed_while_copying(
    where: str, number: int, when: str, originals: Made, disk: Path, root: Path
) -> None:
    service, parts = originals[0], copies(originals[1], disk)
    crash(where, when, number, merge_args(root, parts, "--move"))
    assert_nothing_false(service, root)
    assert_nothing_lost(service, [root, *parts])
    assert_done(service, root, parts, move=True)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_killed_at_random_instants(seed: int, tmp_path: Path) -> None:
    service, originals = made(24 if LONG else 9, seed, 3, tmp_path / "originals")
    begun = time.monotonic()
    assert run_cli(merge_args(tmp_path / "whole", originals)).returncode == 0
    whole = time.monotonic() - begun
    for name in ("link", "move"):
        (tmp_path / name).mkdir()
        parts = copies(originals, tmp_path / name)
        kill_again_and_again(service, tmp_path / name / "target", parts, seed, whole, name)


def kill_again_and_again(
    service: SimulatedService, root: Path, parts: list[Path], seed: int, whole: float, how: str
) -> None:
    """Kill merges at instants of the time that a `whole` one takes here, in seconds."""
    chance = random.Random(f"{seed} {how}")
    move = how == "move"
    args = merge_args(root, parts, *(["--move"] if move else []))
    killed = 0
    for _ in range(KILLS):
        with start_cli(args) as process:
            try:
                process.communicate(timeout=chance.uniform(0.1, 1.0) * whole)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                killed += 1
        assert_nothing_lost(service, [root, *parts])
        if root.exists():
            assert_nothing_false(service, root)
        if process.returncode == 0:
            break
    assert killed or process.returncode == 0
    assert_done(service, root, parts, move=move)
    for place in (root, *parts):
        assert_proven(place)
