"""Models that nothing needs any more."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

from pipeline.bundles.description import DESCRIPTION
from pipeline.bundles.registry import Champion, change_registry, read_registry
from pipeline.bundles.versions import ModelVersion, list_versions
from pipeline.storage.folders import storage_errors
from pipeline.storage.locations import Warehouse

_YOUNG = timedelta(days=1)  # a run that is at work may be about to publish such a model


def unused_models(
    warehouse: Warehouse, run_dates: int, published: Collection[str]
) -> tuple[ModelVersion, ...]:
    """The models that may be removed.

    Kept are the champion and the candidate, the models that serve or were trained for the newest
    run dates (so the champion's ancestors of as many nights), those of published partitions, and
    what is younger than a day.

    Args:
        warehouse: Whose models.
        run_dates: How many run dates are kept.
        published: The model versions that published partitions name.

    Raises:
        BundleError: `champion.json` cannot be read.
        StorageError: the store is away.
    """
    registry = read_registry(warehouse)
    if registry is None:
        return ()
    newest = registry.history[:run_dates]
    kept = {*published, *(model.model_version for model in newest)}
    if registry.candidate is not None:
        kept.add(registry.candidate.model_version)
    since, now = newest[-1].run_date, datetime.now(UTC)
    return tuple(
        version
        for version in list_versions(warehouse).versions
        if version.model_version not in kept
        and (version.run_date is None or version.run_date < since)
        and now - version.created_at > _YOUNG
    )


def remove_models(warehouse: Warehouse, model_versions: Sequence[str]) -> None:
    """Remove models, and first their entries in the registry, so that no entry names none.

    Raises:
        BundleError: `champion.json` cannot be read.
        ConflictError: other processes changed it each time that it was tried.
        StorageError: the store is away.
    """

    def without(registry: Champion | None) -> Champion | None:
        if registry is None:
            return None
        served = [each for each in registry.history if each.model_version not in model_versions]
        return Champion.of(served, registry.candidate)

    change_registry(warehouse, without)
    for version in model_versions:
        folder = warehouse.models(version)
        with storage_errors(folder.where):
            folder.remove(DESCRIPTION)  # without it the rest is no bundle, should this be cut short
            folder.filesystem.delete_dir(folder.root)
