"""The Prefect flow of a search for hyper-parameters: a thin shell over `pipeline.tuning.tune`.

``python -m flows.tune`` runs it at once; `prefect.yaml` lists it without a schedule.
"""

from functools import partial

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows.cli.options import (
    Config,
    Day,
    Json,
    Overrides,
    as_date,
    new_app,
    one_line_errors,
    print_result,
)
from flows.console.search import headlines, print_search
from flows.scheduled.outcomes import ended, name_flow_run
from flows.scheduled.parameters import TuneParameters
from pipeline.config.settings import load_settings
from pipeline.tuning import tune as search_of

_DEFAULTS = TuneParameters()


@flow(name="tune")
def tune(run: TuneParameters = _DEFAULTS) -> search_of.Tuned:
    """Search for hyper-parameters on the data of a run date; a killed search is continued.

    Args:
        run: The settings, those of `[tune]` among them, and the run date.

    Raises:
        FearecError: the search failed; the flow run is Failed, with the error's one line.
    """
    return ended(partial(_tune, run))


def _tune(parameters: TuneParameters) -> search_of.Tuned:
    settings = parameters.settings()
    day = parameters.date(settings)
    name_flow_run("tune", day)
    # What is finished is not repeated: the study knows better than a cache.
    search = task(name="search", task_run_name=f"search {day}", cache_policy=NO_CACHE)
    tuned = search(search_of.tune)(
        settings,
        day,
        config=parameters.settings_file,
        overwrite=parameters.overwrite,
    )
    create_markdown_artifact(
        "\n".join(f"- {line}" for line in [*headlines(tuned), f"test: {dict(tuned.test.model)}"]),
        key="tune",
        description=f"Search on the data of {day}",
    )
    return tuned


app = new_app()


@app.command()
@one_line_errors()
def main(
    config: Config = None, day: Day = None, overrides: Overrides = None, as_json: Json = False
) -> None:
    """Run the search through Prefect."""
    load_settings(config, overrides or [])  # what is wrong with them is an error of one line
    parameters = TuneParameters(
        config=str(config) if config else None,
        run_date=as_date(day),
        run_day="today",
        overrides=overrides or [],
    )
    tuned = tune(parameters)
    print_result(tuned, partial(print_search, tuned), as_json)


if __name__ == "__main__":
    app()
