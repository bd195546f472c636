"""The Prefect flow of a run: one task per stage.

``python -m flows.nightly`` runs it at once; without a server at hand Prefect starts a temporary
one. On a schedule: `prefect.yaml`.
"""

import logging
from functools import partial

from prefect import flow

from flows.cli.options import (
    Config,
    Day,
    Force,
    ForcePublish,
    Json,
    Overrides,
    as_date,
    new_app,
    one_line_errors,
    print_result,
)
from flows.console.night import headlines, night_result, print_night
from flows.scheduled.artifacts import publish_artifacts, training_progress
from flows.scheduled.outcomes import ended, held, name_flow_run
from flows.scheduled.parameters import RunParameters
from flows.scheduled.stage_tasks import do_stages
from pipeline.config.settings import load_settings
from pipeline.runner.nightly import FinishedRun, open_run
from pipeline.runner.stages import STAGES, Gate

logger = logging.getLogger("pipeline.runner")
_DEFAULTS = RunParameters()


@flow(name="nightly-retrain-and-score")
def nightly(run: RunParameters = _DEFAULTS) -> FinishedRun:
    """Retrain, export, score every user and publish.

    A run that is held, and publishes the champion's recommendations, ends in the state Held, of
    type Completed; one that another run is in the way of in the state Skipped, of type Cancelled.

    Args:
        run: The settings, the run date, and what is done in any case.

    Raises:
        FearecError: a stage failed; the flow run is Failed, with the error's one line.
    """
    return ended(partial(_nightly, run))


def _nightly(parameters: RunParameters) -> FinishedRun:
    settings = parameters.settings()
    day = parameters.date(settings)
    name_flow_run("night", day)
    with (
        open_run(
            settings, day, force=parameters.force, force_publish=parameters.force_publish
        ) as run,
        training_progress(),
    ):
        do_stages(run, STAGES)
        finished = run.finish()
    lines = headlines(finished)
    for line in lines:
        logger.info("%s", line)
    publish_artifacts(finished, lines)
    gated = finished.results[Gate].result
    name_flow_run("night", day, gated.decision)
    if gated.decision == "held":
        return held(finished, gated.reasons)  # type: ignore[return-value]
    return finished


app = new_app()


@app.command()
@one_line_errors()
def main(
    config: Config = None,
    day: Day = None,
    overrides: Overrides = None,
    force: Force = False,
    force_publish: ForcePublish = False,
    as_json: Json = False,
) -> None:
    """Run the nightly flow through Prefect."""
    settings = load_settings(config, overrides or [])
    parameters = RunParameters(
        config=str(config) if config else None,
        run_date=as_date(day),
        run_day="today",
        overrides=overrides or [],
        force=force,
        force_publish=force_publish,
    )
    night = nightly(parameters)
    print_result(night_result(settings, night), partial(print_night, settings, night), as_json)


if __name__ == "__main__":
    app()
