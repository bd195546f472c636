"""`fearec backfill`, `serve` and `automations`: runs of several dates, and Prefect's side."""

from datetime import datetime
from typing import Annotated

import typer

from flows.cli.options import (
    DATE_FORMATS,
    Config,
    Engine,
    Force,
    Json,
    Overrides,
    one_line_errors,
    print_result,
    with_engine,
)
from pipeline.errors import ConfigError, FearecError, one_line


@one_line_errors()
def backfill(
    first: Annotated[
        datetime,
        typer.Option("--from", formats=DATE_FORMATS, metavar="YYYY-MM-DD", help="First run date."),
    ],
    last: Annotated[
        datetime,
        typer.Option("--to", formats=DATE_FORMATS, metavar="YYYY-MM-DD", help="Last run date."),
    ],
    config: Config = None,
    overrides: Overrides = None,
    force: Force = False,
    engine: Engine = None,
    as_json: Json = False,
) -> None:
    """Run every date of a range, oldest first; what is done already is passed over."""
    from flows.console.night import print_backfilled
    from pipeline.config.settings import load_settings
    from pipeline.runner.backfill import backfill as run_backfill

    settings = load_settings(config, with_engine(overrides, engine))
    dates = []
    for done in run_backfill(settings, first.date(), last.date(), force=force):
        dates.append(done)
        if not as_json:
            print_backfilled(done)
    print_result({"dates": dates}, lambda: None, as_json)


@one_line_errors()
def serve(
    config: Config = None,
    overrides: Overrides = None,
    cron: Annotated[
        str, typer.Option(metavar="CRON", help="When a night is due, in time_zone.")
    ] = "0 2 * * *",
    as_json: Json = False,
) -> None:
    """Run the nights of a schedule here, without a work pool, until you end it."""
    _check_server()
    from flows.scheduled.serve import serve as run_serve

    run_serve(config, overrides or [], cron, announced=not as_json)
    print_result({"cron": cron}, lambda: None, as_json)


@one_line_errors()
def automations(
    notify: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Webhook that gets notifications, or a block of Prefect's as TYPE/NAME.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Have Prefect's server find lost flow runs, and report held and failed ones."""
    _check_server()
    from flows.scheduled.automations import make_automations
    from pipeline.terminal import print_plain

    made = {each.name: each.enabled for each in make_automations(notify)}
    lines = [f"{name}: {'enabled' if on else 'disabled'}" for name, on in made.items()]
    print_result(made, lambda: print_plain(*lines), as_json)


def _check_server() -> None:
    """Check that a server is configured and answers: Prefect would start a temporary one.

    Raises:
        ConfigError: none is configured.
        FearecError: it does not answer.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    if url is None:
        raise ConfigError(
            "no Prefect server is configured",
            "PREFECT_API_URL",
            remedy="Start one with `prefect server start`, and run"
            " `prefect config set PREFECT_API_URL=http://127.0.0.1:4200/api`.",
        )
    with get_client(sync_client=True) as client:
        problem = client.api_healthcheck()
    if problem is not None:
        raise FearecError(
            "the Prefect server does not answer",
            url,
            found=one_line(problem),
            remedy="Start it with `prefect server start`, or mend PREFECT_API_URL.",
        )
