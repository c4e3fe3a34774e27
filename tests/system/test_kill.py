"""A run that is killed loses nothing and claims nothing false; the next run finishes the job.

`G2A_LONG_TESTS=1` kills a thousand runs instead of eight. The seed is in each test's name.
"""

from __future__ import annotations

import os
import random
import stat
import subprocess
from pathlib import Path

import pytest
from support import (
    LONG,
    archive_files,
    assert_archive_equals,
    assert_nothing_false,
    download_args,
    leftovers,
    report_of,
    run_cli,
    run_here,
    start_cli,
)
from support.crash import crash
from support.service import Serve

from g2a_archive.archive.database.catalog import Catalog, RecordingResult
from g2a_archive.archive.disk.flushing import GroupFlush
from g2a_archive.archive.layout import file_names
from g2a_archive.demo import SimulatedService, sample_recordings
from g2a_archive.demo.recordings import State
from g2a_archive.models import FileKind

KILLS = 4
ARCHIVES = 250 if LONG else 2


@pytest.fixture
def service(serve: Serve) -> SimulatedService:
    """Four small recordings: each test here brings them once or twice."""
    return serve(sample_recordings(4, mp4_size=(3_000, 9_000)), rate_limit=None)


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
        8, seed=seed, mp4_size=(100_000, 300_000), events_size=(500, 30_000)
    )
    service = serve(recordings, rate=500_000.0)
    args = download_args(root, "--jobs", 4, *service.recordings)
    parts: dict[int, int] = {}
    for _ in range(KILLS):
        with start_cli(args, service.environment()) as process:
            try:
                process.communicate(timeout=chance.uniform(0.05, 0.4))
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
        assert_resumed(service, parts)
        assert_nothing_false(service, root)
        final, parts = final_files(root), half_here(root)
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
    assert_resumed(service, parts)
    assert_archive_equals(service, root)


def half_here(root: Path) -> dict[int, int]:
    """Bytes of MP4s that lie in `partial/`, with the note to go on with, by recording."""
    notes = (root / ".g2a-archive" / "partial").glob("*.mp4.json")
    return {
        int(note.name.partition(".")[0]): part.stat().st_size
        for note in notes
        if (part := note.with_suffix(".part")).exists()
    }


def assert_resumed(service: SimulatedService, parts: dict[int, int]) -> None:
    """What the killed run had on disk was not fetched again, but gone on with, to the byte."""
    begun: dict[int | None, int] = {}
    for entry in service.requests.file_requests("mp4"):
        asked = entry.headers.get("range", "bytes=0-")
        begun.setdefault(entry.recording_id, int(asked.removeprefix("bytes=").partition("-")[0]))
    assert begun == {id_: parts.get(id_ or 0, 0) for id_ in begun}


def _never(recording: int | None, kind: str | None, final: set[tuple[int, str]]) -> None:
    """Ends the connection, so that the run fails, where a file is asked for that was final."""
    if (recording, kind) in final:
        raise ValueError(f"{recording}.{kind} was final, and is fetched again")


STEPS = [
    ("Catalog.begin_run", 1),
    ("Catalog.queue", 1),
    ("Storage.make_directory", 1),
    ("Storage.make_directory", 3),
    ("os.rename", 1),
    ("os.rename", 7),
    ("Partial.remove_control_file", 4),
    ("Storage.flush", 1),
    ("Catalog.record_results", 1),
    ("checksums.update", 2),
    ("Catalog.record_sums", 1),
    ("Catalog.end_run", 1),
]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("where", "number"), STEPS)
def test_killed_between_two_steps(
    where: str, number: int, when: str, service: SimulatedService, root: Path
) -> None:
    args = download_args(root, "--jobs", "3", *service.recordings)
    crash(where, when, number, args, service.environment())
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
    assert owed.files + report.files == 12 - len(final)


@pytest.mark.parametrize("before", ["ready", "unavailable"])
def test_killed_and_then_another_layout(
    before: State, service: SimulatedService, root: Path
) -> None:
    """What has its name stays there, with all of its recording; nothing else is put there."""
    args = [*download_args(root, "--jobs", "3", *service.recordings), "--layout", "old/%Y-%m"]
    for id_ in service.recordings:
        service.set_state(id_, before)
    if before == "unavailable":
        run_cli(args, service.environment())
    for id_ in service.recordings:
        service.set_state(id_, "ready")
    crash("os.rename", "after", 4, args, service.environment())
    final = final_files(root)
    assert final
    service.requests.clear()
    assert run_here(service, root, service.recordings, layout="new/%Y").exit_code == 0
    assert {one for one in final if one[1] == "mp4"}.isdisjoint(asked_for(service))
    places: dict[str, set[int]] = {"old": set(), "new": set()}
    for name in archive_files(root):
        if Path(name).stem.isdigit():
            places[name.partition("/")[0]].add(int(Path(name).stem))
    assert places["old"] == {id_ for id_, _ in final}
    assert places["new"] == set(service.recordings) - places["old"]
    assert run_cli(["verify", "--dest", root], {}).returncode == 0


@pytest.mark.parametrize("together", [1, 1_000_000])
def test_flushed_then_named_then_flushed_then_claimed(
    together: int, service: SimulatedService, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has a name before its bytes are on disk, nor is claimed before its name is."""
    flushed: set[int] = set()
    groups: list[int] = []
    unflushed_names: set[str] = set()
    fsync, rename, settle = os.fsync, os.rename, Catalog.record_results
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

    def note_settle(self: Catalog, settlements: list[RecordingResult]) -> None:
        claimed = {str(root / file.path) for one in settlements for file in one.files}
        assert claimed.isdisjoint(unflushed_names)
        settle(self, settlements)

    monkeypatch.setattr("g2a_archive.download.transfer.finish._MANY", together)
    monkeypatch.setattr(GroupFlush, "flush", note_group)
    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)
    monkeypatch.setattr(Catalog, "record_results", note_settle)
    assert run_here(service, root, service.recordings).exit_code == 0
    assert len(flushed) > 12
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
