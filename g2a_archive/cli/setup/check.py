"""`check`: would a night's run work? Nothing is downloaded, nothing is written but a trial file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple

import click

from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.disk.flushing import write_trial
from g2a_archive.archive.disk.lock import lock_holder
from g2a_archive.archive.disk.mounts import missing_parts, unmounted_error
from g2a_archive.archive.disk.space import free_space
from g2a_archive.archive.layout import ARCHIVE_DIR
from g2a_archive.archive.storage import catalog_path, check_destination, has_catalog
from g2a_archive.cli.options import run_options
from g2a_archive.cli.run import Access
from g2a_archive.cli.settings import ConfiguredCommand, Settings, settings_of
from g2a_archive.console.outputs import say, say_json
from g2a_archive.console.report import exit_code_of
from g2a_archive.download.stopping import StopSwitch
from g2a_archive.errors import (
    ArchiverError,
    ExitCode,
    InputError,
    Interrupted,
    LockedError,
    StorageError,
    storage_error,
)
from g2a_archive.models import RunSettings, counted, duration_text, size_text
from g2a_archive.service.client import Service
from g2a_archive.service.session import Authorizer

_SANE_SKEW = 300.0
"""Seconds by which the clocks of this machine and the service may differ."""


class Finding(NamedTuple):
    """What one look brought: at what, whether it is fine, and a sentence."""

    check: str
    ok: bool
    message: str


class Check:
    """Looks at one thing after another; `findings` yields what it found."""

    def __init__(
        self,
        settings: RunSettings,
        *,
        configuration: str,
        credentials: Callable[[], Authorizer],
        service: Callable[[Authorizer], Service],
    ) -> None:
        self._settings = settings
        self._configuration = configuration
        self._credentials = credentials
        self._service = service
        self._root = Path(settings.dest).absolute()
        self._codes: set[ExitCode] = set()

    @property
    def exit_code(self) -> ExitCode:
        """As a run's would be, once `findings` is through."""
        return exit_code_of(self._codes)

    def findings(self) -> Iterator[Finding]:
        """One for each thing looked at."""
        yield Finding("configuration", True, f"configuration: {self._configuration}")
        steps = {
            "credentials": self._access,
            "destination": self._destination,
            "lock": self._lock,
            "catalogue": self._catalogue,
        }
        for name, step in steps.items():
            try:
                for fine, text in step():
                    yield Finding(text.partition(":")[0], fine, text)
            except ArchiverError as error:
                self._codes.add(error.exit_code)
                yield Finding(name, False, str(error))

    def _access(self) -> Iterator[tuple[bool, str]]:
        authorizer = self._credentials()
        service = self._service(authorizer)
        renewed = getattr(authorizer, "renewed", None)  # before this very call renews it
        began = time.time()
        date = service.probe()
        source = getattr(authorizer, "description", "")
        yield (
            True,
            f"credentials: accepted by {self._settings.api_url}"
            + (f" ({source})" if source else ""),
        )
        if renewed is not None:
            yield (
                True,
                f"sign-in: last renewed {_ago(began - renewed)}, and now; one that is not for "
                "30 days may lapse",
            )
        yield self._clock(date, began)

    def _clock(self, date: str | None, began: float) -> tuple[bool, str]:
        with suppress(TypeError, ValueError, OverflowError):
            theirs = parsedate_to_datetime(date or "").timestamp()
            middle = (began + time.time()) / 2
            if abs(theirs - middle) > _SANE_SKEW:
                self._codes.add(ExitCode.FAILED)
                off = duration_text(abs(theirs - middle))
                return False, f"clock: differs by {off} from the service's: set this machine's"
            return True, "clock: agrees with the service's"
        now = datetime.now(UTC)
        sane = now.year >= 2025
        if not sane:
            self._codes.add(ExitCode.FAILED)
        return sane, f"clock: {now:%Y-%m-%d %H:%M} UTC"

    def _destination(self) -> Iterator[tuple[bool, str]]:
        check_destination(self._root)
        own = self._root / ARCHIVE_DIR
        if not own.is_dir() and self._settings.no_create:
            raise StorageError(
                f"destination: {self._root} is not an archive yet, and --no-create is set",
                hint="is the drive mounted?",
            )
        place = own if own.is_dir() else self._root
        while not place.is_dir():
            place = place.parent
        try:
            write_trial(place)
        except OSError as error:
            raise storage_error(error, "write to the destination", place) from error
        room = "it does not tell its free space"
        if told := free_space(place):
            room = f"{size_text(told[0])} free"
            if told[0] < self._settings.min_free:
                raise StorageError(
                    f"destination: {self._root} has {room}, less than --min-free "
                    f"({size_text(self._settings.min_free)})",
                    hint="free some space",
                )
        new = "" if own.is_dir() else ", a new archive"
        yield True, f"destination: {self._root} can be written{new}, {room}"

    def _lock(self) -> Iterator[tuple[bool, str]]:
        holder = lock_holder(self._root / ARCHIVE_DIR / "lock")
        if holder is not None:
            raise LockedError(f"lock: another run is working on this archive: {holder}")
        yield True, "lock: free"

    def _catalogue(self) -> Iterator[tuple[bool, str]]:
        path = catalog_path(self._root, self._settings.catalog)
        if not has_catalog(path):
            yield True, f"catalogue: {path} will be made"
            return
        try:
            with Catalog(path, readonly=True) as catalog:
                archived = catalog.scalar("SELECT count(*) FROM recording WHERE state = 'archived'")
                owed = catalog.owed_count()
                if unmounted := missing_parts(catalog, self._root):
                    raise unmounted_error(unmounted)
        except InputError as error:
            raise StorageError(error.message, hint=error.hint) from error
        yield True, f"catalogue: {counted(archived, 'recording')} archived, {owed:,} owed"


def _ago(age: float) -> str:
    if age < -_SANE_SKEW:
        return "by a clock that was ahead"
    text = f"{age / 86400:.0f} days" if age >= 2 * 86400 else duration_text(max(0.0, age))
    return f"{text} ago"


@click.command("check", cls=ConfiguredCommand)
@run_options
@click.pass_context
def check_command(ctx: click.Context, /, **_: Any) -> ExitCode:
    """Say whether a night's run would work; download nothing.

    Looks at the configuration, the credentials (a real call), the clock, the destination and its
    free space, the lock and the catalogue: one line each. The exit code is as a run's.
    """
    return _check(settings_of(ctx))


def _check(settings: Settings) -> ExitCode:
    """`check`: print one line for each thing looked at; the exit code is as a run's."""
    from g2a_archive.download.assembly import make_service

    switch = StopSwitch()
    access = Access(settings, switch)
    config = settings.config
    configuration = "no file, options and environment only"
    if config.unread is not None:
        configuration += f"; {config.unread}"
    if config.path is not None:
        configuration = f"read from {config.path}"
    if config.profile is not None:
        configuration += f", profile {config.profile}"
    with switch.signals():
        looks = Check(
            settings.run,
            configuration=configuration,
            credentials=access,
            service=lambda authorizer: make_service(settings.run, authorizer, switch),
        )
        found = []
        try:
            for one in looks.findings():
                found.append(one)
                if switch.code is not None:
                    raise Interrupted
                if not settings.json:
                    say(f"{'ok   ' if one.ok else 'FAIL '} {one.message}")
        finally:
            access.settle()
    if settings.json:
        checks = [one._asdict() for one in found]
        say_json({"exit_code": int(looks.exit_code), "checks": checks})
    return looks.exit_code
