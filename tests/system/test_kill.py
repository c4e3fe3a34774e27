"""A run that is killed loses nothing and claims nothing false; the next run finishes the job.

`G2A_LONG_TESTS=1` kills a thousand runs instead of twenty. The seed is in each test's name.
"""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support import (
    LONG,
    archive_files,
    archive_size,
    assert_archive_equals,
    assert_nothing_false,
    clean_environment,
    download_args,
    leftovers,
    report_of,
    run_cli,
    run_here,
    start_cli,
)
from support.service import Serve

from g2a_archive.archive.database.catalog import Catalog, Settlement
from g2a_archive.archive.disk.flushing import GroupFlush
from g2a_archive.archive.layout import file_names
from g2a_archive.demo import SimulatedService, sample_recordings
from g2a_archive.models import FileKind

KILLS = 5
ARCHIVES = 200 if LONG else 4


def final_files(root: Path) -> set[tuple[int, str]]:
    """The files that have their final name, as (recording, kind)."""
    kinds = {Path(name).suffix: kind for kind in FileKind for name in file_names(1, kind)}
    return {
        (int(p.stem), str(kinds[p.suffix]))
        for p in archive_files(root).values()
        if p.stem.isdigit()
    }


def asked_for(service: SimulatedService) -> set[tuple[int | None, str | None]]:
    return {(entry.recording_id, entry.kind) for entry in service.requests.file_requests()}


@pytest.mark.parametrize("seed", range(ARCHIVES))
def test_killed_at_random_instants(seed: int, serve: Serve, root: Path) -> None:
    chance = random.Random(seed)
    recordings = sample_recordings(
        10, seed=seed, mp4_size=(300_000, 900_000), events_size=(500, 30_000)
    )
    # Slow enough that little lies in the sockets' buffers when the process dies.
    service = serve(recordings, rate=250_000.0)
    args = download_args(root, "--jobs", 4, *service.recordings)
    fetched = 0
    for _ in range(KILLS):
        with start_cli(args, service.environment()) as process:
            try:
                process.communicate(timeout=chance.uniform(0.2, 1.4))
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
        fetched += service.requests.file_bytes_sent
        assert_nothing_false(service, root)
        final = final_files(root)
        service.requests.clear()
        if process.returncode == 0:
            break
        # The next round (or the last run below) may ask for none of these again.
        rule = {one for one in final if one[1] == "mp4"}  # of others, the length is asked for
        service.on_request[:] = [
            lambda request, rule=rule: _never(request.recording_id, request.kind, rule)  # type: ignore[misc]
        ]
    service.behaviour.rate = None
    report = report_of(run_cli(args, service.environment()))
    assert report["exit_code"] == 0
    fetched += service.requests.file_bytes_sent
    assert_archive_equals(service, root)
    assert fetched <= 1.1 * archive_size(service)


def _never(recording: int | None, kind: str | None, final: set[tuple[int, str]]) -> None:
    """Ends the connection, so that the run fails, where a file is asked for that was final."""
    if (recording, kind) in final:
        raise ValueError(f"{recording}.{kind} was final, and is fetched again")


_CRASH = """
import itertools, os, signal, sys
from g2a_archive.archive.database import catalog
from g2a_archive.archive import checksums
from g2a_archive.cli import main as cli
from g2a_archive.archive import partial
from g2a_archive.archive import storage
where, when, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
owner = {"os": os, "storage": storage, "checksums": checksums, "Catalog": catalog.Catalog,
         "Partial": partial.Partial, "Storage": storage.Storage}[where.split(".")[0]]
name = where.split(".")[1]
real, calls = getattr(owner, name), itertools.count(1)

def crash(*args, **more):
    call = next(calls)  # in one step, as several threads may come here
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
    ("Catalog.queue", 1),
    ("Storage.make_directory", 1),
    ("Storage.make_directory", 9),
    ("os.rename", 1),
    ("os.rename", 7),
    ("Partial.done", 4),
    ("Storage.flush", 1),
    ("Catalog.settle", 1),
    ("checksums.update", 2),
    ("Catalog.summed", 1),
    ("Catalog.end_run", 1),
]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("where", "number"), STEPS)
def test_killed_between_two_steps(
    where: str, number: int, when: str, service: SimulatedService, root: Path
) -> None:
    args = download_args(root, "--jobs", "3", *service.recordings)
    result = subprocess.run(
        [sys.executable, "-c", _CRASH, where, when, str(number), *map(str, args)],
        env=clean_environment(service.environment()),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert_nothing_false(service, root)
    final = final_files(root)
    service.requests.clear()
    owed = run_here(service, root, [], owed=True)
    assert owed.exit_code == 0  # what was begun is remembered
    report = run_here(service, root, service.recordings)
    assert report.exit_code == 0
    assert_archive_equals(service, root)
    # What has its final name is not fetched again; the length of what is no MP4 is asked for.
    assert {one for one in final if one[1] == "mp4"}.isdisjoint(asked_for(service))
    assert owed.files + report.files == 24 - len(final)


@pytest.mark.parametrize("together", [1, 1_000_000])
def test_flushed_then_named_then_flushed_then_claimed(
    together: int, service: SimulatedService, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has a name before its bytes are on disk, nor is claimed before its name is."""
    flushed: set[int] = set()
    groups: list[int] = []
    unflushed_names: set[str] = set()
    fsync, rename, settle = os.fsync, os.rename, Catalog.settle
    flush_group = GroupFlush.flush

    def note_group(self: GroupFlush) -> None:
        there = {entry.inode() for entry in os.scandir(root / ".g2a-archive" / "partial")}
        flush_group(self)
        flushed.update(there)
        groups.append(len(there))

    def note_fsync(fd: int) -> None:
        fsync(fd)
        status = os.fstat(fd)
        flushed.add(status.st_ino)
        if stat.S_ISDIR(status.st_mode):
            directory = fd_path(fd)
            unflushed_names.difference_update(
                f"{directory}/{name}" for name in os.listdir(directory)
            )

    def note_rename(source: str, target: str) -> None:
        assert os.stat(source).st_ino in flushed, f"{target} was not flushed"
        unflushed_names.add(str(target))
        rename(source, target)

    def note_settle(self: Catalog, settlements: list[Settlement]) -> None:
        claimed = {str(root / file.path) for one in settlements for file in one.files}
        assert claimed.isdisjoint(unflushed_names)
        settle(self, settlements)

    monkeypatch.setattr("g2a_archive.download.transfer.finish._MANY", together)
    monkeypatch.setattr(GroupFlush, "flush", note_group)
    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)
    monkeypatch.setattr(Catalog, "settle", note_settle)
    assert run_here(service, root, service.recordings).exit_code == 0
    assert len(flushed) > 24
    assert bool(groups) == (together == 1 and GroupFlush.of(str(root)) is not None)


def fd_path(fd: int) -> str:
    """The path of an open directory."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc here tells the path of an open directory")
    return os.readlink(f"/proc/self/fd/{fd}")


def test_what_a_killed_run_left_of_a_file_that_another_finished_goes(
    service: SimulatedService, root: Path
) -> None:
    """A partial file beside a final one (adopted, since it fits) must not stay for ever."""
    run_here(service, root, service.recordings)
    id_ = next(iter(service.recordings))
    partial = root / ".g2a-archive" / "partial"
    (partial / f"{id_}.mp4.part").write_bytes(b"half")
    (partial / f"{id_}.mp4.json").write_text("{}")
    (partial / f"{id_}.events.json.new").write_text("{")
    (root / ".g2a-archive" / "catalog.sqlite3").unlink()
    assert run_here(service, root, [id_]).exit_code == 0
    assert leftovers(root) == []
