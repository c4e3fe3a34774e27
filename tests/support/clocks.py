"""A wrong clock for a real process: what `time.time` says there is off, from the start or later."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import clean_environment

YEAR = 365 * 86400.0

_PATCH = """
import os, time
_true, _since = time.time, {since}
def _wrong():
    return _true() + ({seconds} if _since is None or os.path.exists(_since) else 0.0)
time.time = _wrong
"""


def off_by(
    seconds: float, at: Path, env: Mapping[str, str], *, since: Path | None = None
) -> dict[str, str]:
    """The environment `env` for a process whose clock is `seconds` ahead (or behind, below 0).

    `at` is a directory for this. With `since` it is off only from when that file is there.
    """
    at.mkdir(parents=True, exist_ok=True)
    name = None if since is None else str(since)
    text = _PATCH.format(seconds=seconds, since=repr(name))
    (at / "sitecustomize.py").write_text(text)
    paths = f"{at}:{clean_environment()['PYTHONPATH']}"
    return {**env, "PYTHONPATH": paths}


@contextmanager
def clock_off_by(seconds: float) -> Iterator[None]:
    """The clock of this process is `seconds` ahead (or behind, below 0)."""
    true = time.time
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: true() + seconds)
        yield
