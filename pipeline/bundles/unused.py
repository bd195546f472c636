"""Models that nothing needs any more."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from pipeline.bundles.description import DESCRIPTION
from pipeline.bundles.registry import Champion, RegisteredModel, change_registry, read_registry
from pipeline.bundles.versions import ModelVersion, list_versions
from pipeline.storage.folders import storage_errors
from pipeline.storage.locations import Warehouse

_YOUNG = timedelta(days=1)  # a run that is at work may be about to publish such a model


def unused_models(
    warehouse: Warehouse, run_dates: int, published: Collection[str]
) -> tuple[ModelVersion, ...]:
    """The models that may be removed.

    Kept are the champion and the candidate, the models that serve or were trained for the newest
    run dates (so the champion's ancestors of as many nights) and the one before these, which the
    first of them started from; those of published partitions, and what is younger than a day.

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
    newest = _newest(registry, run_dates)
    kept = {*published, *_needed(registry, run_dates)}
    since, now = newest[-1].run_date, datetime.now(UTC)
    return tuple(
        version
        for version in list_versions(warehouse).versions
        if version.model_version not in kept
        and (version.run_date is None or version.run_date < since)
        and now - version.created_at > _YOUNG
    )


def remove_models(
    warehouse: Warehouse, run_dates: int, model_versions: Collection[str]
) -> tuple[str, ...]:
    """Remove models, and first their entries in the registry, so that no entry names none.

    Args:
        warehouse: Whose models.
        run_dates: As of `unused_models`.
        model_versions: What that found. One that a person chose since stays.

    Returns:
        The versions that were removed.

    Raises:
        BundleError: `champion.json` cannot be read.
        ConflictError: other processes changed it each time that it was tried.
        StorageError: the store is away.
    """
    removed: tuple[str, ...] = ()

    def without(registry: Champion | None) -> Champion | None:
        nonlocal removed
        needed = _needed(registry, run_dates) if registry else ()
        removed = tuple(version for version in model_versions if version not in needed)
        if registry is None:
            return None
        served = [each for each in registry.history if each.model_version not in removed]
        return Champion.of(served, registry.candidate)

    change_registry(warehouse, without)
    for version in removed:
        folder = warehouse.models(version)
        with storage_errors(folder.where), suppress(FileNotFoundError):  # another was faster
            folder.remove(DESCRIPTION)  # without it the rest is no bundle, should this be cut short
            folder.filesystem.delete_dir(folder.root)
    return removed


def _newest(registry: Champion, run_dates: int) -> Sequence[RegisteredModel]:
    """The models of the newest run dates, and the one that the first of them started from."""
    return registry.history[: run_dates + 1]


def _needed(registry: Champion, run_dates: int) -> set[str]:
    candidates = [registry.candidate] if registry.candidate else []
    return {model.model_version for model in (*_newest(registry, run_dates), *candidates)}
