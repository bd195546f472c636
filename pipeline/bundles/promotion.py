"""The choice of the champion by hand: a version is promoted, or the registry rolled back to one."""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.bundles.registry import (
    CHAMPION,
    FORCED,
    ROLLED_BACK,
    Champion,
    RegisteredModel,
    change_registry,
    nothing_published,
)
from pipeline.bundles.versions import describe_version
from pipeline.errors import InputError
from pipeline.storage.locations import Warehouse


@dataclass(frozen=True)
class Promotion:
    """A change of the champion by hand: the newest run date's model before, if any, and now."""

    before: RegisteredModel | None
    now: RegisteredModel


def promote(warehouse: Warehouse, model_version: str) -> Promotion:
    """Make a version the champion: the newest run date's model, which the next run starts from.

    A run of that run date done again serves it. Where `champion.json` is gone, it is made anew,
    with the version as the model of the run that made it.

    Raises:
        InputError: there is no such version.
        BundleError: its bundle or `champion.json` cannot be read.
        ConflictError: other processes changed `champion.json` each time that it was tried.
        StorageError: the store is away.
    """
    return _choose(warehouse, lambda _: model_version, FORCED)


def roll_back(warehouse: Warehouse, model_version: str | None = None) -> Promotion:
    """Make an earlier champion the champion again, as `promote` does.

    Args:
        warehouse: Whose champion.
        model_version: An earlier champion; by default the last one that is another version than
            the champion.

    Raises:
        InputError: that version has served no run date, or there was no other champion.
        BundleError: its bundle or `champion.json` cannot be read.
        ConflictError: other processes changed `champion.json` each time that it was tried.
        StorageError: the store is away.
    """

    def earlier(champion: Champion | None) -> str:
        if champion is None:
            raise nothing_published(warehouse)
        others = [model.model_version for model in champion.previous]
        others = [version for version in others if version != champion.model_version]
        if model_version is None and others:
            return others[0]
        if model_version is None or model_version not in others:
            raise InputError(
                "no such earlier champion" if model_version else "there was no earlier champion",
                warehouse.models().name_of(CHAMPION),
                expected=", ".join(dict.fromkeys(others[:5])),
                found=model_version or "",
                remedy="`fearec models promote VERSION` takes any version.",
            )
        return model_version

    return _choose(warehouse, earlier, ROLLED_BACK)


def _choose(
    warehouse: Warehouse, chosen: Callable[[Champion | None], str], decision: str
) -> Promotion:
    promotions: list[Promotion] = []

    def changed(champion: Champion | None) -> Champion:
        version = chosen(champion)
        description = describe_version(warehouse, version)
        run_date = champion.run_date if champion else description.run_date
        if run_date is None:
            raise nothing_published(warehouse)
        now = RegisteredModel(
            run_date=run_date,
            model_version=description.model_version,
            path=version,
            decision=decision,
        )
        promotions.append(Promotion(champion.history[0] if champion else None, now))
        return champion.with_model(now) if champion else Champion.of([now], None)

    change_registry(warehouse, changed)
    return promotions[-1]
