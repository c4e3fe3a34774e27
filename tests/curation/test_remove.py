"""`remove`: recordings go for good, whatever happens in between, and a tombstone stays."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support import (
    archive_files,
    assert_nothing_false,
    catalog_path,
    catalog_rows,
    cli_here,
    download_args,
    relative_path,
    removal,
    report_of,
    run_here,
    states,
)
from support.cli import Say
from support.clocks import clock_off_by
from support.merging import change, content, merge_here
from support.removal import assert_removed, files_of, tombstones
from support.service import Serve

from g2a_archive.cli import main
from g2a_archive.demo import SimulatedService
from g2a_archive.fixity.check import OF_REMOVED

original = removal.original
service = removal.service
ids = removal.ids

# --- what it does ----------------------------------------------------------------------------


def test_without_yes_it_only_says_what_it_would_do(root: Path, ids: list[int], say: Say) -> None:
    before = catalog_path(root).read_bytes(), archive_files(root)
    code, out, err = say("remove", *ids[:3])
    assert (code, err) == (0, "")
    assert out.startswith("Would remove 3 recordings, 9 files, ")
    assert ", started 2013-12-31 to 2014-01-01" in out
    assert "`--yes` removes them for good" in out
    assert (catalog_path(root).read_bytes(), archive_files(root)) == before
    report = json.loads(say("remove", "--json", *ids[:3])[1])
    assert (report["removed"], report["recordings"], report["files"]) == (False, 3, 9)
    assert (report["first_day"], report["last_day"]) == ("2013-12-31", "2014-01-01")


def test_what_is_removed_is_gone_and_remembered(
    service: SimulatedService, root: Path, ids: list[int], say: Say
) -> None:
    row = catalog_rows(root, "SELECT sha256, size FROM file WHERE recording = ?", ids[0])
    partial = root / ".g2a-archive" / "partial" / f"{ids[0]}.mp4.part"
    partial.write_bytes(b"half")
    aside = root / f"{files_of(root, ids[0])[0]}.kept-1"
    aside.write_bytes(b"an older one")
    code, out, err = say("remove", "--yes", "--reason", "retention of ten years", *ids[:3])
    assert (code, err) == (0, "")
    assert out.startswith("Removed 3 recordings, 9 files, ")
    assert_removed(root, *ids[:3])
    assert_nothing_false(service, root)
    tomb = next(one for one in tombstones(root) if one["id"] == str(ids[0]))
    assert tomb["reason"] == "retention of ten years"
    assert {
        (tomb[f"{k}_sha256"], int(tomb[f"{k}_size"])) for k in ("mp4", "events", "thumbnail")
    } == (set(row))
    assert say("verify")[0] == 0
    when, why = tomb["removed_at"], "retention of ten years"
    told = f"{ids[0]}: removed from the archive at {when}: {why}\nChecked 3 files, "
    code, out, err = say("verify", ids[0], ids[3])
    assert (code, out[: len(told)], err) == (0, told, "")
    assert json.loads(say("verify", "--json", ids[0])[1])["removed"] == [
        {"id": str(ids[0]), "removed_at": when, "reason": why}
    ]
    shown = say("status", ids[0])[1]
    assert "removed" in shown
    assert "retention of ten years" in shown
    assert tomb["mp4_sha256"] in shown
    assert "Removed        3 recordings" in say("status")[1]
    exported = {one["id"]: one for one in json.loads(say("export", "--json")[1])}
    one = exported[str(ids[0])]
    assert (one["state"], one["files"]["mp4"]["sha256"]) == ("removed", tomb["mp4_sha256"])
    assert one["removed_at"] == tomb["removed_at"]


def test_nothing_fetches_it_again_but_again(
    service: SimulatedService, root: Path, ids: list[int], say: Say
) -> None:
    say("remove", "--yes", "--reason", "a court's order", ids[0])
    service.requests.clear()
    report = run_here(service, root, ids)
    assert (report.exit_code, report.already_archived, report.archived) == (0, 4, 0)
    assert service.requests.count == 0
    (told,) = report.to_json()["removed"]
    assert (told["id"], told["reason"]) == (ids[0], "a court's order")
    assert f"  {ids[0]}  removed from the archive at {told['removed_at']}: a court's order" in (
        [line for _, line in report.summary()]
    )
    assert run_here(service, root, [], owed=True).exit_code == 0
    assert run_here(service, root, [ids[0]], dry_run=True).would_fetch == 0
    (_, head), *_ = run_here(service, root, [ids[0], 4711]).summary()
    assert head == "Archived none of 2 recordings"  # the other one is refused
    assert_removed(root, ids[0])
    again = report_of(cli_here(download_args(root, "--again", *ids), service.environment()))
    assert (again["exit_code"], again["archived"], again["removed"]) == (0, 1, [])
    assert states(root)[ids[0]] == "archived"
    assert len(files_of(root, ids[0])) == 3
    assert catalog_rows(root, "SELECT removed_at FROM recording WHERE id = ?", ids[0]) == [(None,)]
    assert say("verify")[0] == 0
    # And once more.
    assert say("remove", "--yes", ids[0])[0] == 0
    assert_removed(root, ids[0])


def test_of_what_is_fetched_again_only_what_is_asked_for(
    service: SimulatedService, root: Path, ids: list[int], say: Say
) -> None:
    """What was asked for before the removal went with it."""
    say("remove", "--yes", ids[0])
    again = download_args(root, "--again", "--only", "mp4", ids[0])
    assert report_of(cli_here(again, service.environment()))["archived"] == 1
    assert states(root)[ids[0]] == "archived"
    assert run_here(service, root, [], owed=True).requested == 0
    (only,) = files_of(root, ids[0])
    assert only.endswith(".mp4")


def test_the_fingerprint_knows_what_was_removed(
    service: SimulatedService, root: Path, ids: list[int], say: Say
) -> None:
    lines = [say("status", "--fingerprint")[1].strip()]
    say("remove", "--yes", ids[0])
    lines.append(say("status", "--fingerprint")[1].strip())
    run_here(service, root, [ids[0]], again=True)
    lines.append(say("status", "--fingerprint")[1].strip())
    say("remove", "--yes", ids[0], ids[1])
    for line, removed in zip(lines, (6, 3, 6), strict=True):
        code, out, _ = say("verify", "--json", "--fingerprint", line)
        assert code == 0, out
        assert json.loads(out)["proof"]["removed"] == removed
    assert f"Recording {ids[0]}: removed since" in say("verify", "--fingerprint", lines[0])[1]


def test_before_a_date_except_some(
    root: Path, ids: list[int], say: Say, tmp_path: Path, service: SimulatedService
) -> None:
    limit = datetime(2014, 1, 1, tzinfo=UTC)
    old = sorted(id_ for id_, one in service.recordings.items() if one.start < limit)
    assert 1 < len(old) < len(ids)
    held = tmp_path / "holds.txt"
    args = "remove", "--before", "2014-01-01", "--except", held
    held.write_text("# lost\n")
    assert "0 held back by --except" in say(*args)[1]
    assert "held back" not in say(*args[:-2])[1]
    held.write_text(f"{old[0]}  # Smith v. Jones\n4711\n")
    assert "1 held back by --except" in say(*args)[1]
    assert say(*args, "--yes")[0] == 0
    assert_removed(root, *old[1:])
    assert {id_ for id_, state in states(root).items() if state == "archived"} == (
        {*ids} - {*old[1:]}
    )
    code, out, _ = say(*args, "--yes")
    assert (code, out[:17]) == (0, "Nothing to remove")


def test_nothing_goes_too_early_where_only_directories_tell(
    root: Path, ids: list[int], say: Say
) -> None:
    """A rebuilt catalogue knows days, which may be those of any time zone, and no starts."""
    (root / ".g2a-archive" / "catalog.sqlite3").unlink()
    assert say("verify", "--rebuild")[0] == 0
    days = {row[0]: row[1] for row in catalog_rows(root, "SELECT id, directory FROM recording")}
    first = min(days.values())
    day = datetime.strptime(first, "%Y/%m/%d").replace(tzinfo=UTC)
    for hours in (1, 12, 24, 36):
        late = f"{day + timedelta(hours=hours):%Y-%m-%dT%H:%M:%SZ}"
        assert say("remove", "--before", late, "--yes")[1].startswith("Nothing to remove")
    assert say("remove", "--before", f"{day + timedelta(days=2):%Y-%m-%d}", "--yes")[0] == 0
    assert_removed(root, *(id_ for id_ in ids if days[id_] == first))
    assert set(states(root).values()) == {"archived", "removed"}


def test_what_started_nobody_knows_when_is_told_and_stays(
    root: Path, ids: list[int], say: Say
) -> None:
    """As after a catalogue was lost, in a layout without days."""
    change(root, "UPDATE recording SET start_time = NULL, directory = '2014' WHERE id = ?", ids[0])
    assert "; 1 of an unknown date" in say("remove", "--before", "30d", "--yes")[1]
    assert_removed(root, *ids[1:])
    assert states(root)[ids[0]] == "archived"


def test_before_an_age(root: Path, ids: list[int], say: Say) -> None:
    assert "Nothing to remove" in say("remove", "--yes", "--before", "20000d")[1]
    assert say("remove", "--yes", "--before", "30d")[0] == 0
    assert_removed(root, *ids)


def test_a_recording_that_is_owed_is_owed_no_more(serve: Serve, root: Path, say: Say) -> None:
    service = serve(1)
    id_ = next(iter(service.recordings))
    service.set_state(id_, "unavailable")
    assert run_here(service, root, [id_]).exit_code == 3
    assert say("remove", "--yes", id_)[0] == 0
    assert states(root) == {id_: "removed"}
    service.requests.clear()
    assert run_here(service, root, [], owed=True).exit_code == 0
    assert service.requests.count == 0


def test_what_still_names_it_makes_the_exit_code_1(
    service: SimulatedService, root: Path, ids: list[int], say: Say
) -> None:
    sums = (root / relative_path(service.recordings[ids[0]], "mp4")).with_name("SHA256SUMS")
    sums.unlink()
    sums.mkdir()  # which nobody can replace
    code, _, err = say("remove", "--yes", ids[0])
    assert code == 1
    assert str(sums) in err
    assert files_of(root, ids[0]) == []
    sums.rmdir()
    assert run_here(service, root, ids[:1]).exit_code == 0
    assert_removed(root, ids[0])


def test_what_a_killed_run_had_named_and_not_recorded_goes_too(
    service: SimulatedService, root: Path, ids: list[int], say: Say
) -> None:
    # As after a run that was killed: the file has its name, and the catalogue owes the recording.
    for sql in ("DELETE FROM file", "UPDATE recording SET state = 'queued', directory = NULL"):
        change(root, f"{sql} WHERE {'id' if 'UPDATE' in sql else 'recording'} = ?", ids[-1])
    assert len(files_of(root, ids[-1])) == 3
    assert say("remove", "--yes", ids[-1])[0] == 0
    assert_removed(root, ids[-1])
    assert len(archive_files(root)) == 3 * (len(ids) - 1)


def test_pages_are_written_again(root: Path, ids: list[int], say: Say) -> None:
    assert say("browse", "--title", "Sessions of Example Ltd")[0] == 0
    pages = root / "browse"

    def naming(id_: int) -> list[str]:
        # Also in what is kept there for the next time.
        return [p.name for p in pages.rglob("*.*") if str(id_).encode() in p.read_bytes()]

    assert naming(ids[0])
    # On a machine that does not know the time zone which they were written with.
    options = root / ".g2a-archive" / "browse.json"
    options.write_text(options.read_text().replace("null", '"Mars/Olympus"'))
    assert say("remove", "--yes", ids[0])[0] == 0
    assert naming(ids[0]) == []
    assert naming(ids[1])
    assert "Sessions of Example Ltd" in (root / "index.html").read_text("utf-8")


def test_tombstones_outlive_the_catalogue(
    service: SimulatedService, root: Path, ids: list[int], say: Say
) -> None:
    say("remove", "--yes", "--reason", "old", *ids[:2])
    run_here(service, root, [ids[1]], again=True)
    with open(root / ".g2a-archive" / "removed.csv", "a") as file:
        file.write(f"{'9' * 25}{',' * 14}\n")  # which is no ID
        file.write("123,half a li")  # of a killed run
    before = catalog_rows(
        root,
        "SELECT id, start_time, directory, removed_at, reason, archived_at "
        "FROM recording WHERE state = 'removed'",
    )
    for way in ("rebuild", "download"):
        catalog_path(root).unlink()
        if way == "rebuild":
            assert say("verify", "--rebuild")[0] == 0
        else:
            report = run_here(service, root, ids)
            assert (report.exit_code, len(report.removed), report.files) == (0, 1, 0)
        assert (
            catalog_rows(
                root,
                "SELECT id, start_time, directory, removed_at, reason, archived_at "
                "FROM recording WHERE state = 'removed'",
            )
            == before
        )
        assert states(root)[ids[1]] == "archived"
        assert "SHA-256" in say("status", ids[0])[1]
    assert say("remove", "--yes", ids[2])[0] == 0
    assert_removed(root, ids[0], ids[2])


def test_a_tombstone_that_was_cut_takes_no_other_along(
    service: SimulatedService, root: Path, ids: list[int], say: Say
) -> None:
    """A full disk took half of a line, in the middle of a reason in quotes; then it came again."""
    say("remove", "--yes", "--reason", "old, by law", ids[0])
    path = root / ".g2a-archive" / "removed.csv"
    head, line = path.read_text().splitlines(keepends=True)
    path.write_text(f"{head}{line.partition('by law')[0]}\n{line}")
    say("remove", "--yes", ids[1])
    say("remove", "--yes", "--reason", "old, by law", ids[2])
    catalog_path(root).unlink()
    report = run_here(service, root, ids)
    assert (report.exit_code, report.files) == (0, 0)
    assert {one.id: one.reason for one in report.removed} == {
        **dict.fromkeys((ids[0], ids[2]), "old, by law"),
        ids[1]: None,
    }


def test_what_never_came_and_is_asked_for_again_stays_owed(
    serve: Serve, root: Path, say: Say
) -> None:
    service = serve(2)
    first, second = service.recordings
    service.set_state(first, "unavailable")
    run_here(service, root, [first, second])
    with clock_off_by(-3600):
        assert say("remove", "--yes", first)[0] == 0
    run_here(service, root, [first], again=True)
    assert [*run_here(service, root, [], owed=True).unavailable] == [first]


def test_an_older_catalogue_from_a_backup_brings_nothing_back(
    serve: Serve, root: Path, ids: list[int], say: Say
) -> None:
    service = serve(len(ids))
    line = say("status", "--fingerprint")[1].strip()
    backup = catalog_path(root).read_bytes()
    say("remove", "--yes", "--reason", "old", *ids[:3])
    run_here(service, root, [ids[2]], again=True)
    removed = "SELECT id, removed_at, reason FROM recording WHERE state = 'removed'"
    before = catalog_rows(root, removed)
    catalog_path(root).write_bytes(backup)
    say("verify")  # by which what is missing becomes owed
    report = run_here(service, root, ids, owed=True)
    assert (report.exit_code, len(report.removed), report.files) == (0, 2, 0)
    assert catalog_rows(root, removed) == before
    assert_removed(root, *ids[:2])
    assert states(root)[ids[2]] == "archived"
    assert say("verify", "--fingerprint", line)[0] == 0
    # What is fetched again since, or is to be, stays so.
    service.set_state(ids[0], "unavailable")
    run_here(service, root, ids[:2], again=True)
    assert [*run_here(service, root, [], owed=True).unavailable] == [ids[0]]
    assert states(root)[ids[1]] == "archived"


@pytest.mark.parametrize("backup", [True, False], ids=["of a backup", "lost"])
def test_what_only_says_what_would_be_done_knows_what_was_removed(
    serve: Serve, root: Path, ids: list[int], say: Say, tmp_path: Path, backup: bool
) -> None:
    """Also where the catalogue does not, and a run would bring it back from `removed.csv`."""
    service, catalog = serve(len(ids)), catalog_path(root)
    other = shutil.copytree(root, tmp_path / "other")
    old = catalog.read_bytes()
    say("remove", "--yes", ids[0])
    catalog.unlink()
    if backup:
        catalog.write_bytes(old)
        assert say("remove", ids[0])[1].endswith("; 1 removed already.\n")
    before = content(root)
    service.set_state(ids[0], "unavailable")
    for dry_run in (True, False):
        if not dry_run:
            assert content(root) == before
        merged = merge_here(root, [other], dry_run=dry_run)
        assert (merged.exit_code, [one.id for one in merged.removed]) == (0, ids[:1])
        report = run_here(service, root, ids[:1], dry_run=dry_run)
        assert (report.exit_code, [one.id for one in report.removed]) == (0, ids[:1])


@pytest.mark.parametrize("options", [[], ["--rebuild"]], ids=["verify", "rebuild"])
def test_a_file_of_it_that_is_there_again_is_told(
    options: list[str], root: Path, ids: list[int], say: Say
) -> None:
    """From a backup, say, or in a directory that a lost catalogue knew."""
    day = root / "2012-01-01"
    day.mkdir()
    for path in sorted(root.glob(f"*/*/*/{ids[0]}.*")):
        shutil.copy(path, day)
    say("remove", "--yes", ids[0])
    code, out, _ = say("verify", *options)
    told = [f"{path.relative_to(root)}: {OF_REMOVED}" for path in sorted(day.iterdir())]
    assert (code, out.splitlines()[:-1], len(told)) == (1, told, 3)


def test_tombstones_that_a_spreadsheet_has_saved(root: Path, ids: list[int], say: Say) -> None:
    """With a BOM, a blank line; and what it has made unreadable is told: it is fetched again."""
    say("remove", "--yes", *ids[:2])
    path = root / ".g2a-archive" / "removed.csv"
    head, first, second = path.read_text().splitlines()
    path.write_text("\ufeff" + "\r\n".join([head, first, "", second.replace(",", ";")]))
    catalog_path(root).unlink()
    code, _, told = say("verify", "--rebuild")
    kept = {id_ for id_, state in states(root).items() if state == "removed"}
    assert (code, kept) == (0, {int(first.partition(",")[0])})
    assert f"{path}: passed over 1 line with no tombstone" in told


def test_tombstones_come_along_into_another_archive(
    root: Path, ids: list[int], say: Say, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(root, other)
    assert main.run(["remove", "--yes", "-d", str(other), *map(str, ids[:2])]) == 0
    assert say("remove", "--yes", *ids[1:4])[0] == 0
    root.rename(source := tmp_path / "source")
    assert say("merge", other)[0] == 0
    assert_removed(root, *ids[:2])
    assert say("merge", source)[0] == 1  # 1 to 3 are removed in one, and archived in the other
    catalog_path(root).unlink()
    assert say("verify", "--rebuild")[0] == 0
    assert_removed(root, *ids[:2])


def test_what_was_removed_is_marked_as_archived_and_not_fetched(
    serve: Serve, root: Path, say: Say
) -> None:
    service = serve(2)
    ids = list(service.recordings)
    env = service.environment()
    sync: list[str | int | Path] = ["sync", "--account-key", "1000", "-d", root, "--min-free", "0"]
    assert cli_here(sync, env).returncode == 0
    assert say("remove", "--yes", ids[0])[0] == 0
    service.requests.clear()
    result = cli_here([*sync, "--mark-archived", "--json"], env)
    assert result.returncode == 0, result.stderr
    assert service.archived == frozenset(ids)
    assert service.requests.counts["file"] == 0
    assert_removed(root, ids[0])
    assert cli_here([*sync, "--mark-archived"], env).returncode == 0  # nothing is told for ever
