"""A warehouse with a model that serves, and prepared histories, made without a run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from pipeline.bundles.bundle import Bundle
from pipeline.bundles.registry import RegisteredModel, register_champion
from pipeline.runner.cache import StageRecord, write_record
from pipeline.storage.locations import RunLocations, Warehouse
from pipeline.storage.prepared_folder import prepared_hash
from tests.helpers.prepared_folders import write_prepared

DAY, VERSION = date(2026, 7, 1), "20260701-aa"


def serve(
    folder: Path,
    make_bundle: Callable[..., Bundle],
    histories: Sequence[Sequence[int | str]],
    *,
    run_date: date = DAY,
    model_version: str = VERSION,
    prepared_items: Sequence[int | str] | None = None,
    kinds: Sequence[Sequence[str | None]] | None = None,
    **bundle: Any,
) -> Bundle:
    """A bundle that serves a run date whose histories are those of users 0, 1, ...

    The settings for it are those of `settings_of`.
    """
    locations = RunLocations(Warehouse(str(folder / "warehouse")), folder / "work", run_date)
    path = folder / "warehouse" / "models" / model_version
    made = make_bundle(path, model_version=model_version, **bundle)
    model = RegisteredModel(run_date=run_date, model_version=model_version, path=model_version)
    register_champion(locations, model)
    prepared = write_prepared(locations.prepared, histories, items=prepared_items, kinds=kinds)
    prepared = replace(
        prepared,
        content_hash=prepared_hash(locations.prepared),
        vocabulary_id="",
        interactions_id="",
        end=None,
        has_all=True,
    )
    write_record(locations.record("prepare"), StageRecord("prepare", "key", "key", 1.0, prepared))
    return made


def settings_of(folder: Path) -> list[str]:
    """The arguments of a command that works on this warehouse."""
    values: Mapping[str, Any] = {
        "warehouse": folder / "warehouse",
        "work_dir": folder / "work",
        "score.provider": "cpu",
    }
    return [part for name, value in values.items() for part in ("--set", f"{name}={value}")]
