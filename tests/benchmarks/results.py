"""What was measured, as medians, ratios and goals; as tables and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from .corpus import MIB
from .process import Measured


@dataclass
class Score:
    """All runs of one contender at one workload."""

    name: str
    runs: list[Measured] = field(default_factory=list)
    flushes: list[float] = field(default_factory=list)
    """Seconds that it took after each run until everything was on disk."""
    problems: list[str] = field(default_factory=list)

    @property
    def valid(self) -> bool:
        """Whether every run did its work, whole."""
        return bool(self.runs) and not self.problems

    @property
    def wall(self) -> float:
        """Median seconds of a run."""
        return median(run.wall for run in self.runs)

    @property
    def cpu(self) -> float:
        """Median seconds of CPU, user and system."""
        return median(run.cpu for run in self.runs)

    @property
    def rss(self) -> int:
        """The most memory that any of the runs took, bytes."""
        return max(run.rss for run in self.runs)

    def as_json(self) -> dict[str, Any]:
        """For the report: the medians and each run."""
        runs = [{"wall": r.wall, "cpu": r.cpu, "rss": r.rss} for r in self.runs]
        answer: dict[str, Any] = {"name": self.name, "runs": runs, "problems": self.problems}
        if self.runs:
            answer |= {"wall": self.wall, "cpu": self.cpu, "rss": self.rss}
        if self.flushes:
            answer["flush"] = median(self.flushes)
        return answer


@dataclass(frozen=True)
class Goal:
    """One goal of the project, what came of it, and whether it held."""

    text: str
    value: str
    held: bool

    @classmethod
    def at_most(cls, text: str, value: float, limit: float, unit: str = "") -> Goal:
        """The goal that a figure be at most `limit`."""
        return cls(f"{text} at most {limit:.3g}{unit}", f"{value:.3g}{unit}", value <= limit)


@dataclass
class Table:
    """One workload's outcome. Ratios are those of the wall clock of `reference` to each row."""

    name: str
    title: str
    scores: Sequence[Score]
    reference: str | None = None
    inverse: bool = False
    """Whether the ratios are those of each row to `reference` instead."""
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def _ratio(self, score: Score) -> str:
        reference = next((s for s in self.scores if s.name == self.reference and s.valid), None)
        if reference is None or score is reference:
            return ""
        ratio = reference.wall / score.wall
        return f"{1 / ratio if self.inverse else ratio:.2f}"

    def rows(self) -> list[list[str]]:
        """The table's cells, the head first."""
        flushed = any(score.flushes for score in self.scores)
        heading = f"x {self.reference}" if self.inverse else f"{self.reference} / it"
        head = [self.name, "wall s", "CPU s", "RSS MiB"]
        compared = any(score.name == self.reference for score in self.scores)
        head += ["then flush s"] * flushed + [heading] * compared
        rows = [head]
        for score in self.scores:
            if not score.valid:
                rows.append([score.name, "failed", *[""] * (len(head) - 2)])
                continue
            row = [score.name, f"{score.wall:.2f}", f"{score.cpu:.2f}", f"{score.rss / MIB:.0f}"]
            row += [f"{median(score.flushes or [0.0]):.2f}"] * flushed
            row += [self._ratio(score)] * compared
            rows.append(row)
        return rows

    def text(self, *, markdown: bool) -> str:
        """The table with its goals and notes."""
        lines = [f"{'### ' if markdown else ''}{self.title}", ""]
        lines += _table(self.rows(), markdown=markdown)
        bullet = "- " if markdown else "  "
        marks = {True: "held", False: "MISSED"}
        remarks = [f"{goal.text}: {goal.value}, {marks[goal.held]}" for goal in self.goals]
        remarks += self.notes
        for score in self.scores:
            remarks += [f"{score.name} FAILED: {problem}" for problem in score.problems[:5]]
        return "\n".join([*lines, "", *(f"{bullet}{remark}" for remark in remarks), ""])

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "workload": self.name,
            "title": self.title,
            "scores": [score.as_json() for score in self.scores],
            "goals": [asdict(goal) for goal in self.goals],
            "notes": self.notes,
        }


def _table(rows: Sequence[Sequence[str]], *, markdown: bool) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for number, row in enumerate(rows):
        first = f"{row[0]:<{widths[0]}}"
        cells = [first, *(f"{c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True))]
        lines.append(f"| {' | '.join(cells)} |" if markdown else f"  {'  '.join(cells)}")
        if not number and markdown:
            rules = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
            lines.append(f"| {' | '.join(rules)} |")
    return lines
