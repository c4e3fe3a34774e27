"""The command `demo`: forty invented recordings, which go nowhere that nobody named."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from support import (
    PATIENCE,
    catalog_rows,
    clean_environment,
    command,
    report_of,
    run_cli,
    run_here,
    start_cli,
)
from support.cli import Say, tree

import g2a_archive
from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.layout import ARCHIVE_DIR
from g2a_archive.cli import main
from g2a_archive.cli.setup import demo
from g2a_archive.demo import Behaviour, SimulatedService

EXPECTED = 37
"""Recordings that a demo archives; three are not ready."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo, "_SLOWLY", Behaviour(rate_limit=None))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("no_proxy", "")


@pytest.fixture
def real(service: SimulatedService, root: Path) -> Path:
    """An archive of real recordings, as far as it knows."""
    assert run_here(service, root, service.recordings).exit_code == 0
    return root


def archived(root: Path) -> int:
    rows = catalog_rows(root, "SELECT count(*) FROM recording WHERE state = 'archived'")
    return int(rows[0][0])


def test_neither_file_nor_environment_choose_its_destination(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.toml"
    config.write_text('dest = "real"\nlog_file = "real.log"\njson = true\nquiet = true\njobs = 1\n')
    monkeypatch.setenv("G2A_ARCHIVE_CONFIG", str(config))
    monkeypatch.setenv("G2A_ARCHIVE_DEST", "real")
    monkeypatch.setenv("G2A_ARCHIVE_CATALOG", "real.sqlite3")
    monkeypatch.setenv("G2A_ARCHIVE_TOKEN", "real")
    assert main.run(["demo"]) == 0
    assert "g2a-archive-demo/\n" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"config.toml", "g2a-archive-demo"}
    assert archived(tmp_path / "g2a-archive-demo") == EXPECTED
    monkeypatch.setenv("G2A_ARCHIVE_CONFIG", "nowhere.toml")
    assert main.run(["demo", "-q"]) == 0
    assert archived(tmp_path / "g2a-archive-demo-2") == EXPECTED


def test_a_proxy_is_not_asked_for_what_is_on_this_machine(
    root: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert say("demo", "-q") == (0, "", "")


def test_a_real_archive_is_refused(real: Path, say: Say) -> None:
    for _ in range(2):
        before = tree(real)
        code, out, err = say("demo")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "no demo made" in err
        assert tree(real) == before
        (real / ARCHIVE_DIR / "catalog.sqlite3").unlink(missing_ok=True)  # lost: still no demo's


def test_again_in_its_own_archive(root: Path, say: Say) -> None:
    assert say("demo")[0] == 0
    code, out, _ = say("demo")
    assert code == 0
    assert "Archived 0 of 40 recordings" in out
    assert archived(root) == EXPECTED


@pytest.mark.parametrize("with_catalog", [False, True])
def test_again_where_one_was_killed_before_its_run_was_recorded(
    with_catalog: bool, root: Path, say: Say
) -> None:
    (root / ARCHIVE_DIR).mkdir(parents=True)
    if with_catalog:
        Catalog(root / ARCHIVE_DIR / "catalog.sqlite3").close()
    assert say("demo")[0] == 0
    assert archived(root) == EXPECTED


def test_quiet_is_as_good_and_a_report_tells_its_own_code(root: Path, say: Say) -> None:
    assert say("demo", "-q") == (0, "", "")
    code, out, _ = say("demo", "--json")
    assert code == json.loads(out)["exit_code"] == 3


def test_served_the_commands_work_that_it_prints(tmp_path: Path) -> None:
    with start_cli(["demo", "--serve", "--count", "14"], cwd=tmp_path) as process:
        assert process.stdout
        printed = ""
        while "Ctrl-C stops the service" not in printed:
            printed += process.stdout.readline()
            assert process.poll() is None
        env = dict(re.findall(r"^export (\w+)=(.*)$", printed, re.MULTILINE))
        ids = re.search(r"seq (\d+) (\d+) \| g2a-archive (.*)\n", printed)
        sync = re.search(r"#   g2a-archive (sync .*)\n", printed)
        assert ids
        assert sync
        lines = "".join(f"{i}\n" for i in range(int(ids[1]), int(ids[2]) + 1))
        one = run_cli(ids[3].split(), env, input=lines, cwd=tmp_path)
        assert "Archived 13 of 14 recordings" in one.stdout
        both = run_cli([*sync[1].split(), "--json"], env, cwd=tmp_path)
        assert (report_of(both)["already_archived"], both.returncode) == (13, 3)

        taken = re.search(r":(\d+)/", env["G2A_ARCHIVE_API_URL"])
        assert taken
        again = run_cli(["demo", "--serve", "--port", taken[1]], cwd=tmp_path)
        assert again.returncode == 2
        assert f"cannot listen on port {taken[1]}" in again.stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=PATIENCE) == 0


def test_a_program_in_one_file(root: Path, tmp_path: Path) -> None:
    """As zipapp makes it: nothing of the package is a file of its own."""
    package = Path(g2a_archive.__file__).parent
    shutil.make_archive(str(tmp_path / "program"), "zip", package.parent, package.name)
    env = clean_environment({"PYTHONPATH": str(tmp_path / "program.zip")})
    env.pop("COVERAGE_PROCESS_START", None)  # whose report would look for this program's files
    subprocess.run(
        command(["demo", "--dest", root]), env=env, check=True, stdout=subprocess.DEVNULL
    )
    assert archived(root) == EXPECTED
