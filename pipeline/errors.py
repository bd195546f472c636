"""The errors that fearec raises, and the translation of other libraries' exceptions into them.

    FearecError                     exit code 1
    ├── ConfigError                 2   a setting is unknown, impossible or contradicts another
    │   └── ResumeError             2   the output folder holds no run that this one could continue
    ├── InputError                  2   an input path is missing, empty or unreadable
    │   ├── UnreadableFileError     2   one log file is damaged
    │   └── EmptyTestError          2   no user has a held-out event
    ├── SchemaError                 2   an input lacks a column, or a column has the wrong type
    ├── BundleError                 2   a bundle is incomplete, of another format or changed
    ├── UnfitModelError             1   a new model must not be published
    │   ├── DivergenceError         1   training has left the finite numbers
    │   └── ExportParityError       1   the exported graph computes something else than PyTorch
    ├── GateError                   1   a run is held, and there is no champion to serve instead
    ├── PublishError                1   the recommendations could not be written
    │   └── TableCheckError         1   they failed their checks, and the table is as it was
    ├── SearchError                 1   a hyper-parameter search failed
    ├── StorageError                1   a file or table could not be read or written
    ├── ConflictError               1   another run wrote to a table meanwhile
    ├── MemoryShortError            1   the machine or its GPU has not enough memory
    └── BusyError                   1   another process holds the lock

`FearecError`, `ConfigError`, `UnfitModelError` and its two kinds are defined in `model.errors`.
Commands print an error as one line and end with its exit code: 2 means that input or settings must
change.
"""

import errno
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.errors import (
    ConfigError,
    DivergenceError,
    ExportParityError,
    FearecError,
    UnfitModelError,
)

if TYPE_CHECKING:
    from pipeline.results import Check

__all__ = [
    "BundleError",
    "BusyError",
    "ConfigError",
    "ConflictError",
    "DivergenceError",
    "EmptyTestError",
    "ExportParityError",
    "FearecError",
    "GateError",
    "InputError",
    "MemoryShortError",
    "PublishError",
    "ResumeError",
    "SchemaError",
    "SearchError",
    "StorageError",
    "TableCheckError",
    "UnfitModelError",
    "UnreadableFileError",
    "first_line",
    "full_disks",
    "is_full_disk",
    "memory_failures",
    "naming",
    "one_line",
    "raised_as",
]


class InputError(FearecError):
    """An input path is missing, empty or unreadable."""

    exit_code = 2


class UnreadableFileError(InputError):
    """A log file is damaged; `where` is its path. ``--skip-bad-files`` leaves it out."""


class EmptyTestError(InputError):
    """No user has a held-out event, so that no model can be measured."""


class SchemaError(FearecError):
    """An input lacks a column, or a column has a type that cannot be used."""

    exit_code = 2


class BundleError(FearecError):
    """A bundle is incomplete, of another format, or fails its checksums."""

    exit_code = 2


class ResumeError(ConfigError):
    """The output folder holds no run that this one could continue."""


class GateError(FearecError):
    """A run is held, and there is no champion that could serve instead."""


class PublishError(FearecError):
    """The recommendations could not be written, to their folder or to their table."""


class TableCheckError(PublishError):
    """The recommendations failed their checks before they were published.

    Attributes:
        checks: All of them, those that passed among them.
    """

    def __init__(self, *args: Any, checks: "Sequence[Check]" = (), **parts: str) -> None:
        super().__init__(*args, **parts)
        self.checks = tuple(checks)


class SearchError(FearecError):
    """A hyper-parameter search was interrupted, or none of its trials succeeded."""


class StorageError(FearecError):
    """A file or table could not be read or written: no space, no permission or no network."""


class ConflictError(FearecError):
    """Another run wrote to a table after this one had read it; this one changed nothing in it."""


class MemoryShortError(FearecError):
    """The machine or its GPU has not enough memory."""


class BusyError(FearecError):
    """Another process works on the same run, search or folder."""


def one_line(error: Exception | str) -> str:
    """The whole message of an exception as one line, without colours.

    An OSError's message is the system's text for its error number.
    """
    number = getattr(error, "errno", None)
    text = os.strerror(number) if number else str(error)
    return " ".join(re.sub(r"\x1b\[[\d;]*m", "", text).split()) or type(error).__name__


def first_line(error: Exception | str) -> str:
    """The first line of an exception's message: DuckDB and ONNX Runtime append hints and traces."""
    lines = str(error).strip().splitlines()
    return one_line(lines[0] if len(lines) > 1 else error)


@contextmanager
def naming(place: str | Path) -> Iterator[None]:
    """Let another library's exception that names no file be about this file, folder or table.

    Of several such blocks in one another the innermost counts.
    """
    try:
        yield
    except Exception as error:
        if _place_of(error) is None:
            vars(error)["place"] = str(place)
        raise


def _place_of(error: Exception) -> str | None:
    """The file that an exception is about: of a copy or rename, the one to be written."""
    names = (getattr(error, name, None) for name in ("filename2", "filename", "place"))
    return next((str(name) for name in names if name), None)


@contextmanager
def raised_as(
    kind: type[FearecError],
    caught: type[Exception] | tuple[type[Exception], ...],
    what: str,
    where: str = "",
    *,
    expected: str = "",
    remedy: str = "",
    name_file: bool = False,
    message: Callable[[Exception], str] = one_line,
) -> Iterator[None]:
    """Translate exceptions of other libraries, raised in the ``with`` block, into a `FearecError`.

    Args:
        kind: The class to raise; its `found` is the exception's message.
        caught: The exceptions to translate; a `FearecError` always passes as it is.
        what: As for `FearecError`.
        where: As for `FearecError`.
        expected: As for `FearecError`.
        remedy: As for `FearecError`.
        name_file: Whether an exception that names a file, or `naming`, replaces `where` by it.
        message: Makes one line of the exception.

    Raises:
        FearecError: of class `kind`, with the exception as its cause.
        MemoryError: as it is, as an OSError that means the same; see `memory_failures`.
    """
    try:
        yield
    except FearecError:
        raise
    except caught as error:
        # Arrow's MemoryError is an ArrowException, the system's an OSError: no file is at fault.
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            raise
        file = _place_of(error) if name_file else None
        found = message(error)
        raise kind(what, file or where, expected, found, remedy) from error


@contextmanager
def full_disks(where: str) -> Iterator[None]:
    """Translate what libraries raise where a disk is full, each in a class of its own.

    Args:
        where: For exceptions that name no file, nor `naming` for them.

    Raises:
        StorageError: inside the ``with`` block, with the library's exception as its cause.
    """
    try:
        yield
    except FearecError:
        raise
    except Exception as error:
        if not is_full_disk(error):
            raise
        remedy = "Make room there, and run the same command again."
        raise StorageError("the disk is full", _place_of(error) or where, remedy=remedy) from error


def is_full_disk(error: Exception) -> bool:
    """Whether another library's exception means that a disk is full."""
    if getattr(error, "errno", None) in _FULL:
        return True
    return any(phrase in str(error) for phrase in (*map(os.strerror, _FULL), _NO_SPILL))


_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_SPILL = "failed to offload"  # DuckDB's, in an OutOfMemoryException


@contextmanager
def memory_failures() -> Iterator[None]:
    """Translate what libraries raise where memory is short, each in a class of its own.

    Raises:
        MemoryShortError: inside the ``with`` block, with the library's exception as its cause.
    """
    try:
        yield
    except FearecError:
        raise
    except Exception as error:
        if not _is_short_of_memory(error):
            raise
        raise MemoryShortError(
            "there is not enough memory",
            found=first_line(error),
            remedy="End other programs or take a machine with more, or lower"
            " train.train_batch_size, train.eval_batch_size or score.batch_size.",
        ) from error


def _is_short_of_memory(error: Exception) -> bool:
    text, kind = str(error).lower(), type(error).__name__
    if kind == "OutOfMemoryException":  # DuckDB's, also where its spill finds no room on the disk
        return not is_full_disk(error)
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError":  # PyTorch's
        return True
    return any(phrase in text for phrase in _MEMORY_PHRASES)


# Of PyTorch, ONNX Runtime, Python's threads, the loader of libraries, and the system.
_MEMORY_PHRASES = (
    "can't start new thread",
    "failed to map segment",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate memory",
    "bad_alloc",
    "bad allocation",
)
