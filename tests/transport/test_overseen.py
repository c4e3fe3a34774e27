"""A call that is done in a thread of its own, and left to itself once the run is to stop."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from g2a_archive.errors import Interrupted
from g2a_archive.transport import sessions


def test_a_signal_whose_handler_takes_longer_than_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a busy machine. Some Pythons' own queue then waited for the answer, however long."""
    monkeypatch.setattr(sessions, "_LOOK_EVERY", 0.05)
    looked, stop, over = threading.Event(), threading.Event(), threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    def handle(*_: object) -> None:
        time.sleep(0.1)  # what was left of the look is over
        stop.set()

    def stalls() -> None:
        looked.wait()
        signal.pthread_kill(main, signal.SIGUSR1)
        over.wait(5)

    def stopped() -> bool:
        looked.set()
        return stop.is_set()

    was = signal.signal(signal.SIGUSR1, handle)
    try:
        with pytest.raises(Interrupted):
            sessions.overseen(stalls, seconds=3600, stopped=stopped)
    finally:
        signal.signal(signal.SIGUSR1, was)
        over.set()
