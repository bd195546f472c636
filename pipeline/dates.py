"""What the end of a run date is, and an instant some days before it."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from pipeline.errors import ConfigError

MOST_DAYS = 36_500  # of a setting: a century


def run_end(run_date: date, time_zone: str) -> datetime:
    """The first instant after a run date's calendar day in `time_zone`, in UTC.

    Raises:
        ConfigError: there is none before the year 10000, or after the year 0.
    """
    try:
        midnight = datetime.combine(run_date + timedelta(days=1), time.min, ZoneInfo(time_zone))
        return midnight.astimezone(UTC)
    except OverflowError:
        raise ConfigError(
            "not a day that a run can have",
            f"run date {run_date}",
            expected="one of the years 2 to 9998",
        ) from None


def days_before(run_date: date, days: int | None, time_zone: str) -> datetime | None:
    """The first instant of the last so many days up to the end of a run date, in UTC.

    Args:
        run_date: The last of the days.
        days: Their number; None for no limit.
        time_zone: The IANA time zone of the run date.

    Returns:
        The instant; None where there is no limit.

    Raises:
        ConfigError: there is none after the year 0.
    """
    if days is None:
        return None
    return run_end(date.fromordinal(max(1, run_date.toordinal() - days)), time_zone)


@dataclass(frozen=True)
class RunDay:
    """A run date in its time zone.

    Attributes:
        run_date: The calendar day.
        time_zone: The IANA time zone of the day.
    """

    run_date: date
    time_zone: str

    @property
    def end(self) -> datetime:
        """See `run_end`."""
        return run_end(self.run_date, self.time_zone)
