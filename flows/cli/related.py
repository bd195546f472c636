"""`fearec related`, `embeddings` and `audience`: what a model says of items and users."""

from functools import partial
from typing import Annotated

import typer

from flows.cli.options import (
    Config,
    Json,
    Overrides,
    ServedDay,
    as_date,
    one_line_errors,
    print_result,
)

Model = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="VERSION", help="The model version. (default: what serves the run date)"
    ),
]


@one_line_errors()
def related(
    by: Annotated[
        str, typer.Option(help="cosine of the items' embeddings, or co-occurrence in histories.")
    ] = "cosine",
    top_n: Annotated[int, typer.Option(help="Related items per item.")] = 20,
    model: Model = None,
    config: Config = None,
    day: ServedDay = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Write the related items of every item into the table related_items."""
    from flows.console.related import print_related
    from pipeline.config.settings import load_settings
    from pipeline.runner.related import write_related_items

    settings = load_settings(config, overrides or ())
    written = write_related_items(
        settings, by=by, top_n=top_n, run_date=as_date(day), model_version=model
    )
    print_result(written, partial(print_related, written), as_json)


@one_line_errors()
def embeddings(
    model: Model = None,
    config: Config = None,
    day: ServedDay = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Write the tables item_embeddings and user_embeddings."""
    from flows.console.related import print_embeddings
    from pipeline.config.settings import load_settings
    from pipeline.runner.embeddings import write_embeddings

    settings = load_settings(config, overrides or ())
    written = write_embeddings(settings, run_date=as_date(day), model_version=model)
    print_result(written, partial(print_embeddings, written), as_json)


@one_line_errors()
def audience(
    items: Annotated[str, typer.Option(metavar="FILE", help="The item ids.", show_default=False)],
    top_n: Annotated[int, typer.Option(help="Users per item.")] = 100,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Parquet file to write or replace. (default: print the rows)"
        ),
    ] = None,
    exclude_seen: Annotated[
        bool | None,
        typer.Option(
            "--exclude-seen/--include-seen",
            help="Whether users who have the item are left out. (default: score.exclude_seen)",
        ),
    ] = None,
    model: Model = None,
    config: Config = None,
    day: ServedDay = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Find the users with the highest score for each of some items."""
    from flows.console.related import print_audience
    from pipeline.config.settings import as_overrides, load_settings, settings_file
    from pipeline.runner.audience import find_users
    from pipeline.storage.replaced_inputs import check_replaces_no_input

    if output is not None:
        check_replaces_no_input(output, "--output", [settings_file(config)])
    flags = as_overrides("score", {"exclude_seen": exclude_seen})
    found = find_users(
        load_settings(config, [*(overrides or ()), *flags]),
        items,
        top_n=top_n,
        output=output,
        run_date=as_date(day),
        model_version=model,
    )
    print_result(found, partial(print_audience, found), as_json)
