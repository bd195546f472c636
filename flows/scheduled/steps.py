"""The Prefect flows of a run's steps, for operators who schedule or repeat them one by one.

A step takes up the recorded results of the stages before it, with the same settings and run date.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from prefect import flow

from flows.scheduled.artifacts import training_progress
from flows.scheduled.outcomes import ended, held, name_flow_run
from flows.scheduled.parameters import StageParameters
from flows.scheduled.stage_tasks import do_stages
from pipeline.runner.cache import RunResults, Stage
from pipeline.runner.nightly import open_run
from pipeline.runner.stages import STAGES, Gate, Ingest, Prepare, Publish, Score

_DEFAULTS = StageParameters()


@flow(name="ingest")
def ingest(run: StageParameters = _DEFAULTS) -> RunResults:
    """Add new log files to the warehouse; bad rows go into quarantine."""
    return ended(partial(_do, "ingest", run, [Ingest]))


@flow(name="retrain")
def retrain(run: StageParameters = _DEFAULTS) -> RunResults:
    """Prepare and check the data, train, evaluate and export a model, and decide which serves."""
    stages = STAGES[STAGES.index(Prepare) : STAGES.index(Gate) + 1]
    return ended(partial(_do, "retrain", run, stages))


@flow(name="batch-score")
def batch_score(run: StageParameters = _DEFAULTS) -> RunResults:
    """Recommend items to every user with the model that serves."""
    return ended(partial(_do, "batch-score", run, [Score]))


@flow(name="publish")
def publish(run: StageParameters = _DEFAULTS) -> RunResults:
    """Replace the run date's partition of the recommendations."""
    return ended(partial(_do, "publish", run, STAGES[STAGES.index(Publish) :]))


def _do(name: str, parameters: StageParameters, stages: Sequence[type[Stage[Any]]]) -> RunResults:
    """Do the stages of a step.

    Returns:
        The records of the run so far; as the state Held where the step decided that.

    Raises:
        ConfigError: a stage before them is not done.
        FearecError: a stage failed.
    """
    settings = parameters.settings()
    day = parameters.date(settings)
    name_flow_run(name, day)
    with (
        open_run(settings, day, first=stages[0], force=parameters.force) as run,
        training_progress(),
    ):
        do_stages(run, stages)
        if stages[-1] is STAGES[-1]:
            run.finish()
    if Gate not in stages:
        return run.results
    gated = run.results[Gate].result
    name_flow_run(name, day, gated.decision)
    if gated.decision == "held":
        return held(run.results, gated.reasons)  # type: ignore[return-value]
    return run.results
