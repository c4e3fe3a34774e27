"""What is archived is seen from a directory's names, or from the files' own where they are few."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import assert_archive_equals, cli_here, download_args, relative_path, report_of

from g2a_archive.archive.database.catalog import Catalog, RecordingResult
from g2a_archive.demo import Response, SimulatedService, faults
from g2a_archive.download.plan import Plan, make_plan
from g2a_archive.models import FileKind, State, StoredFile

DAY = "2014/05/06"
COUNT = 30
NAMES = ("{}.mp4", "{}.events", "{}.png")


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    (tmp_path / DAY).mkdir(parents=True)
    with Catalog(tmp_path / "catalog.sqlite3") as made:
        settled = []
        for id_ in range(1, COUNT + 1):
            files = []
            for kind, name in zip(FileKind, NAMES, strict=True):
                path = f"{DAY}/{name.format(id_)}"
                (tmp_path / path).touch()
                files.append(StoredFile(id_, kind, path, 0, "a" * 64))
            settled.append(RecordingResult(id_, State.ARCHIVED, 7, directory=DAY, files=files))
        made.record_results(settled)
        yield made


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The date directories that are listed; those above are looked at for what is not mounted."""
    found: list[str] = []
    real = os.listdir

    def listing(path: str) -> list[str]:
        if os.fspath(path).endswith(DAY):
            found.append(os.fspath(path))
        return real(path)

    monkeypatch.setattr(os, "listdir", listing)
    return found


def plan(catalog: Catalog, root: Path, *ids: int) -> Plan:
    return make_plan(catalog, root, ids, list(FileKind))


def test_a_few_are_looked_for_by_their_names(
    catalog: Catalog, tmp_path: Path, listed: list[str]
) -> None:
    made = plan(catalog, tmp_path, 3, 7, 99)
    assert (made.already, [*made.todo], made.missing) == (2, [99], [])
    assert listed == []


def test_many_are_seen_in_one_listing(catalog: Catalog, tmp_path: Path, listed: list[str]) -> None:
    made = plan(catalog, tmp_path, *range(1, COUNT + 1))
    assert (made.already, [*made.todo]) == (COUNT, [])
    assert listed == [str(tmp_path / DAY)]


@pytest.mark.parametrize("ids", [(3,), tuple(range(1, COUNT + 1))])
def test_one_that_is_gone_is_fetched_again(
    catalog: Catalog, tmp_path: Path, ids: tuple[int, ...]
) -> None:
    (tmp_path / DAY / "3.events").unlink()
    made = plan(catalog, tmp_path, *ids)
    assert [*made.todo] == [3]
    assert made.missing == [(3, FileKind.EVENTS, "missing")]


@pytest.mark.parametrize("ids", [(3,), tuple(range(1, COUNT + 1))])
def test_a_directory_is_no_file(catalog: Catalog, tmp_path: Path, ids: tuple[int, ...]) -> None:
    (tmp_path / DAY / "3.mp4").unlink()
    (tmp_path / DAY / "3.mp4").mkdir()
    made = plan(catalog, tmp_path, *ids)
    assert [*made.todo] == [3]
    assert made.missing == [(3, FileKind.MP4, "missing")]


def test_a_directory_that_is_gone_is_no_loss_of_one_file(catalog: Catalog, tmp_path: Path) -> None:
    """The drive may not be mounted: nothing is fetched for that."""
    for path in (tmp_path / DAY).iterdir():
        path.unlink()
    made = plan(catalog, tmp_path, 3)
    assert ([*made.todo], made.missing, [*made.on_unmounted]) == ([], [], [3])


def test_what_had_come_before_the_rest_and_is_gone(service: SimulatedService, root: Path) -> None:
    """Of one, the rest failed; of another, the MP4 alone was asked for. Then both MP4s go."""
    one, other, *_ = service.recordings
    service.fail_files(faults.status(410), "events", one)
    env = service.environment()
    assert report_of(cli_here(download_args(root, one), env))["exit_code"] == 1
    report_of(cli_here(download_args(root, "--only", "mp4", other), env))
    for id_ in (one, other):
        (root / relative_path(service.recordings[id_], "mp4")).unlink()
    service.on_request.clear()
    report = report_of(cli_here(download_args(root, *service.recordings), env))
    assert (report["exit_code"], report["archived"]) == (0, len(service.recordings))
    assert_archive_equals(service, root)


def test_what_is_lost_and_not_offered_again_is_not_called_archived(
    service: SimulatedService, root: Path
) -> None:
    """The service had it, and so had the archive: that is no file that does not exist."""
    one = next(iter(service.recordings))
    env = service.environment()
    report_of(cli_here(download_args(root, one), env))
    events = root / relative_path(service.recordings[one], "events")
    saved = events.read_bytes()
    events.unlink()
    entry = {
        "recordingId": one,
        "recordingStartTime": service.recordings[one].start.isoformat(),
        "recordingUrl": service.link(one, "mp4"),
        "thumbnailUrl": service.link(one, "thumbnail"),
    }
    service.fail(Response.json([entry]), call="links")
    for more in (["--dry-run"], [], []):
        report = report_of(cli_here(download_args(root, one, *more), env))
        assert (report["exit_code"], report["archived"] + report["already_archived"]) == (1, 0)
        assert [(f["id"], f["file"]) for f in report["failed"]] == [(one, "events")]
    events.write_bytes(saved)
    assert cli_here(["verify", "--dest", root]).returncode == 0
    assert report_of(cli_here(download_args(root, one), env))["exit_code"] == 0
