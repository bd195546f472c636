"""Tables with a partition per run date, which is replaced in one commit, from a stream of rows."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline.errors import PublishError, raised_as
from pipeline.schema import RUN_DATE
from pipeline.storage.folders import storage_errors
from pipeline.storage.locations import Warehouse
from pipeline.warehouse.tables import all_rows, dataset_of, open_table, replace, replace_run_date

if TYPE_CHECKING:
    from deltalake import DeltaTable

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PACKED = pa.ipc.IpcWriteOptions(compression="lz4")


def write_partition(
    warehouse: Warehouse,
    name: str,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    run_date: date,
    generated_at: datetime,
    scratch: Path,
) -> tuple[str, int]:
    """Replace a run date's rows of a table, which is created where there is none, all or nothing.

    All rows are computed, and on the disk, before the table is opened: computing takes long, and
    delta-rs, which would call for the rows, lets nothing interrupt it.

    Args:
        warehouse: Where the table is.
        name: Of the table.
        schema: Its columns.
        batches: The rows, one batch after the other; together they may be larger than memory.
        run_date: Of the rows.
        generated_at: When they were made, as their column of that name says.
        scratch: A local folder for temporary files.

    Returns:
        The table's path or URI, and the number of rows.

    Raises:
        PublishError: the table has other columns or could not be written; it is then as it was.
        StorageError: there is no room for the temporary file.
    """
    uri, path = warehouse.table(name), scratch / f"{name}.arrow"
    n_rows = _spool(path, schema, batches)
    version = (generated_at - _EPOCH) // timedelta(microseconds=1)
    with commit_errors(uri), pa.memory_map(str(path)) as mapped:
        file = pa.ipc.open_file(mapped)
        spooled = map(file.get_batch, range(file.num_record_batches))
        rows = pa.RecordBatchReader.from_batches(schema, spooled)
        table = open_table(uri)
        if table is not None:
            fit_columns(table, schema, uri, "Move the table away.")
        transaction = f"{name}/{RUN_DATE}={run_date}", version
        replace_run_date(table or uri, rows, run_date, transaction, partition_by=[RUN_DATE])
    path.unlink()
    return uri, n_rows


def _spool(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    n_rows = 0
    failures = partial(storage_errors, str(path))
    with failures():
        file = pa.ipc.new_file(str(path), schema, options=_PACKED)
    try:
        for batch in batches:
            with failures():
                file.write_batch(batch)
            n_rows += len(batch)
    finally:
        with failures():
            file.close()
    return n_rows


def fit_columns(table: "DeltaTable", rows: pa.Schema, uri: str, remedy: str) -> None:
    """Check that a table has the columns of new rows, and widen its integers that are narrower.

    Only the latter rewrites the table.

    Args:
        table: Becomes the new version.
        rows: The columns of the new rows.
        uri: The table's, for the error.
        remedy: For the error.

    Raises:
        PublishError: it has others; nothing was changed.
    """
    there = dataset_of(table).schema
    for expected, found in zip(there, rows, strict=False):
        if expected.name == found.name and _kind(expected.type) == _kind(found.type):
            continue
        raise PublishError(
            "the table has other columns than the new rows",
            uri,
            expected=f"{expected.name}: {expected.type}",
            found=f"{found.name}: {found.type}",
            remedy=remedy,
        )
    columns = pa.unify_schemas([there, rows], promote_options="permissive")
    # Ids that grew, as in `interactions`; narrower ones are widened as they are written.
    if _widths(there) != _widths(columns):
        replace(table, all_rows(table).cast(columns))


@contextmanager
def commit_errors(uri: str) -> Iterator[None]:
    """Turn what fails while a partition is replaced into a `PublishError`.

    Raises:
        PublishError: inside the ``with`` block; the table is as it was.
    """
    from deltalake.exceptions import CommitFailedError, DeltaError

    with (
        raised_as(
            PublishError,
            (DeltaError, OSError, pa.ArrowException),
            "cannot be written",
            uri,
            remedy="The table is as it was; run the same command again when the cause is gone.",
        ),
        raised_as(
            PublishError,
            CommitFailedError,
            "lost the race: another run wrote to the table meanwhile",
            uri,
            remedy="The table holds the other run's rows; run this again when it has ended.",
        ),
    ):
        yield


def _kind(kind: pa.DataType) -> str:
    # Names inside lists and the width of integers and string offsets make no difference here.
    plain = str(kind).replace("large_", "").replace("list<item:", "list<element:")
    return re.sub(r"\bint\d+", "int", plain)


def _widths(columns: pa.Schema) -> list[str]:
    return re.findall(r"\bint\d+", str(columns.types))
