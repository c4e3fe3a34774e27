"""What a bag holds: every byte as archived, a table, pages, and manifests that others accept."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from zoneinfo import ZoneInfo

import bagit as reference
import pytest
from support import (  # fmt: skip
    LONG,
    archive_files,
    archives,
    assert_archive_equals,
    catalog_rows,
    cli_here,
    is_right,
    relative_path,
    states,
)
from support.sync import change

from g2a_archive import __version__
from g2a_archive.archive.disk.lock import RunLock
from g2a_archive.curation import bagit
from g2a_archive.curation.bag import _contact
from g2a_archive.demo import SimulatedService
from g2a_archive.demo.recordings import KINDS

original = archives.original
archive = archives.archive
service = archives.service


def bag(archive: Path, *args: object, code: int = 0, stdin: str | None = None) -> str:
    """Run `bag` on an archive, beside it; what it printed."""
    line = ["bag", "--dest", str(archive), *map(str, args)]
    result = cli_here(line, cwd=archive.parent, input=stdin or "")
    assert result.returncode == code, result.stderr
    return result.stdout


def is_valid(top: Path) -> bool:
    """What the Library of Congress' own library says of a bag."""
    return bool(reference.Bag(str(top)).is_valid())


def assert_payload(service: SimulatedService, data: Path, ids: Sequence[int]) -> None:
    """These recordings are below `data/`, byte for byte, and no others."""
    found = {name for name in archive_files(data) if name.split("/")[0].isdigit()}
    expected = {}
    for id_ in ids:
        recording = service.recordings[id_]
        for kind in KINDS:
            if recording.size(kind) is not None:
                expected[relative_path(recording, kind)] = (recording, kind)
    assert found == set(expected)
    for name, (recording, kind) in expected.items():
        assert is_right(recording, kind, data / name), name


def test_the_library_of_congress_accepts_it(service: SimulatedService, archive: Path) -> None:
    ids = list(service.recordings)[2:6]
    bag(archive, "case", *ids)
    top = archive.parent / "case"
    line = [sys.executable, "-m", "bagit", "--validate", "--quiet", str(top)]
    assert subprocess.run(line, capture_output=True, check=False, timeout=60).returncode == 0
    assert is_valid(top)
    assert_payload(service, top / "data", ids)
    assert_archive_equals(service, archive)
    assert sorted(path.name for path in archive.parent.iterdir()) == ["archive", "case"]
    # It is the contents that are looked at, not the form alone.
    mp4 = next((top / "data").glob("2*/*/*/*.mp4"))
    mp4.write_bytes(mp4.read_bytes()[:-1] + b"?")
    assert not is_valid(top)


def test_as_one_file_it_is_the_same(service: SimulatedService, archive: Path) -> None:
    ids = list(service.recordings)[:3]
    said = json.loads(bag(archive, "case", "--zip", "--json", *ids))
    file = archive.parent / "case.zip"
    assert said["bag"] == str(file)
    with zipfile.ZipFile(file) as packed:
        assert {name.split("/")[0] for name in packed.namelist()} == {"case"}
        stored = {i.filename for i in packed.infolist() if i.compress_type == zipfile.ZIP_STORED}
        assert len([name for name in stored if name.endswith(".mp4")]) == 3
        assert not any(name.endswith((".html", ".csv", ".txt")) for name in stored)
        assert packed.testzip() is None
        packed.extractall(archive.parent / "out")
    top = archive.parent / "out" / "case"
    assert is_valid(top)
    assert_payload(service, top / "data", ids)


def test_what_is_said_of_it(service: SimulatedService, archive: Path) -> None:
    ids = sorted(service.recordings)[:3]
    report = json.loads(bag(archive, "case", "--contact", "Jörg Müller", "--json", *ids))
    top = archive.parent / "case"
    info = dict(line.split(": ", 1) for line in (top / "bag-info.txt").read_text().splitlines())
    payload = [path for path in (top / "data").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in payload)
    assert info["Payload-Oxum"] == f"{size}.{len(payload)}"
    assert (report["payload_bytes"], report["payload_files"]) == (size, len(payload))
    assert info["Contact-Name"] == "Jörg Müller"
    line = cli_here(["status", "--fingerprint", "--dest", archive]).stdout.strip()
    assert info["Source-Fingerprint"] == line
    assert info["Internal-Sender-Identifier"].endswith(f":{archive}")
    assert info["Bag-Software-Agent"] == f"g2a-archive {__version__}"
    assert (top / "bagit.txt").read_text() == (
        "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
    )
    rows = list(csv.DictReader(io.StringIO((top / "data" / "recordings.csv").read_text())))
    assert [int(row["id"]) for row in rows] == ids
    sums = {line[66:]: line[:64] for line in (top / "manifest-sha256.txt").read_text().splitlines()}
    known = dict(catalog_rows(archive, "SELECT id, start_time FROM recording"))
    for row in rows:
        assert row["start_time"] == known[int(row["id"])]
        assert row["archived_at"]
        assert sums[f"data/{row['mp4_path']}"] == row["mp4_sha256"]
    assert report["recordings"] == 3
    assert report["exit_code"] == 0


def test_files_keep_their_times_and_pages_have_the_clock_that_is_asked_for(
    service: SimulatedService, archive: Path
) -> None:
    id_, recording = next(iter(service.recordings.items()))
    name = relative_path(recording, "events")
    os.utime(archive / name, (1e9, 1e9))
    bag(archive, "case", "--timezone", "Asia/Tokyo", id_)
    data = archive.parent / "case" / "data"
    assert (data / name).stat().st_mtime == 1e9
    assert "Times are in Asia/Tokyo." in (data / "index.html").read_text()
    clock = recording.start.astimezone(ZoneInfo("Asia/Tokyo")).strftime("%H:%M:%S</time>")
    assert any(clock in page.read_text() for page in (data / "browse").glob("*.html"))


def test_it_needs_nobody_s_program_to_be_proved(archive: Path, service: SimulatedService) -> None:
    bag(archive, "case", *service.recordings)
    for name in ("manifest-sha256.txt", "tagmanifest-sha256.txt"):
        subprocess.run(
            ["sha256sum", "--strict", "--quiet", "-c", name],
            cwd=archive.parent / "case",
            check=True,
        )


def test_an_empty_directory_will_do_and_a_run_may_go_on_meanwhile(
    archive: Path, service: SimulatedService
) -> None:
    (archive.parent / "case").mkdir()
    lock = RunLock(archive / ".g2a-archive" / "lock")
    lock.acquire()
    try:
        bag(archive, "case", *service.recordings)
    finally:
        lock.release()
    assert is_valid(archive.parent / "case")


@pytest.mark.parametrize(
    ("name", "shown"), [("caf\udce9", r"caf\udce9"), ("a\nb\r: c", r"a\nb\r: c")]
)
def test_an_archive_whose_path_is_no_line_of_text(
    name: str, shown: str, archive: Path, service: SimulatedService
) -> None:
    archive = archive.rename(archive.with_name(name))
    id_ = next(iter(service.recordings))
    bag(archive, "case", id_)
    assert is_valid(archive.parent / "case")
    assert shown in (archive.parent / "case" / "bag-info.txt").read_text()


def test_chosen_by_time(archive: Path, service: SimulatedService) -> None:
    starts = {id_: recording.start for id_, recording in service.recordings.items()}
    middle = sorted(starts.values())[4].strftime("%Y-%m-%dT%H:%M:%S%z")
    bag(archive, "early", "--until", middle)
    bag(archive, "late", "--since", middle)
    early = [id_ for id_, start in starts.items() if start < sorted(starts.values())[4]]
    assert_payload(service, archive.parent / "early" / "data", early)
    late = [id_ for id_ in starts if id_ not in early]
    assert_payload(service, archive.parent / "late" / "data", late)
    # Of the IDs that are named, those of the time.
    bag(archive, "both", "--since", middle, late[0], early[0])
    assert_payload(service, archive.parent / "both" / "data", late[:1])


def test_without_start_times_the_directories_tell(archive: Path, service: SimulatedService) -> None:
    (archive / ".g2a-archive" / "catalog.sqlite3").unlink()
    assert cli_here(["verify", "--rebuild", "--dest", archive]).returncode == 0
    days = {id_: f"{one.start:%Y-%m-%d}" for id_, one in service.recordings.items()}
    last = max(days.values())
    bag(archive, "late", "--since", last)
    ids = [id_ for id_, day in days.items() if day == last]
    assert_payload(service, archive.parent / "late" / "data", ids)


@pytest.mark.parametrize("named", [False, True])
def test_of_whom_nobody_knows_when_they_started_is_said(
    archive: Path, service: SimulatedService, named: bool
) -> None:
    """As after a catalogue was lost, in a layout without days."""
    undated, *others = service.recordings
    sql = "UPDATE recording SET start_time = NULL, directory = '2014' WHERE id = ?"
    change(archive, sql, undated)
    ids = service.recordings if named else ()
    report = json.loads(bag(archive, "case", *ids, "--since", "2000-01-01", "--json", code=3))
    assert report["left_out"] == [str(undated)]
    assert_payload(service, archive.parent / "case" / "data", others)
    assert json.loads(bag(archive, "all", *service.recordings, "--json"))["left_out"] == []


def test_what_is_owed_of_that_time_is_said(archive: Path, service: SimulatedService) -> None:
    id_ = next(iter(service.recordings))
    next(archive.rglob(f"{id_}.mp4")).unlink()
    assert cli_here(["verify", "--dest", archive]).returncode == 1
    assert states(archive)[id_] == "damaged"
    report = json.loads(bag(archive, "case", "--since", "2000-01-01", "--json", code=3))
    assert report["left_out"] == [str(id_)]
    others = [one for one in service.recordings if one != id_]
    assert_payload(service, archive.parent / "case" / "data", others)
    assert is_valid(archive.parent / "case")


def test_ids_from_standard_input_and_none_at_all(archive: Path, service: SimulatedService) -> None:
    ids = list(service.recordings)[:2]
    bag(archive, "case", "-f", "-", stdin="".join(f"{id_}  # a note\n" for id_ in ids))
    assert_payload(service, archive.parent / "case" / "data", ids)
    said = bag(archive, "other", "-f", "-", stdin="# none tonight\n")
    assert "no bag was made" in said
    assert bag(archive, "other", "--until", "2000-01-01", "-q") == ""
    assert not (archive.parent / "other").exists()


def test_a_large_file_in_a_zip(
    service: SimulatedService, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond 4 GiB a ZIP needs other fields; here the limit is lower."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10_000)
    container = bagit.Zip(archive.parent / "case.zip", "case")
    writer = bagit.BagWriter(container, archive.parent)
    content = bytes(range(256)) * 100
    writer.payload("large.mp4", [content], len(content), 0.0)
    writer.finish({})
    monkeypatch.undo()
    with zipfile.ZipFile(archive.parent / "case.zip") as packed:
        info = packed.getinfo("case/data/large.mp4")
        assert packed.read(info) == content
        assert info.extract_version == 45
        assert info.date_time[0] == 1980


@pytest.mark.skipif(not LONG, reason="five gigabytes take a minute: set G2A_LONG_TESTS=1")
def test_five_gigabytes_in_a_zip(tmp_path: Path) -> None:
    writer = bagit.BagWriter(bagit.Zip(tmp_path / "case.zip", "case"), tmp_path)
    piece, count = bytes(1 << 24), 320
    size = len(piece) * count
    writer.payload("l.mp4", (piece for _ in range(count)), size)
    writer.finish({})
    subprocess.run([sys.executable, "-m", "zipfile", "-t", tmp_path / "case.zip"], check=True)


@pytest.mark.parametrize(
    ("text", "name", "address"),
    [
        ("Jane Doe", "Jane Doe", None),
        ("Jane Doe <jane@example.org>", "Jane Doe", "jane@example.org"),
        ("jane@example.org", None, "jane@example.org"),
        ("Records, 2nd floor", "Records, 2nd floor", None),
        ("<nobody>", "<nobody>", None),
    ],
)
def test_who_answers_for_it(text: str, name: str | None, address: str | None) -> None:
    expected = {"Contact-Name": name, "Contact-Email": address}
    assert _contact(text) == {label: value for label, value in expected.items() if value}


@pytest.mark.parametrize(
    ("path", "written"),
    [("2014/05/06/7.mp4", "2014/05/06/7.mp4"), ("100%/7", "100%25/7"), ("a\nb\rc", "a%0Ab%0Dc")],
)
def test_names_in_a_manifest(tmp_path: Path, path: str, written: str) -> None:
    """RFC 8493, 2.1.3: CR, LF and % are encoded, and nothing else."""
    writer = bagit.BagWriter(bagit.Folder(tmp_path / "bag"), tmp_path)
    writer.payload(path, [b"x"], 1)
    writer.finish({})
    line = (tmp_path / "bag" / "manifest-sha256.txt").read_text()
    assert (
        line
        == f"2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881  data/{written}\n"
    )


def test_a_hundred_recordings_more_than_one_look_at_the_catalogue_takes(
    archive: Path, service: SimulatedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = archive
    monkeypatch.setattr("g2a_archive.archive.database.inventory._PAGE", 5)
    monkeypatch.setattr("g2a_archive.curation.selection._PAGE", 3)
    from g2a_archive.archive.database.catalog import Catalog
    from g2a_archive.curation.bag import Bagging, bag_target
    from g2a_archive.curation.selection import choose_time

    with Catalog(root / ".g2a-archive" / "catalog.sqlite3", readonly=True) as catalog:
        choice = choose_time(catalog, 0, None)
        where = bag_target(str(root.parent / "case"), root, zipped=False)
        Bagging(archive=root, catalog=catalog, choice=choice).make(where)
    assert_payload(service, root.parent / "case" / "data", list(service.recordings))
    assert is_valid(root.parent / "case")
