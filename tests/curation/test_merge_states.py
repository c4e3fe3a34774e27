"""What two catalogues know of a recording, brought together: owed, marked, removed, scanned."""

from __future__ import annotations

import errno
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import (
    archive_files,
    catalog_path,
    catalog_rows,
    cli_here,
    relative_path,
    run_here,
    states,
)
from support.cli import Say
from support.clocks import clock_off_by
from support.merging import assert_proven, change, merge_here, shards
from support.removal import assert_removed, tombstones
from support.service import Serve

from g2a_archive.archive.disk import flushing
from g2a_archive.demo import Response, SimulatedService, faults
from g2a_archive.demo.recordings import Kind
from g2a_archive.models import FileKind, Shard

OWED = "SELECT state, reason, owed_since, tries, last_try FROM recording WHERE id = ?"


@pytest.fixture
def service(serve: Serve) -> SimulatedService:
    return serve(5, rate_limit=None)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "source"


def row(root: Path, columns: str, id_: int) -> tuple[object, ...]:
    [found] = catalog_rows(root, f"SELECT {columns} FROM recording WHERE id = ?", id_)
    return found


# --- owed ---------------------------------------------------------------------------------------


def test_owed_states_come_along(service: SimulatedService, source: Path, root: Path) -> None:
    ids = list(service.recordings)
    service.set_state(ids[0], "unavailable")
    run_here(service, source, [*ids[:3], 999])
    run_here(service, source, ids[:1])  # tried twice
    change(source, "UPDATE recording SET owed_since = '2020-01-01T00:00:00Z' WHERE id = ?", ids[0])
    for _ in range(2):  # a second time changes nothing
        merge_here(root, [source])
        assert states(root) == states(source)
        for id_ in (ids[0], 999):
            assert catalog_rows(root, OWED, id_) == catalog_rows(source, OWED, id_)
    service.set_state(ids[0], "ready")
    assert run_here(service, root, [], owed=True).archived == 1
    # What is archived here stays so, whatever is still owed there.
    report = merge_here(root, [source], move=True)
    assert (report.exit_code, report.moved) == (0, 4)
    assert states(root) == {**dict.fromkeys(ids[:3], "archived"), 999: "refused"}
    assert states(source) == {}


def test_owed_here_and_archived_there(service: SimulatedService, source: Path, root: Path) -> None:
    ids = list(service.recordings)[:3]
    for id_ in ids:
        service.set_state(id_, "unavailable")
    run_here(service, root, ids)
    for id_ in ids:
        service.set_state(id_, "ready")
    run_here(service, source, ids)
    merge_here(root, [source])
    assert set(states(root).values()) == {"archived"}
    assert row(root, "reason, owed_since", ids[0]) == (None, None)
    assert row(root, "archived_at", ids[0]) == row(source, "archived_at", ids[0])


def test_what_each_of_two_lacks_the_other_has(
    service: SimulatedService, source: Path, root: Path
) -> None:
    """Nothing is owed then: the service may have deleted it by now."""
    [id_, *_] = service.recordings
    lacks: dict[Path, Kind] = {source: "mp4", root: "events"}
    for archive, kind in lacks.items():
        service.fail_files(faults.status(418), kind)
        assert run_here(service, archive, [id_]).exit_code == 1
        service.on_request.clear()
    assert merge_here(root, [source]).exit_code == 0
    assert states(root) == {id_: "archived"}
    assert row(root, "reason, owed_since, archived_at IS NULL", id_) == (None, None, 0)
    service.set_state(id_, "unavailable")
    assert run_here(service, root, [id_], owed=True).exit_code == 0
    assert_proven(root)


def test_of_two_that_are_owed_the_later_try_counts(
    service: SimulatedService, source: Path, root: Path
) -> None:
    [id_, *_] = service.recordings
    service.set_state(id_, "unavailable")
    run_here(service, root, [id_])
    run_here(service, source, [id_])
    then = "UPDATE recording SET last_try = ?, tries = ?, owed_since = ?, reason = ?, state = ?"
    change(root, then, "2026-01-02T00:00:00Z", 5, "2026-01-01T00:00:00Z", "here", "failed")
    change(source, then, "2026-01-03T00:00:00Z", 2, "2025-12-01T00:00:00Z", "there", "lost")
    for _ in range(2):
        merge_here(root, [source])
        [found] = catalog_rows(root, OWED, id_)
        assert found == ("lost", "there", "2025-12-01T00:00:00Z", 5, "2026-01-03T00:00:00Z")


def test_another_file_in_a_damaged_one_s_place_changes_no_older_fingerprint(
    service: SimulatedService, source: Path, root: Path, say: Say
) -> None:
    ids = list(service.recordings)[:2]
    before = run_here(service, root, ids).fingerprint
    service.fail_files(faults.changed(1), "mp4", ids[0])
    run_here(service, source, ids[:1])
    (root / relative_path(service.recordings[ids[0]], "mp4")).write_bytes(b"damaged")
    assert say("verify")[0] == 1
    assert merge_here(root, [source]).exit_code == 0
    code, told, _ = say("verify", "--fingerprint", before)
    assert (code, f"Recording {ids[0]}: fetched again since" in told) == (0, True)


def test_files_of_what_is_owed_come_too(
    service: SimulatedService, source: Path, root: Path
) -> None:
    [id_, *_] = service.recordings
    service.fail_files(Response(404), kind="events")
    run_here(service, source, [id_])
    assert states(source) == {id_: "failed"}
    merge_here(root, [source])
    assert states(root) == {id_: "failed"}
    assert {Path(name).suffix for name in archive_files(root)} == {".mp4", ".jpg"}
    assert row(root, "reason", id_) == row(source, "reason", id_)


def test_what_was_wanted_of_a_kind_there_is_owed_here(
    service: SimulatedService, source: Path, root: Path
) -> None:
    [id_, *_] = service.recordings
    run_here(service, root, [id_], kinds=(FileKind.MP4,))
    service.fail_files(Response(404), kind="events")
    run_here(service, source, [id_])
    merge_here(root, [source])
    assert states(root) == {id_: "failed"}
    assert len(archive_files(root)) == 2


# --- marked, transcoded, found by sync ----------------------------------------------------------


def test_a_path_that_leads_out_of_a_source_is_not_followed(
    service: SimulatedService, source: Path, root: Path
) -> None:
    [id_, *_] = service.recordings
    run_here(service, source, [id_])
    (source.parent / f"{id_}.mp4").write_bytes(
        (source / relative_path(service.recordings[id_], "mp4")).read_bytes()
    )
    change(source, "UPDATE file SET path = ? WHERE kind = 'mp4'", f"../{id_}.mp4")
    report = merge_here(root, [source], move=True)
    assert [one.reason for one in report.failed] == ["its path is none that this program makes"]
    assert len(archive_files(root)) == 2
    assert len(archive_files(source)) == 3


def test_marks_and_transcodings_come_along(
    service: SimulatedService, source: Path, root: Path
) -> None:
    first, second, *_ = service.recordings
    run_here(service, source, [first, second])
    run_here(service, root, [first, second])
    change(source, "UPDATE recording SET marked_at = '2026-01-02', transcode_at = '2026-01-01'")
    change(root, "UPDATE recording SET marked_at = '2026-01-05' WHERE id = ?", second)
    change(source, "UPDATE recording SET scope = 'accountKey=1', list_order = 7")
    merge_here(root, [source])
    columns = "marked_at, transcode_at, scope, list_order"
    assert row(root, columns, first) == ("2026-01-02", "2026-01-01", "accountKey=1", 7)
    assert row(root, columns, second) == ("2026-01-05", "2026-01-01", "accountKey=1", 7)


def test_how_far_sync_has_looked(tmp_path: Path, root: Path, serve: Serve) -> None:
    """Of a query of which all shards come together, the whole is known."""
    parts = shards(serve(3, rate_limit=None), tmp_path, 3)
    for number, part in enumerate(parts, 1):
        until = f"2026-01-0{number}T00:00:00Z"
        name = Shard(number, 3).scope("accountKey=1")
        change(part, "INSERT INTO scan VALUES (?, ?)", name, until)
        change(part, "INSERT INTO scan_gap VALUES (?, ?)", name, until)
    change(parts[0], "INSERT INTO scan VALUES ('accountKey=2', '2026-02-01T00:00:00Z')")
    merge_here(root, parts[:2])
    assert catalog_rows(root, "SELECT 1 FROM scan WHERE scope = 'accountKey=1'") == []
    merge_here(root, parts[2:])
    scans = dict(catalog_rows(root, "SELECT * FROM scan"))
    assert scans["accountKey=1"] == "2026-01-01T00:00:00Z"
    assert scans["accountKey=2"] == "2026-02-01T00:00:00Z"
    gaps = catalog_rows(root, "SELECT second FROM scan_gap WHERE scope = 'accountKey=1'")
    assert len(gaps) == 3


@pytest.mark.parametrize("why", ["another file", "not flushed", "not mounted"])
def test_how_far_sync_has_looked_is_not_known_where_some_is_left_out(
    why: str,
    service: SimulatedService,
    source: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = (id_ for id_, one in service.recordings.items() if one.start.year == 2014)
    run_here(service, source, [first, second])
    run_here(service, root, [second], kinds=(FileKind.MP4,))
    change(source, "INSERT INTO scan VALUES ('accountKey=1', '2026-01-01T00:00:00Z')")
    left_out = root / relative_path(service.recordings[first], "mp4")
    with ExitStack() as stack:
        if why == "another file":
            left_out.write_bytes(b"other")
            stack.callback(left_out.unlink)
        elif why == "not flushed":
            patch = stack.enter_context(monkeypatch.context())
            flush = flushing.flush_directory

            def refuse(path: str | Path) -> bool:
                if str(path) == str(left_out.parent):
                    raise OSError(errno.EIO, "Input/output error")
                return flush(path)

            patch.setattr(flushing, "flush_directory", refuse)
        else:
            year = left_out.parents[2]
            year.rename(root / ".away")
            year.mkdir()
            (root / "2099").mkdir()
            stack.callback((root / ".away").rename, year)
            stack.callback(year.rmdir)
        assert merge_here(root, [source]).exit_code != 0
        assert catalog_rows(root, "SELECT * FROM scan") == []
    assert merge_here(root, [source]).exit_code == 0
    assert len(catalog_rows(root, "SELECT * FROM scan")) == 1


# --- removed ------------------------------------------------------------------------------------


def remove(root: Path, id_: int) -> None:
    """Remove a recording for good."""
    result = cli_here(["remove", "--dest", root, "--yes", str(id_)])
    assert result.returncode == 0, result.stderr


def test_what_was_removed_here_is_not_brought_back(
    service: SimulatedService, source: Path, root: Path
) -> None:
    ids = list(service.recordings)
    run_here(service, source, ids)
    run_here(service, root, ids[:1])
    remove(root, ids[0])
    report = merge_here(root, [source], move=True)
    assert report.exit_code == 0
    assert [one.id for one in report.removed] == [ids[0]]
    assert states(root) == {**dict.fromkeys(ids, "archived"), ids[0]: "removed"}
    assert len([n for n in archive_files(root) if str(ids[0]) in n]) == 0
    assert states(source) == {ids[0]: "archived"}  # it was not taken, and stays
    assert len(archive_files(source)) == 3


def test_tombstones_come_along(service: SimulatedService, source: Path, root: Path) -> None:
    ids = list(service.recordings)
    run_here(service, source, ids)
    remove(source, ids[0])
    service.set_state(ids[0], "unavailable")
    run_here(service, root, ids[:1])  # owed here
    for _ in range(2):
        report = merge_here(root, [source])
        assert report.exit_code == 0
        columns = "state, reason, removed_at, owed_since"
        assert row(root, columns, ids[0]) == row(source, columns, ids[0])
        past = "SELECT kind, size, sha256, why FROM past_file WHERE recording = ? ORDER BY kind"
        assert len(catalog_rows(root, past, ids[0])) == 3
        assert catalog_rows(root, past, ids[0]) == catalog_rows(source, past, ids[0])
    service.set_state(ids[0], "ready")
    assert run_here(service, root, ids).archived == 0
    # It is in the list that outlives a catalogue, too.
    catalog_path(root).unlink()
    assert cli_here(["verify", "--dest", root, "--rebuild"]).returncode == 0
    assert states(root) == {**dict.fromkeys(ids, "archived"), ids[0]: "removed"}
    assert_proven(root)


def test_of_two_tombstones_this_archive_s_own_stays(
    service: SimulatedService, source: Path, root: Path
) -> None:
    id_ = next(iter(service.recordings))
    for archive, reason in ((root, "of this one"), (source, "of the other")):
        run_here(service, archive, [id_])
        args = ["remove", "--dest", str(archive), "--yes", "--reason", reason, str(id_)]
        assert cli_here(args).returncode == 0
    change(source, "UPDATE recording SET removed_at = '2037-01-01T00:00:00Z', tries = 7")
    change(source, "UPDATE past_file SET sha256 = 'of other bytes'")
    columns = "state, reason, removed_at"
    own = row(root, columns, id_)
    past = catalog_rows(root, "SELECT * FROM past_file")
    assert merge_here(root, [source]).exit_code == 0
    assert row(root, columns, id_) == own
    assert catalog_rows(root, "SELECT * FROM past_file") == past
    assert [line["reason"] for line in tombstones(root)] == ["of this one"]


def test_a_source_whose_catalogue_is_older_than_a_removal_brings_nothing_back(
    service: SimulatedService, source: Path, root: Path, tmp_path: Path
) -> None:
    ids = list(service.recordings)
    run_here(service, source, ids)
    backup = shutil.copy(catalog_path(source), tmp_path)
    remove(source, ids[0])
    shutil.copy(backup, catalog_path(source))
    for move in (False, True):
        assert merge_here(root, [source], move=move).exit_code == 6
        assert states(root) == {}
        assert states(source) == dict.fromkeys(ids, "archived")
    assert run_here(service, source, [], owed=True).exit_code == 0  # as the hint says
    assert merge_here(root, [source]).exit_code == 0
    assert states(root) == {**dict.fromkeys(ids, "archived"), ids[0]: "removed"}
    assert_removed(root, ids[0])


def test_a_tombstone_that_came_after_the_backup_of_a_catalogue_is_brought_back(
    service: SimulatedService, source: Path, root: Path, tmp_path: Path
) -> None:
    """Also of what was asked for here after it was removed there."""
    ids = list(service.recordings)
    run_here(service, source, ids)
    with clock_off_by(-3600):
        remove(source, ids[0])
    service.set_state(ids[0], "unavailable")
    assert run_here(service, root, ids[:2]).exit_code == 3
    backup = shutil.copy(catalog_path(root), tmp_path)
    assert merge_here(root, [source]).exit_code == 0
    assert states(root)[ids[0]] == "removed"
    shutil.copy(backup, catalog_path(root))
    service.set_state(ids[0], "ready")
    assert run_here(service, root, ids, owed=True).exit_code == 0
    assert_removed(root, ids[0])


def test_what_was_removed_fetched_again_and_moved_is_no_older_catalogue(
    service: SimulatedService, source: Path, root: Path
) -> None:
    ids = list(service.recordings)
    run_here(service, source, ids)
    remove(source, ids[0])
    run_here(service, source, ids, again=True)
    for _ in range(2):
        assert merge_here(root, [source], move=True).exit_code == 0
        assert states(root) == dict.fromkeys(ids, "archived")
        assert run_here(service, source, [], owed=True).exit_code == 0
        assert states(source) == {}


def test_a_tombstone_of_a_year_that_was_never_here_leaves_nothing_to_do(
    service: SimulatedService, source: Path, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids = list(service.recordings)
    run_here(service, source, ids)
    last = ids[-1]
    year = f"{service.recordings[last].start:%Y}"
    remove(source, last)
    assert not (source / year).exists()
    for layout in ("%Y/%m/%d", "%Y-%m"):
        target = root / layout.replace("/", "")
        merge_here(target, [source], layout=layout)
        assert_removed(target, last)
    assert "mounted" not in caplog.text


def test_a_tombstone_deletes_nothing_of_an_archive_that_has_lost_its_catalogue(
    service: SimulatedService, source: Path, root: Path
) -> None:
    ids = list(service.recordings)[:3]
    run_here(service, source, ids)
    run_here(service, root, ids)
    catalog_path(root).unlink()
    before = archive_files(root)
    remove(source, ids[0])
    report = merge_here(root, [source])
    assert [(one.id, one.reason) for one in report.contradictions] == [
        (ids[0], "removed there, and its files are here")
    ]
    assert archive_files(root) == before
    assert ids[0] not in states(root)
    remove(source, ids[1])
    change(source, "UPDATE recording SET directory = '2000/01/01' WHERE id = ?", ids[1])
    merge_here(root, [source], layout="%Y")  # by which nothing of it seems to be here
    assert archive_files(root) == before


def test_removed_there_and_archived_here_is_a_contradiction(
    service: SimulatedService, source: Path, root: Path
) -> None:
    ids = list(service.recordings)[:3]
    run_here(service, source, ids)
    run_here(service, root, ids)
    remove(source, ids[0])
    report = merge_here(root, [source])
    assert report.exit_code == 1
    assert [(one.id, one.reason) for one in report.contradictions] == [
        (ids[0], "removed there, and archived here")
    ]
    assert set(states(root).values()) == {"archived"}
