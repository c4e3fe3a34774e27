"""`verify`: every file read again, and held against its recorded SHA-256."""

from __future__ import annotations

import logging
import math
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from g2a_archive.archive.checksums import write_checksums
from g2a_archive.archive.database.revisions import Fingerprint
from g2a_archive.archive.database.tombstones import finish_removals
from g2a_archive.archive.disk.mounts import unmounted_error
from g2a_archive.archive.storage import Storage, check_destination
from g2a_archive.cli import values
from g2a_archive.cli.ids import read_ids
from g2a_archive.cli.options import ARCHIVE, JSON, LOG, TIME_LIMIT, Parsed, option, options
from g2a_archive.cli.run import invoked, reading
from g2a_archive.cli.settings import ConfiguredCommand, Settings, require_past, settings_of
from g2a_archive.console import outputs
from g2a_archive.console.fixity import is_proven, outcome_json, outcome_text, proof_json, proof_text
from g2a_archive.console.progress import Snapshot
from g2a_archive.download.stopping import StopSwitch
from g2a_archive.errors import ExitCode, InputError, Interrupted, LocalError
from g2a_archive.fixity import fingerprint as proving
from g2a_archive.fixity.check import FixityResult
from g2a_archive.fixity.rebuild import rebuild, require_files
from g2a_archive.fixity.selection import VerifyOptions
from g2a_archive.fixity.verify import open_catalog, verify
from g2a_archive.models import RunSettings, utc_now

log = logging.getLogger("g2a_archive")

_LONGEST = 1 << 20
"""Characters of standard input that are read in search of a fingerprint."""

_VERIFY = [
    option(
        "--since",
        metavar="DATE",
        type=Parsed("date", values.parse_moment),
        help="Only what was recorded or archived since.",
    ),
    option(
        "--sample",
        metavar="PERCENT",
        type=Parsed("percent", values.parse_share),
        default="100%",
        help="Only a part, another each day: 5%.",
    ),
    option("--oldest-first", is_flag=True, help="Begin with what was checked longest ago."),
    option("--readers", metavar="N", type=click.IntRange(1, 64), help="Files read at a time."),
    option(
        "--fingerprint",
        metavar="LINE",
        help="Prove that all is as when `status --fingerprint` printed it; - is standard input.",
    ),
    option(
        "--rebuild", "rebuilding", is_flag=True, help="Bring a lost catalogue back from the files."
    ),
    TIME_LIMIT,
    JSON,
    *LOG,
]


@click.command("verify", cls=ConfiguredCommand)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@options([*_VERIFY, *ARCHIVE])
@click.pass_context
def verify_command(
    ctx: click.Context,
    /,
    ids: tuple[str, ...],
    since: Any,
    sample: float,
    oldest_first: bool,
    readers: int | None,
    fingerprint: str | None,
    rebuilding: bool,
    **_: Any,
) -> ExitCode:
    """Read every file again and hold it against its recorded SHA-256.

    A missing or changed file makes its recording owed: the next `download --owed` fetches it again,
    and keeps the broken file aside. Exit code 1 if anything is wrong, 8 if --max-duration left
    files unread.
    """
    some = bool(ids) or since is not None or sample < 1 or oldest_first
    if rebuilding and some:
        raise InputError("--rebuild takes the whole archive: no IDs, --since or --sample with it")
    if fingerprint is not None and (some or rebuilding):
        raise InputError("--fingerprint proves the whole archive: nothing else can be chosen")
    if since is not None:
        require_past("--since", since.timestamp(), time.time())
    settings = settings_of(ctx)
    most = settings.run.max_duration
    chosen = VerifyOptions(
        ids=read_ids(ids, ()) if ids else None,
        since=since,
        sample=sample,
        oldest_first=oldest_first,
        until=math.inf if most is None else time.monotonic() + most,
        jobs=readers,
    )
    kept = None if fingerprint is None else proving.parse(_line(fingerprint))
    return _verify(settings, chosen, rebuilding=rebuilding, kept=kept)


def _line(text: str) -> str:
    """The fingerprint of the option, or from standard input: a mail's text around it may stay."""
    if text != "-":
        return text
    try:
        if sys.stdin is None:
            raise ValueError("it is closed")
        lines = sys.stdin.read(_LONGEST).splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the fingerprint from standard input: {error}") from None
    found = [line.partition("g2a1 ") for line in lines if "g2a1 " in line]
    if len(found) != 1:
        raise InputError(
            f"{len(found) or 'no'} fingerprints on standard input, where one should be"
        )
    return "".join(found[0][1:])


@dataclass(slots=True)
class _View(Snapshot):
    """How far a check is."""

    def begin(self, files: int, size: int = 0) -> None:
        """So many files, of so many bytes (0 where that is not known), are to be read."""
        self.total, self.bytes_total = files, size or None

    def snapshot(self) -> Snapshot:
        """For the display; between two batches of files, the bytes tell how many."""
        if self.bytes_total:
            self.done = int(self.total * min(1.0, (self.bytes or 0) / self.bytes_total))
        return self


def _verify(
    settings: Settings, chosen: VerifyOptions, *, rebuilding: bool, kept: Fingerprint | None
) -> ExitCode:
    """`verify`: read the files again; 1 if anything is wrong. `rebuilding`: a lost catalogue.

    `kept` is a fingerprint that the archive is first held against.
    """
    proof = None
    with invoked(settings) as invocation:
        switch, stop = invocation.switch, invocation.switch.event.is_set
        view = _View("Checking", 0, 0, 0, unit="file")
        with invocation.display.watch(view.snapshot):
            if kept is not None:
                with reading(settings.run, stop) as (root, catalog):
                    proof = proving.prove(catalog, root, kept, stop=stop)
                if kept.time > utc_now():
                    log.warning("a clock that was ahead gave this fingerprint: %s", kept.time)
            work = _rebuilt if rebuilding else _checked
            outcome = work(settings.run, chosen, view, switch)
    if proof is not None:
        with reading(settings.run, stop) as (_, catalog):
            proving.mark_later(catalog, proof, outcome.findings)
        # That the catalogue does not know a file says nothing of what is in it.
        told = {one.path for one in outcome.findings if not one.problem.startswith("unknown")}
        outcome.findings += (
            one
            for one in proof.findings
            if one.path not in told
            and not any(part.holds(one.path.rpartition("/")[0]) for part in outcome.unmounted)
        )
    unproven = proof is not None and not is_proven(proof, outcome)
    if settings.json:
        outputs.say_json(outcome_json(outcome) | proof_json(proof, outcome))
    elif outcome.findings or not settings.quiet or (unproven and not outcome.timed_out):
        outputs.write(f"{outcome_text(outcome)}{proof_text(proof, outcome)}\n")
    wrong = ExitCode.FAILED if outcome.findings or unproven else None
    late = ExitCode.MAX_DURATION if outcome.timed_out else None
    away = unmounted_error(outcome.unmounted) if outcome.unmounted else None
    return invocation.ending(switch.code, late, wrong, errors=(away, outcome.unwritten))


def _checked(
    run: RunSettings, chosen: VerifyOptions, view: _View, switch: StopSwitch
) -> FixityResult:
    stop = switch.event.is_set
    with reading(run, stop) as (root, catalog):
        path = catalog.path
    with open_catalog(path, stop) as catalog:
        return verify(
            catalog,
            root,
            chosen,
            on_begin=view.begin,
            on_bytes=view.more_bytes,
            stop=stop,
        )


def _rebuilt(
    run: RunSettings, chosen: VerifyOptions, view: _View, switch: StopSwitch
) -> FixityResult:
    storage = Storage(Path(run.dest), catalog=run.catalog)
    check_destination(storage.root)
    require_files(storage.root, switch.event.is_set)

    def stop() -> bool:
        return switch.event.is_set() or time.monotonic() >= chosen.until

    try:
        storage.open(replace(switch.lock_callbacks(), stopped=stop))
    except Interrupted:
        if switch.code is not None:
            raise
        return FixityResult(timed_out=True)
    try:
        with storage.open_catalog(switch.event.is_set) as catalog:
            outcome = rebuild(
                catalog,
                storage.root,
                jobs=chosen.jobs,
                on_begin=view.begin,
                on_files=view.advance,
                on_bytes=view.more_bytes,
                stop=stop,
            )
            if outcome.interrupted and switch.code is None:
                outcome.interrupted, outcome.timed_out = False, True
            with suppress(Interrupted):
                finish_removals(catalog, storage.root)
            try:
                write_checksums(catalog, storage.root)
            except LocalError as error:
                outcome.unwritten = error
            return outcome
    finally:
        storage.close()
