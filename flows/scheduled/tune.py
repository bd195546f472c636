"""The Prefect flow of a search for hyper-parameters: a thin shell over `pipeline.tuning.tune`.

``python -m flows.tune`` runs it at once; `prefect.yaml` lists it without a schedule.
"""

from datetime import date
from functools import partial
from pathlib import Path

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Failed

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
from flows.scheduled.one_line_logs import log_errors_in_one_line
from pipeline.config.settings import load_settings
from pipeline.errors import FearecError
from pipeline.tuning import tune as search_of


@flow(name="tune")
def tune(
    config: str | None = None,
    run_date: date | None = None,
    overrides: list[str] | None = None,
    overwrite: bool = False,
) -> search_of.Tuned:
    """Search for hyper-parameters on the data of a run date; a killed search is continued.

    Args:
        config: The settings file; default `fearec.toml`, where it is there.
        run_date: Default today in the settings' time zone.
        overrides: ``section.key=value``, as of ``--set``; ``tune.params_file=...`` and the like.
        overwrite: Begin again where there is an earlier search.

    Raises:
        FearecError: the search failed; the flow run is Failed, with the error's one line.
    """
    log_errors_in_one_line()
    try:
        settings = load_settings(Path(config) if config else None, overrides or ())
        day = run_date or settings.today()
        # What is finished is not repeated: the study knows better than a cache.
        search = task(name="search", task_run_name=f"search {day}", cache_policy=NO_CACHE)
        tuned = search(search_of.tune)(settings, day, overwrite=overwrite)
    except FearecError as error:
        # Raised again by Prefect; raised by us it would be logged with its traceback once more.
        return Failed(message=str(error), data=error)  # type: ignore[return-value]
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
    tuned = tune(str(config) if config else None, as_date(day), overrides)
    print_result(tuned, partial(print_search, tuned), as_json)


if __name__ == "__main__":
    app()
