"""Each process of the tests keeps to one core, with what it starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

EVERY: list[int] = []
"""The cores that this process may use; none where the system does not tell."""

if hasattr(os, "sched_getaffinity"):  # Linux has it
    EVERY = sorted(os.sched_getaffinity(0))


def keep_to_one(worker: str) -> None:
    """As the `worker`, gw0, gw1, ... of pytest-xdist.

    A run and the simulated service that it talks to are threads of one process here: on several
    cores they take the interpreter from each other, and take a fifth longer.
    """
    if EVERY:
        os.sched_setaffinity(0, {EVERY[int(worker.removeprefix("gw")) % len(EVERY)]})


@contextmanager
def on_every_core() -> Iterator[None]:
    """For what is about cores."""
    kept = os.sched_getaffinity(0)
    os.sched_setaffinity(0, EVERY)
    yield
    os.sched_setaffinity(0, kept)
