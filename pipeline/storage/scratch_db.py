"""A temporary DuckDB database for sorts and joins larger than memory."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

import duckdb
import pyarrow as pa

from pipeline.errors import (
    FearecError,
    MemoryShortError,
    StorageError,
    first_line,
    is_full_disk,
    memory_failures,
)
from pipeline.storage.folders import storage_errors
from pipeline.storage.leftovers import is_untouched
from pipeline.storage.resources import DEFAULT_RESOURCES, ResourceSettings

_TEMPORARY = "fearec-scratch-"


@contextmanager
def scratch_database(
    folder: Path, resources: ResourceSettings = DEFAULT_RESOURCES
) -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty database; what exceeds its memory goes to files in `folder`.

    Args:
        folder: For temporary files.
        resources: The memory and the threads that it may use.

    Raises:
        StorageError: inside the ``with`` block, where the disk of `folder` is full or fails.
        MemoryShortError: likewise, where there is not enough memory.
    """
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{resources.memory_limit}B",
        "threads": resources.thread_limit,
        "temp_directory": str(folder),
        "preserve_insertion_order": False,
    }
    with memory_failures(), _failures(folder), duckdb.connect(config=config) as base:
        yield base


@contextmanager
def temporary_database(resources: ResourceSettings) -> Iterator[duckdb.DuckDBPyConnection]:
    """As `scratch_database`, with a `temporary_folder`."""
    with temporary_folder(resources) as folder, scratch_database(folder, resources) as base:
        yield base


@contextmanager
def temporary_folder(resources: ResourceSettings) -> Iterator[Path]:
    """An empty local folder, in `resources.scratch_dir` where that is set, else in ``TMPDIR``.

    What killed processes left there of this kind is removed first, when it is a day old.

    Raises:
        StorageError: it cannot be made.
    """
    parent = resources.scratch_dir or Path(gettempdir())
    with storage_errors(str(parent)):
        parent.mkdir(parents=True, exist_ok=True)
        for old in parent.glob(f"{_TEMPORARY}*"):
            with suppress(OSError):
                if is_untouched(old, "folder"):
                    shutil.rmtree(old, ignore_errors=True)
        folder = TemporaryDirectory(prefix=_TEMPORARY, dir=parent)
    with folder as name:
        yield Path(name)


_OWN = ("IO Error", "Out of Memory Error")  # of its temporary files, as it reads no others


@contextmanager
def _failures(folder: Path) -> Iterator[None]:
    try:
        yield
    except FearecError:
        raise
    except Exception as error:
        # Where rows are streamed, DuckDB's text is in an exception of Arrow's.
        if not str(error).startswith(_OWN):
            raise
        raise _failure(error, folder) from error


def _failure(error: Exception, folder: Path) -> FearecError:
    found = first_line(error).rstrip(".")
    if is_full_disk(error):
        return StorageError(
            "the disk is full: there is no room for temporary files",
            str(folder),
            found=found.removeprefix("Out of Memory Error: "),
            remedy="Make room there, or raise resources.memory, and run the same command again.",
        )
    if str(error).startswith("IO Error"):
        remedy = "Check the permissions and the disk of this folder of temporary files."
        return StorageError("cannot be read or written", str(folder), found=found, remedy=remedy)
    remedy = "Raise resources.memory where the machine has more, or lower resources.threads."
    return MemoryShortError("there is not enough memory to sort", found=found, remedy=remedy)


@contextmanager
def streamed(base: duckdb.DuckDBPyConnection, query: str) -> Iterator[pa.RecordBatchReader]:
    """The rows of a query, to be read inside the ``with`` block by a library other than Arrow.

    Raises:
        Exception: why the query failed, whatever the library made of that.
    """
    rows = base.sql(query).to_arrow_reader()
    with own_errors(rows.schema, rows) as stream:
        yield stream


@contextmanager
def own_errors(
    schema: pa.Schema, batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatchReader]:
    """Batches as a stream, to be read inside the ``with`` block by a library other than Arrow.

    Raises:
        Exception: what making the batches raised, whatever the library made of that.
    """
    failures: list[Exception] = []

    def watched() -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except Exception as error:
            failures.append(error)
            raise

    try:
        yield pa.RecordBatchReader.from_batches(schema, watched())
    except Exception:
        if failures:
            raise failures[0] from None
        raise


def scalar(base: duckdb.DuckDBPyConnection, query: str) -> int:
    """The one integer that a query returns."""
    # Fetch all rows, or DuckDB keeps the result open and rejects the next query.
    ((value,),) = base.execute(query).fetchall()
    return int(value)
