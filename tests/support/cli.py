"""What the tests of the command line share: a small service, and how a refusal looks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from g2a_archive.demo import Behaviour, SimulatedService, sample_recordings
from support import cli_here, run_cli

Args = list[str | int | Path]

Say = Callable[..., tuple[int, str, str]]
"""The fixture `say`."""

FIRST = 1_400_000_001
"""The first ID of `sample_recordings`."""


@pytest.fixture(scope="module")
def still() -> Iterator[SimulatedService]:
    """A service that nobody should call: whoever is refused does not get that far."""
    with SimulatedService(sample_recordings(3), Behaviour(rate_limit=None)) as running:
        yield running


def refused(
    service: SimulatedService,
    cwd: Path,
    args: Sequence[str | int | Path],
    env: Mapping[str, str | None] | None = None,
    stdin: str | None = None,
    *,
    code: int = 2,
    here: bool = False,
) -> str:
    """What a refused run says on stderr: one line; it has asked for nothing and written nothing.

    `here`: in this process.
    """
    before, asked = tree(cwd), service.requests.count
    if here:
        result = cli_here(args, environment(service, env), stdin or "", cwd=cwd)
    else:
        result = run_cli(args, environment(service, env), stdin, cwd=cwd)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert service.requests.count == asked
    assert tree(cwd) == before
    return result.stderr.strip()


def environment(
    service: SimulatedService, more: Mapping[str, str | None] | None = None
) -> dict[str, str]:
    """The environment for this service; None takes a variable away."""
    values = {**service.environment(), **(more or {})}
    return {name: value for name, value in values.items() if value is not None}


def tree(root: Path) -> list[str]:
    """Every file and directory below, with a file's content."""
    found = []
    for directory, _, files in os.walk(root):
        found.append(directory)
        for name in files:
            path = Path(directory, name)
            found.append(f"{path}: {path.read_bytes()!r}" if path.is_file() else str(path))
    return sorted(found)
