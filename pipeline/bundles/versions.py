"""The model versions of a warehouse: their list, one of them in full, and two of them compared."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from typing import Any

import pyarrow.fs as pafs

from pipeline.bundles.description import (
    DESCRIPTION,
    GO_BACK,
    BundleDescription,
    parse_description,
)
from pipeline.bundles.registry import (
    CHAMPION,
    HELD,
    ROLLED_BACK,
    Champion,
    nothing_published,
    read_registry,
)
from pipeline.errors import BundleError, InputError
from pipeline.results import headline_of
from pipeline.storage.folders import Folder, is_plain_name, storage_errors
from pipeline.storage.locations import Warehouse

_REPLACED = "replaced"  # its run date was done again
_AT_ONCE = 16  # descriptions read at a time: a store answers each after a while


@dataclass(frozen=True)
class ModelVersion:
    """One model version, as it is listed.

    Attributes:
        model_version: Its name, which is that of its folder in `models/`.
        run_date: The run date that it was trained for; None of a model not made by a run.
        created_at: When it was exported.
        metric: The name of its headline metric, NDCG@10 where that was measured; None of none.
        value: The metric's value.
        aliases: ``champion``, ``candidate``, both or none.
        decision: By which it serves its own run date; ``held``, ``rolled back`` or ``replaced``
            where another version serves that date; None where none does.
        served: The run dates that it serves, newest first.
        parent: The model version that its training started from.
        size: Bytes of its files.
    """

    model_version: str
    run_date: date | None
    created_at: datetime
    metric: str | None
    value: float | None
    aliases: tuple[str, ...]
    decision: str | None
    served: tuple[date, ...]
    parent: str | None
    size: int


@dataclass(frozen=True)
class ModelVersions:
    """All model versions of a warehouse.

    Attributes:
        versions: Newest first.
        unreadable: A line per bundle that cannot be read.
    """

    versions: tuple[ModelVersion, ...]
    unreadable: tuple[str, ...]


@dataclass(frozen=True)
class VersionDetails:
    """One model version in full.

    Attributes:
        version: As it is listed.
        decisions: The decision by which it serves, by run date, newest first.
        description: The content of its `bundle.json`.
    """

    version: ModelVersion
    decisions: Mapping[date, str]
    description: BundleDescription


@dataclass(frozen=True)
class VersionDifference:
    """Something that differs between two model versions; None where one lacks it."""

    name: str
    first: Any
    second: Any


def list_versions(warehouse: Warehouse) -> ModelVersions:
    """Every model version, by one read of its `bundle.json` and a look at its files' sizes.

    Raises:
        BundleError: `champion.json` cannot be read.
        StorageError: the store is away.
    """
    champion = read_registry(warehouse)
    folder = warehouse.models()
    with storage_errors(folder.where), ThreadPoolExecutor(_AT_ONCE) as pool:
        names = sorted(filter(is_plain_name, folder.names() - {CHAMPION}))
        found = list(pool.map(partial(_listed, warehouse, champion), names))
    versions = [each for each in found if isinstance(each, ModelVersion)]
    versions.sort(key=lambda each: (each.created_at, each.model_version), reverse=True)
    return ModelVersions(tuple(versions), tuple(each for each in found if isinstance(each, str)))


def version_details(warehouse: Warehouse, model_version: str | None = None) -> VersionDetails:
    """Everything that is known of one model version, by default of the champion.

    Raises:
        InputError: there is no such version, or no champion.
        BundleError: its `bundle.json` or `champion.json` cannot be read.
        StorageError: the store is away.
    """
    champion = read_registry(warehouse)
    if model_version is None:
        if champion is None:
            raise nothing_published(warehouse)
        model_version = champion.path
    description = describe_version(warehouse, model_version)
    version = _version(warehouse.models(model_version), description, champion)
    serving = champion.history if champion else ()
    decisions = {model.run_date: model.decision for model in serving if model.path == model_version}
    return VersionDetails(version, decisions, description)


def describe_version(warehouse: Warehouse, model_version: str) -> BundleDescription:
    """The description of a model version, all of whose files are there.

    Raises:
        InputError: there is no such version.
        BundleError: its `bundle.json` cannot be read, or a file is missing.
        StorageError: the store is away.
    """
    models = warehouse.models()
    folder = warehouse.models(model_version) if is_plain_name(model_version) else None
    with storage_errors(models.where):
        description = _description(folder) if folder else None
        if folder is None or description is None:
            raise InputError(
                "no such model version",
                models.where,
                found=model_version,
                remedy="`fearec models list` shows every version.",
            )
        missing = sorted(set(description.files) - folder.names())
    if missing:
        where = folder.name_of(missing[0])
        raise BundleError("a file of the bundle is missing", where, remedy=GO_BACK)
    return description


def compare_versions(
    warehouse: Warehouse, first: str, second: str
) -> tuple[VersionDifference, ...]:
    """What differs in settings, hyper-parameters, data and metrics, by dotted names.

    Raises:
        InputError: there is no such version.
        BundleError: a `bundle.json` cannot be read.
        StorageError: the store is away.
    """
    one, other = (_compared(describe_version(warehouse, name)) for name in (first, second))
    return tuple(
        VersionDifference(name, one.get(name), other.get(name))
        for name in {**one, **other}
        if one.get(name) != other.get(name)
    )


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of a tree of mappings."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _compared(description: BundleDescription) -> dict[str, Any]:
    sections = {"settings", "hyper_parameters", "data", "metrics", "refit", "parent", "versions"}
    return dict(leaves(description.model_dump(mode="json", include=sections)))


def _listed(
    warehouse: Warehouse, champion: Champion | None, name: str
) -> ModelVersion | str | None:
    """A folder's model version; why it cannot be read; or None where it is no bundle."""
    folder = warehouse.models(name)
    try:
        description = _description(folder)
    except BundleError as error:
        return str(error)
    if description is not None and description.model_version != name:
        return f"{folder.where}: a copy of {description.model_version}, under another name"
    return None if description is None else _version(folder, description, champion)


def _description(folder: Folder) -> BundleDescription | None:
    with suppress(FileNotFoundError, NotADirectoryError):
        return parse_description(folder.read(DESCRIPTION), folder.name_of(DESCRIPTION))
    return None


def _version(
    folder: Folder, description: BundleDescription, champion: Champion | None
) -> ModelVersion:
    name = description.model_version
    serving = champion.history if champion else ()
    called = {"champion": champion, "candidate": champion and champion.candidate}
    metrics = description.metrics.get("model", {})
    metric = headline_of(metrics)
    files = folder.filesystem.get_file_info(pafs.FileSelector(folder.root))
    return ModelVersion(
        model_version=name,
        run_date=description.run_date,
        created_at=description.created_at,
        metric=metric,
        value=None if metric is None else metrics[metric],
        aliases=tuple(
            alias for alias, model in called.items() if model and model.model_version == name
        ),
        decision=_decision(description, champion),
        served=tuple(model.run_date for model in serving if model.model_version == name),
        parent=description.parent,
        size=sum(info.size or 0 for info in files),
    )


def _decision(description: BundleDescription, champion: Champion | None) -> str | None:
    day = description.run_date
    serving = champion.serving(day) if champion and day else None
    if serving is None:
        return None
    if serving.model_version == description.model_version:
        return serving.decision
    return serving.decision if serving.decision in (HELD, ROLLED_BACK) else _REPLACED
