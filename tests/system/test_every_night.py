"""README's way from nothing to a working night, and its examples, line by line as they stand."""

from __future__ import annotations

import http.server
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support import PATIENCE, on_path
from support.service import Serve

from g2a_archive.demo import SimulatedRecording, SimulatedService, sample_recordings

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = README.partition("## Every night")[2].partition("```sh\n")[2].partition("```")[0]

MOVED = {
    "/opt/g2a-archive": "opt",
    "/etc/g2a-archive": "etc",
    "/var/log/g2a-archive": "log",
    "/var/lib/g2a-archive": "lib",
    "/mnt/nas": "nas",
}
"""What is root's, and where it is in a test instead."""

NOT_HERE = ("useradd ", "python3 -m venv ", "su ", "crontab ")
"""Lines that make users, install, and start what is not to be started in a test."""


class Night:
    """A machine of a test's own, as far as paths go, and the service that it archives from."""

    def __init__(self, service: SimulatedService, root: Path) -> None:
        self.service = service
        self.root = root
        self.archive = root / "nas" / "recordings"
        for name in ("nas", "lib"):
            (root / name).mkdir()

    def moved(self, text: str, quoted: Callable[[str], str] = shlex.quote) -> str:
        for path, name in MOVED.items():
            text = text.replace(path, quoted(str(self.root / name)))
        return re.sub(r"--account-key \w+", "--account-key 1000", text)

    def sh(self, script: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run it in the environment that cron has."""
        return subprocess.run(
            ["/bin/sh", "-c", script], env={"PATH": "/usr/bin:/bin", **env}, cwd=ROOT,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=PATIENCE,
        )  # fmt: skip

    def assert_archived(self) -> None:
        """Everything of the service's is there; whether it is whole, `verify` tells."""
        assert {int(file.stem) for file in self.archive.rglob("*.mp4")} == set(
            self.service.recordings
        )

    def fill_in(self) -> None:
        """Do what the comments of the README's lines ask for."""
        behaviour = self.service.behaviour
        (self.root / "etc" / "client-secret").write_text(f"{behaviour.client_secret}\n")
        (self.root / "etc" / "pat").write_text(f"{behaviour.pat}\n")
        config = self.root / "etc" / "config.toml"
        text = self.moved(config.read_text(), str).replace("0a1b2c3d", behaviour.client_id)
        text = text.replace("[auth]", f'[auth]\ntoken_url = "{self.service.token_url}"', 1)
        config.write_text(f'api_url = "{self.service.api_url}"\nmin_free = "0"\n{text}')

    def set_up(self) -> None:
        """Go through the README's lines, each of which has to work."""
        lines = self.moved(BLOCK.replace(" -o g2a-archive", "")).splitlines()
        before, after = lines[: (at := switch(lines))], lines[at:]
        for part in (before, after):
            script = "\n".join(line for line in part if not line.startswith(NOT_HERE))
            done = self.sh(f"set -e\n{script}")
            assert done.returncode == 0, done.stdout + done.stderr
            assert "WARNING" not in done.stderr
            if part is before:
                self.fill_in()
        assert done.stdout.endswith("\n0\n"), "nothing is owed, and -q says nothing"


def switch(lines: list[str]) -> int:
    """Return where root's lines end and those of the user begin."""
    return next(at for at, line in enumerate(lines) if line.startswith("su "))


@pytest.fixture
def night(serve: Serve, tmp_path: Path) -> Iterator[Night]:
    """A machine on which everything is done that the README asks for."""
    root = tmp_path / "machine"
    with on_path.program(root / "opt" / "bin"):
        night = Night(serve(3, rate_limit=None), root)
        night.set_up()
        yield night


def test_from_nothing_to_a_night_of_cron_s(night: Night) -> None:
    night.assert_archived()
    new = SimulatedRecording(9_000_000_001, datetime.now(UTC) - timedelta(hours=3))
    night.service.set_recordings([*sample_recordings(3), new])
    table = (night.root / "etc" / "crontab").read_text()
    env = dict(re.findall(r"^(\w+)=(.*)$", night.moved(table, str), re.MULTILINE))
    jobs = re.findall(r"^(?:[\d*]+ ){5} (.+)$", night.moved(table), re.MULTILINE)
    assert len(jobs) == 2
    for job in jobs:
        done = night.sh(job, **env)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    night.assert_archived()


def test_the_service_of_systemd(night: Night) -> None:
    unit = night.moved((EXAMPLES / "g2a-archive.service").read_text())
    start = re.findall(r"^ExecStart=(.+)$", unit, re.MULTILINE)
    assert night.sh(start[0]).returncode == 0
    shutil.rmtree(night.archive)  # as if the drive were away
    assert night.sh(start[0]).returncode == 6
    assert not night.archive.exists()


@contextmanager
def pinged() -> Iterator[tuple[str, list[str]]]:
    """A monitoring service: its address, and the paths that were asked for."""
    paths: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/secret", paths
        finally:
            server.shutdown()


@pytest.mark.skipif(shutil.which("curl", path="/usr/bin:/bin") is None, reason="needs curl")
def test_a_monitoring_service_hears_how_the_night_went(night: Night) -> None:
    script = night.root / "healthcheck.sh"
    script.write_text(night.moved((EXAMPLES / "healthcheck.sh").read_text()))
    line = f"sh {shlex.quote(str(script))} -q --account-key 1000"
    config = str(night.root / "etc" / "config.toml")
    with pinged() as (url, paths):
        (night.root / "etc" / "ping").write_text(f'url = "{url}"\n')
        assert night.sh(line, G2A_ARCHIVE_CONFIG=config).returncode == 0
        assert paths == ["/secret"]
        (night.root / "etc" / "pat").write_text("wrong\n")
        night.service.revoke()
        assert night.sh(line, G2A_ARCHIVE_CONFIG=config).returncode == 4
        assert paths == ["/secret", "/secret/fail"]
