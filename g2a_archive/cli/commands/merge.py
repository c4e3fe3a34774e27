"""`merge`: other archives taken into this one."""

from __future__ import annotations

from typing import Any

import click

from g2a_archive.cli.options import (
    ARCHIVE,
    JSON,
    LAYOUT,
    LOG,
    MIN_FREE,
    NO_CREATE,
    TIMEZONE,
    option,
    options,
)
from g2a_archive.cli.run import invoked
from g2a_archive.cli.settings import ConfiguredCommand, settings_of
from g2a_archive.console import outputs
from g2a_archive.curation.merge import Merge
from g2a_archive.curation.merge_source import SourceArchive
from g2a_archive.errors import ExitCode, InputError

_MERGE = [
    option(
        "--move",
        is_flag=True,
        help="Empty the archives, of each file once its place in this one is flushed and recorded.",
    ),
    option("--dry-run", is_flag=True, help="Say what would be done, and do nothing."),
    LAYOUT,
    TIMEZONE,
    MIN_FREE,
    NO_CREATE,
    JSON,
    *LOG,
]


@click.command("merge", cls=ConfiguredCommand)
@click.argument("archives", nargs=-1, metavar="ARCHIVE...")
@options([*_MERGE, *ARCHIVE])
@click.pass_context
def merge_command(
    ctx: click.Context, /, archives: tuple[str, ...], move: bool, **_: Any
) -> ExitCode:
    """Take other archives into this one, --dest.

    Files are linked where they can be, else copied and verified; the archives stay as they are.
    What both have alike is taken once, what contradicts is named and left alone (exit 1). A merge
    that was killed goes on when it is run again. ARCHIVE=CATALOG names one whose catalogue lies
    elsewhere.
    """
    if not archives:
        raise InputError("no archive was named that is to be taken in")
    settings = settings_of(ctx)
    with invoked(settings) as invocation:
        sources = [SourceArchive.parse(text) for text in archives]
        merge = Merge(
            settings.run, sources, move=move, switch=invocation.switch, display=invocation.display
        )
        report = merge.run()
        if invocation.logs.failure is not None:
            report.record_abort(invocation.logs.failure)
    if settings.json:
        outputs.say_json(report.to_json())
    elif not settings.quiet or report.exit_code is not ExitCode.OK:
        outputs.print_lines(*report.summary())
    return report.exit_code
