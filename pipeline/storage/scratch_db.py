"""A temporary DuckDB database for sorts and joins larger than memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from model.cores import Threads, thread_count
from pipeline.errors import StorageError, first_line, memory_failures, raised_as

_MEMORY_LIMIT = "1GB"  # beyond it DuckDB spills
_MOST_THREADS = 8  # each needs its share of the memory


@contextmanager
def scratch_database(
    folder: Path, threads: Threads = "auto"
) -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty database; what exceeds its memory goes to files in `folder`.

    Args:
        folder: For temporary files.
        threads: That it may use, 8 at most.

    Raises:
        StorageError: the disk of `folder` is full.
        MemoryShortError: there is not enough memory.
    """
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": _MEMORY_LIMIT,
        "threads": min(_MOST_THREADS, thread_count(threads)),
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
