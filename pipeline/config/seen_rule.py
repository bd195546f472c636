"""What counts as seen, in words: `score.exclude_seen` where it is neither true nor false."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from pipeline.dates import MOST_DAYS, RunDay, days_before

_AGE = re.compile(r"\s*(\d{1,9})\s+days?\s*", re.IGNORECASE)

EXPECTED = 'true, false, an age such as "30 days", types of events such as "purchase", or a list'


@dataclass(frozen=True)
class SeenRule:
    """Which events of a user make an item one that the user has seen.

    Attributes:
        within_days: Only events in so many days up to the run date; None for all.
        event_types: Only events of one of these types; empty for all.
    """

    within_days: int | None = None
    event_types: tuple[str, ...] = ()

    @classmethod
    def of(cls, words: Sequence[str]) -> Self:
        """The rule of a list of types of events, and at most one age such as ``30 days``.

        Raises:
            ValueError: there is no word, an empty one, a second age, an age out of bounds or an age
                within a word.
        """
        if not words or not all(word.strip() for word in words):
            raise ValueError(f"must be {EXPECTED} of these")
        ages = [match for word in words if (match := _AGE.fullmatch(word))]
        if len(ages) > 1:
            raise ValueError("must have one age at most")
        days = int(ages[0][1]) if ages else None
        if days is not None and not 1 <= days <= MOST_DAYS:
            raise ValueError(f"an age must be 1 to {MOST_DAYS} days")
        types = {word for word in words if not _AGE.fullmatch(word)}
        for word in types:
            if any(_AGE.fullmatch(part) for part in word.split(",")):
                raise ValueError('types and an age are a list, such as ["purchase", "30 days"]')
        return cls(days, tuple(sorted(types)))

    @property
    def words(self) -> tuple[str, ...]:
        """The rule as the setting has it, the same for equal rules."""
        age = () if self.within_days is None else (f"{self.within_days} days",)
        return (*self.event_types, *age)

    def on(self, run_day: RunDay) -> "SeenEvents":
        """The rule on a run date.

        Raises:
            ConfigError: the run date is not one that a run can have.
        """
        since = days_before(run_day.run_date, self.within_days, run_day.time_zone)
        return SeenEvents(since, self.event_types)


@dataclass(frozen=True)
class SeenEvents:
    """A `SeenRule` on a run date.

    Attributes:
        since: Only events from this instant on; None for all.
        event_types: Only events of one of these types; empty for all.
    """

    since: datetime | None
    event_types: tuple[str, ...]
