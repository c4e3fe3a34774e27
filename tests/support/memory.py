"""What some work takes of memory, where nothing else runs."""

from __future__ import annotations

import gc
import os
import traceback
import tracemalloc
import warnings
from collections.abc import Callable


def peak_of(work: Callable[[], object]) -> int:
    """The most bytes that Python holds for `work`, which runs in a process of its own.

    In the tests' own process other threads, and what an earlier test left, would count, too.
    Raises `AssertionError` where the work fails.
    """
    ours, theirs = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork where there are threads
        pid = os.fork()
    if not pid:
        try:
            gc.freeze()
            gc.collect()  # of what is new, from now on: not only once it is a quarter of all
            tracemalloc.start()
            work()
            told = b"%d" % tracemalloc.get_traced_memory()[1]
        except BaseException:  # whatever it is, the child goes no further than this
            told = traceback.format_exc().encode()
        os.write(theirs, told[-60_000:])
        os._exit(0)
    os.close(theirs)
    with open(ours, "rb") as pipe:
        told = pipe.read()
    os.waitpid(pid, 0)
    if not told.isdigit():
        raise AssertionError(told.decode())
    return int(told)
