"""The log's file; a module of its own, as most runs have none and need not load what it takes."""

from __future__ import annotations

import logging
import logging.handlers
import sys


class LogFile(logging.handlers.WatchedFileHandler):
    """Appends, and opens the file anew after logrotate moved it away."""

    failure: OSError | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; where the file cannot be opened anew, that must not end the run."""
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Keep what went wrong for the end of the run, instead of a traceback on stderr."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self.failure = error
