"""The workloads of the benchmark, each with the goals that the project has set itself."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from hashlib import sha256

from .bench import Bench, Contest, say
from .contenders import OURS, ours, write_ids
from .corpus import KIB, MIB, Spec
from .nothing import build_archive
from .process import Measured
from .results import Goal, Score, Table
from .scale import scale
from .servers import Pace, site

_GB = 1e9
_BARE_CLICK = """
import click

@click.command()
@click.version_option("1.0")
def main() -> None:
    "Does nothing at all."

main()
"""


def small(bench: Bench) -> Table:
    """1,500 recordings of 64 KiB + 8 KiB + 4 KiB, 8 parallel."""
    contest = bench.compete(_small(bench, 1500), parallel=8)
    table = _table("small", f"Small files: {_describe(contest)}", contest)
    mine = contest.valid(OURS)
    if mine:
        for peer, limit in (("aria2c", 0.5), ("rclone", 1.5)):
            if other := contest.valid(peer):
                table.goals.append(Goal.at_most(f"wall / {peer}", mine.wall / other.wall, limit))
        start = _interpreter_start(bench)
        each = (mine.cpu - start) * 1000 / len(contest.corpus.sizes)
        table.goals.append(
            Goal.at_most("CPU a file over the interpreter's start", each, 0.5, " ms")
        )
    return table


def large(bench: Bench) -> Table:
    """16 recordings of 128 MiB, 8 parallel."""
    return _large(bench, "large", tls=False)


def tls(bench: Bench) -> Table:
    """The same over HTTPS."""
    return _large(bench, "tls", tls=True)


def _large(bench: Bench, name: str, *, tls: bool) -> Table:
    contest = bench.compete(_large_spec(bench), parallel=8, tls=tls)
    title = "Large files over TLS" if tls else "Large files"
    table = _table(name, f"{title}: {_describe(contest)}", contest)
    mine, curl = contest.valid(OURS), contest.valid("curl")
    if mine and curl:
        size, own = contest.corpus.total / _GB, _hash_cost()
        limit = 2 * curl.cpu / size + own
        table.goals += [
            Goal.at_most("wall / curl", mine.wall / curl.wall, 1.2 if tls else 1.1),
            Goal.at_most("CPU a GB (2 x curl's + SHA-256)", mine.cpu / size, limit, " s"),
        ]
        table.notes.append(f"SHA-256 alone takes {own:.2f} s of CPU a GB here")
    return table


def wan8(bench: Bench) -> Table:
    """240 recordings of 4 MiB + 100 KiB + 30 KiB from a distant host, 8 parallel."""
    return _wan(bench, "wan8", _wan_spec(bench), 8)


def wan16(bench: Bench) -> Table:
    """The same, 16 parallel."""
    return _wan(bench, "wan16", _wan_spec(bench), 16)


def wan_small(bench: Bench) -> Table:
    """1,200 small recordings from a distant host: link calls must overlap downloads."""
    return _wan(bench, "wan-small", _small(bench, 1200), 8)


def _wan(bench: Bench, name: str, spec: Spec, parallel: int) -> Table:
    pace = Pace(link_latency=0.5, latency=0.06, rate=8 * MIB)
    contest = bench.compete(spec, parallel=parallel, pace=pace)
    title = (
        f"A distant host: {_describe(contest)}; 60 ms to the first byte, "
        "8 MiB/s a connection, 500 ms a link call"
    )
    table = _table(name, title, contest)
    mine, best = contest.valid(OURS), contest.best_peer
    if mine and best:
        ratio = mine.wall / best.wall
        table.goals.append(Goal.at_most(f"wall / the best peer ({best.name})", ratio, 1.0))
    if mine:
        share = 100 * contest.ideal / mine.wall
        text = f"at least 97% of what {parallel} such connections can do ({contest.ideal:.1f} s)"
        table.goals.append(Goal(text, f"{share:.1f}%", share >= 97))
    return table


def tail(bench: Bench) -> Table:
    """Seven small files and one of 1 GiB, 32 MiB/s a connection, 8 parallel."""
    size = 64 * MIB if bench.quick else 1024 * MIB
    spec = Spec(8, 64 * KIB, odd=1, odd_size=size)
    contest = bench.compete(spec, parallel=8, pace=Pace(rate=32 * MIB), split=True)
    title = f"One large file at the end: {_describe(contest)}; 32 MiB/s a connection"
    table = _table("tail", title, contest)
    mine, aria2 = contest.valid(OURS), contest.valid("aria2c")
    if mine and aria2:
        ratio = mine.wall / aria2.wall
        table.goals.append(Goal.at_most("wall / aria2c -x8 -s8", ratio, 1.05))
    return table


def nothing(bench: Bench) -> Table:
    """1,500, 100,000 and 1,000,000 IDs that are all archived already."""
    counts = (1_500, 2_000, 10_000) if bench.quick else (1_500, 100_000, 1_000_000)
    few, many, most = (f"{count:,} IDs" for count in counts)
    start = Score("--help", runs=[bench.command(ours("--help")) for _ in range(bench.runs + 1)][1:])
    scores = {name: Score(name) for name in (few, many, most)}
    asked = _nothing(bench, counts[1], [(scores[few], counts[0]), (scores[many], counts[1])])
    asked += _nothing(bench, counts[2], [(scores[most], counts[2])])
    table = Table("nothing", "Nothing to do", [start, *scores.values()])
    _check(table.scores)
    if scores[most].valid:
        table.goals += [
            Goal.at_most(f"{most}: wall", scores[most].wall, 4, " s"),
            Goal.at_most(f"{most}: RSS", scores[most].rss / 1e6, 160, " MB"),
            Goal("no request", str(asked), asked == 0),
        ]
    if scores[few].valid and start.valid:
        ratio = scores[few].wall / start.wall
        table.goals.append(Goal.at_most(f"{few}: wall / --help", ratio, 2))
    return table


def _nothing(bench: Bench, archived: int, asked: Sequence[tuple[Score, int]]) -> int:
    """Ask an archive for what it has; how many requests that led to."""
    say(f"building an archive of {archived:,} recordings")
    dest = bench.work / "archive"
    ids = build_archive(dest, archived)
    try:
        corpus = bench.corpus(Spec(1, 64))
        with site(bench.work, corpus, pace=Pace(latency=0.001)) as place:
            for score, count in asked:
                listed = write_ids(bench.work / "ids.txt", ids[:count])
                command = ours("download", "-f", str(listed), "-d", str(dest), "-j", "8", "--json")
                runs = [bench.command(command, place.links_url) for _ in range(bench.runs + 1)]
                score.runs += runs[1:]  # the first one brings the archive's own files up to date
                score.problems += _unless_all_archived(runs, count)
                say(f"  {score.name}: {score.wall:.2f} s, {score.rss / MIB:.0f} MiB")
            seen = place.stats()
            return int(seen["link_calls"] + seen["file_requests"])
    finally:
        say("removing it")
        shutil.rmtree(dest)


def _unless_all_archived(runs: Sequence[Measured], count: int) -> list[str]:
    for one in runs:
        try:
            said = json.loads(one.stdout)["already_archived"]
        except (ValueError, KeyError):
            said = "nothing"
        if said != count:
            return [f"the report says {said} already archived, not {count}"]
    return []


def start_up(bench: Bench) -> Table:
    """`--version` and `--help` beside a bare click program."""
    script = bench.work / "bare.py"
    script.write_text(_BARE_CLICK)
    commands = {
        "bare click": [sys.executable, str(script), "--help"],
        "--version": ours("--version"),
        "--help": ours("--help"),
    }
    scores = {name: Score(name) for name in commands}
    for turn in range(bench.runs * 3 + 1):
        for name, command in commands.items():
            measured = bench.command(command)
            if turn:  # the first one compiles the modules
                scores[name].runs.append(measured)
    table = Table("start-up", "Start-up", list(scores.values()), "bare click", inverse=True)
    _check(table.scores)
    for name in ("--version", "--help"):
        if scores[name].valid and scores["bare click"].valid:
            ratio = scores[name].wall / scores["bare click"].wall
            table.goals.append(Goal.at_most(f"{name}: wall / a bare click program", ratio, 1.5))
    return table


def memory(bench: Bench) -> Table:
    """Peak memory at 16 parallel: the large files, and 10,000 small recordings."""
    scores = []
    for name, spec in (
        ("large", _large_spec(bench)),
        ("small", _small(bench, 10_000)),
    ):
        contest = bench.compete(spec, parallel=16, peers=False)
        for score in contest.scores.values():
            score.name = f"{name}: {_describe(contest)}"
            scores.append(score)
    table = Table("memory", "Memory", scores)
    for score in scores:
        if score.valid:
            goal = Goal.at_most(f"{score.name.partition(':')[0]}: RSS", score.rss / 1e6, 64, " MB")
            table.goals.append(goal)
    return table


WORKLOADS: dict[str, Callable[[Bench], Table]] = {
    "small": small,
    "large": large,
    "tls": tls,
    "wan8": wan8,
    "wan16": wan16,
    "wan-small": wan_small,
    "tail": tail,
    "nothing": nothing,
    "start-up": start_up,
    "memory": memory,
    "scale": scale,
}


def _small(bench: Bench, count: int) -> Spec:
    return Spec(count // (10 if bench.quick else 1), 64 * KIB, 8 * KIB, 4 * KIB)


def _large_spec(bench: Bench) -> Spec:
    return Spec(16, (8 if bench.quick else 128) * MIB)


def _wan_spec(bench: Bench) -> Spec:
    count, size = (32, MIB) if bench.quick else (240, 4 * MIB)
    return Spec(count, size, 100 * KIB, 30 * KIB)


def _describe(contest: Contest) -> str:
    corpus = contest.corpus
    return (
        f"{len(corpus.ids):,} recordings, {len(corpus.sizes):,} files, "
        f"{corpus.total / 1e6:,.0f} MB, {contest.parallel} parallel"
    )


def _table(name: str, title: str, contest: Contest) -> Table:
    table = Table(name, title, list(contest.scores.values()), OURS)
    if contest.parallels:
        seen = ", ".join(f"{who} {count}" for who, count in contest.parallels.items())
        table.notes.append(f"files under way at once, as the server saw it: {seen}")
        table.notes.append(f"the server took {contest.server_cpu:.0%} of one core at most")
    return table


def _check(scores: Sequence[Score]) -> None:
    """A command that failed has not been measured."""
    for score in scores:
        for one in score.runs:
            if one.exit_code:
                said = (one.stderr.strip() or one.stdout.strip())[-300:]
                score.problems.append(f"exit code {one.exit_code}: {said}")


def _interpreter_start(bench: Bench) -> float:
    score = Score("start", [bench.command([sys.executable, "-c", "pass"]) for _ in range(5)])
    return score.cpu


def _hash_cost() -> float:
    """Seconds of CPU that SHA-256 takes for a GB."""
    block = bytes(MIB)
    begin = time.process_time()
    digest = sha256()
    for _ in range(256):
        digest.update(block)
    return (time.process_time() - begin) * _GB / (256 * MIB)
