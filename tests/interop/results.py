"""One line of the table: what each of them has, and what of it is a problem."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .cases import Case
from .peers import Outcome

_CELL = 34


@dataclass(frozen=True)
class Row:
    """A case's outcomes, beside the SHA-256 that each file should have."""

    case: Case
    expected: Mapping[str, str]
    outcomes: Mapping[str, Outcome]

    @property
    def problems(self) -> list[str]:
        """What may not be."""
        ours, others = self.outcomes["ours"], [self.outcomes[n] for n in ("curl", "requests")]
        found = [ours.complaint] if ours.complaint else []
        if wrong := ours.wrong(self.expected):
            found.append(f"wrong bytes in {', '.join(sorted(wrong))}")
        both = others[0].right(self.expected) & others[1].right(self.expected)
        if missed := both - ours.right(self.expected):
            found.append(f"{ours.reason()}: {', '.join(sorted(missed))}, which both others have")
        if self.case.proxy and ours.linked and ours.proxied != others[1].proxied:
            found.append("not the way that requests goes")
        return found

    @property
    def alike(self) -> bool:
        """Whether all three have the same bytes."""
        first, *rest = (outcome.digests for outcome in self.outcomes.values())
        return all(other == first for other in rest)

    @staticmethod
    def head(width: int) -> str:
        """The table's head."""
        cells = "".join(f"  {name:<{_CELL}}" for name in ("ours", "curl", "requests"))
        return f"{'case':<{width}}{cells}  same bytes?"

    def line(self, width: int) -> str:
        """The case in one line."""
        cells = "".join(
            f"  {self._cell(outcome)[:_CELL]:<{_CELL}}" for outcome in self.outcomes.values()
        )
        verdict = "yes" if self.alike else f"no: {self.case.why or self._difference()}"
        if self.problems:
            verdict = f"PROBLEM: {'; '.join(self.problems)}"
        return f"{self.case.name:<{width}}{cells}  {verdict}"

    def _difference(self) -> str:
        """What to say where the case foresees no difference."""
        if len(self.outcomes["ours"].right(self.expected)) == len(self.expected):
            return "ours alone is whole, by trying again"
        return "unexplained"

    def _cell(self, outcome: Outcome) -> str:
        right, wrong = outcome.right(self.expected), outcome.wrong(self.expected)
        text = f"{len(right)} of {len(self.expected)}"
        text += f", {len(wrong)} WRONG" if wrong else ""
        text += ", proxy" if outcome.proxied else ""
        return f"{text}: {outcome.reason()}" if outcome.reasons else text

    def reasons(self) -> Iterator[str]:
        """All that was told, for `--verbose`."""
        for name, outcome in self.outcomes.items():
            for reason, count in outcome.reasons.items():
                yield f"    {name}: {count} x {reason}"
