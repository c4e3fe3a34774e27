"""`merge`: other archives come into one, whole, once each, and stay as they are unless moved."""

from __future__ import annotations

import hashlib
import os
import subprocess
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from support import (
    archive_files,
    assert_archive_equals,
    catalog_path,
    catalog_rows,
    cli_here,
    leftovers,
    merging,
    report_of,
    run_cli,
    run_here,
    states,
)
from support.merging import (
    MERGE_KEYS,
    assert_proven,
    change,
    content,
    copies,
    merge_args,
    merge_here,
)
from support.mounts import bind, tmpfs
from support.service import Serve

from g2a_archive.curation import merge_files, merge_work
from g2a_archive.demo import SimulatedService, sample_recordings
from g2a_archive.download.stopping import StopSwitch
from g2a_archive.errors import ExitCode
from g2a_archive.models import FileKind, Shard

shard_originals = merging.shard_originals
service = merging.service
parts = merging.parts


@pytest.fixture(scope="session")
def whole_original(
    shard_originals: tuple[SimulatedService, list[Path]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """All recordings in one archive, made once."""
    root = tmp_path_factory.mktemp("whole") / "source"
    assert run_here(shard_originals[0], root, shard_originals[0].recordings).exit_code == 0
    return root


@pytest.fixture
def source(whole_original: Path, tmp_path: Path) -> Path:
    """A copy of it for one test."""
    [copied] = copies([whole_original], tmp_path)
    return copied


# --- what comes ---------------------------------------------------------------------------------


def test_three_shards_become_one_archive(
    service: SimulatedService, parts: list[Path], root: Path
) -> None:
    before = [content(part) for part in parts]
    report = report_of(run_cli(merge_args(root, parts)))
    assert list(report) == MERGE_KEYS
    assert report["exit_code"] == 0
    assert report["recordings"] == report["merged"] == report["archived"] == 5
    assert report["files"] == report["linked"] == len(archive_files(root))
    assert report["bytes"] == sum(path.stat().st_size for path in archive_files(root).values())
    assert_archive_equals(service, root)
    assert [content(part) for part in parts] == before
    for name, path in archive_files(root).items():
        assert any(os.path.samefile(path, part / name) for part in parts if (part / name).exists())
    assert_proven(root)
    # Once more, nothing is new.
    whole = content(root)
    again = merge_here(root, parts)
    assert (again.exit_code, again.merged, again.files, again.alike) == (0, 0, 0, 5)
    assert content(root).keys() == whole.keys()
    assert [content(part) for part in parts] == before


def test_a_download_afterwards_fetches_nothing(
    service: SimulatedService, parts: list[Path], root: Path
) -> None:
    merge_here(root, parts)
    service.requests.clear()
    report = run_here(service, root, service.recordings)
    assert report.already_archived == 5
    assert service.requests.count == 0


def test_move_empties_the_sources(service: SimulatedService, parts: list[Path], root: Path) -> None:
    """What they held is told to whoever kept their fingerprints."""
    lines = {
        part: cli_here(["status", "--fingerprint", "--dest", part]).stdout.strip() for part in parts
    }
    report = merge_here(root, parts, move=True)
    assert (report.exit_code, report.moved) == (0, 5)
    assert_archive_equals(service, root)
    assert_proven(root)
    for part in parts:
        assert {path.name for path in part.iterdir()} == {".g2a-archive"}
        assert states(part) == {}
        assert_proven(part, "--fingerprint", lines[part])
    assert all(path.stat().st_nlink == 1 for path in archive_files(root).values())


def test_asked_to_stop_a_source_claims_nothing_that_was_taken_out(
    service: SimulatedService,
    source: Path,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both have the same as files of their own, which are read before one of them goes."""
    merge_here(root, copies([source], tmp_path / "other"))
    switch = StopSwitch()
    remove_files = merge_files.remove_files

    def stopping(paths: list[str]) -> None:
        remove_files(paths)
        switch.stop(ExitCode.SIGTERM)

    monkeypatch.setattr(merge_work, "remove_files", stopping)
    report = merge_here(root, [source], move=True, switch=switch)
    assert (report.exit_code, report.moved) == (143, 1)
    assert len(states(source)) == 4
    assert_proven(source)
    monkeypatch.undo()
    assert merge_here(root, [source], move=True).moved == 4
    assert_archive_equals(service, root)


def test_pages_of_a_source_name_nothing_that_was_moved(parts: list[Path], root: Path) -> None:
    part, id_ = parts[0], str(next(iter(states(parts[0]))))
    assert cli_here(["browse", "--dest", part]).returncode == 0
    assert any(id_ in page.read_text() for page in part.glob("browse/*.html"))
    assert merge_here(root, [part], move=True).exit_code == 0
    assert not any(id_ in page.read_text() for page in part.glob("browse/*.html"))


def test_into_an_archive_that_has_some_already(
    service: SimulatedService, parts: list[Path], root: Path
) -> None:
    ids = list(service.recordings)
    run_here(service, root, ids[:3])
    kept = {name: path.stat().st_ino for name, path in archive_files(root).items()}
    report = merge_here(root, parts, move=True)
    assert (report.merged, report.alike, report.moved) == (2, 3, 5)
    assert_archive_equals(service, root)
    assert kept.items() <= {n: p.stat().st_ino for n, p in archive_files(root).items()}.items()
    assert not any(archive_files(part) for part in parts)


def test_other_layouts_and_catalogues_on_either_side(
    service: SimulatedService, tmp_path: Path, root: Path
) -> None:
    source, source_catalog = tmp_path / "source", tmp_path / "source.sqlite3"
    there = str(source_catalog)
    run_here(service, source, service.recordings, layout="%Y", timezone="Asia/Tokyo", catalog=there)
    catalog = tmp_path / "elsewhere" / "target.sqlite3"
    report = merge_here(root, [f"{source}={source_catalog}"], layout="%Y-%m", catalog=str(catalog))
    assert (report.exit_code, report.archived) == (0, 5)
    assert not catalog_path(root).exists()
    expected = {
        f"{recording.start:%Y-%m}/{id_}.mp4" for id_, recording in service.recordings.items()
    }
    assert {name for name in archive_files(root) if name.endswith(".mp4")} == expected
    assert_proven(root, "--catalog", catalog)


def test_what_comes_later_joins_the_recording_where_it_is(
    service: SimulatedService, source: Path, root: Path
) -> None:
    run_here(service, root, service.recordings, kinds=(FileKind.MP4,), layout="%Y")
    report = merge_here(root, [source])
    assert (report.exit_code, report.merged) == (0, 5)
    assert {Path(name).parent.name for name in archive_files(root)} == {
        f"{recording.start:%Y}" for recording in service.recordings.values()
    }
    assert len(archive_files(root)) == len(archive_files(source))
    assert_proven(root)


def test_from_another_file_system_copies_are_verified(
    service: SimulatedService, whole_original: Path, tmp_path: Path, root: Path
) -> None:
    with tmpfs(tmp_path / "disk", "20M") as disk:
        [source] = copies([whole_original], disk)
        cli_here(["verify", "--dest", source])
        bad = next(name for name in archive_files(source) if name.endswith(".mp4"))
        right = (source / bad).read_bytes()
        (source / bad).write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
        report = merge_here(root, [source], move=True)
        assert report.exit_code == 1
        assert catalog_rows(root, "SELECT DISTINCT checked_at FROM file") == [(None,)]
        assert [(one.file, one.reason) for one in report.failed] == [
            ("mp4", "changed: not what was archived")
        ]
        assert report.copied == report.files == len(archive_files(root))
        assert leftovers(root) == []
        id_ = next(iter(report.failed)).id
        assert states(root)[id_] == "damaged"
        assert list(states(source)) == [id_]  # it stays there, with all of its files
        # Once it is right again, the next merge ends the job.
        (source / bad).write_bytes(right)
        assert merge_here(root, [source], move=True).exit_code == 0
        assert states(source) == {}
    assert_archive_equals(service, root)
    assert_proven(root)


# --- what does not come -------------------------------------------------------------------------


@pytest.mark.parametrize("move", [False, True])
def test_what_has_come_to_a_disk_that_fills_up_is_recorded(
    move: bool, serve: Serve, tmp_path: Path
) -> None:
    """On each night some more of it, once there is room for that."""
    service = serve(
        [replace(one, mp4_size=300_000) for one in sample_recordings(20)], rate_limit=None
    )
    source = tmp_path / "source"
    assert run_here(service, source, service.recordings).exit_code == 0
    with tmpfs(tmp_path / "disk", "4m") as disk:
        root = disk / "archive"
        for size, least in (("4m", 4), ("6m", 10)):
            subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)
            report = merge_here(root, [source], move=move)
            assert report.exit_code == 6
            assert [text for text in report.abort_messages if "not enough space" in text]
            here = states(root)
            assert least <= len(here) < 20
            assert len(states(source)) == (20 - len(here) if move else 20)
            listed = "".join(path.read_text() for path in root.rglob("SHA256SUMS"))
            assert all(f"  {id_}.mp4\n" in listed for id_ in here)
        subprocess.run(["mount", "-o", "remount,size=40m", disk], check=True)
        assert merge_here(root, [source], move=move).exit_code == 0
        assert_archive_equals(service, root)
        assert_proven(root)


def test_contradictions_are_named_and_both_are_left(
    service: SimulatedService, source: Path, root: Path
) -> None:
    ids = list(service.recordings)
    run_here(service, root, ids[:4])
    id_ = ids[2]
    [(path,)] = catalog_rows(source, "SELECT path FROM file WHERE recording=? AND kind='mp4'", id_)
    (source / path).write_bytes(b"\0\0\0\x14ftypisom" + b"other" * 2)
    sql = "UPDATE file SET size = 22, sha256 = ? WHERE recording = ? AND kind = 'mp4'"
    change(source, sql, hashlib.sha256((source / path).read_bytes()).hexdigest(), id_)
    here, there = (root / path).read_bytes(), (source / path).read_bytes()
    for move in (False, True):
        report = merge_here(root, [source], move=move)
        assert report.exit_code == 1
        assert [(one.id, one.file) for one in report.contradictions] == [(id_, "mp4")]
        assert ((root / path).read_bytes(), (source / path).read_bytes()) == (here, there)
    assert list(states(source)) == [id_]
    assert len(archive_files(source)) == 3
    assert_proven(root)


def test_a_file_that_stands_in_the_way(service: SimulatedService, source: Path, root: Path) -> None:
    """One that no catalogue knows: as it should be it is taken as it is, another one stays."""
    ids = list(service.recordings)
    names = sorted(name for name in archive_files(source) if name.endswith(".mp4"))
    for name, text in ((names[0], (source / names[0]).read_bytes()), (names[1], b"other")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text)
    report = merge_here(root, [source], move=True)
    assert report.exit_code == 1
    [told] = report.contradictions
    assert told.reason == "another file stands in its place here"
    assert (root / names[1]).read_bytes() == b"other"
    assert set(states(root)) == set(ids) - {told.id}
    assert list(states(source)) == [told.id]
    assert not (source / names[0]).exists()
    assert report.linked == report.files - 1


def test_an_empty_file_in_the_way_is_kept_aside(
    service: SimulatedService, source: Path, root: Path
) -> None:
    """On FAT, a power cut leaves one of what a merge had just named: the next one ends the job."""
    names = sorted(archive_files(source))[:4]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    report = merge_here(root, [source], move=True)
    assert (report.exit_code, archive_files(source)) == (0, {})
    assert sorted(report.kept_aside) == [f"{name}.kept-1" for name in names]
    for name in report.kept_aside:
        assert (root / name).read_bytes() == b""
        (root / name).unlink()
    assert_archive_equals(service, root)
    assert_proven(root)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(b"short"), "changed: 5 bytes instead of {size:,}"),
        (lambda path: (path.unlink(), path.mkdir()), "unreadable: not a plain file"),
        (
            lambda path: (path.unlink(), path.symlink_to("/etc/passwd")),
            "unreadable: not a plain file",
        ),
    ],
    ids=["missing", "short", "directory", "link"],
)
def test_a_source_s_damage_is_named_and_owed(
    harm: object, reason: str, service: SimulatedService, parts: list[Path], root: Path
) -> None:
    assert callable(harm)
    name, path = next((n, p) for n, p in archive_files(parts[0]).items() if n.endswith(".mp4"))
    size = path.stat().st_size
    harm(path)
    report = merge_here(root, parts)
    assert report.exit_code == 1
    [told] = report.failed
    assert (told.file, told.reason) == ("mp4", reason.format(size=size))
    assert told.archive == str(parts[0])
    assert states(root)[told.id] == "damaged"
    assert name not in archive_files(root)
    # It is owed, and all else is here.
    assert run_here(service, root, [], owed=True).archived == 1
    assert_archive_equals(service, root)


def test_damage_that_the_source_knows(
    service: SimulatedService, parts: list[Path], root: Path
) -> None:
    _, path = next((n, p) for n, p in archive_files(parts[0]).items() if n.endswith(".events"))
    path.write_bytes(b"x")
    assert cli_here(["verify", "--dest", parts[0]]).returncode == 1
    report = merge_here(root, parts, move=True)
    [told] = report.failed
    assert told.file == "events"
    assert states(root)[told.id] == "damaged"
    assert list(states(parts[0])) == [told.id]
    assert run_here(service, root, [], owed=True).archived == 1
    assert_archive_equals(service, root)
    # What is whole here needs the broken one no more.
    assert merge_here(root, parts, move=True).exit_code == 0
    assert archive_files(parts[0]) == {}


def test_what_is_broken_here_is_mended(
    service: SimulatedService, parts: list[Path], root: Path
) -> None:
    merge_here(root, parts)
    name, path = next((n, p) for n, p in archive_files(root).items() if n.endswith(".mp4"))
    path.unlink()
    path.write_bytes(b"broken")
    assert cli_here(["verify", "--dest", root]).returncode == 1
    report = merge_here(root, parts)
    assert (report.exit_code, report.merged, report.alike) == (0, 1, 4)
    assert report.kept_aside == [f"{name}.kept-1"]
    assert (root / f"{name}.kept-1").read_bytes() == b"broken"
    (root / f"{name}.kept-1").unlink()
    assert_archive_equals(service, root)


def test_nothing_leaves_a_source_before_it_is_proven_to_be_here(
    service: SimulatedService, parts: list[Path], root: Path
) -> None:
    """The catalogue here says that it has them; the disk says something else."""
    merge_here(root, parts)
    gone, other, *_ = sorted(name for name in archive_files(root) if name.endswith(".mp4"))
    (root / gone).unlink()
    text = (root / other).read_bytes()
    (root / other).unlink()
    (root / other).write_bytes(text[:-1] + bytes([text[-1] ^ 1]))
    report = merge_here(root, parts, move=True)
    assert report.exit_code == 1
    assert {one.reason for one in report.failed} == {
        "this archive's own file is missing or changed: run verify"
    }
    told = {one.id for one in report.failed}
    assert told == {int(Path(name).stem) for name in (gone, other)}
    assert {id_ for part in parts for id_ in states(part)} == told
    for name in (gone, other):
        assert any((part / name).exists() for part in parts)
    # Once `verify` has seen it, what is missing comes from there.
    assert cli_here(["verify", "--dest", root]).returncode == 1
    assert merge_here(root, parts, move=True).exit_code == 0
    for path in root.rglob("*.kept-*"):
        path.unlink()
    assert_archive_equals(service, root)


@pytest.mark.parametrize("shared", ["a link here", "a link there", "a mount"])
def test_what_lies_in_a_directory_of_both_is_not_taken_out(
    shared: str, service: SimulatedService, parts: list[Path], root: Path
) -> None:
    """A year here leads into the source, or one of there into this archive: it is one file."""
    source = parts[0]
    (year, *_) = (path for path in source.iterdir() if path.name.isdigit())
    there = {int(path.stem) for path in year.rglob("*.mp4")}
    with ExitStack() as stack:
        root.mkdir()
        if shared == "a link here":
            (root / year.name).symlink_to(year)
        elif shared == "a link there":
            year.rename(root / year.name)
            year.symlink_to(root / year.name)
        else:
            stack.enter_context(bind(year, root / year.name))
        for _ in range(2):
            report = merge_here(root, [source], move=True)
            assert report.exit_code == 1
            assert {one.id for one in report.failed} == there == set(states(source))
            assert "this archive's own file" in report.failed[0].reason
            assert_proven(root)
            assert_proven(source)
        assert set(states(root)) == set(Shard(1, 3).select(service.recordings))
