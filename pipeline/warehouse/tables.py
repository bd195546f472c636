"""The warehouse's Delta tables: how they are opened, read and written.

Where that fails, few of the libraries' exceptions name a file: here they are about the table, by
`naming`. Whoever reads what `dataset_of` and `all_rows` return does the same.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import fs

from pipeline.errors import naming
from pipeline.schema import RUN_DATE
from pipeline.warehouse.commits import (
    WRITER,
    commit,
    conflict,
    conflicts,
    next_transaction,
    place_of,
    properties_of,
    write,
)

if TYPE_CHECKING:
    from deltalake import DeltaTable


def open_table(uri: str, version: int | None = None) -> "DeltaTable | None":
    """A table at a version (default its latest), or None where there is no such table yet."""
    from deltalake import DeltaTable

    with naming(uri):
        return DeltaTable(uri, version) if DeltaTable.is_deltatable(uri) else None


def dataset_of(table: "DeltaTable", dictionary_columns: Sequence[str] = ()) -> ds.Dataset:
    """The rows of a table, read by Arrow's own file systems.

    Through delta-rs's, which are Python's, Arrow's threads may still call into an interpreter that
    is ending, which aborts the process.

    Args:
        table: At a version.
        dictionary_columns: Columns of text that are read as dictionaries.
    """
    options = ds.ParquetReadOptions(dictionary_columns=set(dictionary_columns))
    with naming(place_of(table)):
        return table.to_pyarrow_dataset(
            filesystem=files_of(table), parquet_read_options=options if dictionary_columns else None
        )


def files_of(table: "DeltaTable") -> fs.FileSystem:
    """The folder of a table, as a file system of Arrow's own."""
    uri = table.table_uri
    files, path = fs.FileSystem.from_uri(uri if "://" in uri else Path(uri).absolute().as_uri())
    return fs.SubTreeFileSystem(path, files)


def create_table(uri: str, schema: pa.Schema) -> "DeltaTable":
    """A new table, empty.

    Raises:
        ConflictError: another run created it meanwhile.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    with naming(uri):
        try:
            table = DeltaTable.create(uri, schema)
        except DeltaError:
            if not DeltaTable.is_deltatable(uri):
                raise
            raise conflict(uri) from None
    # delta-rs creates a table on top of one that was created meanwhile, rows and all.
    if table.version():
        raise conflict(uri)
    return table


def open_or_create_table(uri: str, schema: pa.Schema) -> "DeltaTable":
    """A table at its latest version, widened to `schema`; an empty one where there is none yet.

    Raises:
        ConflictError: another run created it or wrote to it meanwhile.
    """
    table = open_table(uri)
    if table is None:
        return create_table(uri, schema)
    widen(table, schema)
    return table


def widen(table: "DeltaTable", schema: pa.Schema) -> None:
    """Add the columns of `schema` that a table lacks, and widen its integers that are narrower.

    Only the latter rewrites the table. `table` becomes the new version.

    Raises:
        ConflictError: another run wrote to it meanwhile.
    """
    from deltalake import Schema

    stored = dataset_of(table).schema
    missing = pa.schema([field for field in schema if field.name not in stored.names])
    if missing:
        place, fields = place_of(table), Schema.from_arrow(missing).fields
        with naming(place), conflicts(place):
            properties = properties_of(*next_transaction(table))
            table.alter.add_columns(fields, commit_properties=properties)
    wide = pa.schema([schema.field(name) for name in stored.names])
    if stored.types != wide.types:
        replace(table, all_rows(table).cast(wide))


def read_rows(
    table: "DeltaTable", columns: Sequence[str] | None = None, chosen: ds.Expression | None = None
) -> pa.Table:
    """Some columns, by default all, of the rows that a condition chooses, by default all."""
    with naming(place_of(table)):
        return dataset_of(table).to_table(columns, filter=chosen)


def count_rows(table: "DeltaTable", chosen: ds.Expression | None = None) -> int:
    """The number of rows that a condition chooses, by default of all."""
    with naming(place_of(table)):
        return int(dataset_of(table).count_rows(filter=chosen))


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


def append(
    table: "DeltaTable", rows: pa.RecordBatchReader, note: Mapping[str, Any] | None = None
) -> None:
    """Append to a table as it was when it was opened; `table` becomes the new version.

    Args:
        table: Where to append.
        rows: What to append.
        note: Is kept with the commit; see `notes_since`.

    Raises:
        ConflictError: another run wrote to it meanwhile; nothing was added.
    """
    commit(table, rows, note, mode="append", schema_mode="merge")


def replace_where(
    table: "DeltaTable",
    column: str,
    values: Iterable[str],
    rows: pa.RecordBatchReader,
    note: Mapping[str, Any] | None = None,
) -> None:
    """Replace the rows that have some text in a column in one commit, as `append` appends.

    Args:
        table: Where to replace.
        column: The column's name.
        values: The texts.
        rows: New rows, with no other text in that column.
        note: Is kept with the commit; see `notes_since`.

    Raises:
        ConflictError: another run wrote to it meanwhile; nothing was changed.
    """
    quoted = ("'" + value.replace("'", "''") + "'" for value in values)
    predicate = f"{column} IN ({', '.join(quoted)})"
    commit(table, rows, note, mode="overwrite", predicate=predicate, schema_mode="merge")


def notes_since(table: "DeltaTable", version: int | None) -> list[dict[str, Any]]:
    """The notes of all commits after a version (default of all), newest first."""
    limit = None if version is None else max(0, table.version() - version)
    with naming(place_of(table)):
        commits = table.history(limit) if limit != 0 else []
    return [json.loads(each[WRITER]) for each in commits if WRITER in each]


def replace(
    table: "DeltaTable", rows: pa.RecordBatchReader, note: Mapping[str, Any] | None = None
) -> None:
    """Replace all rows of a table in one commit, as `append` appends.

    Raises:
        ConflictError: another run wrote to it meanwhile; the table is as that left it.
    """
    partitions = table.metadata().partition_columns
    commit(table, rows, note, mode="overwrite", schema_mode="overwrite", partition_by=partitions)


def delete(table: "DeltaTable", predicate: str) -> None:
    """Delete rows of a table as it was when it was opened; `table` becomes the new version.

    Args:
        table: Where to delete.
        predicate: An SQL condition on the rows.

    Raises:
        ConflictError: another run wrote to it meanwhile; nothing was deleted.
    """
    # Not delta-rs's own deletion: the files that it writes hold Arrow's string views, by which
    # Arrow cannot filter.
    none = dataset_of(table).schema.empty_table()
    commit(table, none, mode="overwrite", predicate=predicate)


def replace_run_date(
    table: "DeltaTable | str",
    rows: pa.RecordBatchReader | pa.Table,
    run_date: date,
    transaction: tuple[str, int],
) -> None:
    """Replace the rows of one run date, which has a partition of its own, in one commit.

    Args:
        table: A table as it was when it was opened, or the path or URI of one to create.
        rows: With the column `run_date`.
        run_date: The day whose rows are replaced.
        transaction: Application id and version to note in Delta's log with the commit.

    Raises:
        CommitFailedError: of delta-rs: another run wrote to the partition meanwhile; nothing was
            changed.
    """
    write(
        table,
        rows,
        transaction,
        mode="overwrite",
        predicate=f"{RUN_DATE} = '{run_date}'",
        schema_mode="merge",  # columns and fields that not every run writes
        partition_by=[RUN_DATE],
    )
