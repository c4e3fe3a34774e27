"""`browse`: pages in the archive, to find and watch recordings in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import click

from g2a_archive import browse as pages
from g2a_archive.archive import layout
from g2a_archive.archive.catalog import Catalog
from g2a_archive.cli.options import ARCHIVE, TIMEZONE, option, options
from g2a_archive.cli.run import reading
from g2a_archive.cli.settings import ConfiguredCommand, settings_of
from g2a_archive.console import outputs
from g2a_archive.errors import ExitCode
from g2a_archive.models import FileKind, RunSettings, State, StoredFile

_BROWSE = [
    option("--title", default="GoToAssist recordings", show_default=True, help="Of the pages."),
    option("--open", "open_", is_flag=True, help="Open them in a browser, too."),
    TIMEZONE,
]


@click.command("browse", cls=ConfiguredCommand)
@options([*_BROWSE, *ARCHIVE])
@click.pass_context
def browse_command(ctx: click.Context, /, title: str, open_: bool, **_: Any) -> ExitCode:
    """Write pages into the archive to find and watch recordings in a browser.

    Open DEST/index.html: no server and no network is needed. Only pages that changed are written.
    """
    return _make_pages(settings_of(ctx).run, title=title, open_=open_)


def _make_pages(run: RunSettings, *, title: str, open_: bool) -> ExitCode:
    """`browse`: write the pages, say where they begin, and open them if asked."""
    with reading(run) as (root, catalog):
        result = pages.write_site(
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
    if open_ and not pages.open_site(result.index):
        outputs.complain("g2a-archive: there is no browser to open it with on this machine")
    return ExitCode.OK


def _entries(catalog: Catalog) -> Iterator[pages.Entry]:
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
        yield pages.Entry(id_, row[1], row[2], files, State(row[3]), reason=row[4], since=row[5])


def _owed(catalog: Catalog) -> Iterator[pages.Owed]:
    for row in catalog.rows(
        "SELECT id, state, reason, owed_since, tries, last_try FROM recording "
        "WHERE state <> 'archived' ORDER BY owed_since, id"
    ):
        yield pages.Owed(row[0], State(row[1]), *row[2:])
