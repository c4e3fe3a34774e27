"""Two users of one group share an archive. Only root can be two users; others skip, aloud."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import (
    assert_archive_equals,
    catalog_path,
    download_args,
    relative_path,
    report_of,
    run_cli,
    start_cli,
    states,
)
from support.archive import Archive
from support.cli import Args
from support.service import Serve

from g2a_archive.cli import main
from g2a_archive.demo import SimulatedService, faults, sample_recordings

FIRST, SECOND, GROUP = 64001, 64002, 64000


_BECOME = """
import ctypes, os
os.setgroups([])
os.setgid({group})
os.setuid({user})
os.umask(0o002)
PR_SET_DUMPABLE = 4
ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # as after a start: /proc/self is its own
"""


def as_user(user: int, home: Path, env: dict[str, str] | None = None) -> dict[str, Any]:
    """How `run_cli` and `start_cli` let `user` run it, in the group that shares the archive."""
    home_of = {"HOME": str(home), "XDG_CONFIG_HOME": str(home)}
    become = _BECOME.format(group=GROUP, user=user)
    return {"env": {**(env or {}), **home_of}, "cwd": "/", "before": become}


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that the group owns, setgid, where all users can come to."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can run the program as two users")
    place = Path(tempfile.mkdtemp(prefix="g2a-shared-"))
    try:
        os.chown(place, 0, GROUP)
        place.chmod(0o2775)
        yield place
    finally:
        shutil.rmtree(place)


@pytest.fixture
def service(serve: Serve) -> SimulatedService:
    return serve(sample_recordings(4, mp4_size=60_000))


def test_the_second_user_goes_on_where_the_first_one_stopped(
    service: SimulatedService, shared: Path
) -> None:
    root, ids = shared / "archive", list(service.recordings)
    env = service.environment()
    same_day = [i for i, r in service.recordings.items() if r.start.year == 2013]
    service.fail_files(faults.close(40_000), "mp4", ids[-1])
    args = download_args(root, "--retries", 0, same_day[0], ids[-1])
    first = report_of(run_cli(args, **as_user(FIRST, shared, env)))
    assert (first["archived"], first["exit_code"]) == (1, 1)
    service.on_request.clear()
    for path in [root, *root.rglob("*")]:
        status = path.lstat()
        assert (status.st_uid, status.st_gid) == (FIRST, GROUP), path
        assert stat.S_IMODE(status.st_mode) & 0o060 == 0o060, path
    result = run_cli(download_args(root, *ids), **as_user(SECOND, shared, env))
    second = report_of(result)
    assert (second["archived"], second["exit_code"]) == (len(ids) - 1, 0), result.stderr
    assert_archive_equals(service, root)
    third = report_of(run_cli(download_args(root, *ids), **as_user(FIRST, shared, env)))
    assert (third["already_archived"], third["exit_code"]) == (len(ids), 0)


def test_a_log_file_that_comes_to_belong_to_another_user_ends_nothing(
    service: SimulatedService, shared: Path
) -> None:
    """As where somebody rotates logs as root, and nobody else may write the new one."""
    root, path, id_ = shared / "archive", shared / "run.log", next(iter(service.recordings))
    gate = service.fail_files(faults.status(503), kind="mp4", recording_id=id_)
    args = [*download_args(root, "--retries", 50, "--log-file", path), id_]
    with start_cli(args, **as_user(FIRST, shared, service.environment())) as process:
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
        for line in ("browse", "verify", "remove --yes 1", "bag {}/bag 2",
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
def test_the_catalogue_follows_the_umask(umask: int, mode: int, serve: Serve, root: Path) -> None:
    service = serve(1)
    args = download_args(root, *service.recordings)
    result = run_cli(args, service.environment(), before=f"import os\nos.umask({umask})")
    assert report_of(result)["exit_code"] == 0
    assert stat.S_IMODE(catalog_path(root).stat().st_mode) == mode
    assert set(states(root).values()) == {"archived"}


def archived_by_first(service: SimulatedService, shared: Path) -> tuple[Path, Args]:
    """An archive of one user, and the arguments that it was made with."""
    root = shared / "archive"
    args = download_args(root, *service.recordings)
    report_of(run_cli(args, **as_user(FIRST, shared, service.environment())))
    return root, args


def keep_to_the_owner(root: Path) -> None:
    for path in [root, *root.rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o020)


def test_one_who_may_only_read_asks_whether_a_run_goes_on(
    service: SimulatedService, shared: Path
) -> None:
    """And what the archive holds; and is told what is in the way of a run of theirs."""
    root, args = archived_by_first(service, shared)
    keep_to_the_owner(root)
    status = run_cli(["status", "--dest", root], **as_user(SECOND, shared))
    assert status.returncode == 0, status.stderr
    assert "4 recordings" in status.stdout
    refused = run_cli(args, **as_user(SECOND, shared, service.environment()))
    assert refused.returncode == 6
    assert "Permission denied" in refused.stderr
    assert "give the user that runs this permission" in refused.stderr
    assert "Traceback" not in refused.stderr
    day = relative_path(next(iter(service.recordings.values())), "mp4")
    assert (root / day).stat().st_uid == FIRST


def test_one_who_may_only_read_is_told_so_by_browse(
    service: SimulatedService, shared: Path
) -> None:
    root, _ = archived_by_first(service, shared)
    assert run_cli(["browse", "--dest", root]).returncode == 0
    keep_to_the_owner(root)
    refused = run_cli(["browse", "--dest", root], **as_user(SECOND, shared))
    assert (refused.returncode, refused.stdout) == (6, "")
    assert refused.stderr == (
        f"g2a-archive: cannot write {root}/browse/.shelf.sqlite3: Permission denied "
        "(give the user that runs this permission to write there)\n"
    )
