"""What commands work in: signals, logs, display; and a run from settings to exit code."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from g2a_archive.archive import checksums
from g2a_archive.archive.database import removed_list
from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.disk import strictpath
from g2a_archive.archive.disk.lease import Lease
from g2a_archive.archive.disk.lock import lock_paths
from g2a_archive.archive.layout import ARCHIVE_DIR, is_of_catalog, parse_name
from g2a_archive.archive.storage import (
    catalog_path,
    check_destination,
    has_catalog,
    is_there,
)
from g2a_archive.cli.config import auth_values, exposed
from g2a_archive.cli.settings import Settings, app_dir
from g2a_archive.console import outputs
from g2a_archive.console.logs import Logs
from g2a_archive.console.outlet import PATIENCE
from g2a_archive.console.progress import choose_display
from g2a_archive.console.report import Report, exit_code_of
from g2a_archive.download.run import Download
from g2a_archive.download.stopping import StopSwitch
from g2a_archive.errors import ArchiverError, ExitCode, InputError, Interrupted, StorageError
from g2a_archive.models import RunSettings

if TYPE_CHECKING:
    from g2a_archive.auth.credentials import AuthSettings, Credentials

log = logging.getLogger("g2a_archive")


class Invocation:
    """What a command works in: its settings, the switch that signals turn, a display, the log, and
    the credentials, made when they are first needed."""

    def __init__(self, settings: Settings, auth: AuthSettings | None) -> None:
        """`auth` takes the place of what is configured."""
        self.settings = settings
        self.switch = StopSwitch()
        self.display = choose_display(
            quiet=settings.quiet, stopping=lambda: self.switch.code is not None
        )
        self.logs = Logs(
            self.display,
            verbosity=settings.verbosity,
            quiet=settings.quiet,
            log_file=settings.log_file,
            secrets=self._secrets,
        )
        self._auth = auth
        self._credentials: Credentials | None = None

    def credentials(self) -> Credentials:
        """The credentials, before anything is asked with them.

        Raises `CredentialsError` where there are none, or half of them; `InputError` where the
        certificates that are to be trusted cannot be read.
        """
        if self._credentials is None:
            from g2a_archive.auth.credentials import credentials_from
            from g2a_archive.auth.login import with_stored_login
            from g2a_archive.transport.adapter import check_certificates

            check_certificates()
            if (warning := exposed(self.settings.config)) is not None:
                log.warning("%s", warning)
            self._credentials = credentials_from(
                self._auth or with_stored_login(configured_auth(self.settings), app_dir()),
                warn=log.warning,
                wait=self.switch.event.wait,
            )
        return self._credentials

    def _secrets(self) -> Iterable[str]:
        """What no log line may hold."""
        return self._credentials.secrets() if self._credentials is not None else ()

    def close(self) -> None:
        """Wait for a renewal of the credentials under way, then let go of log and display."""
        if self._credentials is not None:
            self._credentials.wait_for_renewal()
        self.logs.close()
        self.display.close()

    def ending(
        self, *codes: ExitCode | None, errors: Iterable[ArchiverError | None] = ()
    ) -> ExitCode:
        """Say each of the errors, and the log's; returns the first of the codes that hold."""
        held = {code for code in codes if code is not None}
        for error in (*errors, self.logs.failure):
            if error is not None:
                outputs.print_error(error)
                held.add(error.exit_code)
        return exit_code_of(held)


@contextmanager
def invoked(settings: Settings, auth: AuthSettings | None = None) -> Iterator[Invocation]:
    """Signals turn the switch, and log lines go where the settings say, while the block lasts.

    Raises `InputError` for files that can have no place, `StorageError` for a log file that cannot
    be opened: before anything is asked for.
    """
    require_places(settings)
    # Before a signal only turns the switch: a named pipe is opened once somebody reads it.
    invocation = Invocation(settings, auth)
    with invocation.switch.signals():
        try:
            yield invocation
        finally:
            invocation.close()


def require_places(settings: Settings) -> None:
    """Refuse files that could not be written hours later, that are the archive's own, or that are
    one and the same, or the configuration: each would take the place of what the other says."""
    config = settings.config.path
    taken = {os.path.realpath(config): "--config"} if config is not None else {}
    for option, path in settings.files:
        require_place(option, path, settings.run)
        if outputs.is_replaced(path):
            other = taken.setdefault(os.path.realpath(path), option)
            if other != option:
                raise InputError(
                    f"{option}: {path} is the file for {other}, too", hint="name another file"
                )


def require_place(option: str, path: str, run: RunSettings) -> None:
    """Refuse a file that could not be written hours later, or that is the archive's own."""
    if path == "-":
        raise InputError(f"{option}: - is no file", hint="name one; /dev/stdout is one")
    target = Path(os.path.realpath(path))
    if strictpath.is_dir(target):
        raise InputError(f"{option}: {path} is a directory", hint="name a file in it")
    if _is_own(target, run):
        raise InputError(f"{option}: {path} is the archive's own", hint="name another file")
    if not strictpath.is_dir(target.parent):
        raise InputError(
            f"{option}: there is no directory {target.parent}", hint="make it, or name another file"
        )


def _is_own(target: Path, run: RunSettings) -> bool:
    """Whether it is of the catalogue, a lock, or has the name of what is archived, in it."""
    root = Path(run.dest)
    catalog = catalog_path(root, run.catalog)
    locks = lock_paths(root / ARCHIVE_DIR, catalog)  # beside a link, not beside its end
    own = [*locks, *(Lease(lock).path for lock in locks)]
    if str(target) in map(os.path.realpath, own) or is_of_catalog(
        str(target), os.path.realpath(catalog)
    ):
        return True
    lists = (checksums.NAME, removed_list.NAME)
    named = target.name in lists or parse_name(target.name) is not None
    return named and target.is_relative_to(os.path.realpath(root))


def find_archive(run: RunSettings) -> tuple[Path, Path]:
    """The archive's root, and where its catalogue is.

    Raises `StorageError` if there is none, and `InputError` where a file is in its place.
    """
    root = Path(run.dest).absolute()
    check_destination(root)
    path = catalog_path(root, run.catalog)
    if not has_catalog(path):
        why = "is empty" if is_there(path) else "does not exist"
        hint = "check --dest; is the drive mounted?"
        if run.catalog is not None:
            hint = "check --catalog; is its drive mounted?"
        elif os.path.isdir(root / ARCHIVE_DIR):
            hint = "`verify --rebuild`, or the next download, makes a catalogue of what is there"
        raise StorageError(f"there is no archive at {root}: {path} {why}", hint=hint)
    return root, path


@contextmanager
def reading(
    run: RunSettings, interrupted: Callable[[], bool] = lambda: False
) -> Iterator[tuple[Path, Catalog]]:
    """The archive's root and its catalogue, read without the archive's lock."""
    root, path = find_archive(run)
    with Catalog(path, readonly=True, interrupted=interrupted) as catalog:
        yield root, catalog


def configured_auth(settings: Settings) -> AuthSettings:
    """The credentials' settings from environment and file."""
    from g2a_archive.auth.credentials import AuthSettings

    values = {key: value for key, (value, _) in auth_values(settings.config, os.environ).items()}
    run = settings.run
    return AuthSettings(timeout=run.timeout, retries=run.retries, **values)  # type: ignore[arg-type]


def perform(
    settings: Settings,
    command: str,
    work: Callable[[Download], Report],
    *,
    auth: AuthSettings | None = None,
) -> ExitCode:
    """Do `work` with signals, logs and display in place; print and write what is to be said.

    `auth` takes the place of what is configured. Raises `InputError` for what is wrong before
    anything was begun.
    """
    gc.freeze()  # what was imported stays, and need not be looked at again
    with invoked(settings, auth) as invocation:
        download = Download(
            settings.run,
            command=command,
            credentials=invocation.credentials,
            switch=invocation.switch,
            display=invocation.display,
        )
        try:
            report = work(download)
        except (InputError, Interrupted):
            raise
        except Exception as error:
            report = download.record_error(error)
        if invocation.logs.failure is not None:
            report.record_error(invocation.logs.failure)
        _hand_out(settings, report, download)
    return report.exit_code


def _hand_out(settings: Settings, report: Report, download: Download) -> None:
    """Write the files that were asked for, then say how it went.

    Each is tried, whatever became of the others; what fails is told, and is exit 6. A dry run
    leaves them as they are: they may be what the run is to begin with.
    """
    dry_run = settings.run.dry_run

    def error_file() -> None:
        if settings.error_file is not None and not dry_run:
            outputs.write_error_file(settings.error_file, report)

    def metrics_file() -> None:
        if settings.metrics_file is not None and not dry_run:
            owed, success = download.owed_and_last_success()
            outputs.write_metrics(settings.metrics_file, report, owed=owed, success=success)

    def summary() -> None:
        if settings.json:
            outputs.say_json(report.to_json())
        elif not settings.quiet or report.anything_failed:
            outputs.show(report)

    if report.fingerprint is None and report.exit_code in (ExitCode.OK, ExitCode.LOCKED):
        download.owed_and_last_success()  # nothing was to be done, or another run does it
    for step in (error_file, metrics_file, summary):
        download.display.flush()  # what is said before, on the same terminal, stands before
        try:
            with download.switch.alarm_after_signal(PATIENCE):
                step()
        except (ArchiverError, OSError, ValueError) as error:
            log.error("%s", error)
            report.abort_codes.add(ExitCode.STORAGE)
            if download.switch.code is not None:  # which may be what cut it short
                report.abort_codes.add(download.switch.code)
        except Exception as error:
            download.record_error(error)
