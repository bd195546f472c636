"""A backfill: the runs of several run dates, oldest first."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta

from pipeline.config.settings import Settings
from pipeline.errors import ConfigError, FearecError
from pipeline.runner.failures import storage_failures
from pipeline.runner.nightly import FinishedRun, nightly
from pipeline.runner.run_checks import check_run_date
from pipeline.runner.run_log import FAILED
from pipeline.runner.stages import Gate
from pipeline.storage.locations import Warehouse
from pipeline.warehouse.runs import current_run


@dataclass(frozen=True)
class Backfilled:
    """A run date of a backfill that is done.

    Attributes:
        run_date: The date.
        decision: The gate's.
        model_version: The model that serves.
        done_before: Whether nothing was left to do.
    """

    run_date: date
    decision: str
    model_version: str
    done_before: bool

    @classmethod
    def of(cls, run: FinishedRun) -> "Backfilled":
        """The date of a run."""
        gated = run.results[Gate].result
        done_before = all(record.reused for record in run.results.records)
        return cls(run.run_date, gated.decision, gated.model_version, done_before)


def run_dates(settings: Settings, first: date, last: date) -> list[date]:
    """Every day from the first to the last, oldest first.

    Args:
        settings: Whose calendar.
        first: The first run date.
        last: The last run date.

    Raises:
        ConfigError: the first is after the last, or the last is later than tomorrow.
    """
    check_run_date(settings, last, "the last run date")
    if first > last:
        raise ConfigError(
            "the first run date is after the last", f"{first} to {last}", expected="oldest first"
        )
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def backfill(
    settings: Settings, first: date, last: date, *, force: bool = False
) -> Iterator[Backfilled]:
    """Run every date of a range that is not done, each as its own night would have.

    A run takes the events up to the end of its date and starts from the champion before it. It
    knows today's log files: an event that arrived after its night is there all the same. A date
    that is done is not done again, by other log files or settings neither, so a backfill that ended
    is continued by the same call. A run that is held publishes with the champion, and the next
    date follows.

    Args:
        settings: Of every run.
        first: The first run date.
        last: The last run date.
        force: Do every stage again.

    Yields:
        The dates that are done, oldest first.

    Raises:
        ConfigError: the first date is after the last, or the last is later than tomorrow.
        FearecError: a run failed; its date is named, and no later one was begun.
    """
    for day in run_dates(settings, first, last):
        try:
            done = None if force else passed_over(settings, day)
            yield done or Backfilled.of(nightly(settings, day, force=force))
        except FearecError as error:
            what, where, *rest = error.args
            place = f"run date {day}"
            if where and where != place:
                place = f"{place}: {where}"
            raise type(error)(what, place, *rest) from error


def passed_over(settings: Settings, run_date: date) -> Backfilled | None:
    """A date whose newest run ended well, so that it is not done again.

    That holds where log files or settings have changed since, too: a run would do it anew with all
    that was added later, and a published model would be replaced.

    Raises:
        StorageError: the table cannot be read.
    """
    with storage_failures(settings):
        row = current_run(Warehouse(settings.warehouse), run_date)
    if row is None or row["decision"] == FAILED:
        return None
    return Backfilled(run_date, row["decision"], row["model_version"], done_before=True)
