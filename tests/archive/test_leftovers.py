"""Halves in `partial/`: those that nobody will ask for again go away, the others are told."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from support import catalog_rows, leftovers, run_cli, run_here
from support.service import Serve

from g2a_archive.archive.database.catalog import Catalog, RecordingResult
from g2a_archive.archive.database.tombstones import remove_empty_directories
from g2a_archive.archive.disk import flushing
from g2a_archive.archive.disk.leftovers import find_unrecorded
from g2a_archive.demo import SimulatedService, faults, sample_recordings
from g2a_archive.models import MAX_ID, State

SIZE = 600_000


@pytest.fixture
def service(serve: Serve) -> SimulatedService:
    return serve(sample_recordings(4, mp4_size=SIZE))


@pytest.fixture
def half(service: SimulatedService, root: Path) -> int:
    """A recording whose MP4 came half, in a run that gave up."""
    id_ = next(iter(service.recordings))
    service.fail_files(faults.close(400_000), "mp4", id_)
    assert run_here(service, root, service.recordings, retries=0).exit_code == 1
    service.on_request.clear()
    assert f"{id_}.mp4.part" in leftovers(root)
    return id_


def test_status_tells_what_is_half_here(half: int, root: Path) -> None:
    text = run_cli(["status", "--dest", root])
    assert "Half here      1 recording, 39" in text.stdout, text.stdout
    told = json.loads(run_cli(["status", "--json", "--dest", root]).stdout)
    assert told["halves"] == 1
    assert 400_000 <= told["half_bytes"] < 401_000


def test_a_half_that_may_be_resumed_stays(half: int, service: SimulatedService, root: Path) -> None:
    others = [id_ for id_ in service.recordings if id_ != half]
    run_here(service, root, others)
    assert f"{half}.mp4.part" in leftovers(root)
    report = run_here(service, root, [half])
    assert report.exit_code == 0
    assert report.bytes < SIZE - 390_000
    assert leftovers(root) == []
    assert "Half here" not in run_cli(["status", "--dest", root]).stdout


def test_a_half_of_a_recording_that_is_refused_now(half: int, serve: Serve, root: Path) -> None:
    new = sample_recordings(6, mp4_size=SIZE)
    later = serve([one for one in new if one.id != half])
    report = run_here(later, root, [*later.recordings, half])
    assert [*report.refused] == [half]
    assert leftovers(root) == []


@pytest.mark.parametrize("state", [State.LOST, State.REMOVED, State.REFUSED, State.ARCHIVED])
def test_a_half_that_nobody_will_ask_for(
    state: State, half: int, service: SimulatedService, root: Path
) -> None:
    with Catalog(root / ".g2a-archive/catalog.sqlite3") as catalog:
        catalog.record_results([RecordingResult(half, state, kinds=7 * (state is State.ARCHIVED))])
    others = [id_ for id_ in service.recordings if id_ != half]
    (root / ".g2a-archive/partial/notes.txt").write_text("somebody's own")
    run_here(service, root, others)
    assert leftovers(root) == ["notes.txt"]


def test_a_half_of_a_recording_that_the_catalogue_does_not_know(
    half: int, service: SimulatedService, root: Path
) -> None:
    """It was lost, perhaps: the half can still be resumed."""
    (root / ".g2a-archive/catalog.sqlite3").unlink()
    others = [id_ for id_ in service.recordings if id_ != half]
    run_here(service, root, others)
    assert f"{half}.mp4.part" in leftovers(root)
    assert half not in dict(catalog_rows(root, "SELECT id, state FROM recording"))


def test_a_name_with_a_number_that_no_catalogue_holds(
    half: int, service: SimulatedService, root: Path
) -> None:
    odd = f"{MAX_ID + 1}.mp4.part"
    (root / ".g2a-archive/partial" / odd).touch()
    assert run_here(service, root, [half]).exit_code == 0
    removed = run_cli(["remove", "--yes", "--dest", root, half])
    assert (removed.returncode, removed.stderr) == (0, "")
    assert leftovers(root) == [odd]


def test_directories_that_are_left_empty(tmp_path: Path) -> None:
    (tmp_path / "2014").mkdir()
    remove_empty_directories(tmp_path, ["2014/05/06"])  # its drive may be away
    assert (tmp_path / "2014").is_dir()
    for more in ("2014/05/06", "2014/05", "2014/06/@eaDir"):
        (tmp_path / more).mkdir(parents=True, exist_ok=True)
        remove_empty_directories(tmp_path, ["2014/05/06"])
        assert tmp_path.is_dir()
        assert (tmp_path / "2014").is_dir() is more.endswith("@eaDir")


def test_of_directories_that_are_left_empty_a_mount_point_stays(tmp_path: Path) -> None:
    """One whose drive is away, below which the day's directory is not to be seen."""
    for name in ("2014", "2015/05/06", "2016/05/06", "2016/05/07"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "2016/05/07/7.mp4").touch()
    remove_empty_directories(tmp_path, ["2014/05/06", "2015/05/06", "2015/05/07", "2016/05/06"])
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left == {"2014", "2016", "2016/05", "2016/05/07", "2016/05/07/7.mp4"}


def test_links_that_lead_back_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "2014" / "05").mkdir(parents=True)
    (tmp_path / "2014" / "05" / "7.mp4").touch()
    for name in ("all", "here"):
        (tmp_path / "2014" / name).symlink_to(tmp_path)
    found = list(find_unrecorded(tmp_path, {7}))
    assert [id_ for _, id_ in found] == [7]


@pytest.mark.parametrize("tried", [1, 2])
def test_what_a_check_left_that_was_killed_while_a_share_stood_still(
    tried: int, service: SimulatedService, root: Path
) -> None:
    """Each of them, every minute, left another `.trial-PID` there for good."""
    env = service.environment()
    assert run_here(service, root, service.recordings).exit_code == 0
    killed = f"""
import os, signal
from g2a_archive.archive.disk import flushing
tries = iter(range({tried}))
def flush_file(fd):
    next(tries, None)
    if not tries.__length_hint__():
        os.kill(os.getpid(), signal.SIGKILL)
flushing.flush_file = flush_file
"""
    result = run_cli(["check", "--dest", root], env, before=killed)
    assert result.returncode == -signal.SIGKILL
    assert len([*root.rglob(".trial-*")]) == 1
    assert run_here(service, root, service.recordings).exit_code == 0
    assert not [*root.rglob(".trial-*")]


def test_a_try_whose_name_another_run_took_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = flushing.flush_file

    def removed_meanwhile(fd: int) -> bool:
        flushing.remove_trials(tmp_path)
        return flush(fd)

    monkeypatch.setattr(flushing, "flush_file", removed_meanwhile)
    (tmp_path / "1.mp4.part").touch()
    flushing.write_trial(tmp_path)
    assert flushing.remove_trials(tmp_path) == {"1.mp4.part"}
