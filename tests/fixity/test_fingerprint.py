"""The fingerprint: one line that coreutils agree with, and that finds out who rewrote what."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support import catalog_path, catalog_rows, relative_path, run_cli, run_here
from support.cli import Say
from support.service import Serve

from g2a_archive.archive.checksums import write_checksums
from g2a_archive.archive.database import revisions
from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.console.outputs import metrics_text
from g2a_archive.demo import Behaviour, SimulatedService, faults, sample_recordings
from g2a_archive.models import FileKind

COREUTILS = (
    r"find -L . -name SHA256SUMS -printf '%P\n' "
    r"| LC_ALL=C sort | xargs -r -d '\n' sha256sum | sha256sum"
)


def line_of(say: Say) -> str:
    code, out, _ = say("status", "--fingerprint")
    assert code == 0
    return out.strip()


def proof_of(say: Say, line: str) -> dict[str, Any]:
    code, out, _ = say("verify", "--json", "--fingerprint", line)
    report = json.loads(out)
    assert code == bool(report["findings"])
    assert report["proof"]["proven"] is (code == 0)
    return {**report["proof"], "problems": {f["path"]: f["problem"] for f in report["findings"]}}


@pytest.fixture
def service(serve: Serve) -> SimulatedService:
    """Eight recordings, the same as those of `original`."""
    return serve(rate_limit=None)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of all recordings but the last two."""
    root = tmp_path_factory.mktemp("original") / "archive"
    with SimulatedService(sample_recordings(8), Behaviour(rate_limit=None)) as service:
        assert run_here(service, root, list(service.recordings)[:-2]).exit_code == 0
    return root


@pytest.fixture
def ids(service: SimulatedService, original: Path, root: Path) -> list[int]:
    """A copy of that archive; returns the IDs of all recordings."""
    shutil.copytree(original, root)
    return list(service.recordings)


def path_of(service: SimulatedService, root: Path, id_: int, kind: str = "mp4") -> Path:
    return root / relative_path(service.recordings[id_], kind)  # type: ignore[arg-type]


def change_video(service: SimulatedService, id_: int) -> None:
    """From now on the service has another video under this ID."""
    service.set_recordings(
        replace(one, mp4_size=(one.mp4_size or 0) + 1000) if one.id == id_ else one
        for one in service.recordings.values()
    )


# --- what it is ------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
def test_coreutils_say_the_same(service: SimulatedService, root: Path, say: Say) -> None:
    found = list(service.recordings)
    (root.parent / "disk").mkdir()
    root.mkdir()
    (root / "2014").symlink_to(root.parent / "disk")  # a year on a disk of its own
    # "2014/01/SHA256SUMS" comes before "2014/SHA256SUMS": paths are sorted, not directories.
    for layout, id_ in zip(
        ("%Y", "%Y-x", "%Y/%m", "%Y.%m", "%Y0", "%Y/%m/%d"), found, strict=False
    ):
        assert run_here(service, root, [id_], layout=layout).exit_code == 0
    by_shell = subprocess.run(
        COREUTILS, shell=True, cwd=root, capture_output=True, text=True, check=True
    )
    version, time, files, digest = line_of(say).split(" ")
    assert version == "g2a1"
    assert datetime.fromisoformat(time) <= datetime.now(UTC)
    assert int(files) == 3 * 6
    assert by_shell.stdout == f"{digest}  -\n"


def test_a_run_tells_it_everywhere(service: SimulatedService, root: Path, say: Say) -> None:
    report = run_here(service, root, service.recordings)
    line = line_of(say)
    assert report.to_json()["fingerprint"] == line
    assert ("", f"  fingerprint: {line}") in report.summary()
    assert catalog_rows(root, "SELECT fingerprint FROM run") == [(line,)]
    _, time, files, digest = line.split()
    sample = f'g2a_archive_fingerprint_info{{time="{time}",files="{files}",digest="{digest}"}} 1'
    assert sample in metrics_text(report, owed=None, success=None).splitlines()
    # And where nothing is new it is the same line.
    assert run_here(service, root, service.recordings).to_json()["fingerprint"] == line


def test_a_run_that_archived_nothing_tells_it_too(
    service: SimulatedService, root: Path, say: Say
) -> None:
    """So does a catalogue that was rebuilt of nothing; and the line is proven later."""
    first = next(iter(service.recordings))
    service.set_state(first, "unavailable")
    report = run_here(service, root, [first])
    line = line_of(say)
    assert (report.exit_code, report.to_json()["fingerprint"]) == (3, line)
    assert line.split()[2:] == ["0", hashlib.sha256().hexdigest()]
    assert run_here(service, root, list(service.recordings)[1:]).exit_code == 0
    assert proof_of(say, line)["later"] == 3 * 7
    shutil.rmtree(root)
    (root / ".g2a-archive").mkdir(parents=True)
    assert say("verify", "--rebuild")[0] == 0
    assert line_of(say).split()[2:] == line.split()[2:]


def test_a_run_reads_only_the_sums_that_it_touched(
    service: SimulatedService, root: Path, ids: list[int]
) -> None:
    here = path_of(service, root, ids[-1]).parent
    elsewhere = {p.parent for p in root.rglob("SHA256SUMS")} - {here}
    for folder in elsewhere:
        (folder / "SHA256SUMS").unlink()
    assert run_here(service, root, ids[-1:]).exit_code == 0
    assert elsewhere
    assert not [folder for folder in elsewhere if (folder / "SHA256SUMS").exists()]


def test_there_is_none_before_the_first_run(root: Path, say: Say) -> None:
    (root / ".g2a-archive").mkdir(parents=True)
    Catalog(catalog_path(root)).close()
    code, out, err = say("status", "--fingerprint")
    assert (code, out) == (1, "")
    assert "has no fingerprint yet" in err
    assert err.count("\n") == 1


# --- what it proves --------------------------------------------------------------------------


def test_what_came_later_and_what_was_fetched_again_breaks_nothing(
    service: SimulatedService, root: Path, ids: list[int], say: Say
) -> None:
    line = line_of(say)
    first = path_of(service, root, ids[0])
    first.write_bytes(b"damaged")
    assert say("verify")[0] == 1
    change_video(service, ids[0])
    assert run_here(service, root, ids).exit_code == 0
    proof = proof_of(say, line)
    assert proof["problems"] == {}
    assert (proof["files"], proof["fetched_again"], proof["removed"]) == (18, 1, 0)
    assert (proof["unchanged"], proof["later"]) == (17, 7)
    assert proof["recordings"] == {str(ids[0]): "replaced"}
    code, out, _ = say("verify", "--fingerprint", line)
    assert code == 0
    assert f"Recording {ids[0]}: fetched again since" in out
    assert out.splitlines()[-1].endswith(
        "proven, 17 are here as they were. Since then: 1 fetched again, 7 came."
    )
    assert proof_of(say, line_of(say))["problems"] == {}


def rewrite_file(path: Path) -> None:
    """The same length, so that only its content tells."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def rewrite_sums(path: Path) -> None:
    sums = path.parent / "SHA256SUMS"
    text = sums.read_text().splitlines()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    lines = [f"{digest}  {path.name}" if line.endswith(f"  {path.name}") else line for line in text]
    sums.write_text("\n".join(lines) + "\n")


def rewrite_row(root: Path, path: Path) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with closing(sqlite3.connect(catalog_path(root))) as db, db:
        db.execute("DROP TRIGGER IF EXISTS file_replaced")
        db.execute(
            "UPDATE file SET sha256 = ? WHERE path = ?", (digest, str(path.relative_to(root)))
        )


def rewrite_digests(root: Path, path: Path) -> None:
    digest = hashlib.sha256((path.parent / "SHA256SUMS").read_bytes()).hexdigest()
    with closing(sqlite3.connect(catalog_path(root))) as db, db:
        directory = str(path.parent.relative_to(root))
        db.execute("UPDATE sums SET sha256 = ? WHERE directory = ?", (digest, directory))


def rewrite_fingerprints(root: Path, path: Path) -> None:
    with closing(sqlite3.connect(catalog_path(root))) as db, db:
        rows = db.execute(f"SELECT directory, sha256 FROM ({revisions.CURRENT_SUMS})").fetchall()
        rows.sort(key=lambda row: row[0] + "/SHA256SUMS")
        db.execute("UPDATE revision SET digest = ?", (revisions.digest(rows),))


ATTACKS = [
    lambda root, path: rewrite_file(path),
    lambda root, path: rewrite_sums(path),
    rewrite_row,
    rewrite_digests,
    rewrite_fingerprints,
]


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        (1, "changed: SHA-256 is "),  # the file
        (2, "changed: SHA-256 is "),  # and SHA256SUMS
        (3, "the catalogue does not say of"),  # and the catalogue's row
        (4, "its sums of the SHA256SUMS files do not make this fingerprint"),
        (5, "this archive never had the fingerprint of"),  # everything that is here
    ],
)
def test_whoever_rewrites_a_recording_is_found_out(
    steps: int, found: str, service: SimulatedService, root: Path, ids: list[int], say: Say
) -> None:
    line = line_of(say)
    path = path_of(service, root, ids[0])
    for step in ATTACKS[:steps]:
        step(root, path)
    if steps == 5:  # nothing but the line knows of it
        assert say("verify")[0] == 0
    code, out, err = say("verify", "--fingerprint", line)
    assert code == 1
    assert found in out + err
    assert "Traceback" not in err
    name = path.relative_to(root)
    if steps < 4:
        assert str(name if steps < 3 else name.parent / "SHA256SUMS") in out
        assert "NOT proven." in out
    else:
        assert (out, err.count("\n")) == ("", 1)


def test_sums_that_were_rewritten_alone_are_named(
    service: SimulatedService, root: Path, ids: list[int], say: Say
) -> None:
    line = line_of(say)
    sums = path_of(service, root, ids[0]).parent / "SHA256SUMS"
    sums.write_text(sums.read_text().replace("a", "b"))
    gone = path_of(service, root, ids[2]).parent / "SHA256SUMS"
    gone.unlink()
    assert proof_of(say, line)["problems"] == {
        str(sums.relative_to(root)): "changed: not what was written last",
        str(gone.relative_to(root)): "missing",
    }


def test_a_pipe_in_the_place_of_sums_is_not_waited_for(
    service: SimulatedService, root: Path, ids: list[int], say: Say
) -> None:
    line = line_of(say)
    sums = path_of(service, root, ids[0]).parent / "SHA256SUMS"
    sums.unlink()
    os.mkfifo(sums)
    proof = run_cli(["verify", "--fingerprint", line, "-d", root], timeout=30)
    assert proof.returncode == 1
    assert f"{sums.relative_to(root)}: unreadable: " in proof.stdout


def test_what_came_since_and_is_damaged_disproves_nothing(
    service: SimulatedService, root: Path, say: Say
) -> None:
    first, second = list(service.recordings)[:2]
    run_here(service, root, [first])
    line = line_of(say)
    run_here(service, root, [second])
    later = path_of(service, root, second)
    later.unlink()
    for _ in range(2):  # also once the catalogue knows of it
        code, out, _ = say("verify", "--fingerprint", line)
        assert code == 1
        assert f"{later.relative_to(root)}: missing" in out
        assert "proven, 3 are here as they were." in out
    path_of(service, root, first).unlink()
    assert "NOT proven." in say("verify", "--fingerprint", line)[1]


def test_a_line_of_each_revision_is_proven_for_ever(
    service: SimulatedService, root: Path, say: Say
) -> None:
    """Also of two within a second, and of states that came and went."""
    lines = []
    for id_ in service.recordings:
        run_here(service, root, [id_])
        lines.append(line_of(say))
    note = next(root.rglob("SHA256SUMS"))
    note.write_text(f"# a note of the admin\n{note.read_text()}{'0' * 64}  elsewhere.txt\n")
    with Catalog(catalog_path(root)) as catalog:
        for (directory,) in catalog.rows("SELECT DISTINCT directory FROM recording"):
            with catalog.transaction() as db:
                db.execute("INSERT INTO stale_directory VALUES (?)", (directory,))
        write_checksums(catalog, root)
    lines.append(line_of(say))
    for id_ in list(service.recordings)[:3]:
        path_of(service, root, id_).unlink()
        change_video(service, id_)
        run_here(service, root, [id_])
        lines.append(line_of(say))
    assert len(set(lines)) == len(lines)
    for line in lines:
        assert proof_of(say, line)["problems"] == {}, line


def test_after_a_lost_catalogue_the_last_line_still_proves_everything(
    service: SimulatedService, root: Path, ids: list[int], say: Say
) -> None:
    line = line_of(say)
    shutil.rmtree(root / ".g2a-archive")
    (root / ".g2a-archive").mkdir()
    assert say("verify", "--rebuild")[0] == 0
    assert line_of(say).split()[2:] == line.split()[2:]
    assert proof_of(say, line)["problems"] == {}
    rewrite_file(path_of(service, root, ids[0]))
    assert say("verify", "--fingerprint", line)[0] == 1


def test_adopted_bit_by_bit_after_a_lost_catalogue(
    service: SimulatedService, root: Path, ids: list[int], say: Say
) -> None:
    """Lines that were in SHA256SUMS before the catalogue knew their files are of then, too."""
    shutil.rmtree(root / ".g2a-archive")
    lines = []
    for id_ in ids:
        assert run_here(service, root, [id_]).exit_code == 0
        lines.append(line_of(say))
    for line in lines:
        assert proof_of(say, line)["problems"] == {}, line
    gone = path_of(service, root, ids[2], "events")  # which lies beside those of the first
    gone.unlink()
    assert proof_of(say, lines[0])["problems"] == {str(gone.relative_to(root)): "missing"}


@pytest.mark.parametrize("gone", [False, True])
def test_what_is_only_known_from_sums_after_a_lost_catalogue(
    service: SimulatedService, root: Path, ids: list[int], say: Say, gone: bool
) -> None:
    shutil.rmtree(root / ".g2a-archive")
    assert run_here(service, root, ids[:1]).exit_code == 0
    line = line_of(say)
    beside = path_of(service, root, ids[2])
    name = str(beside.relative_to(root))
    assert f"{name}: unknown: " in (before := say("verify", "--fingerprint", line)[1])
    assert ": proven, " in before
    if gone:
        beside.unlink()
    else:
        rewrite_file(beside)
    out = say("verify", "--fingerprint", line)[1]
    assert f"{name}: {'missing' if gone else 'changed: not what was listed'}" in out.splitlines()
    assert "NOT proven" in out


def test_a_run_that_fails_between_sums_and_catalogue(
    service: SimulatedService, root: Path, ids: list[int], say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = line_of(say)
    with monkeypatch.context() as patch:
        patch.setattr(Catalog, "record_sums", _fail)
        assert run_here(service, root, ids).exit_code == 6
    code, out, err = say("status", "--fingerprint")
    assert (code, out.strip()) == (0, line)
    assert "more than this tells" in err
    assert proof_of(say, line)["problems"] == {}
    assert run_here(service, root, ids).exit_code == 0
    for one in (line, line_of(say)):
        assert proof_of(say, one)["problems"] == {}


def _fail(*_: object) -> None:
    from g2a_archive.errors import CatalogError

    raise CatalogError("killed here")


def test_a_directory_whose_sums_could_not_be_written_is_of_the_next_revision(
    service: SimulatedService, root: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: dict[str, list[int]] = {}
    for id_ in service.recordings:
        folder = str(path_of(service, root, id_).parent.relative_to(root))
        folders.setdefault(folder, []).append(id_)
    here = next(folder for folder, its in folders.items() if len(its) > 1)
    assert run_here(service, root, folders[here][:1]).exit_code == 0
    lines = [line_of(say)]
    real = revisions.record

    def without(db: sqlite3.Connection, sums: list[revisions.DirectorySums], now: str) -> None:
        real(db, [one for one in sums if one.directory != here], now)

    with monkeypatch.context() as patch:
        patch.setattr(revisions, "record", without)
        run_here(service, root, service.recordings)
    lines.append(line_of(say))
    assert run_here(service, root, service.recordings).exit_code == 0
    lines.append(line_of(say))
    assert len(set(lines)) == 3
    for one in lines:
        assert proof_of(say, one)["problems"] == {}, one


def test_one_kind_more_of_a_recording(service: SimulatedService, root: Path, say: Say) -> None:
    id_ = next(iter(service.recordings))
    service.fail_files(faults.status(404), "thumbnail")
    run_here(service, root, [id_], retries=0)
    line = line_of(say)
    service.on_request.clear()
    assert run_here(service, root, [id_]).exit_code == 0
    proof = proof_of(say, line)
    assert (proof["files"], proof["later"], proof["problems"]) == (2, 1, {})
    assert {*FileKind} == {row[0] for row in catalog_rows(root, "SELECT kind FROM file")}
