"""Many recordings: little memory, and a benchmark.

`python tests/browse/test_browse_scale.py [RECORDINGS [DIRECTORY]]` prints times and memory.
"""

from __future__ import annotations

import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path

from support.memory import peak_of
from test_browse_devtools import Tab, chromium

from g2a_archive.browse import Entry, OwedEntry, write_site
from g2a_archive.models import FileKind, State, StoredFile

ENDINGS = {FileKind.MP4: "mp4", FileKind.EVENTS: "events", FileKind.THUMBNAIL: "jpg"}


def many(count: int, seed: int = 1, years: int = 10) -> Iterator[Entry]:
    """Recordings over some years, in order, made as they are asked for."""
    rng = random.Random(seed)
    step = years * 365 * 86400 / count
    for n in range(count):
        start = datetime(2014, 1, 1, tzinfo=UTC) + timedelta(seconds=int(step * (n + rng.random())))
        number = 1_000_000_000 + n * 37
        directory = start.strftime("%Y/%m/%d")
        files = {
            kind: StoredFile(
                number,
                kind,
                f"{directory}/{number}.{ending}",
                rng.randint(1_000, 90_000_000),
                sha256(f"{number}{kind}".encode()).hexdigest(),
            )
            for kind, ending in ENDINGS.items()
        }
        yield Entry(number, start.isoformat(), directory, files)


def owed(count: int) -> Iterator[OwedEntry]:
    """Recordings that are owed."""
    for n in range(count):
        yield OwedEntry(2_000_000_000 + n, State.UNAVAILABLE, "left out", "2024-01-01T00:00:00Z", 3)


def test_memory_does_not_grow_with_the_number_of_recordings(tmp_path: Path) -> None:
    def write(count: int) -> None:
        (root := tmp_path / str(count)).mkdir()
        result = write_site(root, many(count, years=3), owed(count // 50), zone=UTC, title="Many")
        assert (result.recordings, result.owed) == (count, count // 50)
        assert result.removed == 0

    peaks = [peak_of(partial(write, count)) for count in (50, 350)]
    assert peaks[1] < peaks[0] + 400_000  # half as much as the entries themselves would take


def benchmark(count: int, root: Path) -> None:
    """Write a site, write it again, add one recording, and search it in a browser."""

    def timed(what: str, entries: Iterator[Entry]) -> None:
        begun, used = time.perf_counter(), time.process_time()
        result = write_site(root, entries, owed(count // 100), zone=UTC, title="Many")
        seconds, processor = time.perf_counter() - begun, time.process_time() - used
        print(
            f"{what}: {seconds:.1f} s, {processor:.1f} s of it computing, {result.written} files "
            f"written, {result.unchanged} unchanged"
        )

    begun = time.perf_counter()
    made = sum(1 for _ in many(count))
    print(f"included below, making {made:,} entries: {time.perf_counter() - begun:.1f} s")
    timed(f"{count:,} recordings", many(count))
    timed("again", many(count))

    def more() -> Iterator[Entry]:
        yield from many(count)
        yield Entry(999, "2024-01-01T12:00:00Z", "2024/01/01")

    timed("one more", more())
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    pages = [path.stat().st_size for path in root.glob("browse/**/*") if path.is_file()]
    print(f"peak memory {peak / 1e6:.0f} MB; {len(pages)} files, {sum(pages) / 1e6:.0f} MB")
    print(f"the largest file {max(pages) / 1e6:.2f} MB")
    with tempfile.TemporaryDirectory() as profile, chromium(Path(profile)) as pipe:
        tab = Tab(pipe)
        for page in ("index.html", "browse/2018.html", "browse/2018-05.html"):
            begun = time.perf_counter()
            tab.open((root / page).as_uri())
            print(f"{page} loaded in {time.perf_counter() - begun:.2f} s")
        wanted = 1_000_000_000 + count // 2 * 37
        tab.click("#q")
        begun = time.perf_counter()
        tab.type(str(wanted))
        tab.until(f"document.querySelector('#hits a[href$=\"#r{wanted}\"]')")
        print(f"an ID found in {time.perf_counter() - begun:.2f} s")
        begun = time.perf_counter()
        tab.navigating(lambda: tab.key("Enter"))
        print(f"and shown in {time.perf_counter() - begun:.2f} s")


if __name__ == "__main__":
    amount = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    if len(sys.argv) > 2:
        benchmark(amount, Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            benchmark(amount, Path(folder))
