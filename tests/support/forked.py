"""Processes of the program without the third of a second that Python's start and imports take.

A server process has everything imported. For each call it forks a process which becomes what
`python -m g2a_archive ARGUMENTS` would be: its own PID, environment, directory, streams, session,
exit code; it can be killed like any other. Only its retries come soon. What only a real start can
show (Python's own variables, a function before the start) gets a real start.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from support.fork_server import LONGEST, SOCKET, WIDTH

_AT_START = ("PYTHON", "LC_", "LANG")
"""Variables that begin so are read while Python starts."""

_BEFORE_IT = ("LD_", "DYLD_")
"""Variables that begin so are read by what starts Python."""

MAIN = "import runpy; runpy.run_module('g2a_archive', run_name='__main__', alter_sys=True)"
"""What `-m g2a_archive` does, for `python -c`."""

_servers: dict[tuple[int, frozenset[tuple[str, str]]], _Server] = {}
"""By the process that they serve, and the variables of these kinds that they were started with."""


def command(args: Sequence[str | int | Path]) -> list[str]:
    """The command line that starts the real program."""
    return [sys.executable, "-m", "g2a_archive", *map(str, args)]


def start(
    args: Sequence[str],
    env: Mapping[str, str],
    usual: Mapping[str, str],
    *,
    before: str = "",
    **more: Any,
) -> subprocess.Popen[str]:
    """The program with these arguments, as `subprocess.Popen` would start it, in text mode.

    It gets a real start where variables that are read at the start are not as in `usual`.
    `before` is Python that is run in the process first: what it changes, the program meets.
    """
    known = {"stdin", "stdout", "stderr", "cwd", "start_new_session"}
    forkable = _those(env, _AT_START) == _those(usual, _AT_START)
    if forkable and set(more) <= known and more.get("stdin") is not None:
        return _Forked(args, before, env=env, text=True, **more)
    line = [sys.executable, "-c", f"{before}\n{MAIN}", *args] if before else command(args)
    return subprocess.Popen(line, env=dict(env), text=True, **more)


def _those(env: Mapping[str, str], prefixes: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(prefixes)}


class _Server:
    """The process that forks, as this one sees it."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.socket, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Nothing else of `env`: what it forks is to meet faults, not it. Where coverage is measured
        # it goes on in what is forked, which need not begin with it anew.
        started = {
            **_those(env, (*_AT_START, *_BEFORE_IT, "COVERAGE_")),
            "PATH": os.environ["PATH"],
            SOCKET: str(its.fileno()),
        }
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("fork_server.py")],
            env=started,
            pass_fds=(its.fileno(),),
            stdin=subprocess.DEVNULL,
            cwd="/",
        )
        its.close()
        atexit.register(self.close)

    def close(self) -> None:
        """End it; what it has forked goes on."""
        self.socket.close()
        self._process.wait()


def _running(env: Mapping[str, str]) -> _Server:
    """The server of this test process that was started as `env` would have it."""
    key = os.getpid(), frozenset(_those(env, (*_AT_START, *_BEFORE_IT)).items())
    if key not in _servers:
        _servers[key] = _Server(env)
    return _servers[key]


class _Forked(subprocess.Popen[str]):
    """What the server forked, with the ways of `Popen`."""

    def __init__(self, args: Sequence[str], before: str, **more: Any) -> None:
        self._before = before
        super().__init__(args, **more)

    def _execute_child(
        self,
        args: Any,
        executable: Any,
        preexec_fn: Any,
        close_fds: Any,
        pass_fds: Any,
        cwd: Any,
        env: Any,
        startupinfo: Any,
        creationflags: Any,
        shell: Any,
        p2cread: int,
        p2cwrite: int,
        c2pread: int,
        c2pwrite: int,
        errread: int,
        errwrite: int,
        restore_signals: Any,
        gid: Any,
        gids: Any,
        uid: Any,
        umask: Any,
        start_new_session: bool,
        *_: Any,
    ) -> None:
        """What `Popen` calls to start it; the streams' ends for the child are closed here."""
        self._status, told = os.pipe()
        streams = [0 if p2cread == -1 else p2cread]
        streams += [1 if c2pwrite == -1 else c2pwrite, 2 if errwrite == -1 else errwrite]
        request = {
            "args": [os.fsdecode(one) for one in args],
            "env": dict(env),
            "cwd": os.path.abspath(os.fsdecode(cwd or os.getcwd())),
            "session": start_new_session,
            "before": self._before,
        }
        data = json.dumps(request).encode("ascii")
        assert len(data) < LONGEST
        socket.send_fds(_running(env).socket, [data], [*streams, told])
        os.close(told)
        self.pid = int(os.read(self._status, WIDTH))
        self._child_created = True
        for theirs, ours in ((p2cread, p2cwrite), (c2pwrite, c2pread), (errwrite, errread)):
            if theirs != -1 and ours != -1:
                os.close(theirs)
        devnull = getattr(self, "_devnull", None)
        if devnull is not None:
            os.close(devnull)
        # So that `Popen.__init__` does not close them again where it fails from here on.
        self._closed_child_pipe_fds = True

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        timeout = 0 if wait_flags & os.WNOHANG else None
        if not select.select([self._status], [], [], timeout)[0]:
            return 0, 0
        status = os.read(self._status, WIDTH)
        os.close(self._status)
        return self.pid, int(status)

    def _internal_poll(self, _deadstate: Any = None, **_: Any) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(False):  # type: ignore[attr-defined]
            try:
                pid, status = self._try_wait(os.WNOHANG) if self.returncode is None else (0, 0)
                if pid:
                    self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode
