"""The Prefect flow of a run: one task per stage.

``python -m flows.nightly`` runs it at once; without a server at hand Prefect starts a temporary
one. On a schedule: `prefect.yaml`.
"""

from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Failed
from prefect.tasks import Task

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
from flows.scheduled.one_line_logs import log_errors_in_one_line
from pipeline.config.settings import load_settings
from pipeline.errors import FearecError
from pipeline.runner.cache import Stage, StageRecord
from pipeline.runner.nightly import FinishedRun, OpenRun, open_run
from pipeline.runner.stages import STAGES, Ingest, Prepare, Publish

# Stages that read and write tables, perhaps in an object store, where a second try can help.
_RETRIED = (Ingest, Prepare, Publish)
_RETRY_DELAYS = [10.0, 60.0]  # seconds


def _may_pass(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Whether a failure may pass by itself: bad input and settings do not."""
    error = state.result(raise_on_failure=False)
    return not (isinstance(error, FearecError) and error.exit_code == 2)


def _as_task(stage: type[Stage[Any]], run: OpenRun) -> Callable[..., StageRecord[Any] | None]:
    as_task = task(
        name=stage.name,
        task_run_name=f"{stage.name} {run.locations.run_date}",
        # What is done is not done again: `pipeline.runner.cache` knows better than Prefect's.
        cache_policy=NO_CACHE,
        retries=len(_RETRY_DELAYS) if stage in _RETRIED else 0,
        retry_delay_seconds=_RETRY_DELAYS,
        retry_condition_fn=_may_pass,
    )
    return as_task(run.do)


@flow(name="nightly-retrain-and-score")
def nightly(
    config: str | None = None,
    run_date: date | None = None,
    overrides: list[str] | None = None,
    force: bool = False,
    force_publish: bool = False,
) -> FinishedRun:
    """Retrain, export, score every user and publish.

    Args:
        config: The settings file; default `fearec.toml`, where it is there.
        run_date: Default today in the settings' time zone.
        overrides: ``section.key=value``, as of ``--set``.
        force: Do again what is done already.
        force_publish: Publish the run's own model, whatever the checks and the gate say.

    Raises:
        FearecError: a stage failed; the flow run is Failed, with the error's one line.
    """
    log_errors_in_one_line()
    try:
        settings = load_settings(Path(config) if config else None, overrides or ())
        day = run_date or settings.today()
        with open_run(settings, day, force=force, force_publish=force_publish) as run:
            for stage in STAGES:
                if stage.is_needed(run.results):
                    _as_task(stage, run)(stage)
            finished = run.finish()
    except FearecError as error:
        # Raised again by Prefect; raised by us it would be logged with its traceback once more.
        return Failed(message=str(error), data=error)  # type: ignore[return-value]
    _create_artifact(finished)
    return finished


def _create_artifact(run: FinishedRun) -> None:
    rows = [
        f"| {record.stage} | {record.seconds:.1f} | {'done before' if record.reused else ''} |"
        for record in run.results.records
    ]
    lines = [*(f"- {line}" for line in headlines(run)), "", "| stage | seconds | |"]
    create_markdown_artifact(
        "\n".join([*lines, "|---|---:|---|", *rows]),
        key="nightly",
        description=f"Night of {run.run_date}",
    )


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
    night = nightly(str(config) if config else None, as_date(day), overrides, force, force_publish)
    settings = load_settings(config, overrides or ())
    print_result(night_result(settings, night), partial(print_night, settings, night), as_json)


if __name__ == "__main__":
    app()
