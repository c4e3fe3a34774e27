"""The examples for schedulers, from one ID file to one archive, on the real schedulers."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from support import archive_files, assert_archive_equals, clean_environment
from support.merging import assert_proven
from support.service import Serve
from support.slurm import Slurm, slurm

from g2a_archive.demo import Request, SimulatedService, sample_recordings
from g2a_archive.models import Shard

ROOT = Path(__file__).parents[2]
SLURM = ROOT / "examples" / "slurm.sh"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A directory with a `g2a-archive` that is the one under test."""
    directory = tmp_path / "bin"
    directory.mkdir()
    script = directory / "g2a-archive"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m g2a_archive "$@"\n')
    script.chmod(0o755)
    return directory


def environment(service: SimulatedService, program: Path) -> dict[str, str]:
    env = clean_environment(service.environment())
    return {**env, "PATH": f"{program}:{env['PATH']}", "G2A_ARCHIVE_CONFIG": os.devnull}


def id_file(service: SimulatedService, path: Path) -> Path:
    path.write_text("".join(f"{id_}\n" for id_ in service.recordings))
    return path


def submitted(
    cluster: Slurm, first: int, ids: Path, root: Path, env: dict[str, str]
) -> tuple[str, str]:
    """The numbers of the array, and of the merge behind it."""
    if first == 1:
        merge = cluster.run("bash", SLURM, ids, root, "3", env=env).split()[-1]
        return "1", merge  # the first job of a new cluster
    # An array of one's own, that begins elsewhere.
    words = ("sbatch", "--parsable")
    array = cluster.run(*words, "--array=10-14:2", SLURM, ids, root, env=env)
    return array, cluster.run(*words, f"--dependency=afterany:{array}", SLURM, ids, root, env=env)


@pytest.mark.parametrize("first", [1, 10])
def test_slurm_with_one_task_killed_and_requeued(
    first: int, serve: Serve, tmp_path: Path, program: Path, root: Path
) -> None:
    service = serve(sample_recordings(24), rate_limit=None)
    ids = id_file(service, tmp_path / "ids.txt")
    held, let_go = set(Shard(2, 3).of(service.recordings)), threading.Event()
    waits = set(Shard(3, 3).of(service.recordings))
    reached = threading.Event()
    killed = threading.Event()

    def hold(request: Request) -> None:
        """Task 3 waits until all is over, task 2 stays in mid-flight until it was killed."""
        if request.recording_id in waits and request.kind:
            let_go.wait(120)
        if request.recording_id in held and request.kind == "mp4" and not killed.is_set():
            reached.set()
            killed.wait(60)

    service.on_request.append(hold)
    env = environment(service, program)
    with slurm(tmp_path / "slurm") as cluster:
        array, merge = submitted(cluster, first, ids, root, env)
        task = f"{array}_{2 if first == 1 else 12}"
        assert reached.wait(120), cluster.run("squeue")
        text = (tmp_path / f"{root.name}.shard-2" / ".g2a-archive" / "lock").read_text()
        number = re.search(r"process (\d+)", text)
        assert number
        os.kill(int(number[1]), signal.SIGKILL)
        killed.set()
        cluster.wait_for(lambda: cluster.state(task)["JobState"] == "FAILED")
        cluster.run("scontrol", "requeue", task)
        cluster.run("scontrol", "update", f"JobId={task}", "StartTime=now")  # not in 2 minutes
        cluster.wait_for(lambda: cluster.state(task)["Restarts"] == "1")
        let_go.set()
        busy = ("PENDING", "RUNNING", "COMPLETING")
        cluster.wait_for(lambda: cluster.state(merge)["JobState"] not in busy)
        state = cluster.state(merge)
        assert (state["JobState"], state["ExitCode"]) == ("COMPLETED", "0:0")
    assert_archive_equals(service, root)
    assert_proven(root)
    for number_ in (1, 2, 3):
        assert archive_files(tmp_path / f"{root.name}.shard-{number_}") == {}


def test_gnu_parallel(serve: Serve, tmp_path: Path, program: Path) -> None:
    if shutil.which("parallel") is None:
        pytest.skip("there is no GNU parallel here")
    service = serve(sample_recordings(24), rate_limit=None)
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
    service = serve(sample_recordings(16), rate_limit=None)
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
