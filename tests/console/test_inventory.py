"""`status`, `export`, `verify`: what they say of an empty, a full, and an owing archive."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from g2a_archive.archive.database import inventory
from g2a_archive.archive.database.catalog import Catalog, RecordingResult
from g2a_archive.archive.database.inventory import NO_DATE, Period
from g2a_archive.console import inventory as inventory_text
from g2a_archive.console.fixity import outcome_json, outcome_text
from g2a_archive.fixity.check import Finding, FixityResult
from g2a_archive.models import ALL_KINDS, FileKind, State, StoredFile, size_text, utc_now

BIG_ID = 9007199254740993
"""The first whole number that a spreadsheet, and JavaScript, cannot hold."""


def settled(
    recording: int,
    start: str | None = "2014-05-06T15:00:00Z",
    state: State = State.ARCHIVED,
    reason: str | None = None,
    kinds: tuple[FileKind, ...] = ALL_KINDS,
    directory: str = "2014/05/06",
) -> RecordingResult:
    files = [
        StoredFile(recording, kind, f"{directory}/{recording}.{kind}", 1000 + kind.bit, "a" * 64)
        for kind in kinds
    ]
    return RecordingResult(recording, state, 7, 0, start, directory, reason, files=files)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(tmp_path / "catalog.sqlite3") as catalog:
        yield catalog


@pytest.fixture
def reader(writer: Catalog) -> Iterator[Catalog]:
    with Catalog(writer.path, readonly=True) as catalog:
        yield catalog


def run(writer: Catalog, exit_code: int | None, archived: int = 0) -> None:
    number = writer.begin_run("download")
    if exit_code is not None:
        outcome = {"exit_code": exit_code, "archived": archived, "bytes": 1 << 20}
        writer.end_run(number, {"finished_at": utc_now(), **outcome})


# --- status -----------------------------------------------------------------------------------


def test_an_empty_archive(reader: Catalog) -> None:
    summary = inventory.summary(reader)
    assert (summary.archived, summary.files, summary.bytes, summary.lost) == (0, 0, 0, 0)
    assert (summary.first_day, summary.last_day, summary.owed) == (None, None, ())
    assert (summary.last_run, summary.last_success) == (None, None)
    assert inventory_text.summary_text(summary, "recordings").splitlines() == [
        "Archive        recordings",
        "Archived       0 recordings, 0 files, 0 B",
        "Days           none yet",
        "Owed           0 recordings",
        "Last run       none",
    ]
    assert inventory.by_period(reader, "month") == []
    assert inventory_text.periods_text([]) == "Nothing is archived yet."
    assert inventory.recording_detail(reader, 1) is None


def test_what_is_archived_and_what_is_owed(writer: Catalog, reader: Catalog) -> None:
    writer.record_results([settled(n, f"20{n:02}-05-06T15:00:00Z") for n in range(10, 20)])
    writer.queue([50, 51])
    writer.record_results(
        [
            RecordingResult(60, State.UNAVAILABLE),
            RecordingResult(61, State.REFUSED),
            settled(62, state=State.FAILED, reason="events: 404", kinds=(FileKind.MP4,)),
            RecordingResult(63, State.LOST),
        ]
    )
    writer.mark_damaged([(10, FileKind.MP4, "missing")])
    run(writer, 0, archived=9)
    run(writer, 1, archived=2)
    summary = inventory.summary(reader)
    assert (summary.archived, summary.files) == (9, 30)
    assert summary.bytes == 9 * 3007 + 2006 + 1001
    assert (summary.first_day, summary.last_day) == ("2011-05-06", "2019-05-06")
    assert {one.state: one.count for one in summary.owed} == {
        "queued": 2,
        "unavailable": 1,
        "refused": 1,
        "failed": 1,
        "damaged": 1,
    }
    assert all(one.since for one in summary.owed)
    assert (summary.owed_count, summary.lost, summary.damaged_files) == (6, 1, 1)
    assert summary.last_run is not None
    assert summary.last_success is not None
    assert (summary.last_run.exit_code, summary.last_success.exit_code) == (1, 0)
    text = inventory_text.summary_text(summary, "recordings")
    assert "Archived       9 recordings, 30 files, 29.4 kB\n" in text
    assert "  queued       2 since 20" in text
    assert "exit 1, 2 archived, 1.0 MB\nLast success   download" in text
    assert text.endswith("`g2a-archive download --owed` tries again what is owed.")
    assert max(map(len, text.splitlines())) <= 80
    assert [one.id for one in inventory.owed_list(reader)] == [10, 50, 51, 60, 61, 62]
    fields = json.loads(json.dumps(inventory_text.summary_json(summary)))
    assert fields["owed"]["failed"]["count"] == 1
    assert fields["bytes"] == summary.bytes


def test_a_run_that_was_killed_is_said(writer: Catalog, reader: Catalog) -> None:
    run(writer, 0)
    run(writer, None)
    text = inventory_text.summary_text(inventory.summary(reader), "recordings")
    assert "Last run       download, began 20" in text
    assert "has not ended\nLast success   download, 20" in text


def test_checks_are_summed_up(writer: Catalog, reader: Catalog) -> None:
    writer.record_results([settled(1)])
    text = inventory_text.summary_text(inventory.summary(reader), "r")
    assert "\nVerified       3 files never\n" in text
    files = writer.files_of(1)
    writer.record_check([files[FileKind.MP4]])
    text = inventory_text.summary_text(inventory.summary(reader), "r")
    assert "\nVerified       2 files never, the others since 20" in text
    writer.record_check(files.values())
    text = inventory_text.summary_text(inventory.summary(reader), "r")
    assert "\nVerified       all since 20" in text


@pytest.mark.parametrize(
    ("start", "directory", "day"),
    [
        ("2014-05-06T23:30:00-07:00", "2014/05/07", "2014-05-06"),
        ("20140506T233000Z", "x", "2014-05-06"),
        ("2014-W19-2T15:00:00Z", "x", "2014-05-06"),
        (None, "2014/05/06", "2014-05-06"),
        (None, "all", NO_DATE),
    ],
)
def test_the_day_is_that_of_the_start_time_as_written(
    writer: Catalog, reader: Catalog, start: str | None, directory: str, day: str
) -> None:
    writer.record_results([settled(1, start, directory=directory)])
    assert [one.name for one in inventory.by_period(reader, "day")] == [day]


def test_periods_add_up_to_the_summary(writer: Catalog, reader: Catalog) -> None:
    days = ["2014-05-06", "2014-05-07", "2014-06-01", "2015-05-06"]
    writer.record_results([settled(n, f"{days[n % 4]}T12:00:00Z") for n in range(1, 41)])
    writer.record_results([RecordingResult(99, State.UNAVAILABLE)])
    total = inventory.summary(reader)
    for period, names in (
        ("year", ["2014", "2015"]),
        ("month", ["2014-05", "2014-06", "2015-05"]),
        ("day", days),
    ):
        rows = inventory.by_period(reader, period)
        assert [row.name for row in rows] == names
        assert sum(row.recordings for row in rows) == total.archived == 40
        assert sum(row.bytes for row in rows) == total.bytes == 40 * 3007
        assert sum(row.files for row in rows) == total.files


def test_a_table_of_periods_is_aligned_and_its_bars_fit() -> None:
    periods = [
        Period("2014-05", 12_345, 37_035, 5 << 40),
        Period("2014-06", 1, 3, 1),
        Period(NO_DATE, 1, 0, 0),
    ]
    table = inventory_text.periods_text(periods)
    assert table.splitlines() == [
        "Period      Recordings       Files        Size",
        "2014-05         12,345      37,035      5.0 TB",
        "2014-06              1           3         1 B",
        "unknown              1           0         0 B",
    ]
    barred = inventory_text.periods_text(periods, bars=True).splitlines()
    assert [line.count("█") for line in barred] == [0, 32, 1, 0]
    assert max(map(len, barred)) == 80


def test_all_about_one_recording(writer: Catalog, reader: Catalog) -> None:
    writer.record_results([settled(BIG_ID)])
    writer.mark_damaged([(BIG_ID, FileKind.EVENTS, "missing\x1b[2J")])
    detail = inventory.recording_detail(reader, BIG_ID)
    assert detail is not None
    assert (detail.state, detail.tries, len(detail.files)) == ("damaged", 1, 3)
    text = inventory_text.recording_text(detail)
    assert f"Recording   {BIG_ID}\nState       damaged\n" in text
    assert "Tried       once, last 20" in text
    assert f"mp4         2014/05/06/{BIG_ID}.mp4\n" in text
    assert "  size      1,001 bytes\n" in text
    assert f"  SHA-256   {'a' * 64}\n" in text
    assert r"  damage    missing\x1b[2J" in text
    assert "\x1b" not in text
    fields = inventory_text.recording_json(detail)
    assert fields["id"] == str(BIG_ID)
    assert fields["files"]["events"]["damage"] == "missing\x1b[2J"


def test_what_was_asked_for_and_never_tried(writer: Catalog, reader: Catalog) -> None:
    writer.queue([7], 7)
    detail = inventory.recording_detail(reader, 7)
    assert detail is not None
    assert inventory_text.recording_text(detail).endswith("\nTried       never")


def test_owed_recordings_have_a_line_each(writer: Catalog, reader: Catalog) -> None:
    writer.record_results([RecordingResult(1, State.FAILED, reason="mp4: gone\nnext line")])
    (line,) = inventory_text.owed_text(inventory.owed_list(reader))
    assert line.split() == ["1", "failed", line.split()[2], "1", "mp4:", r"gone\nnext", "line"]
    assert "\n" not in line


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 kB"),
        (1024 * 1024 - 1, "1.0 MB"),
        (12_900_000, "12.3 MB"),
        (3 << 40, "3.0 TB"),
        (5000 << 40, "5,000.0 TB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert size_text(size) == text


# --- export -----------------------------------------------------------------------------------


def exported_csv(reader: Catalog) -> list[dict[str, str]]:
    out = io.StringIO(newline="")
    inventory_text.write_csv(inventory.everything(reader), out)
    return list(csv.DictReader(io.StringIO(out.getvalue(), newline="")))


def exported_json(reader: Catalog) -> Any:
    out = io.StringIO()
    inventory_text.write_json(inventory.everything(reader), out)
    return json.loads(out.getvalue())


def test_an_empty_export_is_still_well_formed(reader: Catalog) -> None:
    assert exported_csv(reader) == []
    assert exported_json(reader) == []


def test_an_export_holds_the_whole_catalogue(
    writer: Catalog, reader: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory, "_PAGE", 7)
    ids = [*range(1, 50), BIG_ID, 2**63 - 1]
    writer.record_results([settled(n) for n in ids])
    writer.record_results([RecordingResult(100, State.UNAVAILABLE)])
    expected = sorted([*ids, 100])

    rows = exported_csv(reader)
    assert [int(row["id"].removeprefix("'")) for row in rows] == expected
    assert [row["id"] for row in rows if row["id"].startswith("'")] == [
        f"'{id_}" for id_ in expected if len(str(id_)) > 15
    ]
    objects = exported_json(reader)
    assert [int(one["id"]) for one in objects] == expected
    assert all(isinstance(one["id"], str) for one in objects)

    for row, one in zip(rows, objects, strict=True):
        detail = inventory.recording_detail(reader, int(one["id"]))
        assert detail is not None
        assert row["state"] == one["state"] == detail.state
        assert set(one["files"]) == {file.kind for file in detail.files}
        for file in detail.files:
            assert row[f"{file.kind}_path"] == one["files"][file.kind]["path"] == file.path
            assert int(row[f"{file.kind}_size"]) == one["files"][file.kind]["size"] == file.size
            assert row[f"{file.kind}_sha256"] == file.sha256
    assert rows[expected.index(100)]["mp4_path"] == ""


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "'", "\t=", "\r="])
def test_no_cell_is_a_formula(writer: Catalog, reader: Catalog, start: str) -> None:
    reason = f'{start}HYPERLINK("http://example.org")\n,"'
    writer.record_results([RecordingResult(1, State.FAILED, reason=reason)])
    (row,) = exported_csv(reader)
    assert row["reason"][0] in "'\\"
    assert "HYPERLINK" in row["reason"]
    assert "\n" not in row["reason"]
    (one,) = exported_json(reader)
    assert one["reason"] == reason


def test_a_slow_export_does_not_hold_up_a_run(writer: Catalog, reader: Catalog) -> None:
    writer.record_results([settled(n) for n in range(1, 3000)])
    reading = inventory.everything(reader)
    next(reading)
    writer.record_results([settled(3000)])
    assert [one.id for one in reading][-1] == 3000


def test_periods_and_summary_as_csv(writer: Catalog, reader: Catalog) -> None:
    writer.record_results([settled(1), RecordingResult(2, State.REFUSED)])
    out = io.StringIO(newline="")
    inventory_text.write_periods_csv(inventory.by_period(reader, "year"), out)
    assert out.getvalue() == "period,recordings,files,bytes\n2014,1,3,3007\n"
    out = io.StringIO(newline="")
    inventory_text.write_summary_csv(inventory.summary(reader), out)
    lines = out.getvalue().splitlines()
    assert lines[:2] == ["state,recordings,files,bytes,owed_since", "archived,1,3,3007,"]
    assert lines[2].startswith("refused,1,,,20")
    assert lines[3:] == ["lost,0,,,", "removed,0,,,"]


# --- what a check found -----------------------------------------------------------------------


def test_an_outcome_for_a_person_and_for_a_program() -> None:
    outcome = FixityResult(files=1200, bytes=1 << 30, seconds=2.5)
    text = "Checked 1,200 files, 1.0 GB, in 2.5 s: nothing wrong."
    assert outcome_text(outcome) == text
    outcome.left = 3
    outcome.findings = [
        Finding(BIG_ID, FileKind.MP4, "2014/1.mp4", "missing"),
        Finding(None, None, "notes.txt", "unknown: not in the catalogue", False),
    ]
    assert outcome_text(outcome).splitlines() == [
        "2014/1.mp4: missing",
        "notes.txt: unknown: not in the catalogue",
        "Checked 1,200 files, 1.0 GB, in 2.5 s: 2 problems.",
        "3 files not reached.",
        "`g2a-archive download --owed` fetches again what is damaged.",
    ]
    fields = json.loads(json.dumps(outcome_json(outcome)))
    assert (fields["files"], fields["left"], fields["recorded"]) == (1200, 3, True)
    assert fields["findings"][0] == {
        "recording": str(BIG_ID),
        "file": "mp4",
        "path": "2014/1.mp4",
        "problem": "missing",
        "damage": True,
    }
    assert fields["findings"][1]["recording"] is None
