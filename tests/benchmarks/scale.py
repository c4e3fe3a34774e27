"""How time and memory of every command grow with the archive."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from g2a_archive.archive.database.catalog import Catalog
from g2a_archive.archive.layout import ARCHIVE_DIR
from g2a_archive.demo import Behaviour, SimulatedRecording, SimulatedService

from .bench import Bench, say
from .contenders import ours, write_ids
from .corpus import FIRST_ID, start_time
from .nothing import build_archive
from .process import Measured
from .results import Goal, Score, Table

COUNTS = (10_000, 100_000, 300_000, 1_000_000)
_DAYS = 2500
"""Ten years of working days: an archive grows by busier days, not by more of them."""

_CROWD = 50_000
_FLAT = 100e6
_PATIENCE = 6 * 3600.0
_UNITS = ("s", "CPU", "MB")
_TODAY = datetime(2014, 5, 6, 9, 30, tzinfo=UTC)


class Grid(Table):
    """A row for each command, and for each size of the archive: seconds, CPU seconds, peak MB."""

    def rows(self) -> list[list[str]]:
        """The table's cells, the head first."""
        cells = {tuple(score.name.split("@")): score for score in self.scores}
        columns = list(dict.fromkeys(column for _, column in cells))
        heads = (f"{column} {unit}" for column in columns for unit in _UNITS)
        rows = [[self.name, *heads]]
        for name in dict.fromkeys(name for name, _ in cells):
            row = [name]
            for column in columns:
                score = cells.get((name, column))
                if score is None or not score.runs:
                    row += [""] * len(_UNITS)
                elif score.problems:
                    row += ["failed", *[""] * (len(_UNITS) - 1)]
                else:
                    row += [f"{score.wall:.2f}", f"{score.cpu:.2f}", f"{score.rss / 1e6:.0f}"]
            rows.append(row)
        return rows


def scale(bench: Bench) -> Table:
    """Every command on archives of 10,000 to 1,000,000 recordings: seconds and peak memory."""
    bench.timeout = max(bench.timeout, _PATIENCE)
    counts = bench.counts or ((1_000, 3_000) if bench.quick else COUNTS)
    scores: list[Score] = []
    bench.command(ours("--version"))  # the first one compiles the modules
    for count in counts:
        scores += _measure(bench, count)
    scores.append(_crowded(bench, max(counts) // 6 if bench.quick else _CROWD))
    table = Grid("scale", "Growth: seconds and peak memory by recordings in the archive", scores)
    for score in scores:
        crowded = "one directory" in score.name
        most = 160e6 if score.name.startswith("download -f") else 60e6 if crowded else _FLAT
        if score.valid and (crowded or score.rss > most):
            table.goals.append(Goal.at_most(f"{score.name}: MB", score.rss / 1e6, most / 1e6))
    return table


def _measure(bench: Bench, count: int) -> Iterator[Score]:
    """All commands on one archive, which the later ones change."""
    say(f"building an archive of {count:,} recordings")
    dest = bench.work / "archive"
    ids = build_archive(dest, count, per_day=-(-count // _DAYS), owed=count // 50)
    listed = write_ids(bench.work / "ids.txt", ids)
    new = SimulatedRecording(FIRST_ID + 2 * count, _TODAY)
    try:
        with SimulatedService([new], Behaviour(rate_limit=None)) as service:
            for name, words, codes in _commands(bench, dest, ids, listed, new.id):
                command = ours(*words, *(() if "-d" in words else ("-d", str(dest))))
                score = Score(
                    f"{name}@{count:,}", [bench.command(command, env=service.environment())]
                )
                yield _told(score, codes)
    finally:
        say("removing it")
        for name in ("archive", "merged", "bag"):
            shutil.rmtree(bench.work / name, ignore_errors=True)


def _commands(
    bench: Bench, dest: Path, ids: Sequence[int], listed: Path, new: int
) -> Iterator[tuple[str, list[str], tuple[int, ...]]]:
    """Each command: its name in the table, its words, the exit codes that are right."""
    one, half = str(ids[0]), start_time(_DAYS // 2)[:10]
    rebuilt = bench.work / "rebuilt.sqlite3"
    out = str(bench.work / "export")
    for words in (
        "status", "status --json", "status --by day", "status --by day --csv", "status --owed",
        "status --owed --json", "status --owed --csv", "status ID",
    ):  # fmt: skip
        yield words, words.replace("ID", one).split(), (0,)
    yield "export --csv -o FILE", ["export", "--csv", "-o", out], (0,)
    yield "export --json -o FILE", ["export", "--json", "-o", out], (0,)
    yield "export --json", ["export", "--json"], (0,)
    os.unlink(out)
    # The first run on an archive that was made by hand writes all SHA256SUMS.
    yield "download ID, the first run", ["download", one], (0,)
    yield "browse, first", ["browse"], (0,)
    yield "browse, nothing new", ["browse"], (0,)
    yield "download ID, archived", ["download", one], (0,)
    yield "download ID, new", ["download", str(new)], (0,)
    yield "browse, one new", ["browse"], (0,)
    yield "status --fingerprint", ["status", "--fingerprint"], (0,)
    yield "download -f all", ["download", "-f", str(listed)], (0,)
    with closing(sqlite3.connect(dest / ARCHIVE_DIR / "catalog.sqlite3")) as db:
        db.execute("UPDATE recording SET state = 'lost' WHERE state = 'unavailable'")
        db.commit()
    sync = ["sync", "--account-key", "1000"]
    yield "sync, first", sync, (0, 3)
    yield "sync, nothing new", sync, (0, 3)
    yield "verify ID", ["verify", one], (0,)
    yield "verify --sample 1%", ["verify", "--sample", "1%"], (0,)
    yield "verify --since", ["verify", "--since", half], (0,)
    yield "verify --oldest-first", ["verify", "--oldest-first"], (0,)
    yield "verify", ["verify"], (0,)
    yield "verify --rebuild", ["verify", "--rebuild", "--catalog", str(rebuilt)], (0,)
    for path in bench.work.glob("rebuilt.*"):
        path.unlink()
    with Catalog(dest / ARCHIVE_DIR / "catalog.sqlite3", readonly=True) as catalog:
        line = str(catalog.fingerprint())
    yield "verify --fingerprint LINE", ["verify", "--fingerprint", line], (0,)
    yield from _curation(bench, dest, half)


def _curation(
    bench: Bench, dest: Path, half: str
) -> Iterator[tuple[str, list[str], tuple[int, ...]]]:
    """What hands recordings over, takes others in, and ends them."""
    bag, merged = str(bench.work / "bag"), str(bench.work / "merged")
    for more in ("", " --zip"):
        yield f"bag{more}, all", ["bag", bag, "--since", "2014-01-01", *more.split()], (0, 3)
        shutil.rmtree(bag, ignore_errors=True)
        Path(f"{bag}.zip").unlink(missing_ok=True)
    yield "merge, all", ["merge", str(dest), "-d", merged], (0,)
    yield "merge, nothing new", ["merge", str(dest), "-d", merged], (0,)
    yield "remove --before, half, would", ["remove", "--before", half], (0,)
    yield "remove --before, half", ["remove", "--before", half, "--yes"], (0,)
    yield "status, afterwards", ["status"], (0,)
    yield "download ID, nothing removed is fetched", ["download", str(FIRST_ID)], (0,)


def _crowded(bench: Bench, count: int) -> Score:
    """One new recording in a directory that has many."""
    say(f"building a directory of {count:,} recordings")
    dest = bench.work / "archive"
    build_archive(dest, count, per_day=count)
    one, two = (SimulatedRecording(FIRST_ID + count + n, _TODAY) for n in (1, 2))
    try:
        with SimulatedService([one, two]) as service:
            for new in (one, two):  # the first one writes the whole SHA256SUMS
                command = ours("download", str(new.id), "-d", str(dest))
                run = bench.command(command, env=service.environment())
            score = Score(f"download ID, new, into one directory@{count:,}", [run])
            return _told(score, (0,))
    finally:
        shutil.rmtree(dest)


def _told(score: Score, codes: tuple[int, ...]) -> Score:
    run: Measured = score.runs[0]
    if run.exit_code not in codes:
        said = (run.stderr.strip() or run.stdout.strip())[-300:]
        score.problems.append(f"exit code {run.exit_code}: {said}")
    say(f"  {score.name}: {run.wall:.2f} s, {run.rss / 1e6:.0f} MB, exit {run.exit_code}")
    return score
