"""The answers of `inventory.py` as text for a person, and as JSON and CSV for other programs."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any, TextIO

from g2a_archive.archive.database.inventory import Period, RecordingDetail, Run, Summary
from g2a_archive.models import ALL_KINDS, pluralize, printable, size_text

_WIDTH = 80
_FILE_COLUMNS = ("path", "size", "sha256", "archived_at", "checked_at", "damage")
_RECORDING_COLUMNS = (
    *("id", "state", "start_time", "directory", "archived_at"),
    *("owed_since", "tries", "last_try", "reason", "removed_at"),
)
CSV_COLUMNS = (
    *_RECORDING_COLUMNS,
    *(f"{kind}_{column}" for kind in ALL_KINDS for column in _FILE_COLUMNS),
)
"""The columns of the exported CSV."""


def _size(size: int) -> str:
    return pluralize(size, "byte") + (f" ({size_text(size)})" if size >= 1024 else "")


# --- for a person -----------------------------------------------------------------------------


def summary_text(summary: Summary, name: str) -> str:
    """What `status` shows of the archive called `name`; lines of 80 columns at most."""
    none = summary.first_day is None
    lines = [
        ("Archive", printable(name)),
        (
            "Archived",
            f"{pluralize(summary.archived, 'recording')}, {pluralize(summary.files, 'file')}, "
            f"{size_text(summary.bytes)}",
        ),
        ("Days", "none yet" if none else f"{summary.first_day} to {summary.last_day}"),
        ("Owed", pluralize(summary.owed_count, "recording")),
        *(
            (f"  {one.state}", f"{one.count:,} since {one.since or 'an unknown time'}")
            for one in summary.owed
        ),
    ]
    if summary.lost:
        lines.append(("Given up", pluralize(summary.lost, "recording")))
    if summary.halves:
        halves = pluralize(summary.halves, "recording")
        lines.append(("Half here", f"{halves}, {size_text(summary.half_bytes)}"))
    if summary.removed:
        lines.append(("Removed", pluralize(summary.removed, "recording")))
    if summary.damaged_files:
        lines.append(("Damaged", pluralize(summary.damaged_files, "file")))
    if summary.files:
        lines.append(("Verified", _verified(summary)))
    lines.append(("Last run", _run_text(summary.last_run)))
    if summary.last_run != summary.last_success:
        lines.append(("Last success", _run_text(summary.last_success)))
    text = "\n".join(f"{label:<15}{value}".rstrip() for label, value in lines)
    if summary.owed_count:
        text += "\n\n`g2a-archive download --owed` tries again what is owed."
    return text


def _verified(summary: Summary) -> str:
    never = f"{pluralize(summary.unchecked, 'file')} never"
    if summary.oldest_check is None:
        return never
    oldest = f"the others since {summary.oldest_check}"
    return f"{never}, {oldest}" if summary.unchecked else f"all since {summary.oldest_check}"


def _run_text(run: Run | None) -> str:
    if run is None:
        return "none"
    if run.exit_code is None:
        return f"{printable(run.command)}, began {run.started_at}, has not ended"
    archived = f", {run.archived:,} archived" if run.archived is not None else ""
    size = f", {size_text(run.bytes)}" if run.bytes is not None else ""
    return f"{printable(run.command)}, {run.finished_at}, exit {run.exit_code}{archived}{size}"


def periods_text(periods: Sequence[Period], *, bars: bool = False) -> str:
    """A table of periods, with bars that compare their bytes where `bars` are asked for."""
    if not periods:
        return "Nothing is archived yet."
    lines = [f"{'Period':<10}  {'Recordings':>10}  {'Files':>10}  {'Size':>10}"]
    largest = max(period.bytes for period in periods) or 1
    room = _WIDTH - len(lines[0]) - 2
    for one in periods:
        line = (
            f"{one.name:<10}  {one.recordings:>10,}  {one.files:>10,}  {size_text(one.bytes):>10}"
        )
        if bars and one.bytes:
            line += "  " + "█" * max(1, round(one.bytes * room / largest))
        lines.append(line)
    return "\n".join(lines)


def recording_text(one: RecordingDetail) -> str:
    """All that is known of one recording."""
    tried = f"{one.tries} times" if one.tries != 1 else "once"
    lines = [
        ("Recording", str(one.id)),
        ("State", one.state),
        ("Reason", printable(one.reason or "")),
        ("Started", printable(one.start_time or "")),
        ("Archived", one.archived_at or ""),
        ("Removed", one.removed_at or ""),
        ("Owed since", one.owed_since or ""),
        ("Tried", f"{tried}, last {one.last_try}" if one.tries and one.last_try else "never"),
    ]
    for file in one.files:
        lines += [
            (file.kind, printable(file.path)),
            ("  size", _size(file.size)),
            ("  SHA-256", file.sha256),
            ("  archived", file.archived_at),
            ("  verified", file.checked_at or "never"),
            ("  damage", printable(file.damage or "")),
        ]
    return "\n".join(f"{label:<12}{value}" for label, value in lines if value)


def owed_text(owed: Iterable[RecordingDetail]) -> Iterable[str]:
    """A line for each owed recording: ID, state, since when, how often tried, and why."""
    for one in owed:
        reason = f"  {printable(one.reason)}" if one.reason else ""
        yield f"{one.id:<20}{one.state:<13}{one.owed_since or '':<22}{one.tries:>4}{reason}"


# --- for other programs -----------------------------------------------------------------------


def summary_json(summary: Summary) -> dict[str, Any]:
    """The summary as a JSON object; sizes in bytes."""
    fields = asdict(summary)
    fields["owed"] = {one.state: {"count": one.count, "since": one.since} for one in summary.owed}
    return {**fields, "owed_count": summary.owed_count}


def periods_json(periods: Iterable[Period]) -> list[dict[str, Any]]:
    """The periods as JSON objects; sizes in bytes."""
    return [asdict(period) for period in periods]


def recording_json(one: RecordingDetail) -> dict[str, Any]:
    """One recording as a JSON object. Its ID is a string: JavaScript would round the number."""
    fields = {name: getattr(one, name) for name in _RECORDING_COLUMNS}
    files = {file.kind: {name: getattr(file, name) for name in _FILE_COLUMNS} for file in one.files}
    return {**fields, "id": str(one.id), "files": files}


def write_json(recordings: Iterable[RecordingDetail], out: TextIO) -> None:
    """Write recordings as one JSON array, an object a line.

    Raises `OSError` where `out` cannot be written.
    """
    out.write("[")
    comma = ""
    for one in recordings:
        fields = recording_json(one)
        text = json.dumps(fields, ensure_ascii=False)
        out.write(f"{comma}\n{text if text.isprintable() else json.dumps(fields)}")
        comma = ","
    out.write("\n]\n")


def write_csv(recordings: Iterable[RecordingDetail], out: TextIO) -> None:
    """Write recordings as CSV with a header, `CSV_COLUMNS`.

    A row is a recording, owed ones included, with the columns of each of its three files: what
    one checks is whether a session is archived, and a sheet that is filtered or sorted must not
    tear its files apart. An ID of more than 15 digits has an apostrophe before it: without one a
    spreadsheet rounds it. Text that a spreadsheet would take for a formula gets one, too.
    Sizes are in bytes. Raises `OSError` where `out` cannot be written; open it with `newline=""`.
    """
    add = csv_rows(out)
    for one in recordings:
        add(one)


def csv_rows(out: TextIO) -> Callable[[RecordingDetail], None]:
    """Write the header of `write_csv`; what is returned writes a recording's row."""
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(CSV_COLUMNS)

    def add(one: RecordingDetail) -> None:
        files = {file.kind: file for file in one.files}
        row = [_sheet_id(one.id), *(_cell(getattr(one, name)) for name in _RECORDING_COLUMNS[1:])]
        for kind in ALL_KINDS:
            file = files.get(kind)
            row += (_cell(getattr(file, name, None)) for name in _FILE_COLUMNS)
        rows.writerow(row)

    return add


def _sheet_id(id_: int) -> str:
    """An ID that a spreadsheet keeps: as numbers go, it holds 15 digits and no more."""
    return f"'{id_}" if id_ >= 10**15 else str(id_)


def write_periods_csv(periods: Iterable[Period], out: TextIO) -> None:
    """Write periods as CSV with a header; sizes in bytes."""
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(("period", "recordings", "files", "bytes"))
    rows.writerows((_cell(one.name), one.recordings, one.files, one.bytes) for one in periods)


def write_summary_csv(summary: Summary, out: TextIO) -> None:
    """Write the summary as CSV: a row for each state of a recording, with its oldest date."""
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(("state", "recordings", "files", "bytes", "owed_since"))
    rows.writerow(("archived", summary.archived, summary.files, summary.bytes, ""))
    rows.writerows((one.state, one.count, "", "", one.since or "") for one in summary.owed)
    rows.writerow(("lost", summary.lost, "", "", ""))
    rows.writerow(("removed", summary.removed, "", "", ""))


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "'")) else text
