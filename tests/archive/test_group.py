"""Two users of one group share an archive. Only root can be two users; others skip, aloud."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import click
import pytest
from support import (
    assert_archive_equals,
    catalog_path,
    clean_environment,
    download_args,
    relative_path,
    report_of,
    run_cli,
    states,
)
from support.archive import Archive
from support.forked import MAIN
from support.service import Serve

from g2a_archive.cli import main
from g2a_archive.demo import SimulatedService, faults, sample_recordings

FIRST, SECOND, GROUP = 64001, 64002, 64000


@cache
def interpreter() -> str:
    """A Python that other users can run too: ours may lie in the home directory of root."""
    for python in (sys.executable, "/usr/bin/python3"):
        with suppress(OSError):
            result = subprocess.run(
                [python, "-c", "import click, requests, sqlite3"],
                env=_environment({}, Path("/")),
                user=FIRST,
                group=GROUP,
                extra_groups=[],
                cwd="/",
                capture_output=True,
                check=False,
            )
            if result.returncode == 0:
                return python
    pytest.skip("another user cannot run any Python here that has our packages")


def _environment(more: dict[str, str], home: Path) -> dict[str, str]:
    env = clean_environment({**more, "HOME": str(home), "XDG_CONFIG_HOME": str(home)})
    env["PYTHONPATH"] += f":{Path(click.__file__).parent.parent}"
    return env


def start_as(
    user: int,
    args: Sequence[str | int | Path],
    env: dict[str, str],
    home: Path,
    *,
    before: str = "",
) -> subprocess.Popen[str]:
    """Start the program as `user`, in the group that shares the archive."""
    return subprocess.Popen(
        [interpreter(), "-c", f"{before}\n{MAIN}", *map(str, args)],
        env=_environment(env, home),
        user=user,
        group=GROUP,
        extra_groups=[],
        umask=0o002,
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_as(
    user: int, args: Sequence[str | int | Path], env: dict[str, str], home: Path
) -> subprocess.CompletedProcess[str]:
    """The same, to its end."""
    with start_as(user, args, env, home) as process:
        out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that the group owns, setgid, where all users can come to."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can run the program as two users")
    place = Path(tempfile.mkdtemp(prefix="g2a-shared-"))
    try:
        os.chown(place, 0, GROUP)
        place.chmod(0o2775)
        interpreter()
        yield place
    finally:
        shutil.rmtree(place)


@pytest.fixture
def service(serve: Serve) -> SimulatedService:
    return serve(sample_recordings(6, mp4_size=600_000))


def test_the_second_user_goes_on_where_the_first_one_stopped(
    service: SimulatedService, shared: Path
) -> None:
    root, ids = shared / "archive", list(service.recordings)
    env = service.environment()
    same_day = [i for i, r in service.recordings.items() if r.start.year == 2013]
    service.fail_files(faults.close(400_000), "mp4", ids[-1])
    args = download_args(root, "--retries", 0, same_day[0], ids[-1])
    first = report_of(run_as(FIRST, args, env, shared))
    assert (first["archived"], first["exit_code"]) == (1, 1)
    service.on_request.clear()
    for path in [root, *root.rglob("*")]:
        status = path.lstat()
        assert (status.st_uid, status.st_gid) == (FIRST, GROUP), path
        assert stat.S_IMODE(status.st_mode) & 0o060 == 0o060, path
    result = run_as(SECOND, download_args(root, *ids), env, shared)
    second = report_of(result)
    assert (second["archived"], second["exit_code"]) == (len(ids) - 1, 0), result.stderr
    assert_archive_equals(service, root)
    third = report_of(run_as(FIRST, download_args(root, *ids), env, shared))
    assert (third["already_archived"], third["exit_code"]) == (len(ids), 0)


_SOON = "from g2a_archive.service import pace\npace._LONGEST_WAIT = 0.05"


def test_a_log_file_that_comes_to_belong_to_another_user_ends_nothing(
    service: SimulatedService, shared: Path
) -> None:
    """As where somebody rotates logs as root, and nobody else may write the new one."""
    root, path, id_ = shared / "archive", shared / "run.log", next(iter(service.recordings))
    gate = service.fail_files(faults.status(503), kind="mp4", recording_id=id_)
    args = [*download_args(root, "--retries", 50, "--log-file", path), id_]
    with start_as(FIRST, args, service.environment(), shared, before=_SOON) as process:
        assert service.requests.wait_for(lambda _: gate.applied >= 2)
        path.rename(shared / "run.log.1")
        path.touch(0o600)
        assert service.requests.wait_for(lambda _: gate.applied >= 4)
        service.on_request.clear()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 6
    assert json.loads(out)["archived"] == 1
    assert err.count(f"cannot write the log file {path}: Permission denied") == 1
    assert path.read_bytes() == b""
    assert "503" in (shared / "run.log.1").read_text()
    assert_archive_equals(service, root, [id_])


def test_what_every_command_makes_follows_the_umask(tmp_path: Path) -> None:
    """Else the group's second user writes all pages anew each night, or none."""
    old = os.umask(0o002)
    try:
        archive = Archive(tmp_path / "archive")
        for recording in (1, 2, 3):
            archive.add(recording)
        archive.catalog.close()
        for line in ("browse", "verify", "remove --yes 1", "bag {}/bag 2", "bag --zip {}/one 2",
                     "export --csv --output {}/table.csv", "verify --log-file {}/log"):  # fmt: skip
            args = line.format(tmp_path).split()
            assert main.run([*args, "--dest", str(archive.root)]) == 0, line
        merged = str(tmp_path / "merged")
        assert main.run(["merge", "--dest", merged, "--min-free", "0", str(archive.root)]) == 0
    finally:
        os.umask(old)
    wrong = [
        f"{path}: {mode:o}"
        for path in tmp_path.rglob("*")
        if (mode := stat.S_IMODE(path.lstat().st_mode)) != (0o775 if path.is_dir() else 0o664)
    ]
    assert wrong == []


@pytest.mark.parametrize(("umask", "mode"), [(0o002, 0o664), (0o022, 0o644), (0o077, 0o600)])
def test_the_catalogue_follows_the_umask(
    umask: int, mode: int, service: SimulatedService, root: Path
) -> None:
    args = download_args(root, *service.recordings)
    result = run_cli(args, service.environment(), before=f"import os\nos.umask({umask})")
    assert report_of(result)["exit_code"] == 0
    assert stat.S_IMODE(catalog_path(root).stat().st_mode) == mode
    assert set(states(root).values()) == {"archived"}


def test_one_who_may_only_read_asks_whether_a_run_goes_on(
    service: SimulatedService, shared: Path
) -> None:
    """And what the archive holds; and is told what is in the way of a run of theirs."""
    root = shared / "archive"
    args = download_args(root, *service.recordings)
    report_of(run_as(FIRST, args, service.environment(), shared))
    for path in [root, *root.rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o020)
    status = run_as(SECOND, ["status", "--dest", root], {}, shared)
    assert status.returncode == 0, status.stderr
    assert "6 recordings" in status.stdout
    refused = run_as(SECOND, args, service.environment(), shared)
    assert refused.returncode == 6
    assert "Permission denied" in refused.stderr
    assert "give the user that runs this permission" in refused.stderr
    assert "Traceback" not in refused.stderr
    day = relative_path(next(iter(service.recordings.values())), "mp4")
    assert (root / day).stat().st_uid == FIRST
