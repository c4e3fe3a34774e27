"""A clock that was wrong when files were checked, or the archive's fingerprint was told."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.archive import Archive, video
from support.clocks import YEAR, clock_off_by

from g2a_archive.archive.database import inventory
from g2a_archive.cli import main
from g2a_archive.fixity.selection import VerifyOptions
from g2a_archive.models import iso

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """Two recordings, archived and checked while the clock was a year ahead."""
    made = Archive(tmp_path / "recordings")
    with clock_off_by(YEAR):
        made.add(1)
        made.add(2)
        assert made.verify().findings == []
    yield made
    made.catalog.close()


@pytest.fixture
def say(archive: Archive, capsys: pytest.CaptureFixture[str]) -> Say:
    def run(command: str, *args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main.run([command, "--dest", str(archive.root), *map(str, args)])
        return code, *capsys.readouterr()

    return run


def checks(archive: Archive) -> list[tuple[int, str]]:
    return archive.catalog.rows("SELECT recording, max(checked_at) FROM file GROUP BY 1")


def test_what_was_checked_in_the_future_is_not_checked(archive: Archive) -> None:
    now = iso(int(time.time()) + 5)
    assert all(at > now for _, at in checks(archive))
    summary = inventory.summary(archive.catalog)
    assert (summary.unchecked, summary.oldest_check) == (6, None)
    archive.verify(VerifyOptions(ids=[1]))
    assert [at <= now for _, at in checks(archive)] == [True, False]
    summary = inventory.summary(archive.catalog)
    assert (summary.unchecked, summary.oldest_check) == (3, checks(archive)[0][1])


def test_a_clock_that_is_behind_for_nights_gets_through_the_archive(archive: Archive) -> None:
    with clock_off_by(-YEAR):
        archive.verify(VerifyOptions(ids=[1], oldest_first=True))
        first = checks(archive)
        left = VerifyOptions(oldest_first=True, jobs=1)
        (archive.root / "2014/05/06/2.mp4").write_bytes(video("changed"))
        assert [one.recording for one in archive.verify(left).findings] == [2]
    assert first[0] < checks(archive)[1]


def test_a_fingerprint_that_such_a_clock_gave_is_proven(archive: Archive, say: Say) -> None:
    line = say("status", "--fingerprint")[1].strip()
    assert line.split()[1] > iso(int(time.time()))
    code, out, err = say("verify", "--json", "--fingerprint", line)
    assert (code, json.loads(out)["proof"]["proven"]) == (0, True)
    assert f"WARNING a clock that was ahead gave this fingerprint: {line.split()[1]}" in err
    archive.add(3)
    later = say("status", "--fingerprint")[1].strip()
    assert later.split()[1] <= iso(int(time.time()))
    for known, count in ((line, 3), (later, 0)):
        code, out, err = say("verify", "--json", "--fingerprint", known)
        proof = json.loads(out)["proof"]
        assert (code, proof["proven"], proof["later"]) == (0, True, count)
    assert err == ""
    # A line of the future that was never given stays refused, whoever's digest it has.
    time_, files, digest = line.split()[1:]
    for forged in (f"g2a1 2999-01-01T00:00:00Z {files} {digest}", f"g2a1 {time_} 1 {digest}"):
        code, out, err = say("verify", "--fingerprint", forged)
        assert (code, out) == (2, "")
        assert "the fingerprint is of the future: " in err


def test_nothing_is_since_the_future(say: Say) -> None:
    code, out, err = say("verify", "--since", "2999-01-01")
    assert (code, out) == (2, "")
    assert "--since is in the future: this machine's clock says 20" in err
