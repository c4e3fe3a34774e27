"""`export`: the catalogue as CSV or JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import click

from g2a_archive.archive.database import inventory
from g2a_archive.archive.database.inventory import RecordingDetail
from g2a_archive.cli.options import ARCHIVE, option, options
from g2a_archive.cli.run import reading, require_place
from g2a_archive.cli.settings import ConfiguredCommand, settings_of
from g2a_archive.console import inventory as inventory_text
from g2a_archive.console import outputs
from g2a_archive.console.progress import Snapshot, choose_display
from g2a_archive.errors import ExitCode, InputError

_EXPORT = [
    option("--csv", "form", flag_value="csv", help="A row a recording; IDs as text."),
    option("--json", "form", flag_value="json", help="An array of objects; IDs as text."),
    option("-o", "--output", metavar="FILE", default="-", show_default=True,
           help="Replace this file; - is stdout."),
]  # fmt: skip


@click.command("export", cls=ConfiguredCommand)
@options([*_EXPORT, *ARCHIVE])
@click.pass_context
def export_command(ctx: click.Context, /, form: str | None, output: str, **_: Any) -> ExitCode:
    """Print the whole catalogue as CSV or JSON, for a spreadsheet or another tool."""
    if form is None:
        raise InputError("export as what?", hint="use --csv or --json")
    write = inventory_text.write_csv if form == "csv" else inventory_text.write_json
    run = settings_of(ctx).run
    printed = output == "-"
    if not printed:
        require_place("--output", output, run)
    with reading(run) as (_root, catalog):
        view = Snapshot("Exporting", 0, inventory.count(catalog), None)
        target = outputs.streamed() if printed else outputs.atomic_write(output, option="--output")
        # What is printed on a terminal shows by itself how far it is.
        display = choose_display(quiet=printed and outputs.on_terminal())
        with target as out, display.watch(lambda: view):
            write(_watched(inventory.everything(catalog), view), out)
    return ExitCode.OK


def _watched(recordings: Iterable[RecordingDetail], view: Snapshot) -> Iterator[RecordingDetail]:
    """The recordings, counted as they are written."""
    for one in recordings:
        yield one
        view.advance()
