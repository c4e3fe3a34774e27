"""Calls of the C library that Python's own do not cover."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

_M_ARENA_MAX, _ARENAS = -8, 2
"""mallopt(3)'s number of arenas, and how many: with one for each thread, which keeps what it was
once given, 18,000 small files at 16 at a time take 67 MB instead of 59."""


def share_arenas() -> None:
    """Have the threads to come share what memory they are given, where glibc gives it.

    Before the first one: an arena is 64 MB of what `ulimit -v` allows.
    """
    if mallopt := c_call("mallopt"):
        mallopt(_M_ARENA_MAX, _ARENAS)


@cache
def c_call(name: str) -> Callable[..., int] | None:
    """A call by its name; None where the C library, or this Python, has it not.

    What it returns is negative where it failed: minus its `errno`.
    """
    try:
        import ctypes

        function = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (ImportError, OSError, AttributeError, TypeError):
        return None

    def call(*arguments: object) -> int:
        result = int(function(*arguments))
        return -ctypes.get_errno() if result == -1 else result

    return call
