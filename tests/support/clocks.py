"""A wrong clock: what `time.time` says to the program is off, from the start or later."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from types import FunctionType

import pytest

from g2a_archive.auth.credentials import Credentials, credentials_from
from g2a_archive.demo import wire
from g2a_archive.service.clock import Clock

YEAR = 365 * 86400.0

_TAKE_IT_BY_DEFAULT = (Clock.__init__, Credentials.__init__, credentials_from)
"""They have had `time.time` since they were imported."""


@contextmanager
def clock_off_by(seconds: float, *, since: Path | None = None) -> Iterator[None]:
    """The clock of this process is `seconds` ahead (or behind, below 0); simulated services in it
    go by the true one.

    With `since` it is off only from when that file is there.
    """
    true = time.time

    def wrong() -> float:
        return true() + (seconds if since is None or since.exists() else 0.0)

    def date(*, usegmt: bool) -> str:
        return formatdate(true(), usegmt=usegmt)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", wrong)
        patch.setattr(wire, "formatdate", date)
        for function in _TAKE_IT_BY_DEFAULT:
            assert isinstance(function, FunctionType)
            by_place, by_name = function.__defaults__ or (), function.__kwdefaults__ or {}
            assert true in (*by_place, *by_name.values()), function
            changed = tuple(wrong if one is true else one for one in by_place)
            patch.setattr(function, "__defaults__", changed or None)
            named = {name: wrong if one is true else one for name, one in by_name.items()}
            patch.setattr(function, "__kwdefaults__", named or None)
        yield
