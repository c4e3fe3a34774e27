"""Processes whose clock libfaketime sets, as people try a program on another day.

It breaks some of what waits: `time.sleep` fails.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from support import (
    PATIENCE,
    assert_archive_equals,
    clean_environment,
    command,
    plain_args,
    report_of,
    run_cli,
)
from support.service import Serve

from g2a_archive.demo import faults

FAKETIME = shutil.which("faketime")

pytestmark = pytest.mark.skipif(FAKETIME is None, reason="needs faketime")


@pytest.mark.parametrize("when", ["1971-01-02 00:00:00", "2100-02-01 00:00:00"])
def test_a_night_on_another_day(when: str, serve: Serve, root: Path) -> None:
    service = serve(40, rate_limit=None)
    service.fail(faults.status(503), call="links", times=1)
    service.fail_files(faults.close(500), times=2)
    assert FAKETIME is not None
    night = subprocess.run(
        [FAKETIME, "-f", when, *command([*plain_args(root, *service.recordings), "--json"])],
        env={
            **clean_environment(service.environment()),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # with it, no wait of Python's has an end
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert night.returncode == 0, night.stderr
    assert report_of(night)["archived"] == 40
    assert_archive_equals(service, root)
    assert run_cli(["verify", "-d", root]).returncode == 0
    later = run_cli([*plain_args(root, *service.recordings), "--json"], service.environment())
    assert report_of(later)["already_archived"] == 40


def test_a_wait_for_another_machine(serve: Serve, root: Path) -> None:
    service = serve(1)
    lease = root / ".g2a-archive/lock.lease"
    lease.parent.mkdir(parents=True)
    lease.write_text("host elsewhere\nboot elsewhere\n1\n")
    assert FAKETIME is not None
    with subprocess.Popen(
        [FAKETIME, "-f", "2100-02-01 00:00:00", *command(plain_args(root, *service.recordings))],
        env={**clean_environment(service.environment()), "FAKETIME_DONT_FAKE_MONOTONIC": "1"},
        stderr=subprocess.PIPE,
        text=True,
    ) as night:
        assert night.stderr is not None
        assert "watching" in night.stderr.readline()
        lease.unlink()
        assert night.wait(PATIENCE) == 0, night.stderr.read()
