"""A temporary DuckDB database for sorts and joins larger than memory."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from pipeline.errors import StorageError, first_line, memory_failures, raised_as

_MEMORY_LIMIT = "1GB"  # beyond it DuckDB spills
_THREADS = min(8, os.cpu_count() or 1)  # each needs its share of the memory


@contextmanager
def scratch_database(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty database; what exceeds its memory goes to files in `folder`.

    Raises:
        StorageError: the disk of `folder` is full.
        MemoryShortError: there is not enough memory.
    """
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": _MEMORY_LIMIT,
        "threads": _THREADS,
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


def scalar(base: duckdb.DuckDBPyConnection, query: str) -> int:
    """The one integer that a query returns."""
    # Fetch all rows, or DuckDB keeps the result open and rejects the next query.
    ((value,),) = base.execute(query).fetchall()
    return int(value)
