"""What came of a case: right, refused or wrong; and the table of all cases."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from tests.benchmarks.machine import describe

Outcome = Literal["right", "refused", "wrong"]


@dataclass(frozen=True)
class Verdict:
    """What came of one case.

    Attributes:
        outcome: `right`, where the result is that of an undisturbed run; `refused`, where the
            command ended with one line and exit code 1 or 2, and good data is as it was; else
            `wrong`: a traceback, a hang, other rows, leftovers for ever.
        why: What is wrong, or the line of the refusal.
    """

    outcome: Outcome
    why: str = ""


RIGHT = Verdict("right")


def wrong(why: object) -> Verdict:
    """A verdict of what must not be."""
    return Verdict("wrong", str(why))


@dataclass
class Report:
    """The verdicts so far, by kind of case."""

    seed: str
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    def add(self, kind: str, case: str, verdict: Verdict) -> None:
        """Count one verdict."""
        self.outcomes.setdefault(kind, Counter())[verdict.outcome] += 1
        if verdict.outcome != "right":
            self.findings.append(f"{verdict.outcome}: {kind}, {case}: {verdict.why}")

    def wrong_of(self, kind: str) -> list[str]:
        """What is wrong with the cases of a kind."""
        return [line for line in self.findings if line.startswith(f"wrong: {kind},")]

    def __str__(self) -> str:
        lines = [
            describe("fearec"),
            f"FAULT_SEED={self.seed}",
            f"{'':20}{'tried':>8}{'right':>8}{'refused':>8}{'wrong':>8}",
        ]
        for kind, counts in self.outcomes.items():
            numbers = [counts.total(), counts["right"], counts["refused"], counts["wrong"]]
            lines.append(f"{kind:20}" + "".join(f"{number:8}" for number in numbers))
        return "\n".join(lines)
