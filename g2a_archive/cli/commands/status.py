"""`status`: what the archive holds, and what it still owes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO

import click

from g2a_archive.archive.database import inventory
from g2a_archive.cli.ids import read_ids
from g2a_archive.cli.options import ARCHIVE, option, options
from g2a_archive.cli.run import reading
from g2a_archive.cli.settings import ConfiguredCommand, settings_of
from g2a_archive.console import inventory as inventory_text
from g2a_archive.console import outputs
from g2a_archive.errors import ArchiverError, ExitCode, InputError
from g2a_archive.models import RunSettings, pluralize

_STATUS = [
    option("--by", type=click.Choice(["year", "month", "day"]), help="Counts for each of these."),
    # A name of its own: `owed` in the configuration file is a run's.
    option("--owed", "list_owed", is_flag=True, help="A line for each recording that is owed."),
    option("--fingerprint", is_flag=True, help="One line that proves it all later: see verify."),
    option("--json", "form", flag_value="json", help="As JSON."),
    option("--csv", "form", flag_value="csv", help="As CSV."),
    option("--text", "form", flag_value="text", default="text", hidden=True),
]


@click.command("status", cls=ConfiguredCommand)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@options([*_STATUS, *ARCHIVE])
@click.pass_context
def status_command(
    ctx: click.Context,
    /,
    ids: tuple[str, ...],
    by: str | None,
    form: str,
    list_owed: bool,
    fingerprint: bool,
    **_: Any,
) -> ExitCode:
    """Say what the archive holds and what it still owes; of IDs: all about each.

    Needs neither the service nor credentials, and does not disturb a run.
    """
    if fingerprint:
        if ids or by or list_owed or form != "text":
            raise InputError("--fingerprint is of the whole archive, and a line of its own")
        return _fingerprint(settings_of(ctx).run)
    if (bool(ids), list_owed, by is not None).count(True) > 1:
        raise InputError("IDs, --owed and --by each ask for something else", hint="one at a time")
    return _status(settings_of(ctx).run, read_ids(ids, ()), by=by, form=form, owed=list_owed)


def _fingerprint(run: RunSettings) -> ExitCode:
    """`status --fingerprint`: the line of the last revision."""
    with reading(run) as (root, catalog), catalog.snapshot():
        one = catalog.fingerprint()
        behind = len(catalog.stale_directories())
    if one is None:
        raise ArchiverError(
            f"the archive {root} has no fingerprint yet", hint="the next run makes one"
        )
    outputs.print_lines(str(one))
    if behind:
        outputs.print_error(
            f"in {pluralize(behind, 'directory')} is more than this tells: a run goes "
            "on, or was killed; the next one brings it up to date"
        )
    return ExitCode.OK


def _status(
    run: RunSettings, ids: Sequence[int], *, by: str | None, form: str, owed: bool
) -> ExitCode:
    """`status`: the archive as a whole, by period, or some recordings; `form` text, json or csv."""
    with reading(run) as (root, catalog):
        if ids:
            details = [(id_, inventory.recording_detail(catalog, id_)) for id_ in ids]
            _show_recordings(details, form)
        elif owed:
            _show_owed(inventory.owed_list(catalog), form)
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
            summary = inventory.summary(catalog, root)
            _show(
                form,
                lambda: inventory_text.summary_text(summary, str(root)),
                lambda: inventory_text.summary_json(summary),
                lambda out: inventory_text.write_summary_csv(summary, out),
            )
    return ExitCode.OK


def _show(
    form: str, text: Callable[[], str], json: Callable[[], Any], csv: Callable[[TextIO], Any]
) -> None:
    if form == "json":
        outputs.say_json(json())
    elif form == "csv":
        with outputs.streamed() as out:
            csv(out)
    else:
        outputs.write(f"{text()}\n")


def _show_owed(owed: Iterable[inventory.RecordingDetail], form: str) -> None:
    """However many: they are printed one by one."""
    with outputs.streamed() as out:
        if form == "json":
            inventory_text.write_json(owed, out)
        elif form == "csv":
            inventory_text.write_csv(owed, out)
        else:
            out.writelines(f"{line}\n" for line in inventory_text.owed_text(owed))


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
