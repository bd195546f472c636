"""`fearec models`: the registry, to look at and to change by hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import Config, Json, Overrides, new_app, one_line_errors, print_result

if TYPE_CHECKING:
    from pipeline.bundles.promotion import Promotion
    from pipeline.config.settings import Settings
    from pipeline.storage.locations import Warehouse

Version = Annotated[str, typer.Argument(help="The model version.", show_default=False)]
Republish = Annotated[
    bool,
    typer.Option(
        "--republish", help="Run its run date again too, so that its table comes from it."
    ),
]

models = new_app(no_args_is_help=True, help="List, compare and choose model versions.")


@models.command("list")
@one_line_errors()
def list_models(config: Config = None, overrides: Overrides = None, as_json: Json = False) -> None:
    """List all model versions, the newest first."""
    from flows.console.models import print_versions
    from pipeline.bundles.versions import list_versions

    with _opened(config, overrides) as (_, warehouse):
        versions = list_versions(warehouse)
    print_result(versions, partial(print_versions, versions), as_json)


@models.command()
@one_line_errors()
def show(
    version: Annotated[
        str | None,
        typer.Argument(help="The model version. (default: the champion)", show_default=False),
    ] = None,
    config: Config = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Show everything of one model version."""
    from flows.console.models import print_details
    from pipeline.bundles.versions import version_details

    with _opened(config, overrides) as (_, warehouse):
        details = version_details(warehouse, version)
    print_result(details, partial(print_details, details), as_json)


@models.command()
@one_line_errors()
def promote(
    version: Version,
    republish: Republish = False,
    config: Config = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Make a version the champion, which the next run starts from."""
    from pipeline.bundles.promotion import promote as promote_version

    with _opened(config, overrides) as (settings, warehouse):
        promotion = promote_version(warehouse, version)
    _print_and_publish(settings, promotion, republish, as_json)


@models.command()
@one_line_errors()
def rollback(
    to: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="An earlier champion. (default: the last other one)"),
    ] = None,
    republish: Republish = False,
    config: Config = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Go back to the champion before the current one."""
    from pipeline.bundles.promotion import roll_back

    with _opened(config, overrides) as (settings, warehouse):
        promotion = roll_back(warehouse, to)
    _print_and_publish(settings, promotion, republish, as_json)


@models.command()
@one_line_errors()
def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A model version.", show_default=False)],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.", show_default=False)],
    config: Config = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Show what differs between two versions: settings, hyper-parameters, data and metrics."""
    from flows.console.models import print_differences
    from pipeline.bundles.versions import compare_versions

    with _opened(config, overrides) as (_, warehouse):
        differences = compare_versions(warehouse, first, second)
    result = {"first": first, "second": second, "differences": differences}
    print_result(result, partial(print_differences, first, second, differences), as_json)


@contextmanager
def _opened(
    config: Path | None, overrides: list[str] | None
) -> "Iterator[tuple[Settings, Warehouse]]":
    """The settings and their warehouse; failures of the storage become one line."""
    from pipeline.config.settings import load_settings
    from pipeline.runner.failures import storage_failures
    from pipeline.storage.locations import Warehouse

    settings = load_settings(config, overrides or ())
    with storage_failures(settings):
        yield settings, Warehouse(settings.warehouse)


def _print_and_publish(
    settings: "Settings", promotion: "Promotion", republish: bool, as_json: bool
) -> None:
    from flows.console.models import print_promotion
    from flows.console.night import night_result, print_night
    from pipeline.runner.model_tracking import track_champion
    from pipeline.runner.nightly import nightly
    from pipeline.storage.locations import Warehouse

    show = partial(print_promotion, promotion, republish=republish)
    # Printed at once: it holds, even if what follows fails or is interrupted.
    if not republish:
        print_result(promotion, show, as_json)
    elif not as_json:
        show()
    track_champion(settings.registry, Warehouse(settings.warehouse))
    if not republish:
        return
    night = nightly(settings, promotion.now.run_date)
    result = {
        "before": promotion.before,
        "now": promotion.now,
        "run": night_result(settings, night),
    }
    print_result(result, partial(print_night, settings, night), as_json)
