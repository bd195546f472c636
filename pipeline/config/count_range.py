"""Intervals of counts, as RecBole writes them: ``[5,inf)``, ``(3,100]``, ``[1,2];[5,inf)``."""

import math
import re
from dataclasses import dataclass

_INTERVAL = re.compile(r"\s*([\[(])([^,]*),([^,]*)([\])])\s*")


@dataclass(frozen=True)
class CountRange:
    """The whole numbers from `low` to `high`, both included.

    Attributes:
        low: The smallest, at least 0.
        high: The largest; None where there is no end.
    """

    low: int
    high: int | None

    def sql(self, number: str) -> str:
        """The condition that a column or expression is within."""
        return f"{number} >= {self.low}" + (f" AND {number} <= {self.high}" if self.high else "")


def parse_intervals(text: str) -> tuple[CountRange, ...]:
    """Read one interval, or several with semicolons between.

    Raises:
        ValueError: it is not written so, or holds no count that is at least 1.
    """
    return tuple(_parse(part) for part in text.split(";"))


def _parse(text: str) -> CountRange:
    match = _INTERVAL.fullmatch(text)
    try:
        opening, low, high, closing = match.groups() if match else ("", "", "", "")
        first, last = float(low), float(high)
    except ValueError:
        first = last = math.nan
    if math.isnan(first) or math.isnan(last):
        raise ValueError(f"{text!r} is not an interval such as [5,inf) or (3,100]")
    least = max(0, first)
    if least < math.inf:
        least = math.floor(least) + 1 if opening == "(" and first >= 0 else math.ceil(least)
    if last < math.inf:
        last = math.ceil(last) - 1 if closing == ")" else math.floor(last)
    if least == math.inf or last < max(1, least):
        raise ValueError(f"no number of interactions is within {text.strip()!r}")
    return CountRange(int(least), None if last == math.inf else int(last))
