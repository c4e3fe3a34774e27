"""`browse`: pages in the archive, to find and watch recordings in a browser."""

from __future__ import annotations

from typing import Any

import click

from g2a_archive.archive.database import pages
from g2a_archive.archive.disk.mounts import missing_parts, unmounted_error
from g2a_archive.browse import open_site
from g2a_archive.cli import values
from g2a_archive.cli.options import ARCHIVE, QUIET, TIMEZONE, Parsed, option, options
from g2a_archive.cli.run import reading
from g2a_archive.cli.settings import ConfiguredCommand, settings_of
from g2a_archive.console import outputs
from g2a_archive.console.progress import Snapshot, choose_display
from g2a_archive.errors import ExitCode
from g2a_archive.models import pluralize

_BROWSE = [
    option(
        "--title",
        metavar="TEXT",
        type=Parsed("text", values.line),
        default=pages.TITLE,
        show_default=True,
        help="Of the pages.",
    ),
    option("--open", "open_", is_flag=True, help="Open them in a browser, too."),
    TIMEZONE,
    QUIET,
]


@click.command("browse", cls=ConfiguredCommand)
@options([*_BROWSE, *ARCHIVE])
@click.pass_context
def browse_command(ctx: click.Context, /, title: str, open_: bool, **_: Any) -> ExitCode:
    """Write pages into the archive to find and watch recordings in a browser.

    Open DEST/index.html: no server and no network is needed. Only pages that changed are written.
    """
    settings = settings_of(ctx)
    run = settings.run
    view = Snapshot("Pages", 0, 0, None, unit="directory")

    def heard(what: str, done: int, total: int) -> None:
        view.unit, view.done, view.total = what, done, total

    with reading(run) as (root, catalog):
        if parts := missing_parts(catalog, root):
            raise unmounted_error(parts)
        with choose_display(quiet=settings.quiet).watch(lambda: view):
            result = pages.write(
                catalog, root, title=title, timezone=run.timezone, on_progress=heard
            )
    if not settings.quiet:
        outputs.print_lines(
            f"{pluralize(result.recordings, 'recording')}, {result.owed:,} owed: "
            f"{pluralize(result.written, 'page')} "
            f"written, {result.unchanged:,} unchanged",
            f"Open {result.index}",
        )
    if open_ and not open_site(result.index):
        outputs.print_error("there is no browser to open it with on this machine")
    return ExitCode.OK
