"""A table of items or users that is a Delta table: its rows, and the version that they are of.

deltalake is imported here alone on the scoring path, when there is such a table to read.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.fs as pafs

from pipeline.errors import InputError, raised_as
from pipeline.logs.log_content import read_failure
from pipeline.storage.folders import open_filesystem

if TYPE_CHECKING:
    from deltalake import DeltaTable


def is_delta(path: str) -> bool:
    """Whether a path or URI is that of a Delta table.

    Raises:
        OSError: the store cannot be reached.
        pa.ArrowInvalid: the URI cannot be used.
    """
    filesystem, inner = open_filesystem(path)
    (log,) = filesystem.get_file_info([f"{inner.rstrip('/')}/_delta_log"])
    return bool(log.type == pafs.FileType.Directory)


def read_delta(path: str) -> pa.Table:
    """The rows of a Delta table's newest version.

    Raises:
        InputError: deltalake is not installed, or the table cannot be read.
    """
    with _opened(path) as table:
        # Not by delta-rs's own file system: see `pipeline.warehouse.tables.dataset_of`.
        filesystem, inner = open_filesystem(path)
        return table.to_pyarrow_dataset(
            filesystem=pafs.SubTreeFileSystem(inner, filesystem)
        ).to_table()


def delta_version(path: str) -> str:
    """The id of a Delta table and its newest version: the same again means the same rows.

    Raises:
        InputError: deltalake is not installed, or the table cannot be read.
    """
    with _opened(path) as table:
        return f"{table.metadata().id}@{table.version()}"


@contextmanager
def _opened(path: str) -> "Iterator[DeltaTable]":
    try:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError
    except ImportError:
        raise InputError(
            "a Delta table needs the package deltalake, which is not installed",
            path,
            expected="a file that ends in .parquet or .csv",
            remedy="Run `pip install deltalake`, or write the table to a Parquet file.",
        ) from None
    failures = OSError, pa.ArrowException, DeltaError
    with raised_as(
        InputError,
        failures,
        "cannot be read",
        path,
        expected="a Delta table",
        message=read_failure,
    ):
        yield DeltaTable(path)
