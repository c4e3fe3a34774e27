"""Lets the contenders do the same work in turns, and checks what each of them has done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .contenders import BARE, CONTENDERS, OURS, Contender, Job, environment, our_environment
from .corpus import Corpus, Spec
from .process import Measured, run
from .results import Score
from .servers import Pace, Site, site


@dataclass
class Bench:
    """One invocation of the benchmark: how often, how large, by whom, where."""

    work: Path
    runs: int
    quick: bool
    names: Sequence[str]
    counts: Sequence[int] = ()
    """Recordings in the archives of `scale`, where others than its own are wanted."""
    timeout: float = 900.0
    corpora: dict[Spec, Corpus] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    turns: int = 0

    def contenders(self, *, peers: bool = True) -> list[Contender]:
        """Those who take part; who can't is said once."""
        chosen = [c for c in CONTENDERS if c.name in self.names and (peers or c.name == OURS)]
        for contender in chosen:
            if contender.missing and contender.missing not in self.notes:
                self.notes.append(contender.missing)
        return [c for c in chosen if not c.missing]

    def corpus(self, spec: Spec) -> Corpus:
        """The files of a specification; the workloads share them."""
        if spec not in self.corpora:
            made = Corpus(self.work / f"corpus-{len(self.corpora)}", spec)
            say(f"creating {len(made.sizes):,} files, {made.total / 1e6:,.0f} MB")
            made.create()
            self.corpora[spec] = made
        return self.corpora[spec]

    def command(
        self,
        command: Sequence[str],
        api_url: str = "http://127.0.0.1:9",
        env: Mapping[str, str] | None = None,
    ) -> Measured:
        """Run and measure any command, with what g2a-archive needs in its environment."""
        scratch = self.scratch()
        env = environment(scratch, **{**our_environment(api_url), **(env or {})})
        return run(command, env=env, cwd=scratch, timeout=self.timeout)

    def scratch(self) -> Path:
        """A new directory for one run; what the last run wrote is emptied, on the disk too.

        Emptied, not deleted: ext4 without a journal looks at each inode that was deleted in the
        last minutes before it makes a new file, which would cost the next run seconds.
        """
        for path in (self.work / f"run-{self.turns}").rglob("*"):
            if path.is_file():
                os.truncate(path, 0)
        self.turns += 1
        scratch = self.work / f"run-{self.turns}"
        (scratch / "out").mkdir(parents=True)
        flush(self.work)
        return scratch

    def compete(
        self,
        spec: Spec,
        *,
        parallel: int,
        pace: Pace | None = None,
        tls: bool = False,
        split: bool = False,
        peers: bool = True,
    ) -> Contest:
        """Every contender downloads the same corpus, in alternating runs."""
        corpus = self.corpus(spec)
        pace = pace or Pace()
        contest = Contest(corpus, parallel, pace)
        entrants = self.contenders(peers=peers)
        contest.scores = {entrant.name: Score(entrant.name) for entrant in entrants}
        with ExitStack() as stack:
            place = stack.enter_context(site(self.work, corpus, pace=pace, tls=tls))
            for turn in range(self.runs):
                shift = turn % max(1, len(entrants))
                for entrant in entrants[shift:] + entrants[:shift]:
                    job = Job(place, corpus, parallel, split, self.scratch(), self.timeout)
                    self._one(contest, entrant, job)
        self.scratch()
        return contest

    def _one(self, contest: Contest, entrant: Contender, job: Job) -> None:
        score = contest.scores[entrant.name]
        place: Site = job.site
        place.stats()
        measured = entrant.act(job)
        score.flushes.append(flush(job.out))
        stats = place.stats()
        score.runs.append(measured)
        score.problems += _problems(entrant, measured, job)
        if place.paced:
            contest.parallels[entrant.name] = stats["parallel"]
            contest.server_cpu = max(contest.server_cpu, stats["cpu"] / max(measured.wall, 1e-9))
        say(f"  {entrant.name}: {measured.wall:.2f} s, CPU {measured.cpu:.2f} s")


@dataclass
class Contest:
    """What came of one workload that everybody did."""

    corpus: Corpus
    parallel: int
    pace: Pace
    scores: dict[str, Score] = field(default_factory=dict)
    parallels: dict[str, int] = field(default_factory=dict)
    """The most files that each had under way at the same time, as the paced server saw it."""
    server_cpu: float = 0.0
    """The paced server's CPU, as a share of one core."""

    def valid(self, name: str) -> Score | None:
        """The score of somebody who took part and did everything right."""
        score = self.scores.get(name)
        return score if score and score.valid else None

    @property
    def best_peer(self) -> Score | None:
        """The fastest of the other downloaders."""
        peers = [s for n, s in self.scores.items() if n not in (OURS, BARE) and s.valid]
        return min(peers, key=lambda score: score.wall, default=None)

    @property
    def ideal(self) -> float:
        """Seconds that nobody can beat with so many connections: rates and latencies."""
        corpus, pace = self.corpus, self.pace
        transfers = corpus.total / pace.rate + len(corpus.sizes) * pace.latency
        return pace.link_latency + transfers / self.parallel


def _problems(entrant: Contender, measured: Measured, job: Job) -> list[str]:
    if measured.exit_code:
        said = (measured.stderr.strip() or measured.stdout.strip())[-300:]
        return [f"exit code {measured.exit_code}: {said}"]
    wrong = job.corpus.differences(job.out, content=entrant.checks_content)
    if entrant.name == OURS:
        wrong += _report_problems(measured.stdout, job)
    return [f"{len(wrong)} things are wrong; {wrong[0]}"] if wrong else []


def _report_problems(text: str, job: Job) -> list[str]:
    try:
        report: dict[str, Any] = json.loads(text)
    except ValueError:
        return ["the report is no JSON"]
    expected = {
        "exit_code": 0,
        "archived": len(job.corpus.ids),
        "files": len(job.corpus.sizes),
        "bytes": job.corpus.total,
    }
    return [
        f"the report says {name} {report.get(name)}, not {value}"
        for name, value in expected.items()
        if report.get(name) != value
    ]


def flush(where: Path) -> float:
    """Wait until all that was written to the file system is on disk; the seconds it took."""
    begin = time.monotonic()
    if sys.platform == "linux":
        subprocess.run(["sync", "-f", str(where)], check=False, stdin=subprocess.DEVNULL)
    else:
        os.sync()
    return time.monotonic() - begin


def say(text: str) -> None:
    """Tell on stderr what is going on."""
    print(text, file=sys.stderr, flush=True)
