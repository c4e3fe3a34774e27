"""A job run by a real cron daemon: silent while all is well, one clear line when it isn't."""

from __future__ import annotations

import os
import select
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from support import LONG, clean_environment, command

from g2a_archive.demo import Behaviour, SimulatedService, sample_recordings

CRON = shutil.which("cron", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@pytest.mark.skipif(not LONG, reason="cron begins a job at the full minute: G2A_LONG_TESTS=1")
@pytest.mark.skipif(CRON is None or os.geteuid() != 0, reason="needs cron, and root to start it")
def test_a_job_in_cron(tmp_path: Path) -> None:
    token = tmp_path / "token"
    job = tmp_path / "job.sh"
    done = tmp_path / "done"
    os.mkfifo(done)
    told = os.open(done, os.O_RDONLY | os.O_NONBLOCK)
    with SimulatedService(sample_recordings(20), Behaviour(rate_limit=None)) as service:
        token.write_text(service.token)
        token.chmod(0o600)
        program = shlex.join(
            command(["sync", "-q", "--account-key", 1000, "-d", tmp_path / "archive"])
        )
        job.write_text(
            f"export PYTHONPATH={shlex.quote(clean_environment()['PYTHONPATH'])}\n"
            f"export G2A_ARCHIVE_API_URL={service.api_url}\n"
            f"cd {shlex.quote(str(tmp_path))}\n"
            f"G2A_ARCHIVE_TOKEN_FILE=./token {program} >good 2>&1; echo $? >good.code\n"
            f"G2A_ARCHIVE_TOKEN=wrong {program} >bad 2>&1; echo $? >bad.code; echo >./done\n"
        )
        table = tmp_path / "table"
        table.write_text(f"* * * * * /bin/sh {shlex.quote(str(job))}\n")
        before = subprocess.run(["crontab", "-l"], capture_output=True, check=False)
        assert CRON is not None
        daemon = subprocess.Popen([CRON, "-f"], env={"PATH": "/usr/bin:/bin"})
        try:
            subprocess.run(["crontab", table], check=True)
            assert select.select([told], [], [], 150)[0], "cron did not begin the job"
        finally:
            if before.returncode == 0:
                subprocess.run(["crontab", "-"], input=before.stdout, check=True)
            else:
                subprocess.run(["crontab", "-r"], check=True)
            daemon.terminate()
            daemon.wait()
            os.close(told)
    assert (tmp_path / "good.code").read_text() == "0\n", (tmp_path / "good").read_text()
    assert (tmp_path / "good").read_text() == ""
    assert (tmp_path / "bad.code").read_text() == "4\n"
    mailed = (tmp_path / "bad").read_text().splitlines()
    (error,) = (line for line in mailed if " ERROR " in line)
    assert "the service refused the credentials" in error
    assert len(mailed) == 3, "the summary and its fingerprint beside it"
