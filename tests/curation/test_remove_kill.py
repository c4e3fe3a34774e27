"""`remove` killed between any two steps: the next run of another command ends the job."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import (
    archives,
    catalog_rows,
    cli_here,
    plain_args,
    run_cli,
    run_here,
    states,
)
from support.crash import crash
from support.removal import assert_removed, files_of

from g2a_archive.cli import main
from g2a_archive.cli.commands.remove import _REST
from g2a_archive.demo import SimulatedService

service = archives.service


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[archives.Made]:
    """A service with five recordings of three days, and an archive of them all, with pages."""
    with archives.made(tmp_path_factory, 5) as (service, root):
        assert here("browse", root) == 0
        yield service, root


@pytest.fixture(autouse=True)
def archive(original: archives.Made, root: Path) -> Path:
    """A copy of it for one test."""
    return shutil.copytree(original[1], root)


@pytest.fixture
def pageless(archive: Path) -> None:
    """It has no pages: what `assert_removed` looks at includes the lists of sums then."""
    (archive / "index.html").unlink()
    shutil.rmtree(archive / "browse")


# Each leaves another state on disk, as the last write before it was another one.
STEPS = [
    ("Catalog.transaction", 2, "before"),
    ("os.fsync", 1, "before"),
    ("tombstones._done", 1, "after"),
    ("os.unlink", 1, "after"),
    ("os.unlink", 2, "after"),
    ("os.unlink", 7, "before"),
    ("os.unlink", 7, "after"),
    ("tombstones._done", 2, "before"),
    ("tombstones._done", 2, "after"),
    ("checksums.update", 1, "after"),
    ("Catalog.record_sums", 1, "before"),
    ("Catalog.record_sums", 1, "after"),
    ("pages.write", 1, "after"),
    ("Path.rmdir", 1, "after"),
    ("tombstones.remove_empty_directories", 1, "after"),
]


def killed(root: Path, where: str, when: str, number: int, *args: int) -> None:
    """Run `remove` until it kills itself there."""
    crash(where, when, number, ["remove", "--dest", root, "--yes", *args])


def here(command: str, root: Path, *args: object) -> int:
    """Run a command on the archive in this process."""
    return main.run([command, "--dest", str(root), *map(str, args)])


@pytest.mark.parametrize(("where", "number", "when"), STEPS)
def test_killed_between_two_steps(
    where: str, number: int, when: str, service: SimulatedService, root: Path
) -> None:
    ids = list(service.recordings)
    gone, kept = ids[:3], ids[3:]
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


@pytest.mark.usefixtures("pageless")
def test_killed_again_and_again(service: SimulatedService, root: Path) -> None:
    ids = list(service.recordings)
    killed(root, "os.unlink", "after", 1, *ids[:4])
    for number in (2, 1, 3):
        killed(root, "os.unlink", "before", number, ids[4])
    assert catalog_rows(root, "SELECT count(*) FROM removal")[0][0] >= 4
    assert here("remove", root, "--yes", ids[4]) == 0
    assert_removed(root, *ids[:5])


def test_fetched_again_while_its_removal_is_not_over(service: SimulatedService, root: Path) -> None:
    """The removal ends first; what is fetched then stays."""
    ids = list(service.recordings)
    killed(root, "os.unlink", "before", 1, ids[0])
    args = plain_args(root, "--again", ids[0])
    assert cli_here(args, service.environment()).returncode == 0
    assert states(root)[ids[0]] == "archived"
    assert run_here(service, root, ids).already_archived == len(ids)
    assert len(files_of(root, ids[0])) == 3
    assert here("verify", root) == 0


STOP = """
import os, signal
from g2a_archive.archive.database import {module}

{module}._AT_ONCE = 1  # directory by directory
real = {module}.{name}

def stopped(*args, **more):
    result = real(*args, **more) if {after} else None
    if {name!r} != "_done" or args[1] == {module}._DELETED:
        os.kill(os.getpid(), signal.SIGTERM)
    return result if {after} else real(*args, **more)

{module}.{name} = stopped
"""


@pytest.mark.parametrize("command", ["remove", "download"])
@pytest.mark.parametrize(
    ("module", "name", "after"), [("tombstones", "_done", True), ("pages", "write_again", False)]
)
def test_sigterm_is_not_kept_waiting(
    command: str, module: str, name: str, after: bool, service: SimulatedService, root: Path
) -> None:
    """Half a million files are deleted for minutes; also by a run that finds this left to do."""
    ids = list(service.recordings)
    gone, kept = ids[:3], ids[3:]
    args: list[str | int | Path] = ["remove", "--dest", root, "--yes", *gone]
    if command == "download":
        crash("tombstones._done", "after", 1, args)
        args = plain_args(root, *kept)
    stop = STOP.format(module=module, name=name, after=after)
    result = run_cli(args, service.environment(), before=stop)
    assert result.returncode == 143, result.stderr
    assert result.stderr == (f"g2a-archive: interrupted; {_REST}\n" if command == "remove" else "")
    assert catalog_rows(root, "SELECT count(*) FROM removal") == [(3,)]
    assert any(files_of(root, id_) for id_ in gone) == (name == "_done")
    assert run_here(service, root, kept).exit_code == 0
    assert_removed(root, *gone)
    assert not [p for p in (root / "browse").rglob("*") if p.is_file() and _names(p, gone)]
