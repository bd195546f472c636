"""The results of `fearec status`."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime


@dataclass(frozen=True)
class RunSummary:
    """The newest run of a run date.

    Attributes:
        run_date: Its run date.
        finished_at: When it ended; None of version 0.1.
        decision: ``first``, ``promoted``, ``held``, ``forced``, ``rolled back`` or ``failed``.
        model_version: The model that served; None of a failed run.
        metric: The name of the headline metric; None where nothing was evaluated.
        value: The metric of the run's own model.
        reasons: How it failed, and why it was held.
        seconds: Of all its stages.
    """

    run_date: date
    finished_at: datetime | None
    decision: str
    model_version: str | None
    metric: str | None
    value: float | None
    reasons: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Status:
    """A warehouse at a glance.

    Attributes:
        champion: The model version that the next run starts from; None of an empty warehouse.
        champion_fault: Why it cannot start from it, as far as a look at the files' names tells.
        candidate: The newest run's own model.
        runs: The last run dates, newest first.
        disk: Bytes of each table, of `models`, and of the work folder.
    """

    champion: str | None
    champion_fault: str | None
    candidate: str | None
    runs: tuple[RunSummary, ...]
    disk: Mapping[str, int]
