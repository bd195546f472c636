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
from pipeline.schema import OPTIONAL_COLUMNS, OPTIONAL_FIELDS, RUN_DATE
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
    transaction = transaction_of(name, run_date, generated_at)
    with commit_errors(uri), pa.memory_map(str(path)) as mapped:
        file = pa.ipc.open_file(mapped)
        spooled = map(file.get_batch, range(file.num_record_batches))
        rows = pa.RecordBatchReader.from_batches(schema, spooled)
        table = open_table(uri)
        if table is not None:
            fit_columns(table, schema, uri, "Move the table away.")
        replace_run_date(table or uri, rows, run_date, transaction)
    path.unlink()
    return uri, n_rows


def transaction_of(name: str, run_date: date, generated_at: datetime) -> tuple[str, int]:
    """The application id and version by which a table's log says whose rows a run date has."""
    return f"{name}/{RUN_DATE}={run_date}", (generated_at - _EPOCH) // timedelta(microseconds=1)


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


def fit_columns(table: "DeltaTable", rows: pa.Schema, uri: str, remedy: str) -> pa.Schema:
    """Check that a table has the columns of new rows, and widen its integers that are narrower.

    Only the latter rewrites the table. Columns and fields that not every run writes may be missing
    on either side: writing adds them to the table, and null where the rows have none.

    Args:
        table: Becomes the new version.
        rows: The columns of the new rows.
        uri: The table's, for the error.
        remedy: For the error.

    Returns:
        The columns of both.

    Raises:
        PublishError: it has others; nothing was changed.
    """
    there = dataset_of(table).schema
    required, given = _required(there), _required(rows)
    for name in dict.fromkeys([*required, *given]):
        expected, found = required.get(name), given.get(name)
        if expected and found and _kind(expected) == _kind(found):
            continue
        raise PublishError(
            "the table has other columns than the new rows",
            uri,
            expected=f"{name}: {expected}" if expected else f"no column {name}",
            found=f"{name}: {found}" if found else "no such column",
            remedy=remedy,
        )
    columns = pa.unify_schemas([there, rows], promote_options="permissive")
    # Ids that grew, as in `interactions`; narrower ones are widened as they are written.
    wide = pa.schema([columns.field(name) for name in there.names])
    if not widths(there).items() <= widths(wide).items():
        replace(table, all_rows(table).cast(wide))
    return columns


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


def widths(columns: pa.Schema) -> dict[str, str]:
    """The integer types of all columns and fields that have one, by name."""
    text = "\n".join(f"{column.name}: {column.type}" for column in columns)
    return dict(re.findall(r"(\w+): (?:list<\w+: )?(int\d+)", text))


def _required(columns: pa.Schema) -> dict[str, pa.DataType]:
    """The types of what every run writes: without optional columns, and fields of structs."""
    found = {}
    for column in columns:
        kind = column.type
        if pa.types.is_list(kind) and pa.types.is_struct(kind.value_type):
            fields = [field for field in kind.value_type if field.name not in OPTIONAL_FIELDS]
            kind = pa.list_(kind.value_field.with_type(pa.struct(fields)))
        if column.name not in OPTIONAL_COLUMNS:
            found[column.name] = kind
    return found
