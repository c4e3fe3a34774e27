"""A check beside a run that works on the archive: what comes and goes with it is no fault."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import merging
from support.archive import Archive
from support.cli import Say
from support.merging import merge_here

from g2a_archive.archive.checksums import write_checksums
from g2a_archive.archive.database import tombstones
from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.disk.lock import RunLock
from g2a_archive.curation.merge_work import SourceMerger
from g2a_archive.errors import ExitCode, Interrupted
from g2a_archive.fixity import fingerprint, tree, verify
from g2a_archive.fixity.check import OF_REMOVED

parts = merging.parts
shard_originals = merging.shard_originals

NOBODY = "unknown: not in the catalogue"


@pytest.fixture
def archive(root: Path) -> Iterator[Archive]:
    made = Archive(root)
    made.add(1)
    made.add(2)
    yield made
    made.catalog.close()


@pytest.fixture
def lock(archive: Archive) -> Iterator[RunLock]:
    """The lock of another run, held."""
    held = RunLock(archive.root / ".g2a-archive" / "lock")
    held.acquire()
    yield held
    held.release()


def before(monkeypatch: pytest.MonkeyPatch, of: Any, name: str, act: Callable[[], object]) -> None:
    """Have `act` done each time before what is called `name` of a module or class."""
    real = getattr(of, name)

    def work(*args: Any, **more: Any) -> Any:
        act()
        return real(*args, **more)

    monkeypatch.setattr(of, name, work)


def test_what_a_merge_named_and_has_not_recorded(
    parts: list[Path], root: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[int, dict[str, Any]]] = []

    def look() -> None:
        code, out, _ = say("verify", "--json")
        said.append((code, json.loads(out)))

    assert merge_here(root, parts[:1]).exit_code == 0
    (root / "notes.txt").write_text("mine")
    with monkeypatch.context() as patch:
        before(patch, SourceMerger, "_commit", look)
        assert merge_here(root, parts[1:]).exit_code == 0
    assert len(said) == 2
    for code, report in said:
        assert code == ExitCode.FAILED
        assert [(one["path"], one["problem"]) for one in report["findings"]] == [
            ("notes.txt", NOBODY)
        ]
        assert report["unjudged"] > 0
    (root / "notes.txt").unlink()
    assert say("verify")[0] == 0


def test_what_a_removal_has_still_to_delete(
    archive: Archive, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = []
    with monkeypatch.context() as patch:
        for step in ("_delete", "_unlink", "remove_empty_directories"):
            before(patch, tombstones, step, lambda: codes.append(say("verify")[0]))
        assert say("remove", "--yes", "1")[0] == 0
    assert codes == [0] * 4
    archive.write("2014/05/06/1.mp4", b"somebody put it back")
    assert archive.problems() == {"2014/05/06/1.mp4": OF_REMOVED}


def test_what_is_removed_while_a_fingerprint_is_proven(
    archive: Archive, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no more to be read, and so breaks no proof."""
    kept = archive.catalog.fingerprint()
    removed: list[int] = []

    def remove() -> None:
        if not removed:
            removed.append(say("remove", "--yes", "1")[0])

    before(monkeypatch, verify, "check", remove)
    code, out, err = say("verify", "--fingerprint", str(kept))
    assert (code, removed) == (0, [0]), out + err
    assert "not reached" not in out


def test_of_a_run_that_works_what_is_not_its_own_is_judged(
    archive: Archive, lock: RunLock, say: Say
) -> None:
    archive.write("2014/05/06/99.mp4", b"in no catalogue")
    archive.write("2014/05/06/99.txt", b"no recording's")
    code, out, _ = say("verify")
    assert code == ExitCode.FAILED
    assert f"99.txt: {NOBODY}" in out
    assert "99.mp4" not in out
    assert "1 file not judged: another run is working on this archive." in out
    lock.release()
    code, out, _ = say("verify")
    assert f"99.mp4: {NOBODY}" in out
    assert "not judged" not in out


def test_the_lock_beside_a_catalogue_that_lies_elsewhere(
    archive: Archive, say: Say, tmp_path: Path
) -> None:
    archive.catalog.close()
    elsewhere = tmp_path / "catalog.sqlite3"
    archive.database.rename(elsewhere)
    archive.write("2014/05/06/99.mp4", b"in no catalogue")
    held = RunLock(tmp_path / "catalog.sqlite3.lock")
    held.acquire()
    code, out, _ = say("verify", "--catalog", elsewhere)
    held.release()
    assert code == 0
    assert "1 file not judged" in out
    assert say("verify", "--catalog", elsewhere)[0] == ExitCode.FAILED


def test_a_run_that_ended_since_is_looked_at_once_more(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [archive.put(9, one.kind, b"named", "2014/05/06") for one in archive.add(1)]
    archive.write("2014/05/06/8.mp4", b"about to be deleted")
    archive.write("2014/05/06/7.mp4", b"in no catalogue")
    with Catalog(archive.database) as other:

        def end() -> None:
            archive.catalog, mine = other, archive.catalog
            archive.settle(9, files)
            archive.catalog = mine
            (archive.root / "2014/05/06/8.mp4").unlink(missing_ok=True)

        before(monkeypatch, verify, "lock_paths", end)
        assert archive.problems() == {"2014/05/06/7.mp4": NOBODY}


def test_a_signal_keeps_what_was_found(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    archive.write("1.txt", b"nobody's")
    walk = tree.Tree.walk

    def interrupted(self: tree.Tree, *_: object) -> Iterator[tree.Folder]:
        yield next(walk(self))
        raise Interrupted

    monkeypatch.setattr(tree.Tree, "walk", interrupted)
    outcome = archive.verify()
    assert outcome.interrupted
    assert [one.path for one in outcome.findings] == ["1.txt"]


@pytest.mark.parametrize("recorded", [True, False])
def test_sums_that_a_run_writes_meanwhile(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, recorded: bool
) -> None:
    kept = archive.catalog.fingerprint()
    assert kept is not None
    others = iter([3])

    def run() -> None:
        for number in others:
            with monkeypatch.context() as patch:
                if not recorded:
                    patch.setattr(Catalog, "record_sums", lambda *_: None)
                archive.add(number)

    before(monkeypatch, fingerprint, "hash_file", run)
    assert fingerprint.prove(archive.catalog, archive.root, kept).findings == []
    write_checksums(archive.catalog, archive.root)
    archive.write("2014/05/06/SHA256SUMS", b"changed")
    proof = fingerprint.prove(archive.catalog, archive.root, kept)
    assert [one.problem for one in proof.findings] == ["changed: not what was written last"]
