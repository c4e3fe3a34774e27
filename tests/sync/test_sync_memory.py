"""A first night, or the first one with `--mark-archived`, over very many recordings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.memory import peak_of

from g2a_archive.archive.database.catalog import Catalog, RecordingResult
from g2a_archive.errors import StorageError
from g2a_archive.models import ALL_KINDS, ListState, State, StoredFile
from g2a_archive.service.clock import Clock
from g2a_archive.service.payloads import ListResult
from g2a_archive.sync.listing import Listing, Query
from g2a_archive.sync.state import SyncState

NOW = 1_795_000_000
QUERY = Query((("accountKey", "1"),))


def _listed(count: int) -> None:
    """A listing of so many, of which 300 start in each second that is asked for."""
    asked = 0

    def ask(_: object) -> ListResult:
        nonlocal asked
        asked += 300
        return ListResult((), tuple(range(asked, asked + 300)))

    found = Listing(ask, clock=Clock(lambda: float(NOW)))
    for second in range(count // 300):
        found.second(QUERY, second)
    assert len(found.ready_and((id_, 0) for id_ in range(count, 2 * count))) >= count
    assert len(found.ids(ListState.DOWNLOAD)) == count // 300 * 300


@pytest.fixture
def archives(tmp_path: Path) -> Callable[[int], Callable[[], None]]:
    """Makes a catalogue of so many archived recordings, and what asks which are not marked."""

    def made(count: int) -> Callable[[], None]:
        path = tmp_path / f"{count}.sqlite3"
        with Catalog(path) as catalog:
            catalog.record_results(
                RecordingResult(
                    id_, State.ARCHIVED, 7, directory="2014",
                    files=[StoredFile(id_, k, f"2014/{id_}.{k}", 0, "a" * 64) for k in ALL_KINDS],
                )
                for id_ in range(count)
            )  # fmt: skip

        def asked() -> None:
            with Catalog(path) as catalog:
                state = SyncState(catalog, ["1"], Clock(lambda: float(NOW)))
                files = [len(one.files) for one in state.unmarked(range(count))]
            assert files == [3] * count

        return asked

    return made


def test_a_listing_takes_little_memory() -> None:
    few, many = (peak_of(lambda count=count: _listed(count)) for count in (3_000, 12_000))  # type: ignore[misc]
    # The two lists of IDs that are asked for at the end, 8 bytes each.
    assert many - few < 9_000 * 30


def test_no_room_for_what_was_found_is_said() -> None:
    found = Listing(lambda _: ListResult((), tuple(range(5_000))), clock=Clock(lambda: float(NOW)))
    found._found.execute("PRAGMA max_page_count = 8")
    with pytest.raises(StorageError, match="cannot be kept in the temporary directory") as caught:
        found.second(QUERY, 1)
    assert "SQLITE_TMPDIR" in caught.value.hint


def test_what_is_not_marked_is_told_one_by_one(
    archives: Callable[[int], Callable[[], None]],
) -> None:
    few, many = peak_of(archives(1_000)), peak_of(archives(3_000))
    assert many - few < 2_000 * 100
