"""Log lines: one format, UTC, to stderr and to a file, and nothing secret in them."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from g2a_archive.console.progress import Display
from g2a_archive.errors import StorageError, storage_error
from g2a_archive.models import printable

if TYPE_CHECKING:
    from g2a_archive.console.logfile import LogFile

log = logging.getLogger("g2a_archive")

_OPTION = "--log-file"
_ADDRESS = re.compile(r"\b(https?://[^\s/?#'\"<>,;)][^\s/?#'\"<>]*)[^\s'\"<>]*")
_HEADER = re.compile(r"(?i)\b(bearer\s+|oauth_token=)\S+")


class _Redact(logging.Filter):
    """The last line of defence: no message should hold a secret before it comes here."""

    def __init__(self, secrets: Callable[[], Iterable[str]]) -> None:
        super().__init__()
        self._secrets = secrets

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage(), self._secrets()), None
        record.exc_info = None
        return True


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` without secrets: known values, paths and queries of addresses, header values.

    Control characters go too: what a service sends must not steer a terminal.
    """
    for secret in secrets:
        if len(secret) >= 4:
            text = text.replace(secret, "…")
    text = _HEADER.sub(r"\1…", _ADDRESS.sub(r"\1/…", text))
    return printable(text)


class _Formatter(logging.Formatter):
    """`2026-11-23T02:00:05Z WARNING recording 123: …`"""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")


class _Console(logging.Handler):
    def __init__(self, display: Display) -> None:
        super().__init__()
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        self._display.line(self.format(record))


def configure_last_resort() -> None:
    """Have commands that set up no `Logs` warn in the same way; standard error is open by then."""
    logging.lastResort = last = logging.StreamHandler()
    last.setLevel(logging.WARNING)
    last.setFormatter(_Formatter())
    last.addFilter(_Redact(tuple))


class Logs:
    """The handlers of this process, set up once. Raises `StorageError` for a file that can't be."""

    def __init__(
        self,
        display: Display,
        *,
        verbosity: int,
        quiet: bool,
        log_file: str | None,
        secrets: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self._path = log_file
        self._file: LogFile | None = None
        level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbosity, 2)]
        console = _Console(display)
        console.setLevel(logging.ERROR if quiet else level)  # with both, the file has the lines
        self._handlers: list[logging.Handler] = [console]
        if log_file:
            from g2a_archive.console.logfile import LogFile

            try:
                self._file = LogFile(log_file, encoding="utf-8")
            except OSError as error:
                raise storage_error(error, "open the log file", log_file, option=_OPTION) from error
            self._file.setLevel(min(level, logging.INFO))
            self._handlers.append(self._file)
        for handler in self._handlers:
            handler.setFormatter(_Formatter())
            handler.addFilter(_Redact(secrets))
            log.addHandler(handler)
        self._was = log.level, log.propagate
        # What nobody reads should cost nothing.
        log.setLevel(min(handler.level for handler in self._handlers))
        log.propagate = False

    @property
    def failure(self) -> StorageError | None:
        """The failure of a line that could not be written to the log file."""
        if self._file is None or self._file.failure is None:
            return None
        return storage_error(
            self._file.failure, "write the log file", self._path or "", option=_OPTION
        )

    def close(self) -> None:
        """Let go of the handlers, and leave the log as it was."""
        level, log.propagate = self._was
        log.setLevel(level)
        for handler in self._handlers:
            log.removeHandler(handler)
            with suppress(OSError):  # a full disk was told by the line that did not fit
                handler.close()
