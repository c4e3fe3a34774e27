"""What is said has nowhere to go: a full disk for standard output, the log, or a file beside."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import (
    assert_archive_equals,
    assert_nothing_false,
    cli_here,
    download_args,
    plain_args,
    report_of,
    run_cli,
    states,
)
from support.service import Serve

from g2a_archive.demo import SimulatedService, faults, sample_recordings
from g2a_archive.errors import ExitCode

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")


@pytest.fixture
def service(serve: Serve) -> SimulatedService:
    return serve(sample_recordings(5, mp4_size=50_000, events_size=500))


@pytest.mark.parametrize("json", [True, False])
def test_a_full_disk_for_stdout(json: bool, service: SimulatedService, root: Path) -> None:
    args = (download_args if json else plain_args)(root, *service.recordings)
    with open("/dev/full", "w") as stdout:
        result = run_cli(args, service.environment(), stdout=stdout)
    assert result.returncode == ExitCode.STORAGE
    assert result.stderr.count("\n") == 1, result.stderr
    assert "cannot write to standard output: No space left on device" in result.stderr
    assert_archive_equals(service, root)
    assert cli_here(args, service.environment()).returncode == 0


def test_a_full_disk_for_stderr(service: SimulatedService, root: Path) -> None:
    service.fail_files(faults.status(503), times=2)
    with open("/dev/full", "w") as stderr:
        result = run_cli(
            download_args(root, *service.recordings), service.environment(), stderr=stderr
        )
    assert report_of(result)["archived"] == 5
    assert_archive_equals(service, root)


@pytest.mark.parametrize("option", ["--log-file", "--error-file", "--metrics-file"])
def test_a_full_disk_for_a_file_beside(option: str, service: SimulatedService, root: Path) -> None:
    service.fail_files(faults.status(404), "mp4", next(iter(service.recordings)))
    args = download_args(root, option, "/dev/full", *service.recordings)
    result = cli_here(args, service.environment())
    assert result.returncode == ExitCode.STORAGE
    hint = f"free some space, or choose another {option}"
    assert f"/dev/full: No space left on device ({hint})" in result.stderr
    assert_nothing_false(service, root)
    assert sum(state == "archived" for state in states(root).values()) == 4
