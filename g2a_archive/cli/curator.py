"""Commands on an archive that is there: `status`, `verify`, `export`, `browse`."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from g2a_archive import browse
from g2a_archive.archive import inventory, layout
from g2a_archive.archive.catalog import Catalog
from g2a_archive.archive.storage import Storage, catalog_path, is_there
from g2a_archive.archive.summing import write_checksums
from g2a_archive.cli.settings import Settings
from g2a_archive.cli.stage import staged
from g2a_archive.console import inventory as inventory_text
from g2a_archive.console import outputs
from g2a_archive.console.inventory import outcome_json, outcome_text
from g2a_archive.console.progress import Snapshot
from g2a_archive.download.stopping import StopSwitch
from g2a_archive.errors import ExitCode, StorageError
from g2a_archive.fixity import audit
from g2a_archive.fixity.verify import Outcome
from g2a_archive.models import FileKind, RunSettings, State, StoredFile

log = logging.getLogger("g2a_archive")


@contextmanager
def _reading(run: RunSettings) -> Iterator[tuple[Path, Catalog]]:
    """The archive's root and its catalogue, read without the archive's lock."""
    root = Path(run.dest).absolute()
    path = catalog_path(root, run.catalog)
    if not is_there(path):
        raise StorageError(
            f"there is no archive at {root}: {path} does not exist",
            hint="check --dest; is the drive mounted?",
        )
    with Catalog(path, readonly=True) as catalog:
        yield root, catalog


def status(
    run: RunSettings, ids: Sequence[int], *, by: str | None, form: str, owed: bool
) -> ExitCode:
    """`status`: the archive as a whole, by period, or some recordings; `form` text, json or csv."""
    with _reading(run) as (root, catalog):
        if ids:
            details = [(id_, inventory.recording_detail(catalog, id_)) for id_ in ids]
            _show_recordings(details, form)
        elif owed:
            rows = inventory.owed_list(catalog)
            if form == "text":
                outputs.say("\n".join(inventory_text.owed_text(rows)))
            else:
                _show_recordings(
                    [(one.id, inventory.recording_detail(catalog, one.id)) for one in rows], form
                )
        elif by is not None:
            periods = inventory.by_period(catalog, by)
            bars = outputs.on_terminal() and "utf" in (sys.stdout.encoding or "").lower()
            _show(
                form,
                lambda: inventory_text.periods_text(periods, bars=bars),
                lambda: inventory_text.periods_json(periods),
                lambda out: inventory_text.write_periods_csv(periods, out),
            )
        else:
            summary = inventory.summary(catalog)
            _show(
                form,
                lambda: inventory_text.summary_text(summary, str(root)),
                lambda: inventory_text.summary_json(summary),
                lambda out: inventory_text.write_summary_csv(summary, out),
            )
    return ExitCode.OK


def _show(
    form: str, text: Callable[[], str], json: Callable[[], Any], csv: Callable[[io.StringIO], Any]
) -> None:
    if form == "json":
        outputs.say_json(json())
    elif form == "csv":
        out = io.StringIO(newline="")
        csv(out)
        outputs.write(out.getvalue())
    else:
        outputs.say(text())


def _show_recordings(details: Sequence[tuple[int, Any]], form: str) -> None:
    _show(
        form,
        lambda: "\n\n".join(
            inventory_text.recording_text(one)
            if one is not None
            else f"Recording {id_} is not known here."
            for id_, one in details
        ),
        lambda: [
            inventory_text.recording_json(one)
            if one is not None
            else {"id": str(id_), "state": "unknown"}
            for id_, one in details
        ],
        lambda out: inventory_text.write_csv((one for _, one in details if one is not None), out),
    )


def export(run: RunSettings, *, form: str, output: str | None) -> ExitCode:
    """`export`: the whole catalogue as CSV or JSON, to stdout or to a file that is replaced."""
    write = inventory_text.write_csv if form == "csv" else inventory_text.write_json
    with _reading(run) as (_, catalog):
        if output is not None:
            with outputs.replacing(output) as out:
                write(inventory.everything(catalog), out)
        else:
            with outputs.guarded():
                out = outputs.opened()
                if isinstance(out, io.TextIOWrapper):
                    out.reconfigure(encoding="utf-8", newline="")
                write(inventory.everything(catalog), out)
    return ExitCode.OK


def make_pages(run: RunSettings, *, title: str, open_: bool) -> ExitCode:
    """`browse`: write the pages, say where they begin, and open them if asked."""
    with _reading(run) as (root, catalog):
        result = browse.write_site(
            root,
            _entries(catalog),
            _owed(catalog),
            zone=layout.zone(run.timezone) if run.timezone else None,
            zone_name=run.timezone or "",
            title=title,
        )
    outputs.say(
        f"{result.recordings:,} recordings, {result.owed:,} owed: {result.written:,} pages "
        f"written, {result.unchanged:,} unchanged"
    )
    outputs.say(f"Open {result.index}")
    if open_ and not browse.open_site(result.index):
        outputs.complain("g2a-archive: there is no browser to open it with on this machine")
    return ExitCode.OK


def _entries(catalog: Catalog) -> Iterator[browse.Entry]:
    rows = catalog.stream(
        "SELECT r.id, r.start_time, r.directory, r.state, r.reason, r.owed_since, "
        "f.kind, f.path, f.size, f.sha256 "
        "FROM recording r JOIN file f ON f.recording = r.id ORDER BY r.id"
    )
    for id_, group in groupby(rows, key=lambda row: row[0]):
        files = {}
        for row in group:
            kind = FileKind(row[6])
            files[kind] = StoredFile(id_, kind, *row[7:])
        yield browse.Entry(id_, row[1], row[2], files, State(row[3]), reason=row[4], since=row[5])


def _owed(catalog: Catalog) -> Iterator[browse.Owed]:
    for row in catalog.rows(
        "SELECT id, state, reason, owed_since, tries, last_try FROM recording "
        "WHERE state <> 'archived' ORDER BY owed_since, id"
    ):
        yield browse.Owed(row[0], State(row[1]), *row[2:])


class _Watched:
    """How far a check is, for the display: counted by its threads, looked at by another."""

    def __init__(self) -> None:
        self.files = 0
        self.size = 0
        self.bytes = 0

    def begin(self, files: int, size: int) -> None:
        self.files, self.size = files, size

    def more(self, count: int) -> None:
        self.bytes += count

    def look(self) -> Snapshot:
        done = int(self.files * min(1.0, self.bytes / self.size)) if self.size else 0
        return Snapshot("Checking", done, self.files, self.bytes, self.size or None, unit="files")


def verify(settings: Settings, wishes: audit.Wishes, *, rebuild: bool) -> ExitCode:
    """`verify`: read the files again; 1 if anything is wrong. `rebuild`: a lost catalogue."""
    switch = StopSwitch()
    wishes = replace(wishes, max_duration=settings.run.max_duration)
    with staged(settings, switch) as (display, logs):
        watched = _Watched()
        with display.watch(watched.look):
            work = _rebuilt if rebuild else _checked
            outcome = work(settings.run, wishes, watched, switch)
    if settings.json:
        outputs.say_json(outcome_json(outcome))
    elif outcome.findings or not settings.quiet:
        outputs.say(outcome_text(outcome))
    if logs.failure is not None:
        raise logs.failure
    if switch.code is not None:
        return switch.code
    return ExitCode.FAILED if outcome.findings else ExitCode.OK


def _checked(
    run: RunSettings, wishes: audit.Wishes, watched: _Watched, switch: StopSwitch
) -> Outcome:
    with _reading(run) as (root, catalog):
        path = catalog.path
    with audit.open_catalog(path, lambda text: log.warning("%s", text)) as catalog:
        return audit.verify(
            catalog,
            root,
            wishes,
            warn=lambda text: log.warning("%s", text),
            on_begin=watched.begin,
            on_bytes=watched.more,
            stop=switch.event.is_set,
        )


def _rebuilt(
    run: RunSettings, wishes: audit.Wishes, watched: _Watched, switch: StopSwitch
) -> Outcome:
    storage = Storage(Path(run.dest), catalog=run.catalog)
    storage.open(create=False)
    try:
        with Catalog(storage.catalog, interrupted=switch.event.is_set) as catalog:
            outcome = audit.rebuild(
                catalog,
                storage.root,
                jobs=wishes.jobs,
                on_bytes=watched.more,
                stop=switch.event.is_set,
            )
            write_checksums(catalog, storage.root)
            return outcome
    finally:
        storage.close()
