"""`check`: would a night's run work? Nothing is downloaded, nothing is written but trial files."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click

from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.database.inventory import summary
from g2a_archive.archive.disk import strictpath
from g2a_archive.archive.disk.domains import retry_transient
from g2a_archive.archive.disk.flushing import write_trial
from g2a_archive.archive.disk.mounts import missing_parts, unmounted_error
from g2a_archive.archive.disk.space import free_space
from g2a_archive.archive.layout import option_of
from g2a_archive.archive.storage import Storage, has_catalog, is_there
from g2a_archive.cli.config import Config
from g2a_archive.cli.options import run_options
from g2a_archive.cli.run import Invocation, invoked, require_places
from g2a_archive.cli.settings import ConfiguredCommand, Settings, settings_of
from g2a_archive.console.outputs import print_lines, say_json
from g2a_archive.console.report import exit_code_of
from g2a_archive.errors import (
    ArchiverError,
    ExitCode,
    Interrupted,
    StorageError,
    generic_storage_error,
    storage_error,
)
from g2a_archive.models import duration_text, pluralize, size_text
from g2a_archive.service.clock import MAX_SKEW

_READING = 10.0
"""Seconds for which the catalogue is read in search of damage; a run that begins then waits."""


class CheckResult(NamedTuple):
    """What one look brought: at what, whether it is fine, and a sentence."""

    check: str
    ok: bool
    message: str


class Check:
    """Looks at one thing after another; `findings` yields what it found."""

    def __init__(self, settings: Settings, invocation: Invocation) -> None:
        self._settings = settings
        self._run = settings.run
        self._invocation = invocation
        self._interrupted = invocation.switch.event.is_set
        self._storage = Storage(Path(self._run.dest), catalog=self._run.catalog)
        self._codes: set[ExitCode] = set()

    @property
    def exit_code(self) -> ExitCode:
        """As a run's would be, once `findings` is through."""
        return exit_code_of(self._codes)

    def findings(self) -> Iterator[CheckResult]:
        """One for each thing looked at."""
        yield CheckResult(
            "configuration", True, f"configuration: {_read_from(self._settings.config)}"
        )
        steps = {
            "credentials": self._access,
            "destination": self._destination,
            "lock": self._lock,
            "catalogue": self._catalogue,
            "files": self._outputs,
        }
        for name, step in steps.items():
            try:
                for fine, text in step():
                    yield CheckResult(text.partition(":")[0], fine, text)
            except (ArchiverError, OSError) as error:
                told = error if isinstance(error, ArchiverError) else generic_storage_error(error)
                self._codes.add(told.exit_code)
                yield CheckResult(name, False, str(told))

    def _access(self) -> Iterator[tuple[bool, str]]:
        from g2a_archive.download.assembly import make_service

        credentials = self._invocation.credentials()
        service = make_service(self._run, credentials, self._invocation.switch)
        renewed, began = credentials.renewed, time.time()  # before this very call renews it
        service.probe()
        yield (
            True,
            f"credentials: accepted by {self._run.api_url} ({credentials.description})",
        )
        if renewed is not None:
            yield (
                True,
                f"sign-in: last renewed {_ago(began - renewed)}, and now; one that is not for "
                "30 days may lapse",
            )
        yield self._clock(service.clock.skew())

    def _clock(self, ahead: float | None) -> tuple[bool, str]:
        if ahead is None:
            now = time.gmtime(time.time())
            sane, told = now.tm_year >= 2025, time.strftime("%Y-%m-%d %H:%M UTC", now)
        elif abs(ahead) > MAX_SKEW:
            off = duration_text(abs(ahead))
            sane, told = False, f"differs by {off} from the service's: set this machine's"
        else:
            sane, told = True, "agrees with the service's"
        if not sane:
            self._codes.add(ExitCode.FAILED)
        return sane, f"clock: {told}"

    def _destination(self) -> Iterator[tuple[bool, str]]:
        storage = self._storage
        storage.check(create=not self._run.no_create)
        new = "" if is_there(storage.metadata_dir) else ", a new archive"
        place = _try(storage.metadata_dir, "--dest")
        _try(storage.partial, "--dest")
        room = "it does not tell its free space"
        if told := free_space(place):
            room = f"{size_text(told[0])} free"
            if told[0] < self._run.min_free:
                raise StorageError(
                    f"destination: {storage.root} has {room}, less than --min-free "
                    f"({size_text(self._run.min_free)})",
                    hint="free some space",
                )
        yield True, f"destination: {storage.root} can be written{new}, {room}"

    def _lock(self) -> Iterator[tuple[bool, str]]:
        self._storage.lock.check_available(self._invocation.switch.lock_callbacks())
        yield True, "lock: free"

    def _catalogue(self) -> Iterator[tuple[bool, str]]:
        path = self._storage.catalog
        self._writable(path)
        if not has_catalog(path):
            yield True, f"catalogue: {path} will be made"
            return
        with Catalog(path, readonly=True, interrupted=self._interrupted) as catalog:
            busy = ExitCode.LOCKED in self._codes  # by a run that should not have to wait
            whole = busy or catalog.check_integrity(_READING)
            holds = summary(catalog)
            if unmounted := missing_parts(catalog, self._storage.root):
                raise unmounted_error(unmounted)
        far = "" if whole else f"; it is large: read for {_READING:.0f} s, and not to its end"
        archived = pluralize(holds.archived, "recording")
        yield True, f"catalogue: {archived} archived, {holds.owed_count:,} owed{far}"

    def _outputs(self) -> Iterator[tuple[bool, str]]:
        require_places(self._settings)
        files = self._settings.files
        for option, path in files:
            there = os.path.exists(path)
            if there and os.access(path, os.W_OK):
                continue
            if there and option == "--log-file":  # which is not replaced, as the others are
                error = PermissionError(errno.EACCES, "")
                raise storage_error(error, "open the log file", path, option=option)
            _try(Path(os.path.realpath(path)).parent, option)
        if files:
            yield True, f"files: {', '.join(option for option, _ in files)} can be written"

    def _writable(self, path: Path) -> None:
        """Raise `StorageError` where a run could not write the catalogue, or a journal beside it.

        A link leads to where both are.
        """
        real = Path(os.path.realpath(path))
        instead = option_of(path)
        if os.path.islink(path) and not os.path.isdir(real.parent):
            away = FileNotFoundError(errno.ENOENT, "")
            raise storage_error(away, "open the catalogue", path, option=instead)
        _try(real.parent, instead)
        for name in (real, Path(f"{real}-journal")):
            try:
                if strictpath.is_file(name):
                    os.close(os.open(name, os.O_RDWR | os.O_CLOEXEC))
            except OSError as error:
                raise storage_error(error, "write the catalogue", name, option=instead) from error


def _try(place: Path, instead: str) -> Path:
    """Write, and remove, a trial file in a directory, or in what that is to be made in: that one.

    `instead` is the option that names another place. Raises `StorageError`.
    """
    while not os.path.lexists(place):
        place = place.parent
    try:
        retry_transient(write_trial, place)
    except OSError as error:
        raise storage_error(error, "write to", place, option=instead) from error
    return place


def _ago(age: float) -> str:
    if age < -MAX_SKEW:
        return "by a clock that was ahead"
    text = f"{age / 86400:.0f} days" if age >= 2 * 86400 else duration_text(max(0.0, age))
    return f"{text} ago"


@click.command("check", cls=ConfiguredCommand)
@run_options
@click.pass_context
def check_command(ctx: click.Context, /, **_: Any) -> ExitCode:
    """Say whether a night's run would work; download nothing.

    Looks at the configuration, the credentials (a real call), the clock, the destination and its
    free space, the lock and the catalogue, of which it tries to write what a run writes, and the
    places of log, error and metrics file: one line each. The exit code is as a run's.
    """
    settings = settings_of(ctx)
    # The files are looked at, and not made.
    shown = replace(settings, log_file=None, error_file=None, metrics_file=None)
    with invoked(shown) as invocation:
        looks = Check(settings, invocation)
        found = []
        for one in looks.findings():
            found.append(one)
            if invocation.switch.code is not None:
                raise Interrupted
            if not (settings.json or (settings.quiet and one.ok)):
                print_lines(f"{'ok   ' if one.ok else 'FAIL '} {one.message}")
    if settings.json:
        checks = [one._asdict() for one in found]
        say_json({"exit_code": int(looks.exit_code), "checks": checks})
    return looks.exit_code


def _read_from(config: Config) -> str:
    """Where the configuration comes from."""
    if config.path is None:
        unread = f"; {config.unread}" if config.unread is not None else ""
        return f"no file, options and environment only{unread}"
    profile = f", profile {config.profile}" if config.profile is not None else ""
    return f"read from {config.path}{profile}"
