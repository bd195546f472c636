"""The schedule of nights on one machine, without a work pool."""

from pathlib import Path
from typing import cast

from prefect import serve as serve_deployments
from prefect.deployments.runner import RunnerDeployment
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType

from flows.scheduled.automations import TAG
from flows.scheduled.backfill import backfill
from flows.scheduled.nightly import nightly
from pipeline.config.settings import load_settings
from pipeline.errors import ConfigError, raised_as


def serve(config: Path | None, overrides: list[str], cron: str, *, announced: bool = True) -> None:
    """Deploy `nightly` and `backfill` with these settings, and run what is due, one at a time.

    The schedule stays active when this process ends: nights that are due meanwhile are run when it
    is started again, the oldest first.

    Args:
        config: The settings file; default `fearec.toml`, where it is there.
        overrides: ``section.key=value``, as of ``--set``.
        cron: When a night is due, in the settings' time zone.
        announced: Whether Prefect prints what it serves.

    Raises:
        ConfigError: the settings are refused, or `cron` is no schedule.
    """
    settings = load_settings(config, overrides)
    with raised_as(
        ConfigError, ValueError, "not a schedule", "--cron", expected='such as "0 2 * * *"'
    ):
        due = Cron(cron, timezone=settings.time_zone, slug="nightly")
    run = {"config": str(config) if config else None, "overrides": overrides}
    deployments = [
        each.to_deployment(
            each.fn.__name__,
            tags=[TAG],
            parameters={"run": run},
            schedules=[due] if each is nightly else [],
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        for each in (nightly, backfill)
    ]
    serve_deployments(
        *cast(list[RunnerDeployment], deployments),
        limit=1,
        pause_on_shutdown=False,
        print_starting_message=announced,
    )
