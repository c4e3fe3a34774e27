"""Pages after a catalogue was lost: what comes to be known again comes onto them, bit by bit."""

from __future__ import annotations

import shutil
from pathlib import Path

from support import archives, catalog_rows, cli_here, plain_args

from g2a_archive.demo import SimulatedService

original = archives.original
archive = archives.archive
service = archives.service


def browse(archive: Path) -> str:
    """Write the pages; their content."""
    result = cli_here(["browse", "--dest", archive])
    assert result.returncode == 0, result.stderr
    pages = sorted((archive / "browse").rglob("*.html"))
    return "".join(page.read_text() for page in [archive / "index.html", *pages])


def as_if_new(archive: Path) -> str:
    """What the pages are if all are made."""
    fresh = shutil.copytree(archive, archive.parent / "fresh")
    shutil.rmtree(fresh / "browse")
    return browse(fresh)


def test_files_of_which_SHA256SUMS_told_all_the_time(  # noqa: N802
    archive: Path, service: SimulatedService
) -> None:
    (archive / ".g2a-archive" / "catalog.sqlite3").unlink()
    first, *others = sorted(service.recordings)
    assert cli_here(plain_args(archive, first), service.environment()).returncode == 0
    assert str(others[0]) not in browse(archive)
    result = cli_here(plain_args(archive, *others), service.environment())
    assert (result.returncode, "0 files" in result.stdout) == (0, True)  # all are adopted
    assert str(others[0]) in (pages := browse(archive))
    assert pages == as_if_new(archive)


def test_starts_that_another_archive_knows(archive: Path, service: SimulatedService) -> None:
    kept = shutil.copytree(archive, archive.parent / "kept")
    (archive / ".g2a-archive" / "catalog.sqlite3").unlink()
    assert cli_here(["verify", "--dest", archive, "--rebuild"]).returncode == 0
    assert catalog_rows(archive, "SELECT count(start_time) FROM recording") == [(0,)]
    assert "Time not known" in browse(archive)
    assert cli_here(["merge", "--dest", archive, "--min-free", "0", kept]).returncode == 0
    assert "Time not known" not in (pages := browse(archive))
    assert pages == as_if_new(archive)
