"""A second run makes only the pages that have changed, and they are as if all had been made."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from support import run_cli
from support.archive import MP4, Archive, video

from g2a_archive.archive import checksums
from g2a_archive.archive.database.catalog import RecordingResult
from g2a_archive.archive.database.pages import CatalogPages
from g2a_archive.browse import SiteResult, search_index, site, update_site
from g2a_archive.browse import pages as page_module
from g2a_archive.browse.database import Limits, SiteDatabase
from g2a_archive.errors import StorageError
from g2a_archive.models import State

Zone = tzinfo | None
BERLIN = ZoneInfo("Europe/Berlin")
DAYS = tuple(f"20{year}/0{month}/0{day}" for year in (12, 13) for month in (3, 7) for day in (1, 2))


@contextmanager
def few_on_a_page() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, few in (("PER_PAGE", 4), ("OWED_PER_PAGE", 3)):
            patch.setattr(site, name, few)
        patch.setattr("g2a_archive.browse.search_index.lookup_files.__defaults__", (5,))
        yield


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with some recordings a day."""
    made = Archive(tmp_path_factory.mktemp("original") / "recordings")
    for number, day in enumerate(DAYS):
        for recording in range(2 + number % 4 * 3):
            put(made, 1000 * number + 10 * recording + 11, day)
    checksums.write_checksums(made.catalog, made.root)
    made.catalog.close()
    return made.root


@pytest.fixture
def archive(original: Path, tmp_path: Path) -> Iterator[Archive]:
    """A copy of it; few recordings go on a page."""
    made = Archive(shutil.copytree(original, tmp_path / "recordings"))
    with few_on_a_page():
        yield made
    made.catalog.close()


def put(archive: Archive, recording: int, day: str) -> None:
    archive.settle(recording, [archive.put(recording, MP4, video(f"{recording}"), day)], day)


def add(archive: Archive, recording: int, day: str) -> None:
    put(archive, recording, day)
    checksums.write_checksums(archive.catalog, archive.root)


def browse(
    archive: Archive, root: Path | None = None, *, title: str = "All", zone: Zone = None
) -> tuple[SiteResult, int]:
    """Write the pages; what came of it, and how many were made."""
    made = [0]

    def heard(what: str, done: int, total: int) -> None:
        if what == "page":
            made.append(done)

    source = CatalogPages(archive.catalog)
    root = root or archive.root
    result = update_site(root, source, zone=zone, title=title, on_progress=heard)
    return result, made[-1]


def pages(root: Path) -> dict[str, bytes]:
    found = [root / "index.html", *root.glob("browse/**/*.*")]
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in found
        if not path.name.startswith(".")
    }


def assert_as_if_new(archive: Archive, tmp_path: Path, **options: Any) -> None:
    """The pages that are there are those that a first run would make."""
    shutil.rmtree(tmp_path / "new", ignore_errors=True)
    (tmp_path / "new").mkdir()
    browse(archive, tmp_path / "new", **options)
    assert pages(archive.root) == pages(tmp_path / "new")


def damage(archive: Archive, _: Zone = None) -> None:
    archive.catalog.mark_damaged([(11, MP4, "missing")])


def mend(archive: Archive, zone: Zone) -> None:
    archive.catalog.mark_damaged([(11, MP4, "missing")])
    browse(archive, zone=zone)
    archive.catalog.record_check([archive.catalog.files_of(11)[MP4]])


def replaced(archive: Archive, _: Zone = None) -> None:
    archive.settle(7021, [archive.put(7021, MP4, video("other"), DAYS[7])], DAYS[7])
    checksums.write_checksums(archive.catalog, archive.root)


def moved(archive: Archive, _: Zone = None) -> None:
    """Fetched again with another layout: the directory that it was in has one less."""
    archive.settle(7021, [archive.put(7021, MP4, video("7021"), "2013-07-02")], "2013-07-02")
    checksums.write_checksums(archive.catalog, archive.root)


def moved_to_and_fro(archive: Archive, zone: Zone) -> None:
    """A directory that is no more, and then is again what it was."""
    moved(archive)
    browse(archive, zone=zone)
    (archive.root / "2013-07-02" / "7021.mp4").unlink()
    add(archive, 7021, DAYS[7])
    browse(archive, zone=zone)
    moved(archive)


def owed(archive: Archive, _: Zone = None) -> None:
    archive.catalog.record_results(RecordingResult(n, State.UNAVAILABLE) for n in range(5000, 5008))


def owed_no_more(archive: Archive, zone: Zone) -> None:
    owed(archive, zone)
    browse(archive, zone=zone)
    add(archive, 5003, DAYS[0])


def not_summed_yet(archive: Archive, _: Zone = None) -> None:
    archive.settle(3, [archive.put(3, MP4, video("3"), DAYS[4])], DAYS[4])


@pytest.fixture(scope="module")
def browsed(
    original: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[Zone, tuple[Path, int]]:
    """By zone: a copy of it with its pages, and how many they are."""
    found: dict[Zone, tuple[Path, int]] = {}
    for zone in (None, BERLIN):
        root = shutil.copytree(original, tmp_path_factory.mktemp("browsed") / "recordings")
        archive = Archive(root)
        with few_on_a_page():
            found[zone] = root, browse(archive, zone=zone)[0].written
        archive.catalog.close()
    return found


@pytest.mark.parametrize(
    "change",
    [
        lambda archive, zone: None,
        lambda archive, zone: add(archive, 3, DAYS[0]),
        lambda archive, zone: add(archive, 4, DAYS[3]),
        lambda archive, zone: add(archive, 5, "2012/05/01"),
        lambda archive, zone: add(archive, 6, "2011/01/01"),
        damage,
        mend,
        replaced,
        moved,
        moved_to_and_fro,
        owed,
        owed_no_more,
        not_summed_yet,
    ],
)
@pytest.mark.parametrize("zone", [None, BERLIN])
def test_after_a_change_all_pages_are_right_and_few_were_made(
    browsed: dict[Zone, tuple[Path, int]],
    tmp_path: Path,
    change: Callable[[Archive, Zone], None],
    zone: Zone,
) -> None:
    root, first = browsed[zone]
    archive = Archive(shutil.copytree(root, tmp_path / "recordings"))
    with few_on_a_page():
        change(archive, zone)
        second, made = browse(archive, zone=zone)
        assert made < first / 2
        assert second.written <= made
        assert_as_if_new(archive, tmp_path, zone=zone)
        again, _ = browse(archive, zone=zone)
    assert again.written == again.removed == 0
    archive.catalog.close()


def test_another_title_zone_or_version_makes_all_pages_anew(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = browse(archive)
    for zone in (None, BERLIN):
        browse(archive, title="Other", zone=zone)
        assert_as_if_new(archive, tmp_path, title="Other", zone=zone)
    monkeypatch.setattr(site, "__version__", "99")
    (archive.root / "browse/2012.html").write_text("of an older version")
    _, made = browse(archive, title="Other", zone=BERLIN)
    assert made >= first.written - len(site.ASSETS)
    assert_as_if_new(archive, tmp_path, title="Other", zone=BERLIN)


@pytest.mark.parametrize("what", ["gone", "damaged", "empty"])
def test_without_what_was_kept_all_is_made_again(
    archive: Archive, tmp_path: Path, what: str
) -> None:
    first, _ = browse(archive)
    state = archive.root / "browse" / site.DATABASE_NAME
    if what == "gone":
        state.unlink()
    else:
        state.write_bytes(b"no database at all" * 400 if what == "damaged" else b"")
    add(archive, 3, DAYS[0])
    _, made = browse(archive)
    assert made >= first.written - len(site.ASSETS)
    assert_as_if_new(archive, tmp_path)
    assert browse(archive)[1] < 5


def test_damage_that_is_met_on_the_way_is_told_and_the_next_run_makes_all_again(
    archive: Archive, tmp_path: Path
) -> None:
    """Every night called it a bug."""
    browse(archive)
    state = archive.root / "browse" / site.DATABASE_NAME
    with closing(sqlite3.connect(state)) as db:
        page = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'find'").fetchone()[0]
        size = db.execute("PRAGMA page_size").fetchone()[0]
    with state.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    add(archive, 3, DAYS[0])
    with pytest.raises(StorageError, match=r"cannot sort the recordings: .*next `browse`"):
        browse(archive)
    browse(archive)
    assert_as_if_new(archive, tmp_path)


def test_a_page_that_somebody_removed_comes_back(archive: Archive) -> None:
    browse(archive)
    before = pages(archive.root)
    shard = next(name for name in before if "/ids-" in name)
    for name in ("index.html", "browse/2012-07.html", shard):
        (archive.root / name).unlink()
    result, _ = browse(archive)
    assert result.written == 3
    assert pages(archive.root) == before


def test_a_run_that_fails_half_way_is_made_good_by_the_next(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    browse(archive)
    add(archive, 3, DAYS[0])
    with monkeypatch.context() as patch:
        patch.setattr("g2a_archive.browse.pages.year_page", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            browse(archive)
    browse(archive)
    assert_as_if_new(archive, tmp_path)


def test_no_page_is_larger_than_500_kb(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "recordings")
    day = "ü" * 60 + "/2014-05-06"
    (archive.root / day).mkdir(parents=True)
    file = archive.put(1, MP4, video("one"), day)
    archive.catalog.record_results(
        RecordingResult(
            n,
            State.DAMAGED,
            7,
            start_time="2014-05-06T12:00:00Z",
            directory=day,
            reason="mp4: " + "x" * 200,
            files=[
                file._replace(recording=n, kind=kind, path=f"{day}/{n}.{kind}", sha256="f" * 64)
                for kind in type(MP4)
            ],
        )
        for n in range(10**9, 10**9 + 600)
    )
    result, _ = browse(archive)
    assert result.recordings == 600
    sizes = {name: len(content) for name, content in pages(archive.root).items()}
    assert max(sizes.values()) < 500_000
    assert max(sizes.values()) > 100_000
    archive.catalog.close()


def test_the_command_makes_few_pages_the_second_time(archive: Archive) -> None:
    for expected in ("pages written, 0 unchanged", " 0 pages written"):
        run = run_cli(["browse", "-d", archive.root])
        assert (run.returncode, run.stderr) == (0, "")
        assert expected in run.stdout
    assert run_cli(["verify", "-d", archive.root]).returncode == 0


def test_the_owed_are_shown_anew_when_they_are_others(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    page = page_module.owed_page

    def counted(*args: Any) -> str:
        made.append(args[-1])
        return page(*args)

    monkeypatch.setattr(page_module, "owed_page", counted)
    owed(archive)
    browse(archive)
    assert made == ["owed.html", "owed-2.html", "owed-3.html"]
    made.clear()
    add(archive, 9999, DAYS[0])
    browse(archive)
    assert made == []
    archive.catalog.record_results([RecordingResult(5001, State.UNAVAILABLE)])  # tried once more
    browse(archive)
    assert made == ["owed.html", "owed-2.html", "owed-3.html"]


def test_what_the_index_of_ids_is_split_by_is_counted_once(archive: Archive) -> None:
    """IDs begin alike, so that all of them are in the files of all first digits."""
    with SiteDatabase(None, {}, Limits(9, 9)) as database:
        rows = ((f"1400{n:06d}", 0, "", "") for n in range(2000))
        database._db.executemany("INSERT INTO find VALUES (?, ?, ?, ?)", rows)
        steps: list[int] = []
        database._db.set_progress_handler(lambda: steps.append(1), 100)
        assert sum(count for _, _, count in search_index._shards(database, 100)) == 2000
    assert 0 < len(steps) < 300  # of all at each of the seven digits: three times that
