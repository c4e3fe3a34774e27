"""A lost catalogue, rebuilt from the archive's tree and its `SHA256SUMS` files."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from g2a_archive.archive import checksums, content
from g2a_archive.archive.hashing import hash_file
from g2a_archive.archive.layout import parse_name
from g2a_archive.errors import Interrupted
from g2a_archive.fixity.tree import Tree, default_jobs, in_parallel, printable
from g2a_archive.fixity.verify import Finding, Outcome
from g2a_archive.models import FileKind, StoredFile

_Key = tuple[int, FileKind]


@dataclass(slots=True)
class _Found:
    """What one directory holds: files to hash, files that are right, and what is wrong."""

    directory: str
    todo: dict[str, _Key] = field(default_factory=dict)
    files: list[StoredFile] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def rebuild(
    root: Path,
    *,
    known: Callable[[int, FileKind], str | None],
    record: Callable[[list[StoredFile], list[Finding]], None],
    jobs: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Find the files of the archive at `root` that the catalogue does not hold, and check them.

    A file that its directory's `SHA256SUMS` lists must have that sum; one that is not listed
    must be whole, as far as it tells by itself, and is then taken as it is. `known` is the path
    that the catalogue has for a recording's file, or None. `record` is given, a directory at a
    time, the files to adopt and the findings; both are called in the calling thread, `on_bytes`
    is not.

    Raises `StorageError`; `stop` ends it within moments, and what was recorded stays.
    """
    tree = Tree(root)
    begun = time.monotonic()
    outcome = Outcome()
    over = False

    taken: dict[_Key, str] = {}

    def path_of(recording: int, kind: FileKind) -> str | None:
        return known(recording, kind) or taken.get((recording, kind))

    def elsewhere(one: Finding) -> bool:
        if one.recording is None or one.kind is None or not one.problem.startswith("missing"):
            return False
        return path_of(one.recording, one.kind) is not None

    def work(found: _Found) -> _Found:
        return _examine(tree, found, lambda: over or stop(), on_bytes)

    try:
        tasks = _directories(tree, path_of, taken, stop)
        with closing(in_parallel(tasks, work, jobs or default_jobs(), stop)) as results:
            try:
                for found in results:
                    if found is None:
                        continue
                    findings = [one for one in found.findings if not elsewhere(one)]
                    record(found.files, findings)
                    outcome.files += len(found.files)
                    outcome.bytes += sum(file.size for file in found.files)
                    outcome.findings += findings
            finally:
                over = True
    except Interrupted:
        outcome.interrupted = True
    outcome.findings.sort(key=lambda finding: finding.path)
    outcome.seconds = time.monotonic() - begun
    return outcome


def _directories(
    tree: Tree,
    path_of: Callable[[int, FileKind], str | None],
    taken: dict[_Key, str],
    stop: Callable[[], bool],
) -> Iterator[_Found]:
    """The directories of the archive, each with the files in it that are to be examined."""
    for folder in tree.walk(stop):
        found = _Found(folder.path)
        if folder.problem:
            found.findings.append(
                Finding(None, None, folder.path, f"unreadable: {folder.problem}", False)
            )
        for name, path in zip(folder.names, folder.files(), strict=True):
            key = parse_name(name)
            if key is None:
                found.findings.append(_unknown(path, "unknown: not a recording's file"))
                continue
            other = path_of(*key)
            if other is None:
                taken[key] = path
                found.todo[name] = key
            elif other != path:
                found.findings.append(_unknown(path, f"unknown: a second {other}"))
        yield found


def _unknown(path: str, problem: str) -> Finding:
    return Finding(None, None, printable(path), problem, False)


def _examine(
    tree: Tree, found: _Found, stop: Callable[[], bool], on_bytes: Callable[[int], None]
) -> _Found:
    """Hash the files of one directory, and compare them with its sums."""
    sums = checksums.read(tree.root / found.directory / checksums.NAME)
    for name, key in found.todo.items():
        path = f"{found.directory}/{name}" if found.directory else name
        full = tree.root / path
        size, digest = 0, ""
        try:
            problem = _problem(full, key[1], listed=name in sums)
            if not problem:
                size, digest = hash_file(full, stop=stop, on_bytes=on_bytes)
        except OSError as error:
            tree.check()
            problem = f"unreadable: {error.strerror}"
        if not problem and sums.get(name, digest) != digest:
            problem = f"changed: not what {checksums.NAME} lists"
        if problem:
            found.findings.append(Finding(*key, path, problem))
        else:
            found.files.append(StoredFile(*key, path, size, digest))
    for name in sums.keys() - found.todo.keys():
        if (lost := parse_name(name)) and not os.path.lexists(tree.root / found.directory / name):
            path = f"{found.directory}/{name}" if found.directory else name
            found.findings.append(Finding(*lost, path, f"missing: {checksums.NAME} lists it"))
    return found


def _problem(path: Path, kind: FileKind, *, listed: bool) -> str:
    """Why this cannot be a recording's file; "" where it can. A listed file needs only be one."""
    if not stat.S_ISREG(os.lstat(path).st_mode):
        return "changed: it is no file"
    if listed:
        return ""
    beside = any(os.path.lexists(f"{path}{ending}") for ending in content.CONTROL_FILES)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        doubt = content.doubt(descriptor, kind, os.fstat(descriptor).st_size, beside)
    finally:
        os.close(descriptor)
    return f"changed: {doubt}" if doubt else ""
