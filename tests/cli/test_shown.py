"""What is shown as it should be: help without docstrings, odd paths, what a dry run would do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import clean_environment, cli_here, command, report_of, run_cli
from support.archive import Archive
from support.cli import FIRST, Args, Say
from support.service import Serve

from g2a_archive.demo import SimulatedService

HELP = """
import click
from g2a_archive.cli.main import cli

def show(command, parent):
    context = click.Context(command, info_name=command.name, parent=parent)
    print(command.get_help(context))
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            show(command.get_command(context, name), context)

show(cli, None)
"""


def test_help_is_the_same_where_python_drops_docstrings(tmp_path: Path) -> None:
    texts = []
    for level in ("", "2"):
        done = subprocess.run(
            [sys.executable, "-c", HELP],
            env=clean_environment({"PYTHONOPTIMIZE": level}),
            cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        texts.append(done.stdout)
    assert "Say whether a night's run would work; download nothing." in texts[0]
    assert texts[1] == texts[0]


def test_a_run_where_python_drops_docstrings(service: SimulatedService, tmp_path: Path) -> None:
    env = {**service.environment(), "PYTHONOPTIMIZE": "2"}
    args: Args = ["download", FIRST, "--min-free", "0", "--json"]
    assert report_of(run_cli(args, env, cwd=tmp_path))["archived"] == 1


ODD = "x\x1b[31m\x07\u202eü y"
SHOWN = r"x\x1b[31m\x07\u202eü y"


def test_escape_sequences_in_a_path_are_shown_and_not_sent(
    service: SimulatedService, tmp_path: Path
) -> None:
    root = tmp_path / ODD
    args: Args = ["download", FIRST, "--min-free", "0", "-d", root]
    log, errors = root.with_suffix(".log"), root.with_suffix(".txt")
    runs: list[Args] = [
        [*args, "-vv", "--log-file", log, "--error-file", errors],
        [*args, "--metrics-file", tmp_path / "nowhere" / ODD / "m"],
        ["status", "-d", root],
        ["browse", "-d", root],
        ["check", "-d", root, "--min-free", "0"],
        ["config", "show", "-d", root],
        ["verify", "-d", tmp_path / "other" / ODD],
        ["status", "-d", root, "--config", tmp_path / ODD / "c.toml"],
    ]
    seen = ""
    for run in runs:
        result = run_cli(run, service.environment(), cwd=tmp_path)
        said = result.stdout + result.stderr
        assert [c for c in said if not c.isprintable() and c != "\n"] == [], run
        assert run[0] == "download" or SHOWN in said or "\\\\x1b" in said, said
        seen += said
    assert seen.count(SHOWN) > 5
    assert "\x1b" not in log.read_text()
    assert os.path.isdir(root)


@pytest.mark.parametrize("count", [3, 25])
def test_a_dry_run_names_what_it_would_fetch(serve: Serve, tmp_path: Path, count: int) -> None:
    service = serve(count, rate_limit=None)
    service.on_links.append(  # of one of them no size is told
        lambda all_: [
            {**one, "recordingSize": ""} if one["recordingId"] == FIRST else one for one in all_
        ]
    )
    args: Args = ["download", *service.recordings, "--dry-run", "--layout", "%Y/%m"]
    result = run_cli([*args, "-v"], service.environment(), cwd=tmp_path)
    assert result.returncode == 0
    rows = [line.split() for line in result.stdout.splitlines()[1:]]
    wanted = list(service.recordings.values())
    for recording, row in zip(wanted[:20], rows[:20], strict=True):
        assert row[:2] == [str(recording.id), f"{recording.start:%Y/%m}"]
        kilobytes = f"{(recording.size('mp4') or 0) / 1024:.1f}"
        assert row[2:] == (["size", "not", "told"] if recording.id == FIRST else [kilobytes, "kB"])
    more = "  … and 5 more: -v tells of each"
    assert result.stdout.splitlines()[21:] == ([] if count == 3 else [more])
    told = [line for line in result.stderr.splitlines() if " INFO recording " in line]
    assert [int(line.split()[3].strip(":")) for line in told] == list(service.recordings)
    assert list(tmp_path.iterdir()) == []
    quiet = run_cli(args, service.environment(), cwd=tmp_path)
    assert (quiet.stdout, quiet.stderr) == (result.stdout, "")


def test_an_export_to_a_dash_is_printed(root: Path, say: Say) -> None:
    Archive(root).catalog.close()
    assert say("export", "--json", "-o", "-") == say("export", "--json") == (0, "[\n]\n", "")
    assert not Path("-").exists()


@pytest.mark.parametrize("args", [["--help"], [], ["download", "-h"], ["config"], ["--version"]])
def test_help_that_cannot_be_printed_is_exit_6(args: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = run_cli(args, stdout=writer)
    finally:
        os.close(writer)
    assert result.returncode == 6
    assert result.stderr == "g2a-archive: cannot write to standard output: Broken pipe\n"
    closed = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *command(args)],
        env=clean_environment(), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert closed.returncode == 6
    assert closed.stderr == "g2a-archive: cannot write to standard output: closed\n"


@pytest.mark.parametrize("name", ["download", "status", "demo"])
def test_help_needs_no_configuration(name: str) -> None:
    result = cli_here([name, "--help"], {"G2A_ARCHIVE_CONFIG": "nowhere.toml"})
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"Usage: g2a-archive {name}")


def test_help_says_all_that_the_time_zone_is_of() -> None:
    words = " ".join(cli_here(["browse", "--help"]).stdout.split())
    assert "Time zone of date directories and pages. [default:" in words


def test_pages_that_are_made_every_night_are_made_in_silence(
    root: Path, say: Say, tmp_path: Path
) -> None:
    Archive(root).catalog.close()
    assert say("browse", "-q") == (0, "", "")
    assert (root / "index.html").exists()
    (tmp_path / "c.toml").write_text("quiet = true\n")
    assert say("browse", "--config", str(tmp_path / "c.toml")) == (0, "", "")
    assert say("browse")[1].startswith("0 recordings, 0 owed: ")
