"""A merge that is killed loses nothing and claims nothing false; the next one ends the job.

`G2A_LONG_TESTS=1` kills it hundreds of times instead of a few. The seed is in each test's name.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import (
    LONG,
    archive_files,
    assert_archive_equals,
    assert_nothing_false,
    clean_environment,
    is_right,
    leftovers,
    relative_path,
    start_cli,
    states,
)
from support.merging import assert_proven, content, merge_args, merge_here, shards
from support.mounts import tmpfs
from support.service import Serve

from g2a_archive.demo import SimulatedService, sample_recordings
from g2a_archive.demo.recordings import KINDS

SEEDS = 40 if LONG else 3
KILLS = 8

_CRASH = """
import itertools, os, signal, sys
from g2a_archive.archive import checksums, storage
from g2a_archive.archive.database import catalog
from g2a_archive.cli import main as cli
from g2a_archive.curation import merge_files, merge_rows, merge_work
where, when, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
owner = {"os": os, "rows": merge_rows, "work": merge_work, "checksums": checksums,
         "Catalog": catalog.Catalog, "Storage": storage.Storage, "Files": merge_files.Files,
         }[where.split(".")[0]]
name = where.split(".")[1]
real, calls = getattr(owner, name), itertools.count(1)

def crash(*args, **more):
    call = next(calls)
    if call == number and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = real(*args, **more)
    if call == number and when == "after":
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(owner, name, crash)
sys.exit(cli.run(sys.argv[4:]))
"""

STEPS = [
    ("Catalog.begin_run", 1),
    ("Storage.make_directory", 1),
    ("Storage.make_directory", 4),
    ("os.link", 1),
    ("os.link", 8),
    ("Files.flush", 1),
    ("rows.write", 1),
    ("rows.write", 2),
    ("rows.merge_scans", 1),
    ("checksums.update", 1),
    ("checksums.update", 3),
    ("Catalog.summed", 1),
    ("Catalog.end_run", 1),
]
COPYING = [
    ("Files._copy", 1),
    ("Files._copy", 5),
    ("Storage.publish", 1),
    ("Storage.publish", 6),
]
MOVING = [
    ("os.unlink", 1),
    ("os.unlink", 5),
    ("work.remove_files", 1),
    ("rows.forget", 1),
    ("rows.forget", 2),
    ("os.rmdir", 1),
]


@pytest.fixture
def service(serve: Serve) -> SimulatedService:
    return serve(9, rate_limit=None)


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


def crash(where: str, when: str, number: int, args: list[str | Path]) -> None:
    result = subprocess.run(
        [sys.executable, "-c", _CRASH, where, when, str(number), *map(str, args)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == -signal.SIGKILL, result.stderr


def assert_done(service: SimulatedService, root: Path, parts: list[Path], *, move: bool) -> None:
    """The next merge ends the job, and then there is nothing left to do."""
    assert merge_here(root, parts, move=move).exit_code == 0
    assert_archive_equals(service, root)
    assert leftovers(root) == []
    assert merge_here(root, parts, move=move).files == 0
    if move:
        assert all(states(part) == {} and archive_files(part) == {} for part in parts)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("where", "number"), STEPS)
def test_killed_between_two_steps(
    where: str, number: int, when: str, service: SimulatedService, tmp_path: Path, root: Path
) -> None:
    parts = shards(service, tmp_path, 2)
    before = [content(part) for part in parts]
    crash(where, when, number, merge_args(root, parts))
    assert [content(part) for part in parts] == before
    assert_nothing_false(service, root)
    assert_done(service, root, parts, move=False)
    assert [content(part) for part in parts] == before


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("where", "number"), [*MOVING, ("rows.write", 2), ("Files.flush", 2)])
def test_killed_while_moving(
    where: str, number: int, when: str, service: SimulatedService, tmp_path: Path, root: Path
) -> None:
    parts = shards(service, tmp_path, 2)
    crash(where, when, number, merge_args(root, parts, "--move"))
    assert_nothing_false(service, root)
    assert_nothing_lost(service, [root, *parts])
    assert_done(service, root, parts, move=True)
    for place in (root, *parts):
        assert_proven(place)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("where", "number"), COPYING)
def test_killed_while_copying(
    where: str, number: int, when: str, service: SimulatedService, disk: Path, root: Path
) -> None:
    parts = shards(service, disk, 2)
    crash(where, when, number, merge_args(root, parts, "--move"))
    assert_nothing_false(service, root)
    assert_nothing_lost(service, [root, *parts])
    assert_done(service, root, parts, move=True)


@pytest.mark.parametrize("move", [False, True])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_killed_at_random_instants(
    seed: int, move: bool, serve: Serve, tmp_path: Path, root: Path
) -> None:
    chance = random.Random(seed)
    service = serve(sample_recordings(60, seed=seed), rate_limit=None)
    parts = shards(service, tmp_path, 3)
    args = merge_args(root, parts, *(["--move"] if move else []))
    killed = 0
    for _ in range(KILLS):
        with start_cli(args) as process:
            try:
                process.communicate(timeout=chance.uniform(0.3, 1.5))
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
