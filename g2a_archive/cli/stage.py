"""What a command that takes a while works in: signals, a display, a log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from g2a_archive.cli.settings import Settings
from g2a_archive.console.logs import Logs
from g2a_archive.console.progress import Display, choose_display
from g2a_archive.download.stopping import StopSwitch


@contextmanager
def staged(
    settings: Settings, switch: StopSwitch, secrets: Callable[[], Iterable[str]] = tuple
) -> Iterator[tuple[Display, Logs]]:
    """Signals work `switch`, and log lines, without `secrets`, go where the settings say.

    Raises `StorageError` for a log file that cannot be opened.
    """
    display = choose_display(quiet=settings.quiet)
    with switch.signals():
        logs = Logs(
            display,
            verbosity=settings.verbosity,
            quiet=settings.quiet,
            log_file=settings.log_file,
            secrets=secrets,
        )
        try:
            yield display, logs
        finally:
            logs.close()
