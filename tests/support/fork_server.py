"""The process that has the program imported, and forks what `forked` asks for. Run as a script."""

from __future__ import annotations

import atexit
import gc
import io
import json
import os
import select
import signal
import socket
import sys
import threading
from importlib.abc import InspectLoader
from types import CodeType
from typing import Any, NoReturn

SOCKET = "G2A_FORK_SERVER"
"""The variable that tells the server its socket."""

LONGEST = 1 << 17
"""Bytes of a request."""

LONGEST_WAIT = 0.05
"""Seconds before a retry, where the service does not say how long."""

WIDTH = 12
"""Characters of a number that a process' pipe brings: first its PID, at its end its status."""


def _serve(clients: socket.socket) -> dict[str, Any] | None:
    """Answer requests until nobody is there to ask. Returns in a forked process: its request."""
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    running: dict[int, int] = {}  # PIDs, and the pipe that waits for the status of each
    while True:
        for readable in select.select([clients.fileno(), ended], [], [])[0]:
            if readable == ended:
                os.read(ended, 1024)
                _reap(running)
                continue
            data, fds, _, _ = socket.recv_fds(clients, LONGEST, 4)
            if not data:
                return None
            *streams, told = fds
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for number, fd in enumerate(streams):
                    os.dup2(fd, number)
                for fd in (ended, wake, *fds, *running.values()):
                    os.close(fd)
                request: dict[str, Any] = json.loads(data)
                return request
            running[pid] = told
            os.write(told, b"%*d" % (WIDTH, pid))
            for fd in streams:
                os.close(fd)


def _reap(running: dict[int, int]) -> None:
    """Hand on the status of those that have ended."""
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        told = running.pop(pid)
        os.write(told, b"%*d" % (WIDTH, status))
        os.close(told)


def _become(program: CodeType, request: dict[str, Any]) -> NoReturn:
    """Be the program as it was asked for, to its end. It may have become another user's, who may
    read nothing of it any more.
    """
    import ctypes
    import time

    if request["session"]:
        os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        errors = "backslashreplace" if name == "stderr" else getattr(sys, name).errors
        raw = open(number, f"{mode}b", closefd=False)  # noqa: SIM115 - for the process' life
        by_line = name == "stderr" or os.isatty(number)
        encoding = sys.stdout.encoding
        stream = io.TextIOWrapper(raw, encoding, errors, line_buffering=by_line)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    if "LD_PRELOAD" in os.environ:
        ctypes.CDLL(os.environ["LD_PRELOAD"]).odd_drive_load()
    _retry_soon()
    exec(request["before"], {"__name__": "before"})
    sys.argv = [program.co_filename, *request["args"]]
    code: Any = 0
    try:
        exec(program, {"__name__": "__main__", "__file__": program.co_filename})
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    # What Python does at its end, but for taking a hundred modules apart.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for output in (sys.stdout, sys.stderr):
        if output is not None:  # as where it is closed from the start
            output.flush()
    os._exit(code if isinstance(code, int) else code is not None)


def _retry_soon() -> None:
    """Wait next to no time before a retry, unless the service says how long."""
    from g2a_archive.service import pace

    pace._LONGEST_WAIT = LONGEST_WAIT


def _import_all() -> CodeType:
    """Import what there is, and read the program itself."""
    import importlib.util
    import pkgutil

    import g2a_archive

    for module in pkgutil.walk_packages(g2a_archive.__path__, "g2a_archive."):
        if not module.name.endswith("__main__"):
            __import__(module.name)
    found = importlib.util.find_spec("g2a_archive.__main__")
    assert found is not None
    assert isinstance(found.loader, InspectLoader)
    program = found.loader.get_code(found.name)
    assert program is not None
    return program


if __name__ == "__main__":
    del sys.path[0]  # this folder
    code = _import_all()
    gc.freeze()  # what is shared stays shared
    with socket.socket(fileno=int(os.environ[SOCKET])) as clients:
        wanted = _serve(clients)
    if wanted is not None:
        _become(code, wanted)
