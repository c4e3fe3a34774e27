"""Lines that are held against an archive: bad ones, mailed ones, and what proves nothing yet."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support import archives, catalog_path, relative_path, run_cli
from support.cli import Args, Say

from g2a_archive.demo import SimulatedService

original = archives.original
archive = archives.archive
service = archives.service

LATER = "9999-12-31T23:59:59Z"
OTHER = f"g2a1 2026-01-01T00:00:00Z 3 {'a' * 64}"


def video_of(service: SimulatedService, archive: Path) -> Path:
    return archive / relative_path(next(iter(service.recordings.values())), "mp4")


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (OTHER[:-1], 2, "this is no fingerprint"),
        (OTHER[5:], 2, "this is no fingerprint"),
        (OTHER.replace("g2a1", "g2a2"), 2, "this is no fingerprint"),
        (OTHER.replace("-01-01T", "-13-01T"), 2, "this is no fingerprint"),
        (OTHER.replace(" 3 ", " -3 "), 2, "this is no fingerprint"),
        ("g2a1 \x1b[31m", 2, "this is no fingerprint"),
        (OTHER.replace("2026-01-01T00:00:00Z", LATER), 2, "is of the future"),
        (OTHER, 1, "this archive never had the fingerprint of 2026-01-01T00:00:00Z"),
    ],
)
def test_bad_lines(line: str, code: int, words: str, archive: Path, say: Say) -> None:
    before = catalog_path(archive).read_bytes()
    got, out, err = say("verify", "--fingerprint", line)
    assert (got, out) == (code, "")
    assert words in err
    assert err.count("\n") == 1
    assert "\x1b" not in err
    assert catalog_path(archive).read_bytes() == before


def test_a_line_from_standard_input(archive: Path, say: Say) -> None:
    line = say("status", "--fingerprint")[1].strip()
    mail = f"Subject: the archive tonight\n\n  fingerprint: {line}\n-- \nthe archive\n"
    args: Args = ["verify", "--dest", archive, "--fingerprint", "-"]
    assert run_cli(args, input=mail).returncode == 0
    for text, words in (("", "no fingerprints on"), (f"{line}\n{line}\n", "2 fingerprints on")):
        result = run_cli(args, input=text)
        assert result.returncode == 2
        assert words in result.stderr


@pytest.mark.parametrize("more", [["--sample", "5%"], ["--rebuild"], ["--since", "2014-01-01"]])
def test_a_proof_is_of_the_whole_archive(more: list[str], archive: Path, say: Say) -> None:
    code, _, err = say("verify", "--fingerprint", OTHER, *more)
    assert code == 2
    assert "nothing else can be chosen" in err


def test_a_file_that_nobody_knows_of_disproves_nothing(say: Say, archive: Path) -> None:
    line = say("status", "--fingerprint")[1].strip()
    (archive / "notes.txt").write_text("mine")
    code, out, _ = say("verify", "--fingerprint", line)
    assert code == 1
    assert "notes.txt: unknown" in out
    assert "proven, " in out


def test_a_year_that_is_not_mounted_is_not_proven_yet(
    service: SimulatedService, say: Say, archive: Path
) -> None:
    line = say("status", "--fingerprint")[1].strip()
    year = video_of(service, archive).parents[2]
    shutil.rmtree(year)
    year.mkdir()
    code, out, err = say("verify", "--fingerprint", line)
    assert code == 6
    assert "missing" not in out
    assert "not proven yet, as not all files were read" in out
    assert "mounted" in err


def test_what_was_not_read_is_not_proven(
    service: SimulatedService, say: Say, archive: Path
) -> None:
    line = say("status", "--fingerprint")[1].strip()
    video_of(service, archive).write_bytes(b"changed")
    for more in ([], ["-q"]):
        code, out, err = say("verify", "--fingerprint", line, "--max-duration", "0", *more)
        assert (code, err) == (8, "")
        assert ("not proven yet, as not all files were read" in out) == (not more)
    code, out, _ = say("verify", "--fingerprint", line, "--max-duration", "0", "--json")
    assert code == 8
    assert json.loads(out)["proof"]["proven"] is False
    code, out, _ = say("verify", "--fingerprint", line, "--max-duration", "1d")
    assert code == 1
    assert "NOT proven" in out
