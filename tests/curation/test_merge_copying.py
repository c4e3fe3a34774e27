"""A merge where no links can be had: copies, flushed whole, and disks that refuse some of them."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from support import archive_files, assert_archive_equals, run_cli, run_here, states
from support.merging import assert_proven, merge_args, merge_here
from support.odd_drive import Fault, playing
from support.service import Serve

from g2a_archive.demo import SimulatedService

NO_LINKS = "import os\ndef link(*_, **__): raise PermissionError(1, 'no links')\nos.link = link"


@pytest.fixture
def service(serve: Serve) -> SimulatedService:
    return serve(5, rate_limit=None)


@pytest.fixture
def source(service: SimulatedService, tmp_path: Path) -> Path:
    run_here(service, tmp_path / "source", service.recordings)
    return tmp_path / "source"


def test_a_copy_is_whole_as_it_is_flushed_and_keeps_its_time(
    source: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in archive_files(source).values():
        os.utime(path, (1e9, 1e9))
    flushed: list[int] = []
    fsync = os.fsync

    def seen(fd: int) -> None:
        if (status := os.fstat(fd)).st_mtime == 1e9:
            flushed.append(status.st_size)
        fsync(fd)

    def no_link(*_: object, **__: object) -> None:
        raise PermissionError(1, "no links")

    monkeypatch.setattr(os, "fsync", seen)
    monkeypatch.setattr(os, "link", no_link)
    assert merge_here(root, [source]).copied == 15
    sizes = (path.stat().st_size for path in archive_files(root).values())
    assert sorted(flushed) == sorted(sizes)


@pytest.mark.parametrize(
    ("call", "pattern", "code", "what"),
    [
        ("write", "*/{id}.mp4.merge", errno.EFBIG, "{id}.mp4.merge: File too large"),
        ("mkdir", "{place}", errno.EACCES, "cannot make the directory"),
    ],
)
def test_what_this_disk_refuses_keeps_no_other_out(
    call: str,
    pattern: str,
    code: int,
    what: str,
    service: SimulatedService,
    source: Path,
    root: Path,
) -> None:
    name = next(name for name in archive_files(source) if name.endswith(".mp4"))
    id_, place = int(Path(name).stem), str((root / name).parent)
    env = playing([Fault(call, pattern.format(id=id_, place=place), code)])
    result = run_cli(merge_args(root, [source]), env, before=NO_LINKS)
    report = json.loads(result.stdout)
    assert (result.returncode, report["exit_code"]) == (1, 1)
    refused = (
        {id_} if call == "write" else {int(p.stem) for p in (source / name).parent.glob("*.mp4")}
    )
    assert {one["id"] for one in report["failed"]} == refused
    assert all(what.format(id=id_) in one["reason"] for one in report["failed"])
    assert set(states(root)) == set(service.recordings) - refused
    assert merge_here(root, [source]).exit_code == 0
    assert_archive_equals(service, root)
    assert_proven(root)
