"""A DuckDB database for sorts and joins larger than memory, thrown away with its folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from pipeline.errors import FearecError

_MEMORY_LIMIT = "1GB"  # beyond it DuckDB spills
_THREADS = min(8, os.cpu_count() or 1)  # each wants its share of the memory


@contextmanager
def scratch_database(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A fresh database that keeps in the folder what its memory cannot hold.

    Raises:
        FearecError: it does not fit on the disk.
    """
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": _MEMORY_LIMIT,
        "threads": _THREADS,
        "temp_directory": str(folder),
        "preserve_insertion_order": False,
    }
    try:
        with duckdb.connect(config=config) as base:
            yield base
    except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
        raise FearecError(
            f"sorting the input failed: {str(error).splitlines()[0]}",
            str(folder),
            remedy="Make room on the disk that holds it.",
        ) from None


def scalar(base: duckdb.DuckDBPyConnection, query: str) -> int:
    """The one integer a query answers with."""
    # All rows, or DuckDB holds the result open and refuses the next call.
    ((value,),) = base.execute(query).fetchall()
    return int(value)
