"""The examples for schedulers, from one ID file to one archive, on the real schedulers."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from support import archive_files, assert_archive_equals, clean_environment, on_path
from support.merging import assert_proven
from support.service import Serve
from support.slurm import Slurm, slurm

from g2a_archive.demo import Behaviour, Request, SimulatedService, sample_recordings
from g2a_archive.models import Shard

ROOT = Path(__file__).parents[2]
SLURM = ROOT / "examples" / "slurm.sh"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with a `g2a-archive` that is the one under test."""
    with on_path.program(tmp_path_factory.mktemp("program") / "bin") as directory:
        yield directory


def environment(service: SimulatedService, program: Path) -> dict[str, str]:
    env = clean_environment(service.environment())
    return {**env, "PATH": f"{program}:{env['PATH']}", "G2A_ARCHIVE_CONFIG": os.devnull}


def id_file(service: SimulatedService, path: Path) -> Path:
    path.write_text("".join(f"{id_}\n" for id_ in service.recordings))
    return path


class Array:
    """A job array of three tasks, from `first` in steps of `step`, and the merge behind it.

    Its third task waits until all is over, its second stays in mid-flight until it was killed.
    """

    def __init__(self, service: SimulatedService, root: Path, first: int, step: int) -> None:
        self.service = service
        self.root = root
        self.ids = id_file(service, root.with_name(f"{root.name}.txt"))
        self.number = self.merge = ""
        self.reached, self.killed, self.let_go = (threading.Event() for _ in range(3))
        self._first, self._step = first, step
        self._held = set(Shard(2, 3).select(self.service.recordings))
        self._waits = set(Shard(3, 3).select(self.service.recordings))
        self.service.on_request.append(self._hold)

    def _hold(self, request: Request) -> None:
        if request.recording_id in self._waits and request.kind:
            self.let_go.wait(120)
        if request.recording_id in self._held and request.kind == "mp4":
            self.reached.set()
            self.killed.wait(120)

    @property
    def second(self) -> str:
        """Slurm's name of the second task."""
        return f"{self.number}_{self._first + self._step}"

    def shard(self, number: int) -> Path:
        return self.root.with_name(f"{self.root.name}.shard-{number}")

    def submit(self, cluster: Slurm, program: Path) -> None:
        """Hand it to Slurm: as the script does by itself, or as an array of one's own."""
        env = environment(self.service, program)
        if self._step == 1:
            said = cluster.run("bash", SLURM, self.ids, self.root, "3", env=env)
            self.number, self.merge = "1", said.split()[-1]  # the first job of a new cluster
            return
        words: list[str | Path] = [SLURM, self.ids, self.root]
        tasks = f"--array={self._first}-{self._first + 2 * self._step}:{self._step}"
        self.number = cluster.run("sbatch", "--parsable", tasks, *words, env=env)
        after = f"--dependency=afterany:{self.number}"
        self.merge = cluster.run("sbatch", "--parsable", after, *words, env=env)

    def kill_the_second(self) -> None:
        text = (self.shard(2) / ".g2a-archive" / "lock").read_text()
        number = re.search(r"process (\d+)", text)
        assert number
        os.kill(int(number[1]), signal.SIGKILL)
        self.killed.set()


def run_on_slurm(arrays: list[Array], at: Path, program: Path) -> None:
    """The arrays to their end; of each, the second task is killed in mid-flight, and requeued."""
    with slurm(at) as cluster:

        def until(job: str, key: str, *values: str) -> None:
            cluster.wait_for(lambda: cluster.state(job)[key] in values)

        for one in arrays:
            one.submit(cluster, program)
        for one in arrays:
            assert one.reached.wait(120), cluster.run("squeue")
            one.kill_the_second()
        for one in arrays:
            until(one.second, "JobState", "FAILED")
        ended = int(time.time())  # Slurm starts no job anew within the second of its end
        cluster.wait_for(lambda: time.time() > ended + 1)
        for one in arrays:
            cluster.run("scontrol", "requeue", one.second)
            # Not in two minutes.
            cluster.run("scontrol", "update", f"JobId={one.second}", "StartTime=now")
        for one in arrays:
            until(one.second, "Restarts", "1")
            one.let_go.set()
        for one in arrays:
            until(one.merge, "JobState", "COMPLETED", "FAILED", "CANCELLED")
            for job in (one.second, one.merge):
                state = cluster.state(job)
                found = state["JobState"], state["ExitCode"], state["Restarts"]
                said = "".join(path.read_text() for path in at.glob("slurm-*.out"))
                assert found == ("COMPLETED", "0:0", "01"[job == one.second]), said


@pytest.fixture(scope="module", autouse=True)
def on_slurm(
    tmp_path_factory: pytest.TempPathFactory, program: Path
) -> Iterator[tuple[list[Array], Future[None]]]:
    """Two arrays, and their end: Slurm takes its time, while the other tests here go on."""
    at = tmp_path_factory.mktemp("slurm")
    with ExitStack() as stack:
        arrays = []
        for first, step in ((1, 1), (10, 2)):
            service = SimulatedService(sample_recordings(9), Behaviour(rate_limit=None))
            stack.enter_context(service)
            arrays.append(Array(service, at / f"from-{first}", first, step))
        thread = stack.enter_context(ThreadPoolExecutor(1))
        yield arrays, thread.submit(run_on_slurm, arrays, at / "cluster", program)


def test_gnu_parallel(serve: Serve, tmp_path: Path, program: Path) -> None:
    if shutil.which("parallel") is None:
        pytest.skip("there is no GNU parallel here")
    service = serve(sample_recordings(9), rate_limit=None)
    id_file(service, tmp_path / "ids.txt")
    page = (ROOT / "g2a_archive" / "curation" / "MACHINES.md").read_text(encoding="utf-8")
    [lines] = re.findall(r"```sh\n(parallel .*?)```", page, re.DOTALL)
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", lines],
        cwd=tmp_path,
        env=environment(service, program),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert_archive_equals(service, tmp_path / "recordings")
    assert_proven(tmp_path / "recordings")


KUBERNETES = ROOT / "examples" / "kubernetes-job.yaml"


def test_the_kubernetes_manifest_is_valid() -> None:
    jobs = list(yaml.safe_load_all(KUBERNETES.read_text(encoding="utf-8")))
    assert [job["kind"] for job in jobs] == ["Job", "Job"]
    for job in jobs:
        for version in ("1.31", kubernetes_validate.latest_version()):
            kubernetes_validate.validate(job, version, strict=True)
    [env] = [e["value"] for e in container(jobs[0])["env"] if e["name"] == "SHARDS"]
    assert jobs[0]["spec"]["completionMode"] == "Indexed"
    assert env == str(jobs[0]["spec"]["completions"])


def container(job: dict[str, Any]) -> dict[str, Any]:
    [found] = job["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def test_what_the_kubernetes_jobs_run(serve: Serve, tmp_path: Path, program: Path) -> None:
    """The scripts of the pods, with the indexes that an indexed Job gives, here."""
    service = serve(sample_recordings(9), rate_limit=None)
    id_file(service, tmp_path / "ids.txt")
    missing = next(iter(service.recordings))
    service.set_state(missing, "unavailable")
    shards, merge = yaml.safe_load_all(KUBERNETES.read_text(encoding="utf-8"))
    env = {**environment(service, program), "SHARDS": "3"}

    def pod(job: dict[str, Any], **more: str) -> int:
        [script] = container(job)["args"]
        script = script.replace("/ids/", f"{tmp_path}/").replace("/archive/", f"{tmp_path}/")
        words = [*container(job)["command"], script]
        return subprocess.run(words, env={**env, **more}, timeout=300, check=False).returncode

    for index in range(3):
        assert pod(shards, JOB_COMPLETION_INDEX=str(index)) == 0  # also where one is not ready
    service.set_state(missing, "ready")
    assert pod(merge) == 0
    assert_archive_equals(service, tmp_path / "recordings")


def test_slurm_with_one_task_killed_and_requeued(
    on_slurm: tuple[list[Array], Future[None]],
) -> None:
    arrays, ended = on_slurm
    ended.result()
    for one in arrays:
        assert_archive_equals(one.service, one.root)
        assert_proven(one.root)
        for number in (1, 2, 3):
            assert archive_files(one.shard(number)) == {}
