"""An archive that is made once, and copied for each test that wants it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from g2a_archive.demo import Behaviour, SimulatedService, sample_recordings
from support import run_here

Made = tuple[SimulatedService, Path]


@contextmanager
def made(factory: pytest.TempPathFactory, count: int) -> Iterator[Made]:
    """A service with so many recordings, and an archive of them all."""
    root = factory.mktemp("original") / "archive"
    with SimulatedService(sample_recordings(count), Behaviour(rate_limit=None)) as service:
        assert run_here(service, root, service.recordings).exit_code == 0
        yield service, root


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """A service with eight recordings, and an archive of them all."""
    with made(tmp_path_factory, 8) as both:
        yield both


@pytest.fixture
def archive(original: Made, root: Path) -> Path:
    """A copy of it for one test."""
    shutil.copytree(original[1], root)
    return root


@pytest.fixture
def service(original: Made) -> SimulatedService:
    """The service that it came from."""
    return original[0]
