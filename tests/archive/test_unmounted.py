"""A drive that is not mounted is no loss: nothing becomes owed, is fetched, or is written there."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from support import (
    archive_files,
    archives,
    assert_archive_equals,
    assert_checksums,
    catalog_path,
    catalog_rows,
    cli_here,
    mounts,
    plain_args,
    relative_path,
    run_here,
    states,
)
from support.service import Serve

from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.disk.mounts import missing_date, missing_parts
from g2a_archive.cli import main
from g2a_archive.demo import SimulatedService, sample_recordings
from g2a_archive.errors import CatalogError, ExitCode
from g2a_archive.models import FileKind

Away = Callable[[Path], None]
T = TypeVar("T")


@contextmanager
def absent(place: Path) -> Iterator[None]:
    """All of it is gone; afterwards it is back, and what was written meanwhile is an error."""
    kept = place.with_name(f"kept-{place.name}")
    place.rename(kept)
    yield
    assert not os.path.lexists(place)
    kept.rename(place)


@contextmanager
def empty(place: Path) -> Iterator[None]:
    with absent(place):
        place.mkdir()
        yield
        place.rmdir()  # which works only where nothing was written


@contextmanager
def left_over(place: Path) -> Iterator[None]:
    """A NAS has its own there."""
    with absent(place):
        (place / "@eaDir").mkdir(parents=True)
        yield
        (place / "@eaDir").rmdir()
        place.rmdir()


@contextmanager
def dangling(place: Path) -> Iterator[None]:
    with absent(place):
        place.symlink_to("/nowhere/at/all")
        yield
        place.unlink()


original = archives.original


@pytest.fixture
def service(original: archives.Made) -> SimulatedService:
    """What the archive came from; nobody has asked it for anything."""
    original[0].requests.clear()
    return original[0]


@pytest.fixture
def archive(original: archives.Made, root: Path) -> Path:
    """Recordings of 2013, 2014 and 2016."""
    return shutil.copytree(original[1], root)


def of_year(service: SimulatedService, year: str) -> list[int]:
    return [i for i, r in service.recordings.items() if f"{r.start:%Y}" == year]


@pytest.mark.parametrize("away", [absent, empty, left_over, dangling])
def test_a_year_that_is_not_mounted(
    away: Callable[[Path], Iterator[None]], service: SimulatedService, archive: Path
) -> None:
    ids, there = list(service.recordings), of_year(service, "2014")
    gone = of_year(service, "2016")[0]  # a loss of the usual kind, in another year
    (archive / relative_path(service.recordings[gone], "mp4")).unlink()
    before = states(archive)
    with away(archive / "2014"):  # type: ignore[attr-defined]
        report = run_here(service, archive, ids)
        assert report.exit_code == ExitCode.STORAGE
        (said,) = report.abort_messages
        assert f"{archive / '2014'} is" in said
        assert f"nothing is there of its {len(there)} archived recordings" in said
        assert "is the drive mounted?" in said
        assert report.archived == 1
        assert report.already_archived == len(ids) - len(there) - 1
        assert sorted(report.unfinished) == sorted(there)
        assert {e.recording_id for e in service.requests.file_requests()} == {gone}
        assert states(archive) == before
        asked = service.requests.count
        assert run_here(service, archive, [], owed=True).exit_code == ExitCode.STORAGE
        assert service.requests.count == asked
    assert run_here(service, archive, ids).exit_code == 0
    assert_archive_equals(service, archive)


def test_a_destination_that_is_a_link_to_a_drive_that_is_not_mounted(
    service: SimulatedService, root: Path
) -> None:
    """Whoever is told to move it away may do so."""
    drive = root.with_name("drive")
    root.symlink_to(drive)
    result = cli_here(plain_args(root, *service.recordings), service.environment())
    assert result.returncode == ExitCode.STORAGE
    (line,) = result.stderr.splitlines()
    assert f"{root}: it is a link that leads nowhere (is the drive mounted?)" in line
    drive.mkdir()
    assert run_here(service, root, service.recordings).exit_code == 0
    assert_archive_equals(service, root)


def test_what_is_new_is_not_written_below_a_mount_point(
    service: SimulatedService, root: Path
) -> None:
    ids, there = list(service.recordings), of_year(service, "2014")
    others = [id_ for id_ in ids if id_ not in there]
    run_here(service, root, there[:2])
    with empty(root / "2014"), empty_beside(root):
        report = run_here(service, root, ids)
        assert report.exit_code == ExitCode.STORAGE
        assert {failure.id for failure in report.failed} == set(there[2:])
        assert {"is the drive mounted?" in failure.reason for failure in report.failed} == {True}
        assert {id_ for id_, state in states(root).items() if state == "archived"} == {
            *there[:2],
            *others,
        }
    assert run_here(service, root, ids).exit_code == 0
    assert_archive_equals(service, root)


def test_a_disk_for_each_year_with_no_level_below(service: SimulatedService, root: Path) -> None:
    ids, there = list(service.recordings), of_year(service, "2014")
    run_here(service, root, [*there[:2], *(id_ for id_ in ids if id_ not in there)], layout="%Y")
    # As after a run that was killed before it had written SHA256SUMS.
    with closing(sqlite3.connect(catalog_path(root))) as db, db:
        db.execute("INSERT INTO stale_directory VALUES ('2014')")
    with empty(root / "2014"), empty_beside(root):
        assert main.run(["verify", "--rebuild", "--dest", str(root)]) == ExitCode.STORAGE
        report = run_here(service, root, ids, layout="%Y")
        assert report.exit_code == ExitCode.STORAGE
        assert {failure.id for failure in report.failed} == set(there[2:])
        assert len(report.unfinished) == 2
    assert run_here(service, root, ids, layout="%Y").exit_code == 0
    assert set(states(root).values()) == {"archived"}
    assert len(archive_files(root)) == 3 * len(ids)
    assert_checksums(root)


@contextmanager
def empty_beside(root: Path) -> Iterator[None]:
    """Something else of the archive is there, so that not all of it is gone."""
    (root / "kept-2014").rename(root.parent / "kept-2014")
    yield
    (root.parent / "kept-2014").rename(root / "kept-2014")


def test_a_month_that_is_not_mounted(service: SimulatedService, archive: Path) -> None:
    month = archive / "2014/01"
    with empty(month):
        report = run_here(service, archive, service.recordings)
        assert report.exit_code == ExitCode.STORAGE
        assert f"{month} is empty" in report.abort_messages[0]
        assert service.requests.count == 0
    assert run_here(service, archive, service.recordings).exit_code == 0


def test_a_day_that_is_not_mounted(service: SimulatedService, archive: Path) -> None:
    """It is there and holds nothing: whoever removes files takes SHA256SUMS along last."""
    day = archive / "2014/01/01"
    with empty(day):
        report = run_here(service, archive, service.recordings)
        assert report.exit_code == ExitCode.STORAGE
        assert f"{day} is empty: nothing is there of its" in report.abort_messages[0]
        assert service.requests.count == 0
    shutil.rmtree(day)
    assert run_here(service, archive, service.recordings).exit_code == 0
    assert_archive_equals(service, archive)


def test_a_year_that_is_lost_for_good(service: SimulatedService, archive: Path) -> None:
    """What the hint advises works."""
    shutil.rmtree(archive / "2014")
    assert run_here(service, archive, service.recordings).exit_code == ExitCode.STORAGE
    (archive / "2014").mkdir()
    (archive / "2014" / "lost").touch()
    assert run_here(service, archive, service.recordings).exit_code == 0
    (archive / "2014" / "lost").unlink()
    assert_archive_equals(service, archive)


def test_an_archive_of_which_nothing_is_left(service: SimulatedService, archive: Path) -> None:
    for path in archive.iterdir():
        if path.name != ".g2a-archive":
            shutil.rmtree(path)
    before = states(archive)
    for args in ([*service.recordings], ["--owed"], ["--dry-run", *service.recordings]):
        result = cli_here(plain_args(archive, *args), service.environment())
        assert result.returncode == ExitCode.STORAGE, result.stderr
        assert f"{archive} holds nothing of the archive: nothing is there of its 8" in result.stderr
        assert "Traceback" not in result.stderr
    assert service.requests.count == 0
    assert states(archive) == before
    assert archive_files(archive) == {}


def test_a_mounted_year(service: SimulatedService, root: Path, tmp_path: Path) -> None:
    """The real thing: what is below the mount point stays as it is."""
    (tmp_path / "disk").mkdir()
    with mounts.bind(tmp_path / "disk", root / "2014"):
        assert run_here(service, root, service.recordings).exit_code == 0
    service.requests.clear()
    report = run_here(service, root, service.recordings)
    assert (report.exit_code, service.requests.count) == (ExitCode.STORAGE, 0)
    assert list((root / "2014").iterdir()) == []
    with mounts.bind(tmp_path / "disk", root / "2014"):
        assert run_here(service, root, service.recordings).exit_code == 0
        assert_archive_equals(service, root)


def test_check_says_it(service: SimulatedService, archive: Path) -> None:
    with empty(archive / "2014"):
        result = cli_here(["check", "--dest", archive, "--min-free", "0"], service.environment())
        assert result.returncode == ExitCode.STORAGE, result.stderr
        assert f"{archive / '2014'} is empty: nothing is there of its" in result.stdout
    result = cli_here(["check", "--dest", archive, "--min-free", "0"], service.environment())
    assert result.returncode == 0, result.stdout


def test_a_year_of_what_is_archived_in_part(service: SimulatedService, root: Path) -> None:
    """What more of it is owed is not fetched below the mount point, in no night."""
    (id_,) = of_year(service, "2016")
    assert run_here(service, root, [id_], kinds=(FileKind.EVENTS,)).exit_code == 0
    service.requests.clear()
    with empty(root / "2016"):
        for _ in range(2):
            report = run_here(service, root, [id_])
            assert report.exit_code == ExitCode.STORAGE
            assert list(report.unfinished) == [id_]
            assert service.requests.count == 0
    report = run_here(service, root, [id_])
    assert (report.exit_code, report.files) == (0, 2)


# --- the questions themselves -----------------------------------------------------------------


def catalogue(root: Path, directories: list[str]) -> Catalog:
    """One that has an archived recording in each of `directories`; all of these are there."""
    (root / ".g2a-archive").mkdir(parents=True)
    Catalog(catalog_path(root)).close()
    with closing(sqlite3.connect(catalog_path(root))) as db, db:
        for number, directory in enumerate(directories, 1):
            (root / directory).mkdir(parents=True, exist_ok=True)
            (root / directory / f"{number}.mp4").touch()
            db.execute(
                "INSERT INTO recording (id, state, kinds, directory) VALUES (?, 'archived', 7, ?)",
                (number, directory),
            )
            db.execute(
                "INSERT INTO file (recording, kind, path, size, sha256, archived_at) "
                "VALUES (?, 'mp4', ?, 0, '', '')",
                (number, f"{directory}/{number}.mp4"),
            )
    return Catalog(catalog_path(root), readonly=True)


MIXED = ["2014", "2014-01-02", "2014/05/06", "2014/05/07", "2014/06/01", "2015/01/01", "2016-01"]


@pytest.mark.parametrize(
    ("removed", "made", "missing"),
    [
        ([], [], []),
        (["2014/05/06"], [], []),
        (["2014/05"], [], []),
        (["2014/05"], ["2014/05"], [("2014/05", 2)]),
        (["2014/05", "2014/06"], ["2014/05", "2014/06"], [("2014/05", 2), ("2014/06", 1)]),
        (["2015"], [], [("2015", 1)]),
        (["2014"], ["2014"], [("2014", 4)]),
        (["2014", "2015"], [], [("2014", 4), ("2015", 1)]),
        (["2014-01-02"], [], []),
        (["2014", "2014-01-02", "2015", "2016-01"], [], [("", 7)]),
        (["2014", "2014-01-02", "2015"], [], [("2014", 4), ("2015", 1)]),
    ],
)
def test_the_parts_that_are_missing(
    removed: list[str], made: list[str], missing: list[tuple[str, int]], root: Path
) -> None:
    with catalogue(root, MIXED) as catalog:
        for name in removed:
            shutil.rmtree(root / name)
        for name in made:
            (root / name).mkdir()
        found = missing_parts(catalog, root)
        assert [(part.directory, part.recordings) for part in found] == missing


def test_an_archive_that_holds_nothing_yet_misses_nothing(root: Path) -> None:
    with catalogue(root, []) as catalog:
        assert missing_parts(catalog, root) == []


def test_a_root_that_is_gone(root: Path, tmp_path: Path) -> None:
    with catalogue(root, MIXED) as catalog:
        (part,) = missing_parts(catalog, tmp_path / "elsewhere")
        assert (part.directory, part.recordings) == ("", len(MIXED))
        assert part.holds("2014")
        assert part.holds(None)


def test_a_directory_of_another_owner_is_not_unmounted(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(look: Callable[[Path], T]) -> Callable[[Path], T]:
        def refuse(path: Path) -> T:
            if path.name in refused:
                raise refused[path.name]
            return look(path)

        return refuse

    refused: dict[str, OSError] = {"2014": PermissionError(13, "Permission denied")}
    with catalogue(root, MIXED) as catalog:
        monkeypatch.setattr(os, "listdir", refusing(os.listdir))
        monkeypatch.setattr(os, "scandir", refusing(os.scandir))
        assert missing_parts(catalog, root) == []
        refused["2015"] = OSError(107, "Transport endpoint is not connected")
        (part,) = missing_parts(catalog, root)
        assert part.directory == "2015"
        assert "cannot be reached (Transport endpoint is not connected)" in str(part.error())


def test_a_date_directory_by_itself(root: Path) -> None:
    with catalogue(root, MIXED) as catalog:
        assert missing_date(catalog, root, "2014/05/06") is None
        (root / "2014/05/06/3.mp4").unlink()
        part = missing_date(catalog, root, "2014/05/06")
        assert part is not None
        assert (part.directory, part.recordings, part.problem) == ("2014/05/06", 1, "is empty")
        (root / "2014/05/06").rmdir()
        assert missing_date(catalog, root, "2014/05/06") is None


def test_what_the_service_has_no_file_of_is_missing_nowhere(
    serve: Serve, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service = serve(sample_recordings(6, events_size=None))
    first, *_, last = service.recordings
    events = run_here(service, root, [last], kinds=(FileKind.EVENTS,))
    assert (events.exit_code, events.files, states(root)) == (0, 0, {last: "archived"})
    assert run_here(service, root, [first]).exit_code == 0
    for command in (["verify"], ["verify", str(last)], ["remove", "--yes", str(last)]):
        assert main.run([command[0], "--dest", str(root), *command[1:]]) == 0
    assert "mounted" not in capsys.readouterr().err
    assert catalog_rows(root, "SELECT * FROM removal") == []
    assert_archive_equals(service, root, [first])


def test_a_catalogue_that_goes_away_while_it_is_open(tmp_path: Path) -> None:
    """SQLite calls it "readonly" then, which no permission would help."""
    path = tmp_path / "catalog.sqlite3"
    with Catalog(path) as catalog:
        catalog.queue([1])
        path.rename(tmp_path / "elsewhere")
        with pytest.raises(CatalogError, match=r"where it was \(is the drive still mounted\?\)"):
            catalog.queue([2])
