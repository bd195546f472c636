"""The errors of the data stages, under the model's `FearecError`."""

import os
import re

from model.errors import ConfigError, ExportParityError, FearecError

__all__ = [
    "BundleError",
    "BusyError",
    "ConfigError",
    "ExportParityError",
    "FearecError",
    "GateError",
    "InputError",
    "PublishError",
    "ResumeError",
    "SchemaError",
    "SearchError",
    "StorageError",
    "reason",
]


class InputError(FearecError):
    """An input path is missing, empty or unreadable."""

    exit_code = 2


class SchemaError(FearecError):
    """An input lacks a column, or a column has a type that cannot be used."""

    exit_code = 2


class BundleError(FearecError):
    """A bundle is incomplete, of another format, or fails its checksums."""

    exit_code = 2


class ResumeError(ConfigError):
    """The output folder holds no run that this one could go on with."""


class GateError(FearecError):
    """A freshly trained model is not good enough to be published."""


class PublishError(FearecError):
    """The recommendations could not be written to their table."""


class SearchError(FearecError):
    """A search for hyper-parameters was cut short, or none of its trials came to anything."""


class StorageError(FearecError):
    """A file or table could not be read or written: no room, no permission, no network."""


class BusyError(FearecError):
    """Another process is at work on the same night, search or folder."""


def reason(error: Exception) -> str:
    """What a library says went wrong, in one line without colours."""
    number = getattr(error, "errno", None)
    text = os.strerror(number) if number else str(error)
    return " ".join(re.sub(r"\x1b\[[\d;]*m", "", text).split()) or type(error).__name__
