"""`demo`: the whole job, for real, against the simulated service."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.layout import ARCHIVE_DIR
from g2a_archive.archive.storage import catalog_path, has_catalog, is_there
from g2a_archive.auth.credentials import AuthSettings
from g2a_archive.cli.options import JSON, LOG, option, options
from g2a_archive.cli.run import perform
from g2a_archive.cli.settings import Documented, Settings, settings_of
from g2a_archive.console.outputs import print_lines
from g2a_archive.demo import Behaviour, SimulatedService, sample_recordings
from g2a_archive.download.stopping import StopSwitch
from g2a_archive.errors import ExitCode, InputError
from g2a_archive.models import pluralize

COUNT = 40
_NAME = "demo"
_SHOWN = 12
_UNAVAILABLE_EVERY = 13
_SLOWLY = Behaviour(latency=0.03, rate=400_000, link_latency=0.3)
"""Slow enough for the bars to be seen."""


def _demonstrate(settings: Settings, dest: str | None) -> ExitCode:
    """Archive some recordings of a simulated service into `dest`, or into a fresh directory.

    Ends with 0 where the run ended as it should: all archived but those that aren't ready yet. With
    a JSON report the code is the report's, 3. Raises `InputError`, also where `dest` is an archive
    of real recordings, and `StorageError`.
    """
    target = Path(dest) if dest is not None else _fresh("g2a-archive-demo")
    _require_invented(target)
    recordings = sample_recordings(
        COUNT, mp4_size=(50_000, 900_000), unavailable_every=_UNAVAILABLE_EVERY
    )
    os.environ["no_proxy"] = "127.0.0.1"  # where no proxy leads to what only this machine has
    with SimulatedService(recordings, _SLOWLY) as service:
        if not settings.json and not settings.quiet:
            print_lines(f"A simulated service with {COUNT} recordings runs at {service.base_url}")
        run = replace(settings.run, api_url=service.api_url, dest=str(target))
        code = perform(
            replace(settings, run=run),
            _NAME,
            lambda download: download.archive(service.recordings),
            auth=AuthSettings(token=service.token),
        )
    if settings.json or code not in (ExitCode.OK, ExitCode.UNAVAILABLE):
        return code
    if settings.quiet:
        return ExitCode.OK
    _show_tree(target)
    if code is ExitCode.UNAVAILABLE:
        print_lines(
            "", "A real run would end with exit code 3 here: some recordings are not ready yet."
        )
    return ExitCode.OK


def _require_invented(target: Path) -> None:
    """Refuse an archive that holds anything but what demos made, as far as its runs tell.

    One that holds nothing is what a demo leaves that was killed as it began.
    """
    if not is_there(target / ARCHIVE_DIR):
        return
    held = os.listdir(target) != [ARCHIVE_DIR]
    runs = set()
    path = catalog_path(target, None)
    if has_catalog(path):
        with Catalog(path, readonly=True) as catalog:
            runs = {command for (command,) in catalog.rows("SELECT DISTINCT command FROM run")}
            held = held or bool(catalog.scalar("SELECT EXISTS (SELECT 1 FROM recording)"))
    if runs == {_NAME} or not (runs or held):
        return
    raise InputError(
        f"{target} is an archive that no demo made, and invented recordings have no place in it",
        hint="leave --dest out, or name a new directory",
    )


def _fresh(name: str) -> Path:
    path = Path(name)
    number = 2
    while os.path.lexists(path):
        path = Path(f"{name}-{number}")
        number += 1
    return path


def _show_tree(root: Path) -> None:
    """The resulting tree, a line a recording; cut, as the rest looks the same."""
    lines = []
    for file in sorted(root.glob("[0-9]*/**/*.mp4")):
        beside = sorted(p.suffix for p in file.parent.glob(f"{file.stem}.*") if p != file)
        lines.append(f"  {file.relative_to(root)} {' '.join(beside)}")
    days = sum(1 for _ in root.glob("[0-9]*/**/SHA256SUMS"))
    print_lines("", f"{root}/")
    for line in lines[:_SHOWN]:
        print_lines(line)
    if len(lines) > _SHOWN:
        print_lines(f"  … and {len(lines) - _SHOWN} more")
    print_lines(f"  SHA256SUMS in {pluralize(days, 'directory')}, for `sha256sum -c`")
    print_lines(f"  {ARCHIVE_DIR}/ with the catalogue")


def _serve(port: int, count: int) -> ExitCode:
    """Run the simulated service until SIGINT or SIGTERM; print how to point `download` at it.

    Raises `InputError` where the port is taken.
    """
    switch = StopSwitch()
    recordings = sample_recordings(count, unavailable_every=_UNAVAILABLE_EVERY)
    behaviour = Behaviour(port=port, log=False)
    with switch.signals():
        try:
            service = SimulatedService(recordings, behaviour).start()
        except OSError as error:
            raise InputError(
                f"cannot listen on port {port}: {error.strerror}", hint="choose another --port"
            ) from error
        try:
            for name, value in service.environment().items():
                print_lines(f"export {name}={value}")
            ids = sorted(service.recordings)
            print_lines(
                f"# {pluralize(count, 'recording')}: {ids[0]} to {ids[-1]}. In another terminal,"
            )
            print_lines("# paste the lines above, then for example:")
            print_lines(
                f"#   seq {ids[0]} {ids[-1]} | g2a-archive download -f - --dest demo-archive"
            )
            key = service.recordings[ids[0]].account_key
            print_lines(f"#   g2a-archive sync --account-key {key} --transcode --dest demo-archive")
            print_lines("# Ctrl-C stops the service.")
            sys.stdout.flush()
            switch.event.wait()
        finally:
            service.stop()
    return ExitCode.OK


_DEMO = [
    option("-d", "--dest", metavar="DIR", help="The archive.  [default: a fresh g2a-archive-demo]"),
    option("--serve", is_flag=True, help="Only run the simulated service, until Ctrl-C."),
    option("--port", type=click.IntRange(0, 65535), default=0, help="For --serve; 0: any free."),
    option("--count", type=click.IntRange(1, 100_000), default=40, help="For --serve: recordings."),
    JSON,
    *LOG,
]


@click.command(_NAME, cls=Documented)
@options(_DEMO)
@click.pass_context
def demo_command(
    ctx: click.Context, /, serve: bool, port: int, count: int, dest: str | None, **_: Any
) -> ExitCode:
    """The whole job against a simulated service on this machine.

    Archives forty recordings (a few are not ready) with the real `download`, and shows the result.
    Configuration file and environment are not looked at, and real archives are refused.
    """
    if serve:
        return _serve(port, count)
    ctx.params.pop("dest")
    return _demonstrate(settings_of(ctx), dest)
