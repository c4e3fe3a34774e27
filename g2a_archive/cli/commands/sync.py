"""`sync`: find what is new on the service, and archive it."""

from __future__ import annotations

from typing import Any

import click

from g2a_archive.cli.options import sync_options
from g2a_archive.cli.settings import ConfiguredCommand, settings_of, sync_settings_of
from g2a_archive.errors import ExitCode


@click.command("sync", cls=ConfiguredCommand)
@sync_options
@click.pass_context
def sync_command(ctx: click.Context, /, **_: Any) -> ExitCode:
    """Find what is new on the service, and archive it as `download` does.

    What this archive still owes is tried again. The service is only read, unless it is told to
    transcode or to mark.
    """
    from g2a_archive.cli.run import perform
    from g2a_archive.sync.run import Sync

    options = sync_settings_of(ctx)
    return perform(settings_of(ctx), "sync", lambda run: Sync(run, options).run())
