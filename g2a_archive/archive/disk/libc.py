"""Calls of the C library that Python's own do not cover."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache


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
