"""A real Slurm on this machine alone, with its own ports, keys and state."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PATIENCE = 120.0
"""Seconds for which anything that Slurm does is waited for."""

_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={at}/munge.sock
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={at}/state
SlurmdSpoolDir={at}/spool
SlurmctldPidFile={at}/slurmctld.pid
SlurmdPidFile={at}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
KillWait=5
SchedulerParameters=batch_sched_delay=0,sched_interval=1
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=500 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Slurm:
    """A cluster of one node; `environment` is what its commands need."""

    environment: dict[str, str]
    at: Path

    def run(self, *words: str | Path, env: dict[str, str] | None = None) -> str:
        """What one of Slurm's commands, or a program that calls them, prints."""
        done = subprocess.run(
            [str(word) for word in words],
            env={**(env or os.environ), **self.environment},
            cwd=self.at,  # where jobs leave what they print
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def state(self, job: str) -> dict[str, str]:
        """What Slurm says of a job, or of one task of an array."""
        words = self.run("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for(self, what: Callable[[], bool]) -> None:
        """Look until something is so."""
        end = time.monotonic() + PATIENCE
        while not what():
            assert time.monotonic() < end, self.run("squeue")
            time.sleep(0.2)


@contextmanager
def slurm(at: Path) -> Iterator[Slurm]:
    """Start it; skip the test where it is not installed, or may not be started."""
    programs = ("munged", "slurmctld", "slurmd", "sbatch")
    if any(shutil.which(program) is None for program in programs):
        pytest.skip("there is no Slurm here")
    if os.geteuid() != 0:
        pytest.skip("only root can start a Slurm")
    at.mkdir(mode=0o755, parents=True)
    for name in ("state", "spool"):
        (at / name).mkdir()
    key = at / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    host = socket.gethostname().partition(".")[0]
    (at / "slurm.conf").write_text(_CONF.format(host=host, at=at, ports=_free_ports()))
    cluster = Slurm({"SLURM_CONF": f"{at}/slurm.conf"}, at)
    munge: list[str | Path] = [
        "munged",
        "--force",
        "--foreground",
        "--key-file",
        key,
        "--seed-file",
        at / "seed",
    ]
    munge += ["--socket", at / "munge.sock", "--pid-file", at / "pid", "--log-file", at / "log"]
    with ExitStack() as stack:
        stack.enter_context(_daemon(munge, cluster))
        cluster.wait_for(lambda: (at / "munge.sock").exists())
        stack.enter_context(_daemon(["slurmctld", "-D"], cluster))
        stack.enter_context(_daemon(["slurmd", "-D"], cluster))
        ready = ("idle", "mix")
        cluster.wait_for(lambda: _state_of_node(cluster) in ready)
        yield cluster


def _state_of_node(cluster: Slurm) -> str:
    asked = subprocess.run(
        ["sinfo", "--noheader", "--format=%T"],
        env={**os.environ, **cluster.environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return asked.stdout.strip()


@contextmanager
def _daemon(words: list[str | Path], cluster: Slurm) -> Iterator[None]:
    with (
        open(cluster.at / f"{Path(words[0]).name}.out", "wb") as log,
        subprocess.Popen(
            [str(word) for word in words],
            env={**os.environ, **cluster.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _free_ports() -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
