"""The warehouse's Delta tables: how they are opened, read and written."""

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import fs

from pipeline.errors import FearecError, raised_as
from pipeline.schema import RUN_DATE

if TYPE_CHECKING:
    from deltalake import DeltaTable

_WRITER = "fearec"  # names our appends in Delta's log, so that two at once collide


def open_table(uri: str, version: int | None = None) -> "DeltaTable | None":
    """A table at a version (default its latest), or None where there is no such table yet."""
    from deltalake import DeltaTable

    return DeltaTable(uri, version) if DeltaTable.is_deltatable(uri) else None


def dataset_of(table: "DeltaTable") -> ds.Dataset:
    """The rows of a table, read by Arrow's own file systems.

    Through delta-rs's, which are Python's, Arrow's threads may still call into an interpreter that
    is ending, which aborts the process.
    """
    uri = table.table_uri
    files, path = fs.FileSystem.from_uri(uri if "://" in uri else Path(uri).absolute().as_uri())
    return table.to_pyarrow_dataset(filesystem=fs.SubTreeFileSystem(path, files))


def open_or_create_table(uri: str, schema: pa.Schema) -> "DeltaTable":
    """A table at its latest version; an empty one of `schema` where there is none yet.

    Integer columns narrower than in `schema` are widened, which rewrites the table.

    Raises:
        FearecError: another run wrote to it meanwhile.
    """
    from deltalake import DeltaTable

    table = open_table(uri)
    if table is None:
        return DeltaTable.create(uri, schema)
    stored = dataset_of(table)
    if stored.schema.types != schema.types:
        replace(table, all_rows(table).cast(schema))
    return table


def all_rows(table: "DeltaTable") -> pa.RecordBatchReader:
    """Everything in a table, as a stream."""
    # Few batches ahead: the table may be far larger than memory.
    dataset = dataset_of(table)
    return dataset.scanner(batch_size=1 << 16, batch_readahead=2, fragment_readahead=1).to_reader()


def has_table(uri: str, expected_id: str, version: int = 0) -> bool:
    """Whether the table of that `table_id` is there, and has reached a version."""
    table = open_table(uri)
    return table is not None and table_id(table) == expected_id and table.version() >= version


def table_id(table: "DeltaTable") -> str:
    """The id of a table: one created later in its place, with versions from 0, has another."""
    return str(table.metadata().id)


def append(table: "DeltaTable", rows: pa.RecordBatchReader) -> None:
    """Append to a table as it was when it was opened; `table` becomes the new version.

    Raises:
        FearecError: another run wrote to it meanwhile; nothing was added.
    """
    _commit(table, rows, mode="append")


def replace(table: "DeltaTable", rows: pa.RecordBatchReader) -> None:
    """Replace all rows of a table in one commit; `table` becomes the new version.

    Raises:
        FearecError: another run wrote to it meanwhile; the table is as that left it.
    """
    partitions = table.metadata().partition_columns
    _commit(table, rows, mode="overwrite", schema_mode="overwrite", partition_by=partitions)


def replace_run_date(
    table: "DeltaTable | str",
    rows: pa.RecordBatchReader | pa.Table,
    run_date: date,
    transaction: tuple[str, int] | None = None,
    **options: Any,
) -> None:
    """Replace the rows of one run date in one commit.

    Args:
        table: A table as it was when it was opened, or the path or URI of one to create.
        rows: With the column `run_date`.
        run_date: The day whose rows are replaced.
        transaction: Application id and version to note in Delta's log with the commit.
        options: Further ones of `write_deltalake`.
    """
    _write(
        table,
        rows,
        transaction,
        mode="overwrite",
        predicate=f"{RUN_DATE} = '{run_date}'",
        **options,
    )


def _commit(table: "DeltaTable", rows: pa.RecordBatchReader, **options: Any) -> None:
    from deltalake.exceptions import CommitFailedError

    with raised_as(
        FearecError,
        CommitFailedError,
        "another run wrote to the table meanwhile",
        table.table_uri,
        remedy="Nothing was changed; run it again when the other has ended.",
    ):
        _write(table, rows, (_WRITER, table.version() + 1), **options)


def _write(
    table: "DeltaTable | str",
    rows: pa.RecordBatchReader | pa.Table,
    transaction: tuple[str, int] | None,
    **options: Any,
) -> None:
    from deltalake import CommitProperties, Transaction, write_deltalake

    if transaction is not None:
        properties = CommitProperties(app_transactions=[Transaction(*transaction)])
        options["commit_properties"] = properties
    write_deltalake(table, rows, **options)
