"""`fearec tune`: a search for hyper-parameters."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import (
    Config,
    Day,
    Engine,
    Json,
    Overrides,
    as_date,
    one_line_errors,
    print_result,
    with_engine,
)


@one_line_errors()
def tune(
    params_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Search space, in RecBole's form. (default: hyper.test)"),
    ] = None,
    config: Config = None,
    day: Day = None,
    algo: Annotated[
        str | None, typer.Option(help="exhaustive, random or tpe. (default: exhaustive)")
    ] = None,
    max_evals: Annotated[
        int | None, typer.Option(help="Number of trials. (default: every combination, or 100)")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Number of trials at a time. (default: 1)")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Folder of the search. (default: tune)")
    ] = None,
    engine: Engine = None,
    overrides: Overrides = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start anew; without it, a search is continued.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Search for hyper-parameters by validation; the best ones become OUT/fearec.toml."""
    from flows.console.progress import search_progress
    from flows.console.search import print_search
    from pipeline.config.settings import as_overrides, load_settings
    from pipeline.tuning.tune import tune as search

    flags = {
        "params_file": params_file,
        "algo": algo,
        "max_evals": max_evals,
        "workers": workers,
        "out": out,
    }
    settings = load_settings(
        config, [*with_engine(overrides, engine), *as_overrides("tune", flags)]
    )
    date = as_date(day) or settings.today()
    with search_progress() as progress:
        tuned = search(settings, date, config=config, overwrite=overwrite, progress=progress)
    print_result(tuned, partial(print_search, tuned), as_json)
