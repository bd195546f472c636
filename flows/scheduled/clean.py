"""The Prefect flow of the housekeeping, beside what every run does at its end."""

import logging
from functools import partial

from prefect import flow

from flows.scheduled.outcomes import ended
from flows.scheduled.parameters import CleanParameters
from pipeline.results import Cleaned
from pipeline.runner.clean import clean as clean_warehouse

logger = logging.getLogger("pipeline.runner")
_DEFAULTS = CleanParameters()


@flow(name="clean")
def clean(run: CleanParameters = _DEFAULTS) -> Cleaned:
    """Remove what the settings of [retention] do not keep."""
    return ended(partial(_clean, run))


def _clean(parameters: CleanParameters) -> Cleaned:
    cleaned = clean_warehouse(parameters.settings(), dry_run=parameters.dry_run)
    logger.info("%d bytes %sfreed", cleaned.bytes, "would be " if cleaned.dry_run else "")
    return cleaned
