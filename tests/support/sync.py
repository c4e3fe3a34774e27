"""How tests of `sync` start it, and what they look at afterwards."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from g2a_archive.console.progress import Display
from g2a_archive.console.report import Report
from g2a_archive.demo import (
    SimulatedRecording,
    SimulatedService,
)
from g2a_archive.download.run import Download
from g2a_archive.download.stopping import StopSwitch
from g2a_archive.models import RunSettings, Selection, SyncSettings
from g2a_archive.sync.run import Sync
from support import (
    Token,
    archive_files,
    assert_nothing_false,
    catalog_path,
    catalog_rows,
)
from support.service import Serve

FEW = 5
"""Recordings in an answer at most, in the tests of windows."""

TODAY = datetime.now(UTC).replace(microsecond=0)


def small(count: int, *, transcode_every: int = 0) -> list[SimulatedRecording]:
    """Recordings of the last weeks that take no time; the IDs are not in start order."""
    return [
        SimulatedRecording(
            id=10_000 - number,
            start=TODAY - timedelta(hours=3 * (count - number)),
            mp4_size=600,
            events_size=100,
            thumbnail_size=700,
            state="transcode"
            if transcode_every and (number + 1) % transcode_every == 0
            else "ready",
        )
        for number in range(count)
    ]


def by_start(service: SimulatedService) -> list[int]:
    return sorted(service.recordings, key=lambda id_: service.recordings[id_].start)


def sync_here(
    service: SimulatedService,
    root: Path,
    *,
    run: dict[str, Any] | None = None,
    switch: StopSwitch | None = None,
    keys: tuple[str, ...] = ("1000",),
    clock: Callable[[], float] | None = None,
    wait_with: Callable[[float], None] | None = None,
    since: int | None = None,
    until: int | None = None,
    **settings: Any,
) -> Report:
    """A whole `sync` in this process: all of it but its command line."""
    values = {"api_url": service.api_url, "min_free": 0, "retries": 1, "timeout": 5.0, "jobs": 4}
    download = Download(
        RunSettings(dest=str(root), **{**values, **(run or {})}),
        command="sync",
        credentials=lambda: Token(service.authorization),
        switch=switch or StopSwitch(),
        display=Display(),
    )
    selection = Selection(account_keys=keys, since=since, until=until)
    chosen = SyncSettings(selection=selection, **settings)
    more = {"clock": clock} if clock is not None else {}
    return Sync(download, chosen, wait=wait_with, **more).run()


def sync_args(root: Path, *more: str | int | Path) -> list[str | int | Path]:
    return ["sync", "--dest", root, "--account-key", "1000", "--min-free", "0", *more]


def counts(service: SimulatedService) -> dict[str, int]:
    """The calls since the last look, by name; those that were not made are left out."""
    found = {str(name): n for name, n in service.requests.counts.items() if n}
    service.requests.clear()
    return found


def assert_asked_in_order(service: SimulatedService) -> None:
    links = [int(value) for e in service.requests.calls("links") for _, value in e.query]
    assert links == sorted(links)


def change(root: Path, sql: str, *values: object) -> None:
    """Change the catalogue behind the program's back, as time would."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(catalog_path(root))) as db, db:
        db.execute(sql, values)


def spread(days: float, count: int = 60) -> list[SimulatedRecording]:
    """Recordings evenly over the last days; IDs and starts go up together."""
    step = timedelta(days=days) / count
    first = TODAY - timedelta(days=days)
    return [
        SimulatedRecording(1000 + n, (first + n * step).replace(microsecond=0), 600, 100, 700)
        for n in range(count)
    ]


def whole_on_disk(service: SimulatedService, root: Path) -> set[int]:
    """The recordings of which every file is under its final name, rightly, and claimed."""
    assert_nothing_false(service, root)
    if not catalog_path(root).exists():
        return set()
    claimed = {
        row[0]
        for row in catalog_rows(root, "SELECT id FROM recording WHERE state='archived' AND kinds=7")
    }
    names = set(archive_files(root))
    return {
        id_ for id_ in claimed if sum(Path(name).name.startswith(f"{id_}.") for name in names) == 3
    }


# --- fixtures, which a test module takes by name ---------------------------------------------


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service tells five recordings in a call, and takes as many; one link call at a time."""
    monkeypatch.setattr("g2a_archive.download.link_queue.MAX_LINK_CALLS", 1)
    monkeypatch.setattr("g2a_archive.sync.listing.LIST_LIMIT", FEW)
    monkeypatch.setattr("g2a_archive.sync.windows.LIST_LIMIT", FEW)
    monkeypatch.setattr("g2a_archive.sync.windows._AIM", FEW - 1)
    monkeypatch.setattr("g2a_archive.service.client.LIST_LIMIT", FEW)


@pytest.fixture
def service(serve: Serve) -> SimulatedService:
    return serve(small(8), rate_limit=None)
