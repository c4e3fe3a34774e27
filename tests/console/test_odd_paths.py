"""Paths that hold line breaks and escape sequences: shown, on their one line, never sent."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from support import PATIENCE, catalog_path, cli_here, plain_args, start_cli
from support.archive import MP4, Archive, video
from support.cli import FIRST, Args

from g2a_archive.archive import checksums
from g2a_archive.cli import main
from g2a_archive.console.inventory import CSV_COLUMNS
from g2a_archive.demo import Behaviour, SimulatedService, sample_recordings
from g2a_archive.errors import ExitCode

Say = Callable[..., tuple[int, str]]

DAY = "2014/05\x1b[31m\x9b/0\n6: nothing wrong.\n"
SHOWN = r"2014/05\x1b[31m\x9b/0\n6: nothing wrong.\n"


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """An archive in such a directory, with such another, which no layout of today makes."""
    made = Archive(tmp_path / "arch\x1b]0;ive\nx")
    for recording in (5, 6):
        made.settle(recording, [made.put(recording, MP4, video("x" * 50), DAY)], DAY)
    checksums.write_checksums(made.catalog, made.root)
    made.catalog.close()
    made.write(f"{DAY}/no\x07body's\n", b"")
    return made


@pytest.fixture
def say(archive: Archive, capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command on the archive; returns its exit code and what it said."""
    capsys.readouterr()

    def run(command: str, *args: object) -> tuple[int, str]:
        code = main.run([command, "--dest", str(archive.root), *map(str, args)])
        said = "".join(capsys.readouterr())
        assert [c for c in said if not c.isprintable() and c != "\n"] == [], command
        return code, said

    return run


@pytest.mark.parametrize("command", ["status", "export", "browse"])
def test_a_warning_of_a_command_that_reads(command: str, archive: Archive) -> None:
    soon = "from g2a_archive.archive.database import connection; connection._WARN_AFTER = 0.1"
    with closing(sqlite3.connect(catalog_path(archive.root), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        args: Args = [command, *(["--json"] if command == "export" else []), "--dest", archive.root]
        with start_cli(args, before=soon) as process:
            assert process.stderr
            line = process.stderr.readline()
            other.execute("ROLLBACK")
            process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert re.match(r"\S+Z WARNING waiting for the catalogue \S+\\x1b\]0;ive\\nx/", line), line


def test_a_path_is_on_its_line_in_all_that_is_said(archive: Archive, say: Say) -> None:
    code, said = say("verify")
    assert (code, said.count("\n")) == (1, 2)
    assert said.startswith(rf"{SHOWN}/no\x07body's\n: unknown: not in the catalogue" + "\n")
    assert f"\nmp4         {SHOWN}/5.mp4\n" in say("status", 5)[1]
    code, said = say("bag", archive.root.parent / "b\n\x1b[0m", 5)
    assert (code, said.count("\n")) == (0, 2)
    assert r"/b\n\x1b[0m/data/index.html" in said
    (archive.root / DAY / "6.mp4").unlink()
    assert f"{SHOWN}/6.mp4: missing\n" in say("verify", 6)[1]
    assert say("bag", archive.root.parent / "c", 6)[1].count("\n") == 1
    code, said = say("remove", "--yes", 6)
    assert (code, said.splitlines()[1:]) == (0, [f"  gone already: {SHOWN}/6.mp4"])
    code, said = say("browse")
    assert (code, said.count("\n")) == (0, 2)
    assert said.endswith("arch\\x1b]0;ive\\nx/index.html\n")
    target = archive.root.parent / "target"
    code, said = say("merge", archive.root, "--dest", target)
    assert (code, said.count("arch\\x1b]0;ive\\nx)")) == (1, 2)


def test_a_path_is_one_cell_of_the_export(archive: Archive, say: Say) -> None:
    code, said = say("export", "--csv")
    head, *rows = csv.reader(io.StringIO(said, newline=""))
    assert (code, tuple(head), said.count("\n")) == (0, CSV_COLUMNS, 3)
    assert [row[head.index("mp4_path")] for row in rows] == [f"{SHOWN}/{n}.mp4" for n in (5, 6)]
    # What programs read is exact.
    code, said = say("export", "--json")
    assert [one["files"]["mp4"]["path"] for one in json.loads(said)] == [
        f"{DAY}/{n}.mp4" for n in (5, 6)
    ]


def test_a_directory_whose_name_is_not_text_is_told_and_left_alone(
    archive: Archive, say: Say
) -> None:
    archive.write("2014/M\udce4rz/7.mp4", video("z" * 50))
    archive.write("2015/05/06/8.mp4", video("z" * 50))
    code, said = say("verify", "--rebuild")
    assert code == 1
    assert "2014/M\\udce4rz: unknown: its name is not UTF-8; 1 file in it\n" in said
    assert say("status", 8)[1].startswith("Recording   8\nState       archived\n")


def test_what_fails_in_an_archive_whose_path_is_not_text_is_recorded(tmp_path: Path) -> None:
    """SQLite takes no text that is not UTF-8: one year's trouble ended the run, as a bug."""
    root = tmp_path / "M\udce4rz"
    recordings = sample_recordings(3)
    year = root / next(one.start_text[:4] for one in recordings if one.id == FIRST)
    root.mkdir()
    year.touch()
    with SimulatedService(recordings, Behaviour(rate_limit=None)) as service:
        result = cli_here(plain_args(root, FIRST), service.environment())
        assert result.returncode == ExitCode.FAILED
        assert "unexpected" not in result.stderr
        with closing(sqlite3.connect(catalog_path(root))) as catalog:
            reasons = catalog.execute("SELECT reason FROM recording").fetchall()
        assert f"M\\udce4rz/{year.name}: Not a directory" in reasons[0][0]
        year.unlink()
        result = cli_here(plain_args(root, "--owed"), service.environment())
    assert result.returncode == ExitCode.OK
    assert "Archived 1 of 1 recording" in result.stdout
