"""The judgement of what a check found, by its limit and beside what earlier runs recorded."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from pipeline.config.guard_sections import CheckSettings, Limit
from pipeline.results import Check

RUNS = 28  # earlier runs that a value is compared with
_ENOUGH = 3  # of them, for a median that one unusual run does not decide

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """The limits of some checks, and the rows of `runs` that have their earlier values.

    Attributes:
        settings: The limits.
        earlier: Rows of earlier runs, oldest first.
        column: The column with the values: `checks` or `table_checks`.
    """

    settings: CheckSettings
    earlier: Sequence[Mapping[str, Any]]
    column: Literal["checks", "table_checks"]

    def values(self, name: str) -> list[float]:
        """The values that earlier runs recorded of a check, oldest first."""
        checks = (check for row in self.earlier for check in row[self.column] or ())
        return [
            check["value"]
            for check in checks
            if check["name"] == name and check["value"] is not None
        ]

    def at_most(self, name: str, value: float, what: str) -> Check:
        """Judge a value that may not be above the limit itself."""
        return self._judged(name, value, what, self._limit(name).limit, above=True)

    def not_above_usual(
        self, name: str, value: float | None, what: str, enough: int = _ENOUGH
    ) -> Check:
        """Judge a value that may be above the usual one by no more than the limit.

        Args:
            name: Of the check.
            value: What was found; None where nothing can be said, which passes.
            what: What the value is, in words.
            enough: Earlier values without which every value passes.
        """
        usual = self._usual(name, enough)
        bound = None if usual is None else usual + self._limit(name).limit
        return self._judged(name, value, what, bound, above=True, usual=usual)

    def not_below_usual(self, name: str, value: float | None, what: str) -> Check:
        """Judge a value that may not be below the limit times the usual one.

        The arguments are those of `not_above_usual`.
        """
        usual = self._usual(name, _ENOUGH)
        bound = None if usual is None else usual * self._limit(name).limit
        return self._judged(name, value, what, bound, above=False, usual=usual)

    def _limit(self, name: str) -> Limit:
        limit: Limit = getattr(self.settings, name)
        return limit

    def _usual(self, name: str, enough: int) -> float | None:
        values = self.values(name)
        return median(values) if len(values) >= enough else None

    def _judged(
        self,
        name: str,
        value: float | None,
        what: str,
        bound: float | None,
        *,
        above: bool,
        usual: float | None = None,
    ) -> Check:
        action = self._limit(name).action
        if value is None:
            return Check(name, "passed", f"{what}: nothing to say yet")
        value = float(value)  # as a record read again has it
        message = f"{what}: {number(value)}"
        if action == "off":
            return Check(name, "passed", message, value)
        if bound is None:
            return Check(name, "passed", f"{message}, too few earlier runs to compare with", value)
        side = "at most" if above else "at least"
        beside = "" if usual is None else f"usual {number(usual)}, "
        message = f"{message} ({beside}{side} {number(bound)})"
        if not (value > bound if above else value < bound):
            return Check(name, "passed", message, value, bound)
        return Check(name, "held" if action == "hold" else "warned", message, value, bound)


def number(value: float) -> str:
    """A value as text: whole numbers as such, others with three digits that count."""
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.3g}"


def log_failures(checks: Iterable[Check]) -> None:
    """Log a warning for each check that did not pass."""
    for check in checks:
        if check.outcome != "passed":
            logger.warning("%s: %s: %s", check.outcome, check.name, check.message)
