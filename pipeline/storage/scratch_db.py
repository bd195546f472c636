"""A temporary DuckDB database for sorts and joins larger than memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from pipeline.errors import StorageError, first_line, memory_failures, raised_as
from pipeline.storage.resources import DEFAULT_RESOURCES, ResourceSettings


@contextmanager
def scratch_database(
    folder: Path, resources: ResourceSettings = DEFAULT_RESOURCES
) -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty database; what exceeds its memory goes to files in `folder`.

    Args:
        folder: For temporary files.
        resources: The memory and the threads that it may use.

    Raises:
        StorageError: the disk of `folder` is full.
        MemoryShortError: there is not enough memory.
    """
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{resources.memory_limit}B",
        "threads": resources.thread_limit,
        "temp_directory": str(folder),
        "preserve_insertion_order": False,
    }
    with (
        raised_as(
            StorageError,
            (duckdb.IOException, duckdb.OutOfMemoryException),
            "sorting the input failed",
            str(folder),
            remedy="Free space on the disk of this folder.",
            message=first_line,
        ),
        memory_failures(),
        duckdb.connect(config=config) as base,
    ):
        yield base


@contextmanager
def streamed(base: duckdb.DuckDBPyConnection, query: str) -> Iterator[pa.RecordBatchReader]:
    """The rows of a query, to be read inside the ``with`` block by a library other than Arrow.

    Raises:
        duckdb.IOException: the query failed, whatever the library made of that.
    """
    rows = base.sql(query).to_arrow_reader()
    failures: list[Exception] = []

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            yield from rows
        except Exception as error:
            failures.append(error)
            raise

    try:
        yield pa.RecordBatchReader.from_batches(rows.schema, batches())
    except Exception as error:
        if failures:
            raise duckdb.IOException(str(failures[0])) from error
        raise


def scalar(base: duckdb.DuckDBPyConnection, query: str) -> int:
    """The one integer that a query returns."""
    # Fetch all rows, or DuckDB keeps the result open and rejects the next query.
    ((value,),) = base.execute(query).fetchall()
    return int(value)
