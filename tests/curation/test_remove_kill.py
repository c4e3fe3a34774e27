"""`remove` killed between any two steps: the next run of another command ends the job."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import (
    PATIENCE,
    catalog_rows,
    clean_environment,
    plain_args,
    run_cli,
    run_here,
    states,
)
from support.removal import assert_removed, files_of

from g2a_archive.cli import main
from g2a_archive.demo import SimulatedService

_CRASH = """
import itertools, os, signal, sys
from pathlib import Path
from g2a_archive.archive import checksums
from g2a_archive.archive.database import pages, tombstones
from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.cli import main as cli
where, when, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
owner, name = where.split(".")
owner = {"os": os, "tombstones": tombstones, "checksums": checksums, "pages": pages,
         "Catalog": Catalog, "Path": Path}[owner]
real, calls = getattr(owner, name), itertools.count(1)

def crash(*args, **more):
    call = next(calls)
    if call == number and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = real(*args, **more)
    if call == number and when == "after":
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(owner, name, crash)
sys.exit(cli.run(sys.argv[4:]))
"""

STEPS = [
    ("Catalog.transaction", 2),
    ("os.fsync", 1),
    ("tombstones._done", 1),
    ("tombstones._done", 2),
    ("os.unlink", 1),
    ("os.unlink", 2),
    ("os.unlink", 7),
    ("checksums.update", 1),
    ("Catalog.summed", 1),
    ("pages.write", 1),
    ("Path.rmdir", 1),
    ("tombstones._tidy", 1),
]


def killed(root: Path, where: str, when: str, number: int, *args: object) -> None:
    """Run `remove` until it kills itself there."""
    command = ["remove", "--dest", root, "--yes", *args]
    result = subprocess.run(
        [sys.executable, "-c", _CRASH, where, when, str(number), *map(str, command)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == -signal.SIGKILL, (result.returncode, result.stderr)


def here(command: str, root: Path, *args: object) -> int:
    """Run a command on the archive in this process."""
    return main.run([command, "--dest", str(root), *map(str, args)])


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("where", "number"), STEPS)
def test_killed_between_two_steps(
    where: str, number: int, when: str, service: SimulatedService, root: Path
) -> None:
    ids = list(service.recordings)
    gone, kept = ids[:3], ids[3:]
    run_here(service, root, ids)
    assert here("browse", root) == 0
    killed(root, where, when, number, *gone)
    # Never a recording half there that counts as archived.
    for path, sha256 in catalog_rows(root, "SELECT path, sha256 FROM file"):
        assert hashlib.sha256((root / path).read_bytes()).hexdigest() == sha256
    for id_ in gone:
        assert len(files_of(root, id_)) == 3 or states(root)[id_] == "removed"
    claimed = [id_ for id_ in gone if states(root)[id_] == "removed"]
    assert claimed in ([], gone)
    # Another command, for something else, ends the job.
    assert run_here(service, root, kept).exit_code == 0
    if not claimed:
        assert here("remove", root, "--yes", *gone) == 0
    assert_removed(root, *gone)
    assert here("verify", root) == 0
    assert not [p for p in (root / "browse").rglob("*") if p.is_file() and _names(p, gone)]
    assert run_here(service, root, ids).already_archived == len(kept)


def _names(page: Path, ids: list[int]) -> bool:
    return any(str(id_) in page.read_text("utf-8", "replace") for id_ in ids)


def test_killed_again_and_again(service: SimulatedService, root: Path) -> None:
    ids = list(service.recordings)
    run_here(service, root, ids)
    killed(root, "os.unlink", "after", 1, *ids[:4])
    for number in (2, 1, 3):
        killed(root, "os.unlink", "before", number, ids[4])
    assert catalog_rows(root, "SELECT count(*) FROM removal")[0][0] >= 4
    assert here("remove", root, "--yes", ids[4]) == 0
    assert_removed(root, *ids[:5])


def test_fetched_again_while_its_removal_is_not_over(service: SimulatedService, root: Path) -> None:
    """The removal ends first; what is fetched then stays."""
    ids = list(service.recordings)
    run_here(service, root, ids)
    killed(root, "os.unlink", "before", 1, ids[0])
    args = plain_args(root, "--again", ids[0])
    assert run_cli(args, service.environment()).returncode == 0
    assert states(root)[ids[0]] == "archived"
    assert run_here(service, root, ids).already_archived == len(ids)
    assert len(files_of(root, ids[0])) == 3
    assert here("verify", root) == 0
