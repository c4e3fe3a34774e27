"""Being asked to stop: one switch that signals, a time limit or a failing disk turn off."""

from __future__ import annotations

import errno
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType

from g2a_archive.archive.disk.lease import LockCallbacks
from g2a_archive.errors import ArchiverError, ExitCode, Interrupted

_CODES = {
    signal.SIGINT: ExitCode.SIGINT,
    signal.SIGTERM: ExitCode.SIGTERM,
    signal.SIGHUP: ExitCode.SIGTERM,
}


_PUT_OFF = 0.02
"""Seconds after which a signal that came at a bad time is looked at again."""

_EMIT = logging.StreamHandler.emit.__code__

_waiting: list[int] = []
"""The signal that is put off, for whoever takes signals next."""

SHUTDOWN_TIMEOUT = 45.0
"""Seconds from a signal to the end of the program, whatever holds it up: what is archived is safe
at any instant, and whoever stops a service kills it a little later."""


def end_after(seconds: float, code: ExitCode) -> threading.Timer:
    """End this process with `code` by then, unless the timer is cancelled."""
    return _after(seconds, lambda: os._exit(int(code)))


def _after(seconds: float, act: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    with suppress(RuntimeError):  # without threads it never ends; but nothing else runs then either
        timer.start()
    return timer


class StopSwitch:
    """Turned off once; `event` is what every wait of the run listens to.

    `wake` is called when it is, so that the main thread need not poll. `timed_out` tells that a
    time limit was over.
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self.code: ExitCode | None = None
        self.timed_out = False
        self.wake: Callable[[], None] = lambda: None

    def stop(self, code: ExitCode | None = None) -> None:
        """Ask the run to stop; the first code stays."""
        if self.code is None:
            self.code = code
        self.event.set()
        self.wake()

    def lock_callbacks(self) -> LockCallbacks:
        """What a lock needs: an end with 5 where another run takes the archive from this one."""
        return LockCallbacks(self.event.is_set, partial(self.stop, ExitCode.LOCKED))

    @contextmanager
    def limited(self, seconds: float | None) -> Iterator[None]:
        """Turn the switch off after so many seconds, whatever waits in the block by then."""

        def end() -> None:
            self.timed_out = True
            self.stop()

        if seconds is None:
            yield
            return
        timer = _after(seconds, end)
        try:
            yield
        finally:
            timer.cancel()

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Let SIGINT, SIGTERM and SIGHUP turn the switch off; a second SIGINT ends at once.

        An error that leaves the block after a signal tells the code of what was first.
        """

        timers: list[threading.Timer] = []

        def handle(number: int, _: FrameType | None) -> None:
            if number == signal.SIGINT and self.code is not None:
                _show_cursor()
                os._exit(int(ExitCode.SIGINT))
            code = _CODES[signal.Signals(number)]
            timers.append(end_after(SHUTDOWN_TIMEOUT, code))
            self.stop(code)

        with _handled(handle):
            if _waiting:  # what was put off
                signal.setitimer(signal.ITIMER_REAL, 0)
                handle(_waiting.pop(), None)
            try:
                yield
            except Interrupted as stop:
                stop.code = self.code or stop.code
                raise
            except ArchiverError as error:
                error.exit_code = self.code or error.exit_code
                raise
            finally:
                for timer in timers:
                    timer.cancel()

    @contextmanager
    def alarm_after_signal(self, seconds: float) -> Iterator[None]:
        """End what holds up the main thread by `TimeoutError`, so many seconds after a signal."""

        def late(number: int, frame: FrameType | None) -> None:
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

        def hurry() -> None:
            if self.code is not None:
                signal.setitimer(signal.ITIMER_REAL, seconds)

        was, self.wake = self.wake, hurry
        old = signal.signal(signal.SIGALRM, late)
        try:
            hurry()
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)
            self.wake = was


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise `Interrupted` here: for what has no switch to turn off.

    A little later, where it would be lost.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        _waiting[:] = [number]
        if _swallows_exceptions(frame):
            signal.signal(signal.SIGALRM, again)
            signal.setitimer(signal.ITIMER_REAL, _PUT_OFF)
            return
        _waiting.clear()
        raise Interrupted(_CODES[signal.Signals(number)])

    def again(_: int, frame: FrameType | None) -> None:
        for number in _waiting:
            handle(number, frame)

    with _handled(handle):
        try:
            yield
        finally:
            if _waiting:
                signal.setitimer(signal.ITIMER_REAL, 0)


def _swallows_exceptions(frame: FrameType | None) -> bool:
    """Whether what is raised here is lost: in a callback of an import, in a module that takes any
    failure for a library that isn't there, in a log's handler, which tells of it and goes on."""
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith("<frozen importlib") or code is _EMIT:
            return True
        frame = frame.f_back
    return False


@contextmanager
def _handled(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let `handle` have the signals; one that was ignored at the start (`nohup`) stays ignored."""
    old = {number: signal.getsignal(number) for number in _CODES}
    old = {number: was for number, was in old.items() if was is not signal.SIG_IGN}
    for number in old:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, was in old.items():
            signal.signal(number, was)


def _show_cursor() -> None:
    """Bring a terminal's cursor back, unless it takes nothing just now (Ctrl-S)."""
    with suppress(OSError, ValueError):
        if sys.stderr.isatty() and select.select([], [2], [], 0)[1]:
            os.write(2, b"\x1b[?25h\n")
