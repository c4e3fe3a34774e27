"""Free space is asked for once a second, and before each file where little is left."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from g2a_archive.archive.disk import space
from g2a_archive.archive.disk.space import NoRoomError, Space, SpaceReservedError

GIB = 1 << 30


class Disk:
    """A disk of 100 GiB, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free, self.now, self.asked = 50 * GIB, 100.0, 0
        monkeypatch.setattr(space, "free_space", self.told)
        monkeypatch.setattr(space, "time", SimpleNamespace(monotonic=lambda: self.now))

    def told(self, _: str | Path) -> tuple[int, int]:
        self.asked += 1
        return self.free, 100 * GIB


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_what_others_write_is_seen_within_a_second(disk: Disk, tmp_path: Path) -> None:
    room = Space(tmp_path, GIB)
    for owner in range(10):
        room.reserve(owner, GIB)
    assert disk.asked == 1
    disk.free = 20 * GIB
    disk.now += 1.0
    with pytest.raises(SpaceReservedError):
        room.reserve("large", 10 * GIB)
    assert disk.asked == 2


def test_near_the_end_it_is_asked_for_before_each_file(disk: Disk, tmp_path: Path) -> None:
    room = Space(tmp_path, GIB)
    disk.free = GIB + (100 << 20)
    for owner in range(5):
        room.reserve(owner, 10 << 20)
    assert disk.asked == 5
    disk.free = GIB - 1
    with pytest.raises(NoRoomError):
        room.reserve("one more", 0)
