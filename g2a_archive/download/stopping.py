"""Being asked to stop: one switch that signals, a time limit or a failing disk turn off."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from g2a_archive.errors import ExitCode

_CODES = {
    signal.SIGINT: ExitCode.SIGINT,
    signal.SIGTERM: ExitCode.SIGTERM,
    signal.SIGHUP: ExitCode.SIGTERM,
}


class StopSwitch:
    """Turned off once; `event` is what every wait of the run listens to.

    `wake` is called when a signal arrives, so that the main thread need not poll.
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self.code: ExitCode | None = None
        self.wake: Callable[[], None] = lambda: None

    def stop(self, code: ExitCode | None = None) -> None:
        """Ask the run to stop; the first code stays."""
        if self.code is None:
            self.code = code
        self.event.set()
        self.wake()

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Let SIGINT, SIGTERM and SIGHUP turn the switch off; a second SIGINT ends at once."""

        def handle(number: int, _: FrameType | None) -> None:
            if number == signal.SIGINT and self.code is not None:
                with suppress(OSError):
                    if sys.stderr.isatty():
                        os.write(2, b"\x1b[?25h\n")  # the cursor comes back
                os._exit(int(ExitCode.SIGINT))
            self.stop(_CODES[signal.Signals(number)])

        old = {number: signal.signal(number, handle) for number in _CODES}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
