"""A report of a night in which nearly everything fails: whole, and in little memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.memory import peak_of

from g2a_archive.console.outputs import say_json, write_error_file
from g2a_archive.console.report import Report, SyncReport
from g2a_archive.models import Failure, FileKind, Tombstone

WHY = ["a", "b"]


def report(count: int) -> Report:
    """So many recordings of each kind that did not get archived."""
    made = Report("2026-11-23T02:00:00Z", finished_at="2026-11-23T03:00:00Z")
    for id_ in range(10**9, 10**9 + count):
        made.failed.append(Failure(id_, FileKind.MP4, WHY[id_ % 2]))
        made.failed.append(Failure(id_, FileKind.EVENTS, WHY[0]))
        made.removed.append(Tombstone(id_ + count, "2026-11-22T02:00:00Z", None))
        made.unavailable.append(id_ + 2 * count)
        made.refused.append(id_ + 3 * count)
        made.unfinished.append(id_ + 4 * count)
    return made


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"a": []},
        [[], {}, "", None, 1.5, True],
        {"a": {"b": [1, 2, {"c": "d\n\u00e9"}], "e": None}, "f": [[1], [2]], "\n": 7},
    ],
)
def test_json_is_laid_out_as_the_library_does(
    value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    say_json(value)
    assert capsys.readouterr().out == json.dumps(value, indent=2) + "\n"


def test_everything_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = report(3)
    say_json(made.to_json())
    told = json.loads(capsys.readouterr().out)
    assert told["failed"] == [
        {"id": one.id, "file": one.file, "reason": one.reason} for one in made.failed
    ]
    assert [one["id"] for one in told["failed"]] == [10**9 + n // 2 for n in range(6)]
    assert [(one["file"], one["reason"]) for one in told["failed"][:4]] == [
        ("mp4", "a"),
        ("events", "a"),
        ("mp4", "b"),
        ("events", "a"),
    ]
    assert [one["id"] for one in told["removed"]] == [10**9 + 3 + n for n in range(3)]
    assert told["unavailable"] == [10**9 + 6 + n for n in range(3)]
    assert told["refused"] == [10**9 + 9 + n for n in range(3)]
    assert made.failed_recordings == 3
    write_error_file(str(tmp_path / "ids"), made)
    lines = (tmp_path / "ids").read_text().splitlines()
    assert lines[1] == "1000000001  # mp4: b; events: a"
    assert [int(line.split()[0]) for line in lines] == [
        10**9 + n for n in (0, 1, 2, 9, 10, 11, 6, 7, 8, 12, 13, 14)
    ]


def test_what_sync_did_or_would_do_is_in_the_summary() -> None:
    made = Report("2026-11-23T02:00:00Z", finished_at="2026-11-23T03:00:00Z")
    made.sync = SyncReport(
        listed=9,
        calls=2,
        to_transcode=1234,
        transcoding=1000,
        to_mark=7,
        marked=6,
        overflowing=["2014-05-06T07:08:09Z"],
        refused={12: "the service refuses to mark it as archived"},
        lost=[13],
    )
    done = [line for _, line in made.summary()]
    would = {
        "  would ask for the transcoding of 1,234",
        "  would mark 7 as archived on the service",
    }
    assert not would & {*done}
    for told in (
        "  The service lists 9 recordings (2 list calls)",
        "  asked for the transcoding of 1,000",
        "  marked 6 as archived on the service",
        "  some may be missing: too many recordings started at 2014-05-06T07:08:09Z",
        "  12  the service refuses to mark it as archived",
        "  13  given up and lost",
    ):
        assert told in done
    made.dry_run = True
    assert would <= {line for _, line in made.summary()}


def test_it_takes_little_memory() -> None:
    def told(count: int) -> int:
        def work() -> None:
            made = report(count)
            write_error_file("/dev/null", made)
            with open("/dev/null", "w") as nowhere, pytest.MonkeyPatch.context() as patch:
                patch.setattr("sys.stdout", nowhere)
                say_json(made.to_json())
            made.summary()

        return peak_of(work)

    # Six rows a recording, of 8 or 12 bytes each, which grow by a half where they are full; an
    # object for each of the failures alone would take 200.
    assert told(1_500) - told(500) < 1_000 * 200


def test_failures_are_kept_as_they_are() -> None:
    made = Report("2026-11-23T02:00:00Z")
    rows: list[Any] = [
        Failure(1, FileKind.MP4, "x"),
        Failure(1, None, "x"),
        Failure(2, None, "y"),
        Failure(1, FileKind.MP4, "x"),
    ]
    made.failed.extend(rows)
    assert [*made.failed] == rows
    assert (len(made.failed), made.failed_recordings) == (4, 2)
