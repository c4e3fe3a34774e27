"""`bag`: hand recordings over, as a BagIt bag that can be proved and watched."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.cli import values
from g2a_archive.cli.ids import read_ids
from g2a_archive.cli.options import (
    ARCHIVE,
    FILES,
    JSON,
    LOG,
    SINCE,
    TIMEZONE,
    UNTIL,
    Parsed,
    option,
    options,
)
from g2a_archive.cli.run import invoked, reading
from g2a_archive.cli.settings import ConfiguredCommand, Settings, period_of, settings_of
from g2a_archive.console import outputs
from g2a_archive.console.progress import Snapshot
from g2a_archive.curation.bag import Bagging, BagTarget, bag_target
from g2a_archive.curation.selection import Choice, choose_ids, choose_time
from g2a_archive.errors import ExitCode, InputError, Interrupted
from g2a_archive.models import Age, pluralize, size_text

_BAG = [
    FILES,
    SINCE,
    UNTIL,
    option("--contact", metavar="NAME", type=Parsed("name", values.line),
           help="Who answers for the bag; bag-info.txt names them."),
    option("--zip", "zip_", is_flag=True, help="One file, DIR.zip, instead of a directory."),
    TIMEZONE,
    JSON,
    *LOG,
]  # fmt: skip


@click.command("bag", cls=ConfiguredCommand)
@click.argument("where", metavar="DIR")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@options([*_BAG, *ARCHIVE])
@click.pass_context
def bag_command(
    ctx: click.Context,
    /,
    where: str,
    ids: tuple[str, ...],
    files: tuple[str, ...],
    since: int | Age | None,
    until: int | Age | None,
    contact: str | None,
    zip_: bool,
    **_: Any,
) -> ExitCode:
    """Hand recordings over: a BagIt bag of them in DIR, with pages to watch them.

    Every file is held against its SHA-256 while it is copied; one that differs makes no bag. DIR
    must be new or empty, and appears when it is whole. The archive stays as it is.
    """
    if not (ids or files or since is not None or until is not None):
        raise InputError(
            "no recordings were named", hint="name IDs after DIR, or use -f FILE, --since, --until"
        )
    period = period_of(since, until, time.time())
    settings = settings_of(ctx)
    wanted = read_ids(ids, files) if ids or files else None
    there = bag_target(where, Path(settings.run.dest), zipped=zip_)
    return _bag(settings, there, wanted, period, contact)


def _bag(
    settings: Settings,
    there: BagTarget,
    wanted: Sequence[int] | None,
    period: tuple[int | None, int | None],
    contact: str | None,
) -> ExitCode:
    """`bag`: choose, copy, say what was made."""
    begun = time.monotonic()
    counts = None
    with (
        invoked(settings) as invocation,
        reading(settings.run, invocation.switch.event.is_set) as (root, catalog),
    ):
        choice = _chosen(catalog, wanted, period)
        size = choice.bytes or None
        view = Snapshot("Copying", 0, choice.files, 0, size, unit="file")
        bagging = Bagging(
            archive=root,
            catalog=catalog,
            choice=choice,
            contact=contact,
            timezone=settings.run.timezone,
            on_bytes=view.more_bytes,
            on_file=view.advance,
            stop=invocation.switch.event.is_set,
        )
        if choice.ids:
            try:
                with invocation.display.watch(lambda: view):
                    counts = bagging.make(there)
            except Interrupted:
                outputs.print_error("interrupted; no bag was made")
                return invocation.switch.code or ExitCode.SIGINT
    code = invocation.ending(ExitCode.UNAVAILABLE if choice.left_out else None)
    _tell(settings, there, choice, counts, time.monotonic() - begun, code)
    return code


def _chosen(
    catalog: Catalog, wanted: Sequence[int] | None, period: tuple[int | None, int | None]
) -> Choice:
    if wanted is not None:
        return choose_ids(catalog, wanted, *period)
    return choose_time(catalog, *period)


def _tell(
    settings: Settings,
    there: BagTarget,
    choice: Choice,
    counts: tuple[int, int] | None,
    seconds: float,
    code: ExitCode,
) -> None:
    """Say what was made; `counts` are the files and bytes of the payload, None for no bag."""
    if settings.json:
        files, size = counts or (0, 0)
        outputs.say_json(
            {
                "bag": str(there.target) if counts else None,
                "recordings": len(choice.ids),
                "files": choice.files,
                "bytes": choice.bytes,
                "payload_files": files,
                "payload_bytes": size,
                "left_out": [str(id_) for id_ in choice.left_out],
                "seconds": round(seconds, 3),
                "exit_code": int(code),
            }
        )
        return
    if choice.left_out:
        more = f", and {len(choice.left_out) - 10:,} more" if len(choice.left_out) > 10 else ""
        outputs.print_error(
            f"not in the bag, as not archived, or started nobody knows when: "
            f"{', '.join(map(str, choice.left_out[:10]))}{more}"
        )
    if settings.quiet:
        return
    if counts is None:
        outputs.print_lines("Nothing to hand over: no recording was chosen, and no bag was made.")
        return
    outputs.print_lines(
        f"{pluralize(len(choice.ids), 'recording')}, {pluralize(choice.files, 'file')}, "
        f"{size_text(choice.bytes)}, "
        f"each held against its SHA-256: {there.target}"
    )
    if not there.zipped:
        outputs.print_lines(f"Open {there.target / 'data' / 'index.html'}")
