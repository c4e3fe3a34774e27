"""The program, killed by itself at the N-th call of one of its own functions, or of Python's."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from support import run_cli

_BEFORE = """
import importlib, itertools, os

def kill_at(module, name, when, number):
    *within, name = name.split(".")
    owner = importlib.import_module(module)
    for one in within:
        owner = getattr(owner, one)
    real, calls = getattr(owner, name), itertools.count(1)

    def crash(*args, **more):
        call = next(calls)  # in one step, as several threads may come here
        if call == number and when == "before":
            os.kill(os.getpid(), {by})
        result = real(*args, **more)
        if call == number and when == "after":
            os.kill(os.getpid(), {by})
        return result

    setattr(owner, name, crash)

kill_at({module!r}, {name!r}, {when!r}, {number})
"""

_MODULES = {
    "BagWriter": "g2a_archive.curation.bagit",
    "Catalog": "g2a_archive.archive.database.catalog",
    "FileImporter": "g2a_archive.curation.merge_files",
    "Partial": "g2a_archive.archive.partial",
    "Path": "pathlib",
    "FileLock": "g2a_archive.archive.disk.lock",
    "Storage": "g2a_archive.archive.storage",
}
_FOLDERS = {
    **dict.fromkeys(("bag", "merge_rows", "merge_work"), "g2a_archive.curation"),
    **dict.fromkeys(("pages", "tombstones"), "g2a_archive.archive.database"),
    "checksums": "g2a_archive.archive",
}


def crash(
    where: str,
    when: str,
    number: int,
    args: Sequence[str | int | Path],
    env: Mapping[str, str] | None = None,
    *,
    cwd: Path | None = None,
    by: signal.Signals = signal.SIGKILL,
) -> str:
    """Run the program until it is killed `when` ("before", "after") the `number`-th call (from 1).

    `where` is a function of a module (`tombstones._done`) or of a class (`Catalog.record_results`).
    Return what it said on stderr.
    """
    owner, _, name = where.partition(".")
    if owner in _MODULES:
        module, name = _MODULES[owner], where
    else:
        module = f"{_FOLDERS[owner]}.{owner}" if owner in _FOLDERS else owner
    before = _BEFORE.format(module=module, name=name, when=when, number=number, by=int(by))
    result = run_cli(args, env, before=before, cwd=cwd)
    code = -by if by == signal.SIGKILL else 128 + by
    assert result.returncode == code, (result.returncode, result.stderr)
    return result.stderr
