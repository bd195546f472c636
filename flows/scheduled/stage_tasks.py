"""The stages of a run as Prefect's tasks."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from pipeline.errors import FearecError, TableCheckError
from pipeline.runner.cache import Stage, StageRecord
from pipeline.runner.nightly import OpenRun
from pipeline.runner.stages import Ingest, Prepare, Publish

logger = logging.getLogger("pipeline.runner")

# Stages that read and write tables, perhaps in an object store, where a second try can help.
_RETRIED = (Ingest, Prepare, Publish)
_RETRY_DELAYS = [10.0, 60.0]  # seconds


def do_stages(run: OpenRun, stages: Sequence[type[Stage[Any]]]) -> None:
    """Do stages one after the other, each as a task; those that the run does not have are left out.

    Raises:
        FearecError: a stage failed.
    """
    for stage in stages:
        if stage.is_needed(run.results):
            _as_task(stage, run)(stage)


def _as_task(stage: type[Stage[Any]], run: OpenRun) -> Callable[..., StageRecord[Any] | None]:
    def do(stage: type[Stage[Any]]) -> StageRecord[Any] | None:
        record = run.do(stage)
        if record:
            logger.info("%s", _summary(record))
        return record

    as_task = task(
        name=stage.name,
        task_run_name=f"{stage.name} {run.locations.run_date}",
        # What is done is not done again: `pipeline.runner.cache` knows better than Prefect's.
        cache_policy=NO_CACHE,
        retries=len(_RETRY_DELAYS) if stage in _RETRIED else 0,
        retry_delay_seconds=_RETRY_DELAYS,
        retry_condition_fn=_may_pass,
    )
    return as_task(do)


def _may_pass(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Whether a failure may pass by itself: bad input, settings and recommendations do not."""
    error = state.result(raise_on_failure=False)
    lasts = isinstance(error, FearecError) and error.exit_code == 2
    return not (lasts or isinstance(error, TableCheckError))


def _summary(record: StageRecord[Any]) -> str:
    """A stage's counts in one line."""
    took = "done before" if record.reused else f"{record.seconds:.1f} seconds"
    values = ((each.name, getattr(record.result, each.name)) for each in fields(record.result))
    counts = (f"{name} {value:,}" for name, value in values if type(value) is int)
    return f"{record.stage}: {', '.join([took, *counts])}"
