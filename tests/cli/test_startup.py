"""What is imported when: the light commands stay light, and so does a night with nothing new."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import clean_environment, command, run_cli
from support.cli import FIRST, Args

from g2a_archive.demo import SimulatedService

HTTP = {"requests", "urllib3", "http.client", "ssl"}
RICH = {"rich"}
STORAGE = {"sqlite3"}
OTHERS = {"dateutil", "hashlib", "g2a_archive.demo", "g2a_archive.download.engine", "asyncio"}


def imported(args: Args, cwd: Path, env: dict[str, str] | None = None) -> set[str]:
    """The modules that the program has imported when it ends well."""
    script = (
        "import sys\n"
        "from g2a_archive.cli.main import run\n"
        "code = run(sys.argv[1:])\n"
        "assert code == 0, code\n"
        "sys.stdout.flush()\n"
        "sys.stderr.write('\\n'.join(sys.modules))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, *map(str, args)],
        env={**clean_environment(env), "COVERAGE_PROCESS_START": ""},  # it would import much
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    return set(result.stderr.splitlines())


@pytest.mark.parametrize(
    "args", [["--version"], ["--help"], ["download", "--help"], []], ids=lambda args: " ".join(args)
)
def test_the_light_commands_import_nothing_heavy(tmp_path: Path, args: Args) -> None:
    assert not (HTTP | RICH | STORAGE | OTHERS) & imported(args, tmp_path)


def test_an_empty_pipe_imports_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "ids").write_text("# nothing tonight\n")
    found = imported(["download", "-f", "ids"], tmp_path)
    assert not (HTTP | RICH | {"g2a_archive.demo"}) & found


def test_a_night_with_nothing_new_imports_no_http(
    service: SimulatedService, tmp_path: Path
) -> None:
    args: Args = ["download", FIRST, FIRST + 1, "--min-free", "0"]
    assert run_cli(args, service.environment(), cwd=tmp_path).returncode == 0
    asked = service.requests.count
    found = imported(args, tmp_path, service.environment())
    assert not (HTTP | RICH | {"g2a_archive.demo", "g2a_archive.download.engine"}) & found
    assert "sqlite3" in found, "this test would not see what is imported"
    assert service.requests.count == asked


def test_a_run_off_a_terminal_needs_no_rich(service: SimulatedService, tmp_path: Path) -> None:
    args: Args = ["download", FIRST, "--min-free", "0"]
    found = imported(args, tmp_path, service.environment())
    assert not RICH & found
    # The bytes come over the standard library alone, the calls over requests.
    assert "requests" in found


def test_a_python_without_sqlite(tmp_path: Path) -> None:
    """As one is that was built where SQLite's headers were not to be had."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['_sqlite3'] = None")
    env = clean_environment()
    env.pop("COVERAGE_PROCESS_START", None)  # which needs SQLite itself
    env["PYTHONPATH"] = f"{tmp_path}:{env['PYTHONPATH']}"
    result = subprocess.run(
        command(["status"]), env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stderr == (
        "g2a-archive: this Python has no module _sqlite3 "
        "(install the package that brings it, or use another Python)\n"
    )
