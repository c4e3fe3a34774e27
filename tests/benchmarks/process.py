"""Runs one command and measures it: wall clock, CPU and peak memory of the whole process.

The command is the child of a small interpreter of its own. What `wait4` reports as peak memory
begins with that of the process that forked, so this one should be as small as can be.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024

_LAUNCHER = """
import os, sys, time
pipe, command = int(sys.argv[1]), sys.argv[2:]
begin = time.monotonic()
pid = os.posix_spawnp(command[0], command, os.environ,
                      file_actions=[(os.POSIX_SPAWN_CLOSE, pipe)])
_, status, usage = os.wait4(pid, 0)
wall = time.monotonic() - begin
code = os.waitstatus_to_exitcode(status)
os.write(pipe, f"{code} {wall} {usage.ru_utime + usage.ru_stime} {usage.ru_maxrss}".encode())
"""


@dataclass(frozen=True)
class Measured:
    """What one command, or several in a row, took."""

    exit_code: int
    wall: float
    cpu: float
    rss: int
    """Peak resident memory, bytes."""
    stdout: str = ""
    stderr: str = ""

    def then(self, later: Measured) -> Measured:
        """This and a `later` command together."""
        return Measured(
            exit_code=self.exit_code or later.exit_code,
            wall=self.wall + later.wall,
            cpu=self.cpu + later.cpu,
            rss=max(self.rss, later.rss),
            stdout=later.stdout,
            stderr=self.stderr + later.stderr,
        )


def run(command: Sequence[str], *, env: Mapping[str, str], cwd: Path, timeout: float) -> Measured:
    """Run `command` to its end, or kill it after `timeout` seconds (exit code -9)."""
    read_end, write_end = os.pipe()
    with (cwd / "stdout").open("w+b") as out, (cwd / "stderr").open("w+b") as err:
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(write_end), *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=dict(env),
                cwd=cwd,
                pass_fds=(write_end,),
                start_new_session=True,
            )
        finally:
            os.close(write_end)
        late = _wait(process, timeout)
        with os.fdopen(read_end) as pipe:
            figures = pipe.read().split()
        texts = [_tail(file.fileno()) for file in (out, err)]
    if late:
        return Measured(-9, timeout, 0.0, 0, texts[0], f"killed after {timeout:.0f} s\n{texts[1]}")
    if len(figures) != 4:
        return Measured(127, 0.0, 0.0, 0, texts[0], texts[1])
    code, wall, cpu, rss = figures
    return Measured(int(code), float(wall), float(cpu), int(rss) * _RSS_UNIT, texts[0], texts[1])


def _wait(process: subprocess.Popen[bytes], timeout: float) -> bool:
    """Wait for the end of the process; True if it had to be killed for being late.

    Whatever ends the waiting ends the process, and all that it has started.
    """
    try:
        process.wait(timeout)
        return False
    except subprocess.TimeoutExpired:
        return True
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _tail(fd: int, most: int = 1 << 20) -> str:
    size = os.fstat(fd).st_size
    start = max(0, size - most)
    return os.pread(fd, most, start).decode("utf-8", "replace")
