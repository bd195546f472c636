"""What the end of a run date is."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from pipeline.errors import ConfigError


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
