"""The description of a bundle, `bundle.json`: its content, and how it is read and checked."""

import os
from contextlib import AbstractContextManager
from datetime import date, datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, ValidationError

from model.errors import ConfigError
from model.export.files import FORMAT_VERSION
from model.pydantic_base import Frozen
from pipeline.errors import BundleError, raised_as
from pipeline.storage.folders import is_plain_name

DESCRIPTION = "bundle.json"
GO_BACK = (
    "`fearec export --force` with the --date of its run makes it again; from a champion that is"
    " damaged or gone, `fearec models rollback` goes back to another."
)
BUNDLE_INPUTS = "event_types.inputs of the bundle"  # the place that errors name


class DataSnapshot(Frozen):
    """The data that the model was trained on."""

    section = "bundle.data"

    interactions_version: int | None = Field(description="of the Delta table `interactions/`")
    first_event: datetime
    last_event: datetime
    n_users: int
    n_items: int = Field(description="real items, PAD not counted")
    n_interactions: int


class BundleDescription(Frozen):
    """The content of `bundle.json`."""

    section = "bundle"

    format_version: Literal[1] = FORMAT_VERSION
    model_version: str
    created_at: datetime
    settings: dict[str, Any]
    hyper_parameters: dict[str, Any]
    data: DataSnapshot
    metrics: dict[str, Any] = Field(description="with their evaluation protocol")
    refit: bool = Field(description="whether the weights saw the held-out items too")
    parity: dict[str, Any]
    versions: dict[str, str]
    parent: str | None = Field(default=None, description="the model version training started from")
    files: dict[str, str] = Field(default_factory=dict, description="sha256 of each file, by name")

    @property
    def input_types(self) -> tuple[str, ...]:
        """Types of the events that the model sees; empty for all events."""
        return tuple(self.settings.get("event_types", {}).get("inputs", ()))

    @property
    def run_date(self) -> date | None:
        """The run date, with which a run's model version begins; None where it does not."""
        try:
            return datetime.strptime(self.model_version.partition("-")[0], "%Y%m%d").date()
        except ValueError:
            return None


def read_description(path: Path) -> BundleDescription:
    """Read and check a `bundle.json`.

    Raises:
        BundleError: the file is missing, unreadable or not usable.
    """
    with readable(path):
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise BundleError(
                "not a bundle",
                str(path.parent),
                expected=f"a folder with a {DESCRIPTION}",
                remedy=f"Give a folder that the export stage wrote. {GO_BACK}",
            ) from None
    return parse_description(content, str(path))


def has_every_file(path: Path) -> bool:
    """Whether every file that a bundle lists is at its path; their contents are not read."""
    try:
        files = read_description(path / DESCRIPTION).files
    except BundleError:
        return False
    return all(os.path.isfile(path / name) for name in files)


def parse_description(content: bytes, where: str) -> BundleDescription:
    """Check the content of a `bundle.json`.

    Args:
        content: The file's bytes.
        where: The file's path or URI, for errors.

    Raises:
        BundleError: it is not usable.
    """
    try:
        description = BundleDescription.model_validate_json(content)
    except (ValidationError, ConfigError) as error:
        first = error.errors(include_url=False)[0] if isinstance(error, ValidationError) else None
        raise BundleError(
            "not a valid bundle description",
            where,
            expected=f"format version {FORMAT_VERSION}",
            found=str(first["msg"]) if first else str(error),
            remedy="Export the model again with this version of fearec.",
        ) from None
    for name, least in {"n_items": 2, "MAX_ITEM_LIST_LENGTH": 1}.items():
        value = description.hyper_parameters.get(name)
        if type(value) is not int or value < least:  # a bool is an int, too
            raise BundleError(
                "a hyper-parameter is missing or impossible",
                where,
                expected=f"{name}, a whole number from {least} on",
                found=str(value),
            )
    types = description.settings.get("event_types", {})
    inputs = types.get("inputs", []) if isinstance(types, dict) else types
    if not isinstance(inputs, list) or not all(isinstance(name, str) for name in inputs):
        raise BundleError(
            "the types of the events that the model sees cannot be read",
            where,
            expected="settings.event_types.inputs, a list of texts",
            found=str(inputs),
        )
    for name in description.files:
        if not is_plain_name(name) or name == DESCRIPTION:
            raise BundleError("a file outside of the bundle is listed", where, found=name)
    if not is_plain_name(description.model_version):
        raise BundleError(
            "the model version is not the name of a folder",
            where,
            expected="letters, digits, dots, dashes and underscores",
            found=description.model_version,
        )
    return description


def readable(path: Path) -> AbstractContextManager[None]:
    """Turn a failure to read a file of a bundle into a `BundleError`."""
    return raised_as(
        BundleError,
        (OSError, pa.ArrowException),
        "cannot be read",
        str(path),
        remedy="Check the path and the permissions, or export the model again.",
    )
