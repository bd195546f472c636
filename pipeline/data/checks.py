"""Stage: the checks of the data, before a model is trained on it."""

from pipeline.config.guard_sections import CheckSettings
from pipeline.results import Checked, Ingested, Prepared
from pipeline.storage.locations import RunLocations


def check_data(
    ingested: Ingested,
    prepared: Prepared,
    checks: CheckSettings,
    locations: RunLocations,
    time_zone: str,
) -> Checked:
    """Compare a run's data with the limits, and with what the last runs recorded.

    Args:
        ingested: What came in.
        prepared: What the model would be trained on.
        checks: The limits.
        locations: The tables, and the run date.
        time_zone: The IANA time zone of the run date.
    """
    return Checked()
