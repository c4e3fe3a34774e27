"""What the tests of whole runs share: starting them, and proving what they left behind."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import g2a_archive
from g2a_archive.console.progress import Nothing
from g2a_archive.console.report import Report
from g2a_archive.demo import SimulatedRecording, SimulatedService, expected_bytes
from g2a_archive.demo.recordings import KINDS, SUFFIXES, Kind
from g2a_archive.download.run import Download
from g2a_archive.download.stopping import StopSwitch
from g2a_archive.models import RunSettings
from support import forked
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
    return Path(tempfile.mkdtemp(prefix="g2a-home-"))


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
    with forked.start(list(map(str, args)), clean_environment(env), **more) as process:
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
    with forked.start(list(map(str, args)), clean_environment(env), **more) as process:
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
        display=Nothing(),
    )
    return download.archive(ids, owed=owed)


# --- proving what was left behind ------------------------------------------------------------


def relative_path(recording: SimulatedRecording, kind: Kind) -> str:
    """Where the file belongs, by DESIGN's default layout."""
    return f"{recording.start:%Y/%m/%d}/{recording.id}{SUFFIXES[kind]}"


def archive_files(root: Path) -> dict[str, Path]:
    """Every file of the archive a person sees, by its path in it; no checksums, no own corner."""
    return {
        str(path.relative_to(root)): path
        for path in sorted(root.rglob("*"))
        if path.is_file()
        # The hidden one is what a kill leaves of a list of sums half written.
        and path.name not in ("SHA256SUMS", ".SHA256SUMS.tmp")
        and ".g2a-archive" not in path.parts
    }


def is_right(recording: SimulatedRecording, kind: Kind, path: Path) -> bool:
    """Whether a file holds, byte for byte, what the service has."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest() == _right(recording, kind)


@lru_cache(maxsize=10_000)
def _right(recording: SimulatedRecording, kind: Kind) -> bytes:
    right = hashlib.sha256()
    for piece in expected_bytes(recording, kind):
        right.update(piece)
    return right.digest()


def assert_archive_equals(
    service: SimulatedService,
    root: Path,
    ids: Iterable[int] | None = None,
    kinds: Sequence[Kind] = KINDS,
) -> None:
    """The archive holds these recordings (all by default), byte for byte, and nothing else."""
    wanted = list(service.recordings) if ids is None else list(ids)
    expected = {
        relative_path(service.recordings[id_], kind): (service.recordings[id_], kind)
        for id_ in wanted
        for kind in kinds
        if service.recordings[id_].size(kind) is not None
    }
    files = archive_files(root)
    assert sorted(files) == sorted(expected)
    for path, (recording, kind) in expected.items():
        assert is_right(recording, kind, files[path]), f"wrong bytes in {path}"
    assert leftovers(root) == []
    assert_nothing_false(service, root)
    assert {row[0] for row in catalog_rows(root, _ARCHIVED)} >= set(wanted)
    assert_checksums(root)


_ARCHIVED = "SELECT id FROM recording WHERE state = 'archived'"


def assert_nothing_false(service: SimulatedService, root: Path) -> None:
    """No wrong byte under a final name, and the catalogue claims nothing that isn't on disk."""
    by_name = {
        relative_path(r, kind): (r, kind) for r in service.recordings.values() for kind in KINDS
    }
    for name, path in archive_files(root).items():
        if ".kept-" in name or path.name.startswith("."):  # what a killed run was just writing
            continue
        assert name in by_name, f"nobody asked for {name}"
        assert is_right(*by_name[name], path), f"wrong bytes in {name}"
    if not catalog_path(root).exists():
        return
    claimed: dict[int, set[str]] = {}
    sql = "SELECT recording, kind, path, size, sha256 FROM file WHERE damage IS NULL"
    for id_, kind, name, size, sha256 in catalog_rows(root, sql):
        content = (root / name).read_bytes()
        assert len(content) == size, name
        assert hashlib.sha256(content).hexdigest() == sha256, name
        claimed.setdefault(id_, set()).add(kind)
    for (id_,) in catalog_rows(root, _ARCHIVED):
        recording = service.recordings[id_]
        # With --only, fewer files are wanted; the MP4 among them in all of these tests.
        assert claimed[id_] <= {k for k in KINDS if recording.size(k) is not None}
        assert "mp4" in claimed[id_]


def assert_checksums(root: Path) -> None:
    """`SHA256SUMS` of every directory names each file, rightly."""
    for directory in {path.parent for path in archive_files(root).values()}:
        lines = (directory / "SHA256SUMS").read_text().splitlines()
        said = {line[66:]: line[:64] for line in lines}
        true = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in archive_files(directory).values()
        }
        assert {name: said.get(name) for name in true} == true


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
