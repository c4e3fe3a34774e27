"""A wrong clock for a real process: what `time.time` says there is off, from the start or later."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

YEAR = 365 * 86400.0

_PATCH = """
import os, sys, time
_true, _since = time.time, {since}
def _wrong():
    return _true() + ({seconds} if _since is None or os.path.exists(_since) else 0.0)
time.time = _wrong
# What has it as a default value took it when it was imported.
for _name, _module in list(sys.modules.items()):
    for _one in list(vars(_module).values()) if _name.startswith("g2a_archive.") else ():
        for _function in list(vars(_one).values()) if isinstance(_one, type) else (_one,):
            _defaults = getattr(_function, "__kwdefaults__", None) or {{}}
            for _key in [_key for _key in _defaults if _defaults[_key] is _true]:
                _defaults[_key] = _wrong
            if _true in (getattr(_function, "__defaults__", None) or ()):
                _function.__defaults__ = tuple(
                    _wrong if one is _true else one for one in _function.__defaults__
                )
"""


def off_by(seconds: float, *, since: Path | None = None) -> str:
    """What `run_cli` runs `before` a process whose clock is so much ahead (or behind, below 0).

    With `since` it is off only from when that file is there.
    """
    return _PATCH.format(seconds=seconds, since=repr(None if since is None else str(since)))


@contextmanager
def clock_off_by(seconds: float) -> Iterator[None]:
    """The clock of this process is `seconds` ahead (or behind, below 0)."""
    true = time.time
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: true() + seconds)
        yield
