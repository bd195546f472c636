"""The registry: the champion, which the next run starts from, and the models before it."""

from datetime import date
from pathlib import Path

from pydantic import Field, ValidationError

from model.pydantic_base import NO_RESULT_CHANGE, Frozen
from pipeline.bundles.transfer import download_bundle
from pipeline.errors import BundleError, ConfigError
from pipeline.storage.folders import StoreFolder, is_plain_name
from pipeline.storage.locations import RunLocations, Warehouse

CHAMPION = "champion.json"


# Decisions of a person, which a run done again keeps.
BY_HAND = ("forced", "rolled back")


class RegisteredModel(Frozen):
    """The model that serves one run date."""

    section = CHAMPION

    run_date: date
    model_version: str
    path: str  # the bundle's folder beside the file, so that the warehouse can be moved
    decision: str = Field("promoted", json_schema_extra=NO_RESULT_CHANGE)  # of the gate


class Champion(RegisteredModel):
    """`champion.json`: the model of the newest run date, and those of earlier ones."""

    previous: tuple[RegisteredModel, ...] = ()  # newest first

    @property
    def history(self) -> tuple[RegisteredModel, ...]:
        """The models of all run dates, newest first."""
        newest = self.model_dump(exclude={"previous"})
        return RegisteredModel(**newest), *self.previous


def champion_before(locations: RunLocations) -> RegisteredModel | None:
    """The published model of the newest run date before this run's, or None where there is none.

    A run date done again thereby starts from what it started from the first time.

    Raises:
        BundleError: `champion.json` cannot be read.
        StorageError: the store is away.
    """
    champion = _read(locations.warehouse)
    every = champion.history if champion else ()
    return next((model for model in every if model.run_date < locations.run_date), None)


def pinned(locations: RunLocations) -> RegisteredModel | None:
    """The model that a person chose for this run date, or None.

    Raises:
        BundleError: `champion.json` cannot be read.
        StorageError: the store is away.
    """
    champion = _read(locations.warehouse)
    every = champion.history if champion else ()
    mine = (model for model in every if model.run_date == locations.run_date)
    return next((model for model in mine if model.decision in BY_HAND), None)


def local_bundle(locations: RunLocations, model: RegisteredModel) -> Path:
    """The folder of a registered model on this machine; copied from an object store if need be.

    Raises:
        BundleError: the bundle in the store cannot be read.
        StorageError: the store is away, or there is no room for the copy.
    """
    folder = locations.local_models / model.path
    if isinstance(locations.warehouse.models(), StoreFolder):
        download_bundle(locations.warehouse.models(model.path), folder)
    return folder


def register_champion(locations: RunLocations, model: RegisteredModel) -> None:
    """Register the model that serves a run date, in place of an earlier one of the same run date.

    The newest run date's model stays the champion when an old date is done again.

    Raises:
        BundleError: `champion.json` cannot be read.
    """
    champion = _read(locations.warehouse)
    every = champion.history if champion else ()
    others = [other for other in every if other.run_date != locations.run_date]
    newest, *previous = sorted([model, *others], key=lambda each: each.run_date, reverse=True)
    now = Champion(**newest.model_dump(), previous=tuple(previous))
    if now != champion:
        locations.warehouse.models().put_text(CHAMPION, now.model_dump_json(indent=1) + "\n")


def _read(warehouse: Warehouse) -> Champion | None:
    folder = warehouse.models()
    try:
        champion = Champion.model_validate_json(folder.read(CHAMPION))
        # A bundle may be downloaded to its path, so none may lead elsewhere.
        if not all(is_plain_name(model.path) for model in champion.history):
            raise ConfigError("a path that is not the name of a folder")
        return champion
    except FileNotFoundError:
        return None
    except (ValidationError, ConfigError):
        raise BundleError(
            "cannot be read as the list of published models",
            folder.name_of(CHAMPION),
            remedy="Move it away to start afresh: the next run trains from random weights.",
        ) from None
