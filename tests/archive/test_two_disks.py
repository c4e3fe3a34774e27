"""Date directories that lie on another file system than the rest of the archive."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import (
    archive_size,
    assert_archive_equals,
    is_right,
    leftovers,
    mounts,
    plain_args,
    relative_path,
    run_cli,
    run_here,
)
from support.cli import Say
from support.service import Serve

from g2a_archive.archive.disk import space
from g2a_archive.demo import Request, SimulatedService, sample_recordings
from g2a_archive.demo.recordings import KINDS
from g2a_archive.errors import ExitCode

SIZE = 100_000
Spread = Callable[[SimulatedService, str], Path]


@pytest.fixture
def service(serve: Serve) -> SimulatedService:
    return serve(sample_recordings(5, mp4_size=SIZE, events_size=500))


@pytest.fixture(params=["mounted", "linked"])
def spread(request: pytest.FixtureRequest, root: Path, tmp_path: Path) -> Iterator[Spread]:
    """Puts the directories of each year on a file system of this size, mounted or linked there."""
    with ExitStack() as stack:

        def prepare(service: SimulatedService, size: str) -> Path:
            other = stack.enter_context(mounts.tmpfs(tmp_path / "other", size))
            root.mkdir(exist_ok=True)
            for year in {str(r.start.year) for r in service.recordings.values()}:
                (other / year).mkdir()
                if request.param == "mounted":
                    stack.enter_context(mounts.bind(other / year, root / year))
                else:
                    (root / year).symlink_to(other / year)
            return other

        yield prepare


def names_below(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.rglob("*") if p.is_file() and p.name != "SHA256SUMS")


def copies_below(directory: Path) -> list[str]:
    """Copies that have no final name yet."""
    return [name for name in names_below(directory) if name.endswith(".g2a-part")]


def assert_all_there(service: SimulatedService, root: Path, other: Path) -> None:
    names = []
    for recording in service.recordings.values():
        for kind in KINDS:
            path = root / relative_path(recording, kind)
            names.append(path.name)
            assert is_right(recording, kind, path), path.name
    assert names_below(other) == sorted(names)
    assert leftovers(root) == []


def test_files_are_copied_and_renamed(
    service: SimulatedService, root: Path, spread: Spread
) -> None:
    other = spread(service, "64m")
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_all_there(service, root, other)
    service.requests.clear()
    assert run_here(service, root, service.recordings).already_archived == 5
    assert service.requests.count == 0


def test_copies_keep_their_time(service: SimulatedService, root: Path, spread: Spread) -> None:
    spread(service, "64m")
    assert run_here(service, root, service.recordings, set_mtime=True).exit_code == 0
    for recording in service.recordings.values():
        for kind in KINDS:
            stored = root / relative_path(recording, kind)
            assert stored.stat().st_mtime == recording.start.timestamp(), stored.name


def test_the_other_disk_is_full(service: SimulatedService, root: Path, spread: Spread) -> None:
    other = spread(service, "280k")
    report = run_here(service, root, service.recordings)
    assert report.exit_code == ExitCode.FAILED  # it is not the archive's own disk
    assert report.abort_messages == []
    for failure in report.failed:
        assert re.search("not enough space on|No space left on device", failure.reason)
    assert copies_below(other) == []
    mounts.grow(other, "64m")
    second = run_here(service, root, service.recordings)
    assert second.exit_code == 0
    assert_all_there(service, root, other)
    assert report.bytes + second.bytes <= 1.1 * archive_size(service)


def test_the_other_disk_is_full_and_this_one_nearly(
    service: SimulatedService, root: Path, spread: Spread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "free_space", lambda path: None)  # so that it is found out late
    with mounts.tmpfs(root, "16m"):
        other = spread(service, "280k")
        report = run_here(service, root, service.recordings)
        assert (report.exit_code, report.abort_messages) == (ExitCode.FAILED, [])
        assert report.failed
        mounts.grow(other, "64m")
        assert run_here(service, root, service.recordings).exit_code == 0
        assert_all_there(service, root, other)


_KILLED_COPY = """
import os, signal
real = os.fsync
def crash(fd):
    if "g2a-part" in os.readlink(f"/proc/self/fd/{fd}"):
        os.kill(os.getpid(), signal.SIGKILL)
    real(fd)
os.fsync = crash
"""


def test_killed_while_copying(service: SimulatedService, root: Path, spread: Spread) -> None:
    other = spread(service, "64m")
    args = plain_args(root, *service.recordings)
    result = run_cli(args, service.environment(), before=_KILLED_COPY)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert copies_below(other) == names_below(other) != []
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_all_there(service, root, other)


def test_half_a_copy_is_removed_with_its_recording(
    service: SimulatedService, root: Path, spread: Spread, say: Say
) -> None:
    other = spread(service, "64m")
    args = plain_args(root, *service.recordings)
    run_cli(args, service.environment(), before=_KILLED_COPY)
    assert copies_below(other) == names_below(other) != []
    assert say("remove", "--yes", *service.recordings)[0] == 0
    assert names_below(other) == []


def test_a_year_s_drive_that_goes_away_in_the_middle(
    service: SimulatedService, root: Path, tmp_path: Path
) -> None:
    """Nothing is written below its mount point, neither then nor in the night after."""
    first, last = (id_ for id_, one in service.recordings.items() if one.start.year == 2014)
    year = root / "2014"
    with mounts.tmpfs(tmp_path / "drive", "64m") as drive:
        with mounts.bind(drive, year):
            assert run_here(service, root, [first]).exit_code == 0

            def goes_away(_: Request) -> None:
                service.on_request.clear()
                mounts.unmount(year)

            service.on_request.append(goes_away)
            report = run_here(service, root, [last])
            assert {one.id for one in report.failed} == {last}
            assert f"{year} is no longer the drive" in next(iter(report.failed)).reason
            assert [*year.iterdir()] == []
        with mounts.bind(drive, year):
            assert run_here(service, root, service.recordings).exit_code == 0
            assert_archive_equals(service, root)
