"""A backfill: the runs of several run dates, oldest first."""

from collections.abc import Iterator
from datetime import date, timedelta

from pipeline.config.settings import Settings
from pipeline.errors import ConfigError, FearecError
from pipeline.runner.nightly import FinishedRun, nightly


def run_dates(first: date, last: date) -> list[date]:
    """Every day from the first to the last, oldest first.

    Raises:
        ConfigError: the first is after the last.
    """
    if first > last:
        raise ConfigError(
            "the first run date is after the last", f"{first} to {last}", expected="oldest first"
        )
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def backfill(
    settings: Settings, first: date, last: date, *, force: bool = False
) -> Iterator[FinishedRun]:
    """Run every date of a range that is not done, each as its own night would have.

    A run takes the events up to the end of its date and starts from the champion before it. It
    knows today's log files: an event that arrived after its night is there all the same. A date
    that is done is not done again, so a backfill that ended is continued by the same call. A run
    that is held publishes with the champion, and the next date follows.

    Args:
        settings: Of every run.
        first: The first run date.
        last: The last run date.
        force: Do every stage again.

    Yields:
        The finished runs, oldest first.

    Raises:
        ConfigError: the first date is after the last.
        FearecError: a run failed; its date is named, and no later one was begun.
    """
    for day in run_dates(first, last):
        try:
            finished = nightly(settings, day, force=force)
        except FearecError as error:
            what, where, *rest = error.args
            raise type(error)(what, f"run date {day}: {where}", *rest) from error
        yield finished
