"""`verify`: every file read again, and held against its recorded SHA-256."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from g2a_archive.archive.catalog import Catalog
from g2a_archive.archive.checksums import write_checksums
from g2a_archive.archive.storage import Storage
from g2a_archive.cli import values
from g2a_archive.cli.ids import read_ids
from g2a_archive.cli.options import ARCHIVE, JSON, LOG, TIME_LIMIT, Parsed, option, options
from g2a_archive.cli.run import reading, staged
from g2a_archive.cli.settings import ConfiguredCommand, Settings, settings_of
from g2a_archive.console import outputs
from g2a_archive.console.inventory import outcome_json, outcome_text
from g2a_archive.console.progress import Snapshot
from g2a_archive.download.stopping import StopSwitch
from g2a_archive.errors import ExitCode, InputError
from g2a_archive.fixity import audit
from g2a_archive.fixity.verify import Outcome
from g2a_archive.models import RunSettings

log = logging.getLogger("g2a_archive")


_VERIFY = [
    option(
        "--since",
        metavar="DATE",
        type=Parsed("date", values.parse_moment),
        help="Only what was recorded or archived since.",
    ),
    option(
        "--sample",
        metavar="PERCENT",
        type=Parsed("percent", values.parse_share),
        default="100%",
        help="Only a part, another each day: 5%.",
    ),
    option("--oldest-first", is_flag=True, help="Begin with what was checked longest ago."),
    option("--readers", metavar="N", type=click.IntRange(1, 64), help="Files read at a time."),
    option("--rebuild", is_flag=True, help="Bring a lost catalogue back from the files."),
    TIME_LIMIT,
    JSON,
    *LOG,
]


@click.command("verify", cls=ConfiguredCommand)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@options([*_VERIFY, *ARCHIVE])
@click.pass_context
def verify_command(
    ctx: click.Context,
    /,
    ids: tuple[str, ...],
    since: Any,
    sample: float,
    oldest_first: bool,
    readers: int | None,
    rebuild: bool,
    **_: Any,
) -> ExitCode:
    """Read every file again and hold it against its recorded SHA-256.

    A missing or changed file makes its recording owed: the next `download --owed` fetches it again,
    and keeps the broken file aside. Exit code 1 if anything is wrong.
    """
    some = bool(ids) or since is not None or sample < 1 or oldest_first
    if rebuild and some:
        raise InputError("--rebuild takes the whole archive: no IDs, --since or --sample with it")
    wishes = audit.Wishes(
        ids=read_ids(ids, ()) if ids else None,
        since=since,
        sample=sample,
        oldest_first=oldest_first,
        jobs=readers,
    )
    return _verify(settings_of(ctx), wishes, rebuild=rebuild)


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


def _verify(settings: Settings, wishes: audit.Wishes, *, rebuild: bool) -> ExitCode:
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
    with reading(run) as (root, catalog):
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
