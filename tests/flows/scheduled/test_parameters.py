"""The parameters of the flows: the run date of a scheduled time, and what the server refuses."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.runtime import flow_run
from pydantic import ValidationError

from flows.scheduled.parameters import BackfillParameters, DatedParameters, RunParameters
from pipeline.config.settings import Settings

ZONES = ["UTC", "Europe/Berlin", "America/Los_Angeles", "Asia/Kolkata", "Pacific/Kiritimati"]


def run_date(scheduled: datetime, time_zone: str, **parameters: str) -> date:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(flow_run.FIELDS, "scheduled_start_time", lambda: scheduled)
        return DatedParameters(**parameters).date(Settings(time_zone=time_zone))


@given(
    day=st.dates(date(2020, 1, 2), date(2040, 1, 1)),
    hour=st.sampled_from([0, 2, 23]),
    zone=st.sampled_from(ZONES),
)
def test_the_run_date_is_the_scheduled_day_in_the_time_zone(
    day: date, hour: int, zone: str
) -> None:
    local = datetime(day.year, day.month, day.day, hour, 30, tzinfo=ZoneInfo(zone))
    scheduled = local.astimezone(UTC)
    assert run_date(scheduled, zone, run_day="today") == day
    assert run_date(scheduled, zone) == day - timedelta(days=1)


def test_a_run_date_that_is_given_is_taken() -> None:
    parameters = DatedParameters(run_date=date(2026, 7, 1), run_day="today")
    assert parameters.date(Settings()) == date(2026, 7, 1)


@pytest.mark.parametrize(
    "refused",
    [{"run_dat": "2026-07-01"}, {"run_date": "tonight"}, {"overrides": ["train.epochs"]}],
)
def test_what_is_misspelt_is_refused(refused: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RunParameters(**refused)


def test_a_backfill_has_its_dates_in_order() -> None:
    with pytest.raises(ValidationError, match="is after the last"):
        BackfillParameters(first=date(2026, 7, 2), last=date(2026, 7, 1))


def test_every_field_of_the_form_is_described() -> None:
    for parameters in (RunParameters, BackfillParameters):
        assert all(field.description for field in parameters.model_fields.values())
