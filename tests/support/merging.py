"""Archives that tests of `merge` bring together, and how they look at them afterwards."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from g2a_archive.cli import main
from g2a_archive.console.progress import Display
from g2a_archive.curation.merge import Merge
from g2a_archive.curation.merge_report import MergeReport
from g2a_archive.curation.merge_source import SourceArchive
from g2a_archive.demo import Behaviour, SimulatedService, sample_recordings
from g2a_archive.download.stopping import StopSwitch
from g2a_archive.models import RunSettings, Shard
from support import catalog_path, run_here

MERGE_KEYS = [
    *("started_at", "finished_at", "exit_code", "archives"),
    *("recordings", "merged", "archived", "alike", "moved"),
    *("files", "linked", "copied", "bytes", "removed", "contradictions", "failed"),
    *("kept_aside", "seconds", "fingerprint"),
]
"""The keys of merge's JSON report, in their order."""


def shards(service: SimulatedService, into: Path, count: int, **settings: Any) -> list[Path]:
    """All recordings of the service in so many archives, each with its part."""
    roots = [into / f"shard-{number}" for number in range(1, count + 1)]
    for number, root in enumerate(roots, 1):
        report = run_here(service, root, service.recordings, shard=Shard(number, count), **settings)
        assert report.exit_code == 0
    return roots


def copies(originals: Iterable[Path], into: Path) -> list[Path]:
    """Copies of archives for one test."""
    return [shutil.copytree(one, into / one.name) for one in originals]


def merge_args(target: Path, sources: Iterable[Path | str], *more: str | Path) -> list[str | Path]:
    """`merge` with a JSON report."""
    return ["merge", "--dest", target, "--min-free", "0", "--json", *more, *sources]


def change(root: Path, sql: str, *values: object) -> None:
    """Change a catalogue behind the program's back."""
    with closing(sqlite3.connect(catalog_path(root))) as db, db:
        db.execute(sql, values)


def content(root: Path) -> dict[str, str]:
    """Every file of an archive but its locks, and the SHA-256 of each."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            if not name.removesuffix(".lease").endswith("lock"):
                path = Path(folder, name)
                found[str(path.relative_to(root))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def assert_proven(root: Path, *more: str | Path) -> None:
    """`verify` and `sha256sum -c` find every file of the archive as it should be."""
    assert main.run(["verify", "--dest", str(root), *map(str, more)]) == 0
    lines = [
        f"{line[:66]}{sums.parent.relative_to(root)}/{line[66:]}\n"
        for sums in root.rglob("SHA256SUMS")
        for line in sums.read_text().splitlines()
    ]
    if lines:  # all of them by one process
        check = ["sha256sum", "--strict", "--quiet", "-c"]
        subprocess.run(check, cwd=root, input="".join(lines), text=True, check=True)


def merge_here(
    target: Path,
    sources: Iterable[Path | str],
    *,
    move: bool = False,
    switch: StopSwitch | None = None,
    **settings: Any,
) -> MergeReport:
    """A whole `merge` in this process: all of it but its command line."""
    merge = Merge(
        RunSettings(dest=str(target), **{"min_free": 0, **settings}),
        [SourceArchive.parse(str(source)) for source in sources],
        move=move,
        switch=switch or StopSwitch(),
        display=Display(),
    )
    return merge.run()


# --- fixtures, which a test module takes by name ---------------------------------------------


@pytest.fixture(scope="session")
def shard_originals(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[SimulatedService, list[Path]]]:
    """A service with five recordings of three days, and them all in three archives, made once."""
    with SimulatedService(sample_recordings(5), Behaviour(rate_limit=None)) as service:
        yield service, shards(service, tmp_path_factory.mktemp("shards"), 3)


@pytest.fixture
def service(shard_originals: tuple[SimulatedService, list[Path]]) -> SimulatedService:
    """The service that they came from, which a test must not change."""
    return shard_originals[0]


@pytest.fixture
def parts(shard_originals: tuple[SimulatedService, list[Path]], tmp_path: Path) -> list[Path]:
    """Copies of them for one test."""
    return copies(shard_originals[1], tmp_path)
