"""`remove`: take recordings out of the archive for good, and remember that."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from g2a_archive.archive.database.tombstones import RemovalResult, finish_removals, restore_in_copy
from g2a_archive.archive.storage import Storage
from g2a_archive.cli import values
from g2a_archive.cli.ids import read_ids
from g2a_archive.cli.options import ARCHIVE, FILES, JSON, LOG, Parsed, option, options
from g2a_archive.cli.run import find_archive, invoked, reading
from g2a_archive.cli.settings import ConfiguredCommand, Settings, settings_of
from g2a_archive.console import outputs
from g2a_archive.curation import remove as removing
from g2a_archive.curation.remove import Removal
from g2a_archive.errors import ExitCode, InputError, Interrupted
from g2a_archive.models import Age, pluralize, resolve_time, size_text

_REMOVE = [
    FILES,
    option("--before", metavar="WHEN", type=Parsed("when", values.parse_when),
           help="All that started before a date, a time (UTC) or an age such as 3650d."),
    option("--except", "held", multiple=True, metavar="FILE",
           help="But none of the IDs in this file."),
    option("--reason", metavar="TEXT", type=Parsed("text", values.line),
           help="Why; it is kept with what is removed."),
    option("--yes", is_flag=True, help="Do it: without, only say what would be removed."),
    JSON,
    *LOG,
]  # fmt: skip

_REST = "the recordings count as removed, and the next run deletes what is left of their files"


@click.command("remove", cls=ConfiguredCommand)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@options([*_REMOVE, *ARCHIVE])
@click.pass_context
def remove_command(
    ctx: click.Context,
    /,
    ids: tuple[str, ...],
    files: tuple[str, ...],
    before: int | Age | None,
    held: tuple[str, ...],
    reason: str | None,
    yes: bool,
    **_: Any,
) -> ExitCode:
    """Take recordings out of the archive for good, and remember that.

    Says what would be removed; with --yes deletes the files, and keeps a tombstone of each
    recording. Nothing fetches it again, but `download --again ID`.
    """
    if not (ids or files or before is not None):
        raise InputError(
            "no recordings were named", hint="name their IDs, or use -f FILE or --before WHEN"
        )
    if before is not None and (ids or files):
        raise InputError("--before removes by date, IDs by name: one of them at a time")
    if before is not None and resolve_time(before, now := time.time()) > now:
        raise InputError("--before is in the future")
    wanted = None if before is not None else read_ids(ids, files)
    kept = set(read_ids((), held)) if held else None
    return _remove(settings_of(ctx), wanted, before, kept, reason, yes=yes)


def _remove(
    settings: Settings,
    wanted: Sequence[int] | None,
    before: int | Age | None,
    kept: set[int] | None,
    reason: str | None,
    *,
    yes: bool,
) -> ExitCode:
    """Choose, and with `yes` remove, under the archive's lock; then say what became of it."""
    done, left = False, RemovalResult()
    with invoked(settings) as invocation, ExitStack() as stack:
        stop = invocation.switch.event.is_set
        if yes:
            find_archive(settings.run)  # there must be one: `open` would make it
            storage = Storage(Path(settings.run.dest), catalog=settings.run.catalog)
            storage.open(invocation.switch.lock_callbacks(), create=False)
            stack.callback(storage.close)
            root = storage.root
            catalog = stack.enter_context(storage.open_catalog(stop))
            left = finish_removals(catalog, root)
        else:
            root, catalog = stack.enter_context(reading(settings.run, stop))
            restore_in_copy(catalog, root)
        if before is not None:
            limit = removing.limit_of(catalog, before, time.time())
            removal = removing.choose_before(catalog, limit, kept or ())
        else:
            removal = removing.choose_ids(catalog, wanted or (), kept or ())
        if stop():
            raise Interrupted
        if yes and removal.ids:
            try:
                done, left = True, removing.remove(catalog, root, removal, reason)
            except Interrupted:
                outputs.print_error(f"interrupted; {_REST}")
                return invocation.switch.code or ExitCode.SIGINT
        _tell(settings, removal, left, done=done, excepted=kept is not None)
    undone = left.failed or left.rewrite_errors
    return invocation.ending(invocation.switch.code, ExitCode.FAILED if undone else None)


def _tell(
    settings: Settings, removal: Removal, left: RemovalResult, *, done: bool, excepted: bool
) -> None:
    if settings.json:
        outputs.say_json(_json(removal, left, done=done))
        return
    if settings.quiet:
        return
    more = "".join(
        f"; {count:,} {what}"
        for count, what, told in (
            (removal.kept, "held back by --except", excepted),  # none, too: the file may be empty
            (removal.already, "removed already", removal.already),
            (removal.undated, "of an unknown date", removal.undated),
        )
        if told
    )
    days = f", started {removal.first_day} to {removal.last_day}" if removal.first_day else ""
    many = f"{pluralize(len(removal.ids), 'recording')}, {pluralize(removal.files, 'file')}"
    what = f"{many}, {size_text(removal.bytes)}{days}"
    if done:
        outputs.print_lines(f"Removed {what}{more}.")
    elif removal.ids:
        outputs.print_lines(f"Would remove {what}{more}. `--yes` removes them for good.")
    else:
        outputs.print_lines(f"Nothing to remove: no recording was chosen{more}.")
    for path in left.gone[:20]:
        outputs.print_lines(f"  gone already: {path}")
    for id_, path, why in left.failed[:20]:
        outputs.print_lines(f"  {id_}  not deleted yet: {path}: {why}")
    if left.failed:
        outputs.print_lines("The next run tries again to delete them.")


def _json(removal: Removal, left: RemovalResult, *, done: bool) -> dict[str, Any]:
    return {
        "removed": done,
        "recordings": len(removal.ids),
        "files": removal.files,
        "bytes": removal.bytes,
        "first_day": removal.first_day,
        "last_day": removal.last_day,
        "held_back": removal.kept,
        "removed_already": removal.already,
        "undated": removal.undated,
        "deleted_files": left.deleted,
        "gone_already": left.gone,
        "not_deleted": [
            {"id": str(id_), "path": path, "reason": why} for id_, path, why in left.failed
        ],
    }
