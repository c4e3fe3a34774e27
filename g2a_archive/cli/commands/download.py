"""`download`: archive recordings by their IDs."""

from __future__ import annotations

from typing import Any

import click

from g2a_archive.cli.options import FILES, OWED, option, options, run_options
from g2a_archive.cli.settings import ConfiguredCommand, settings_of
from g2a_archive.errors import ExitCode, InputError

_DOWNLOAD = [
    FILES,
    OWED,
    option("--again", is_flag=True, help="Also those named that `remove` took out."),
]


@click.command("download", cls=ConfiguredCommand)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@options(_DOWNLOAD)
@run_options
@click.pass_context
def download_command(
    ctx: click.Context, /, ids: tuple[str, ...], files: tuple[str, ...], owed: bool, **_: Any
) -> ExitCode:
    """Archive recordings by their IDs.

    Each recording's MP4, events file and thumbnail go to a directory named after the day it
    started. What is archived already costs no request; a run that was killed goes on where it
    stopped.
    """
    from g2a_archive.cli.ids import read_ids
    from g2a_archive.cli.run import perform

    if not (ids or files or owed):
        raise InputError(
            "no recording IDs were given", hint="name them, or use -f FILE, -f - or --owed"
        )
    wanted = read_ids(ids, files)
    return perform(settings_of(ctx), "download", lambda run: run.archive(wanted, owed=owed))
