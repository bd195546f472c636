"""`fearec status`, `report` and `clean`: a look at the warehouse, and its housekeeping."""

from functools import partial
from typing import Annotated

import typer

from flows.cli.options import (
    Config,
    Json,
    Overrides,
    RunDay,
    as_date,
    one_line_errors,
    print_result,
)


@one_line_errors()
def status(
    config: Config = None,
    overrides: Overrides = None,
    count: Annotated[int, typer.Option("--runs", min=1, help="Run dates to show.")] = 14,
    as_json: Json = False,
) -> None:
    """Show the champion, the last runs and their decisions, and the disk use."""
    from flows.console.upkeep import print_status
    from pipeline.config.settings import load_settings
    from pipeline.runner.status import status as read_status

    found = read_status(load_settings(config, overrides or ()), count)
    print_result(found, partial(print_status, found), as_json)


@one_line_errors()
def report(
    config: Config = None,
    day: RunDay = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Write the page of a run date and the index anew; every run does so at its end."""
    from flows.console.upkeep import print_report
    from pipeline.config.settings import load_settings
    from pipeline.reporting.report import newest_run_date, write_report

    settings = load_settings(config, overrides or ())
    written = write_report(settings, as_date(day) or newest_run_date(settings))
    print_result(written, partial(print_report, written), as_json)


@one_line_errors()
def clean(
    config: Config = None,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be removed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove what the retention settings do not keep; every run does so at its end."""
    from flows.console.upkeep import print_cleaned
    from pipeline.config.settings import load_settings
    from pipeline.runner.clean import clean as clean_warehouse

    cleaned = clean_warehouse(load_settings(config, overrides or ()), dry_run=dry_run)
    print_result(cleaned, partial(print_cleaned, cleaned), as_json)
