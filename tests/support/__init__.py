"""What the tests of whole runs share: starting them, and proving what they left behind."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, chdir, closing, contextmanager
from copy import copy
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import g2a_archive
from g2a_archive.cli import main
from g2a_archive.console.progress import Display
from g2a_archive.console.report import Report
from g2a_archive.demo import SimulatedRecording, SimulatedService, expected_bytes
from g2a_archive.demo.recordings import KINDS, SUFFIXES, Kind
from g2a_archive.download.run import Download
from g2a_archive.download.stopping import StopSwitch
from g2a_archive.models import RunSettings
from g2a_archive.service import pace
from support import forked, scratch
from support.fork_server import LONGEST_WAIT
from support.forked import command as command  # for those who start it by themselves

LONG = os.environ.get("G2A_LONG_TESTS") == "1"
"""Whether the tests that take minutes are wanted at their full length."""

PATIENCE = 60.0
"""Seconds after which a process counts as hung."""

IMPATIENT = """
from g2a_archive.cli import main, run
from g2a_archive.console import outlet

def soon(seconds, code, end_after=main.end_after):
    return end_after(seconds / 10, code)

main.end_after, outlet.PATIENCE, run.PATIENCE = soon, 0.4, 0.4
"""
"""`before` of a process that is to wait less for whoever reads from it."""

JSON_KEYS = {
    "started_at": str,
    "finished_at": str,
    "exit_code": int,
    "requested": int,
    "already_archived": int,
    "archived": int,
    "unavailable": list,
    "refused": list,
    "removed": list,
    "failed": list,
    "files": int,
    "bytes": int,
    "seconds": float,
    "fingerprint": str,
}
"""The keys of the JSON report, in their order, and their types."""

_KEPT = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "COVERAGE_PROCESS_START", "COVERAGE_FILE")


# --- starting the program --------------------------------------------------------------------


@cache
def empty_home() -> Path:
    """A home directory without any configuration, the same one in the whole test process."""
    return scratch.directory("home")


def clean_environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """An environment in which nothing of this machine is configured, and `env` on top."""
    home = str(empty_home())
    values = {name: os.environ[name] for name in _KEPT if name in os.environ}
    values |= {"HOME": home, "XDG_CONFIG_HOME": home, "PYTHONWARNINGS": "error"}
    values["PYTHONPATH"] = str(Path(g2a_archive.__file__).parent.parent)
    return {**values, **(env or {})}


def run_cli(
    args: Sequence[str | int | Path],
    env: Mapping[str, str] | None = None,
    input: str | None = None,  # noqa: A002 - as subprocess calls it
    *,
    timeout: float = PATIENCE,
    **more: Any,
) -> subprocess.CompletedProcess[str]:
    """Run the real program in a process of its own, with nothing configured but `env`."""
    more.setdefault("stdout", subprocess.PIPE)
    more.setdefault("stderr", subprocess.PIPE)
    if input is None:
        more.setdefault("stdin", subprocess.DEVNULL)
    else:
        more["stdin"] = subprocess.PIPE
    with forked.start(
        list(map(str, args)), clean_environment(env), clean_environment(), **more
    ) as process:
        try:
            out, err = process.communicate(input, timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@contextmanager
def start_cli(
    args: Sequence[str | int | Path], env: Mapping[str, str] | None = None, **more: Any
) -> Iterator[subprocess.Popen[str]]:
    """Start the real program and let the test go on beside it; it is gone after the block."""
    more.setdefault("stdout", subprocess.PIPE)
    more.setdefault("stderr", subprocess.PIPE)
    more.setdefault("stdin", subprocess.DEVNULL)
    with forked.start(
        list(map(str, args)), clean_environment(env), clean_environment(), **more
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)


def download_args(root: Path, *more: str | int | Path) -> list[str | int | Path]:
    """`download` into `root` with a JSON report, and `more`."""
    return [*plain_args(root), "--json", *more]


def plain_args(root: Path, *more: str | int | Path) -> list[str | int | Path]:
    """`download` into `root`, and `more`."""
    return ["download", "--dest", root, "--min-free", "0", *more]


def report_of(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON report that a process printed: it must be the only thing on its stdout."""
    assert result.stdout, result.stderr
    report: dict[str, Any] = json.loads(result.stdout)
    assert report["exit_code"] == result.returncode
    return report


# --- the same without a process --------------------------------------------------------------


class Token:
    """Credentials that cannot be renewed."""

    renewable = False

    def __init__(self, header: str) -> None:
        self.header = header

    def authorization(self) -> str:
        return self.header

    def renew(self, stale: str) -> bool:
        return False


def run_here(
    service: SimulatedService,
    root: Path,
    ids: Iterable[int],
    *,
    switch: StopSwitch | None = None,
    owed: bool = False,
    **settings: Any,
) -> Report:
    """A whole run in this process: all of `download` but its command line."""
    values = {"api_url": service.api_url, "min_free": 0, "retries": 1, "timeout": 5.0, "jobs": 4}
    download = Download(
        RunSettings(dest=str(root), **{**values, **settings}),
        command="download",
        credentials=lambda: Token(service.authorization),
        switch=switch or StopSwitch(),
        display=Display(),
    )
    return download.archive(ids, owed=owed)


def cli_here(
    args: Sequence[str | int | Path],
    env: Mapping[str, str] | None = None,
    input: str = "",  # noqa: A002 - as subprocess calls it
    *,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """As `run_cli`, in this process: a tenth of the time, where the process is not the point."""
    words = [str(word) for word in args]
    with ExitStack() as stack:
        if cwd is not None:
            stack.enter_context(chdir(cwd))
        stack.enter_context(patch.dict(os.environ, clean_environment(env), clear=True))
        stack.enter_context(patch.object(pace, "_LONGEST_WAIT", LONGEST_WAIT))
        log = logging.getLogger("g2a_archive")
        stack.callback(log.setLevel, log.level)  # what a run sets up is for itself alone
        for name in ("propagate", "handlers"):
            stack.enter_context(patch.object(log, name, copy(getattr(log, name))))
        given = io.TextIOWrapper(io.BufferedReader(io.BytesIO(input.encode())), "utf-8", newline="")
        stack.enter_context(patch.object(sys, "stdin", given))
        said = {"stdout": io.BytesIO(), "stderr": io.BytesIO()}
        for name, binary in said.items():
            stream = io.TextIOWrapper(binary, "utf-8", newline="", write_through=True)
            stack.enter_context(patch.object(sys, name, stream))
        code = main.run(words)
        out, err = (binary.getvalue().decode() for binary in said.values())
    return subprocess.CompletedProcess(words, code, out, err)


# --- proving what was left behind ------------------------------------------------------------


def relative_path(recording: SimulatedRecording, kind: Kind) -> str:
    """Where the file belongs, by DESIGN's default layout."""
    return f"{recording.start:%Y/%m/%d}/{recording.id}{SUFFIXES[kind]}"


def archive_files(root: Path) -> dict[str, Path]:
    """Every file of the archive a person sees, by its path in it; no checksums, no own corner."""
    return {name: root / name for name in _names(root)}


def _names(root: Path) -> list[str]:
    found: list[str] = []
    for directory, below, names in os.walk(root):
        if ".g2a-archive" in below:
            below.remove(".g2a-archive")
        within = "" if directory == str(root) else f"{os.path.relpath(directory, root)}/"
        found += [
            within + name
            for name in names
            # The hidden one is what a kill leaves of a list of sums half written.
            if name not in ("SHA256SUMS", ".SHA256SUMS.tmp")
            and os.path.isfile(os.path.join(directory, name))
        ]
    return sorted(found, key=lambda name: name.split("/"))


Sums = Mapping[str, tuple[int, str]]
"""Bytes and SHA-256 of each file that a person sees: read once, for all that is asked of it."""


def _sums(root: Path) -> Sums:
    return {name: _sum(os.path.join(root, name)) for name in _names(root)}


def _sum(path: str | Path) -> tuple[int, str]:
    with open(path, "rb") as file:
        content = file.read()
    return len(content), hashlib.sha256(content).hexdigest()


def is_right(recording: SimulatedRecording, kind: Kind, path: Path) -> bool:
    """Whether a file holds, byte for byte, what the service has."""
    return _sum(path)[1] == _right(recording, kind)


@lru_cache(maxsize=10_000)
def _right(recording: SimulatedRecording, kind: Kind) -> str:
    right = hashlib.sha256()
    for piece in expected_bytes(recording, kind):
        right.update(piece)
    return right.hexdigest()


def _kinds(recording: SimulatedRecording) -> set[Kind]:
    sizes = (recording.mp4_size, recording.events_size, recording.thumbnail_size)
    return {kind for kind, size in zip(KINDS, sizes, strict=True) if size is not None}


def assert_archive_equals(
    service: SimulatedService,
    root: Path,
    ids: Iterable[int] | None = None,
    kinds: Sequence[Kind] = KINDS,
) -> None:
    """The archive holds these recordings (all by default), byte for byte, and nothing else."""
    wanted = list(service.recordings) if ids is None else list(ids)
    expected = {
        relative_path(recording, kind): (recording, kind)
        for recording in map(service.recordings.__getitem__, wanted)
        for kind in _kinds(recording).intersection(kinds)
    }
    sums = _sums(root)
    assert sorted(sums) == sorted(expected)
    for path, (recording, kind) in expected.items():
        assert sums[path][1] == _right(recording, kind), f"wrong bytes in {path}"
    assert leftovers(root) == []
    assert_nothing_false(service, root, sums)
    assert {row[0] for row in catalog_rows(root, _ARCHIVED)} >= set(wanted)
    assert_checksums(root, sums)


_ARCHIVED = "SELECT id FROM recording WHERE state = 'archived'"
_CLAIMED = "SELECT recording, kind, path, size, sha256 FROM file WHERE damage IS NULL"


def assert_nothing_false(service: SimulatedService, root: Path, sums: Sums | None = None) -> None:
    """No wrong byte under a final name, and the catalogue claims nothing that isn't on disk.

    `sums`: of the files, where they were just read.
    """
    archived, rows = [], []
    if catalog_path(root).exists():  # before the files, which come first where a run goes on
        archived, rows = catalog_rows(root, _ARCHIVED), catalog_rows(root, _CLAIMED)
    sums = _sums(root) if sums is None else sums
    by_name = {
        relative_path(r, kind): (r, kind) for r in service.recordings.values() for kind in KINDS
    }
    for name, (_, sha256) in sums.items():
        hidden = os.path.basename(name).startswith(".")  # what a killed run was just writing
        if hidden or ".kept-" in name:
            continue
        assert name in by_name, f"nobody asked for {name}"
        assert sha256 == _right(*by_name[name]), f"wrong bytes in {name}"
    claimed: dict[int, set[str]] = {}
    for id_, kind, name, size, sha256 in rows:
        assert sums.get(name) == (size, sha256), name
        claimed.setdefault(id_, set()).add(kind)
    for (id_,) in archived:
        # With --only, fewer files are wanted; the MP4 among them in all of these tests.
        assert claimed[id_] <= _kinds(service.recordings[id_])
        assert "mp4" in claimed[id_]


def assert_checksums(root: Path, sums: Sums | None = None) -> None:
    """`SHA256SUMS` of every directory names each file, rightly."""
    true: dict[str, dict[str, str]] = {}
    for path, (_, sha256) in (_sums(root) if sums is None else sums).items():
        directory, name = os.path.split(path)
        true.setdefault(directory, {})[name] = sha256
    for directory, files in true.items():
        lines = (root / directory / "SHA256SUMS").read_text().splitlines()
        said = {line[66:]: line[:64] for line in lines}
        assert {name: said.get(name) for name in files} == files


def leftovers(root: Path) -> list[str]:
    """What lies in `partial/`."""
    partial = root / ".g2a-archive" / "partial"
    return sorted(path.name for path in partial.iterdir()) if partial.is_dir() else []


def catalog_path(root: Path) -> Path:
    """The catalogue in the archive."""
    return root / ".g2a-archive" / "catalog.sqlite3"


def catalog_rows(root: Path, sql: str, *values: object) -> list[tuple[Any, ...]]:
    """What a SELECT on the archive's catalogue brings."""
    with closing(sqlite3.connect(catalog_path(root), timeout=30)) as db:
        if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            return []  # killed before the first transaction, which makes the tables, was over
        return db.execute(sql, values).fetchall()


def states(root: Path) -> dict[int, str]:
    """The state of every recording that the catalogue knows."""
    return dict(catalog_rows(root, "SELECT id, state FROM recording"))


def archive_size(service: SimulatedService) -> int:
    """The bytes of all files that the service has."""
    return sum(r.size(kind) or 0 for r in service.recordings.values() for kind in KINDS)
