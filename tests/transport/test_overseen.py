"""A call that is done in a thread of its own, and left to itself once the run is to stop."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from g2a_archive.errors import Interrupted
from g2a_archive.transport import sessions


def test_signals_whose_handler_takes_longer_than_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a busy machine. Some Pythons' own queue then waited for the answer, however long."""
    monkeypatch.setattr(sessions, "_LOOK_EVERY", 0.01)
    looked, stop = threading.Event(), threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    def stalls() -> None:
        for _ in range(30):  # some of them while it waits
            looked.clear()
            if not looked.wait(5):
                return
            signal.pthread_kill(main, signal.SIGUSR1)
        stop.set()
        threading.Event().wait()

    def stopped() -> bool:
        looked.set()
        return stop.is_set()

    # What was left of the look is over then.
    was = signal.signal(signal.SIGUSR1, lambda *_: time.sleep(0.02))
    try:
        with pytest.raises(Interrupted):
            sessions.run_with_deadline(stalls, seconds=3600, stopped=stopped)
    finally:
        signal.signal(signal.SIGUSR1, was)
