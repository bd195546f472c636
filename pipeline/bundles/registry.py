"""The champion: the published model that the next night begins from."""

from datetime import date
from pathlib import Path

from pydantic import ValidationError

from model.pydantic_base import Frozen
from pipeline.bundles.transfer import download_bundle
from pipeline.config.settings import Settings
from pipeline.errors import BundleError, ConfigError
from pipeline.storage.folders import StoreFolder
from pipeline.warehouse.tables import models, models_folder

CHAMPION = "champion.json"


class RegisteredModel(Frozen):
    """One night's published model."""

    section = CHAMPION

    run_date: date
    model_version: str
    path: str  # relative to the file, so that the warehouse can be moved


class Champion(RegisteredModel):
    """`champion.json`: the newest published model, and those of earlier nights, newest first."""

    previous: tuple[RegisteredModel, ...] = ()

    @property
    def nights(self) -> tuple[RegisteredModel, ...]:
        """Every night, newest first."""
        newest = self.model_dump(exclude={"previous"})
        return RegisteredModel(**newest), *self.previous


def read_champion(settings: Settings, *, before: date) -> Path | None:
    """The bundle of the newest night before a date, or None where there was none.

    A night done again thereby begins from what it began from the first time. A bundle in an
    object store is copied to this machine.

    Raises:
        BundleError: `champion.json` or the bundle in the store cannot be read.
        StorageError: the store is away, or there is no room for the copy.
    """
    champion = _read(settings)
    nights = champion.nights if champion else ()
    paths = (night.path for night in nights if night.run_date < before)
    first = next(paths, None)
    if first is None:
        return None
    bundle = models_folder(settings) / first
    if isinstance(models(settings), StoreFolder):
        download_bundle(models(settings, first), bundle)
    return bundle


def set_champion(settings: Settings, run_date: date, bundle: Path, model_version: str) -> None:
    """Enter a night's bundle; another one of that night gives way to it.

    Doing an old night again leaves the newest night the champion.

    Raises:
        BundleError: `champion.json` cannot be read.
    """
    folder = models_folder(settings)
    path = bundle.resolve().relative_to(folder.resolve()).as_posix()
    night = RegisteredModel(run_date=run_date, model_version=model_version, path=path)
    champion = _read(settings)
    others = [other for other in champion.nights if other.run_date != run_date] if champion else []
    newest, *previous = sorted([night, *others], key=lambda night: night.run_date, reverse=True)
    now = Champion(**newest.model_dump(), previous=tuple(previous))
    if now != champion:
        models(settings).put_text(CHAMPION, now.model_dump_json(indent=1) + "\n")


def _read(settings: Settings) -> Champion | None:
    folder = models(settings)
    try:
        return Champion.model_validate_json(folder.read(CHAMPION))
    except FileNotFoundError:
        return None
    except (ValidationError, ConfigError):
        raise BundleError(
            "cannot be read as the list of published models",
            folder.name_of(CHAMPION),
            remedy="Move it away to start afresh: the next night trains from scratch.",
        ) from None
