"""The registry: which model serves each run date, and by which aliases models are called.

`models/champion.json` holds it. The model of the newest run date is the *champion*, which the next
run starts from; the newest run's own model is the *candidate*, whether it serves or was held.
"""

from collections.abc import Callable
from datetime import date
from pathlib import Path

from pydantic import Field, ValidationError

from model.pydantic_base import NO_RESULT_CHANGE, Frozen
from pipeline.bundles.transfer import download_bundle
from pipeline.errors import BundleError, ConfigError, ConflictError, InputError
from pipeline.storage.conditional_writes import change_file, read_file
from pipeline.storage.folders import StoreFolder, is_plain_name
from pipeline.storage.locations import RunLocations, Warehouse

CHAMPION = "champion.json"

HELD, FORCED, ROLLED_BACK = "held", "forced", "rolled back"
# Decisions of a person, which a run done again keeps.
BY_HAND = (FORCED, ROLLED_BACK)


class Candidate(Frozen):
    """The model that a run trained for its run date."""

    section = CHAMPION

    run_date: date
    model_version: str
    path: str  # the bundle's folder beside the file, so that the warehouse can be moved


class RegisteredModel(Candidate):
    """The model that serves one run date."""

    decision: str = Field("promoted", json_schema_extra=NO_RESULT_CHANGE)  # of the gate


class Champion(RegisteredModel):
    """`champion.json`: the model of the newest run date, and those of earlier ones."""

    candidate: Candidate | None = None
    previous: tuple[RegisteredModel, ...] = ()  # newest first

    @classmethod
    def of(cls, history: list[RegisteredModel], candidate: Candidate | None) -> "Champion":
        """The registry of some models of different run dates, at least one, in any order."""
        newest, *previous = sorted(history, key=lambda each: each.run_date, reverse=True)
        return cls(**newest.model_dump(), candidate=candidate, previous=tuple(previous))

    @property
    def history(self) -> tuple[RegisteredModel, ...]:
        """The models of all run dates, newest first."""
        newest = self.model_dump(exclude={"candidate", "previous"})
        return RegisteredModel(**newest), *self.previous

    def serving(self, run_date: date) -> RegisteredModel | None:
        """The model of a run date; None where it has none."""
        return next((model for model in self.history if model.run_date == run_date), None)

    def with_model(self, model: RegisteredModel) -> "Champion":
        """The same, but for the model of one run date."""
        others = [other for other in self.history if other.run_date != model.run_date]
        return Champion.of([model, *others], self.candidate)

    def with_candidate(self, candidate: Candidate) -> "Champion":
        """The same with another candidate, unless that is of an earlier run date."""
        if self.candidate is not None and candidate.run_date < self.candidate.run_date:
            return self
        return self.model_copy(update={"candidate": candidate})


def read_registry(warehouse: Warehouse) -> Champion | None:
    """The registry; None where no model was ever published.

    Raises:
        BundleError: `champion.json` cannot be read.
        StorageError: the store is away.
    """
    return _parse(read_file(warehouse.models(), CHAMPION), warehouse)


def change_registry(
    warehouse: Warehouse, change: Callable[[Champion | None], Champion | None]
) -> None:
    """Replace the registry by what a function makes of it.

    Args:
        warehouse: Whose registry.
        change: Takes the registry as it is, and returns it as it shall be; it is called again
            where another process has changed it meanwhile.

    Raises:
        BundleError: `champion.json` cannot be read; it stays as it is.
        ConflictError: other processes changed it each time that it was tried.
        StorageError: the store is away.
    """

    def changed(content: bytes | None) -> str | None:
        before = _parse(content, warehouse)
        after = change(before)
        if after is None or after == before:
            return None
        return after.model_dump_json(indent=1, exclude_none=True) + "\n"

    change_file(warehouse.models(), CHAMPION, changed)


def champion_before(locations: RunLocations) -> RegisteredModel | None:
    """The published model of the newest run date before this run's, or None where there is none.

    A run date done again thereby starts from what it started from the first time.

    Raises:
        BundleError: `champion.json` cannot be read.
        StorageError: the store is away.
    """
    champion = read_registry(locations.warehouse)
    every = champion.history if champion else ()
    return next((model for model in every if model.run_date < locations.run_date), None)


def pinned(locations: RunLocations) -> RegisteredModel | None:
    """The model that a person chose for this run date, or None.

    Raises:
        BundleError: `champion.json` cannot be read.
        StorageError: the store is away.
    """
    champion = read_registry(locations.warehouse)
    model = champion.serving(locations.run_date) if champion else None
    return model if model is not None and model.decision in BY_HAND else None


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


def register_candidate(locations: RunLocations, model_version: str) -> None:
    """Register a run's own model as the candidate, before it is decided whether it serves.

    Where no model serves yet, there is no registry, and a first model becomes candidate when it
    is published.

    Raises:
        BundleError: `champion.json` cannot be read.
        ConflictError: other processes changed it each time that it was tried.
    """
    candidate = _candidate(locations, model_version)
    change_registry(locations.warehouse, lambda now: now.with_candidate(candidate) if now else None)


def register_champion(
    locations: RunLocations,
    model: RegisteredModel,
    *,
    candidate: str | None = None,
    overruled: str | None = None,
) -> None:
    """Register the model that serves a run date, in place of an earlier one of the same run date.

    The newest run date's model stays the champion when an old date is done again.

    Args:
        locations: Of the run.
        model: What serves.
        candidate: The version of the run's own model; None of a run that trained none.
        overruled: The version that a person had chosen for the run date, and that the run was
            forced to set aside.

    Raises:
        BundleError: `champion.json` cannot be read.
        ConflictError: other processes changed it each time that it was tried, or a person chose
            another model for this run date since the run decided.
    """

    def registered(now: Champion | None) -> Champion:
        chosen = now.serving(model.run_date) if now else None
        if chosen and chosen.decision in BY_HAND:
            _check_choice(chosen, model, overruled, locations)
        after = now.with_model(model) if now else Champion.of([model], None)
        return after.with_candidate(_candidate(locations, candidate)) if candidate else after

    change_registry(locations.warehouse, registered)


def nothing_published(warehouse: Warehouse) -> InputError:
    """The error where a champion is needed and there is none."""
    return InputError(
        "no model was published yet",
        warehouse.models().name_of(CHAMPION),
        remedy="Run `fearec nightly` first.",
    )


def _check_choice(
    chosen: RegisteredModel, model: RegisteredModel, overruled: str | None, locations: RunLocations
) -> None:
    if chosen.model_version not in (model.model_version, overruled):
        raise ConflictError(
            "a person has meanwhile chosen another model for this run date",
            locations.warehouse.models().name_of(CHAMPION),
            expected=f"{model.model_version} for {model.run_date}",
            found=f"{chosen.model_version} ({chosen.decision})",
            remedy="Run it again to serve the chosen model, or with --force to set it aside.",
        )


def _candidate(locations: RunLocations, model_version: str) -> Candidate:
    return Candidate(run_date=locations.run_date, model_version=model_version, path=model_version)


def _parse(content: bytes | None, warehouse: Warehouse) -> Champion | None:
    if content is None:
        return None
    try:
        champion = Champion.model_validate_json(content)
        # A bundle may be downloaded to its path, so none may lead elsewhere.
        named = [*champion.history, *([champion.candidate] if champion.candidate else [])]
        if not all(is_plain_name(model.path) for model in named):
            raise ConfigError("a path that is not the name of a folder")
        return champion
    except (ValidationError, ConfigError):
        raise BundleError(
            "cannot be read as the list of published models",
            warehouse.models().name_of(CHAMPION),
            remedy="Move it away, see `fearec models list`, and name the model that serves by"
            " `fearec models promote VERSION`; what served earlier dates is then forgotten.",
        ) from None
