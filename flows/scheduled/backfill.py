"""The Prefect flow of a backfill: a flow run of `nightly` per run date, oldest first."""

import logging
from datetime import date
from functools import partial
from typing import Any

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Failed

from flows.scheduled.nightly import nightly
from flows.scheduled.outcomes import ended
from flows.scheduled.parameters import BackfillParameters, RunParameters
from pipeline.runner.backfill import passed_over, run_dates

logger = logging.getLogger("pipeline.runner")


@flow(name="backfill")
def backfill(run: BackfillParameters) -> list[date]:
    """Run every date of a range that is not done, each as its own night would have.

    It stops at the first run that fails, and goes on after one that is held. Done once more, it
    continues.
    """
    return ended(partial(_backfill, run))


def _backfill(parameters: BackfillParameters) -> list[date]:
    settings = parameters.settings()
    days = run_dates(settings, parameters.first, parameters.last)
    with get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, name=f"backfill {days[0]} to {days[-1]}")
    for day in days:
        if not parameters.force and (done := passed_over(settings, day)):
            logger.info("%s: %s; done before", day, done.decision)
            continue
        night = RunParameters(
            config=parameters.config,
            overrides=parameters.overrides,
            run_date=day,
            force=parameters.force,
        )
        state = nightly(night, return_state=True)
        if not state.is_completed():
            return _stopped(state, day)  # type: ignore[return-value]
    return days


def _stopped(state: State[Any], day: date) -> State[Any]:
    """The state of a backfill whose run of a date did not complete."""
    kind = Cancelled if state.is_cancelled() else Failed
    error = state.result(raise_on_failure=False)
    return kind(name=state.name, message=f"stopped at {day}: {state.message}", data=error)
