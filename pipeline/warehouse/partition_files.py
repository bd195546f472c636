"""Parquet files that are written already: into a run date's partition of a table by one commit.

Their rows are not read again. The files hold the column `run_date` too, which readers of Delta
tables take from the log.
"""

import json
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import date
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import PublishError, naming
from pipeline.schema import ITEM_ID, RUN_DATE, USER_ID
from pipeline.storage.folders import open_folder
from pipeline.warehouse.commits import conflict, place_of, properties_of

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from deltalake.transaction import AddAction

_SEARCHED = (USER_ID, ITEM_ID, "rank")  # columns whose bounds let readers pass over files


def put_files(uri: str, contents: Iterable[pa.Buffer], run_date: date) -> list["AddAction"]:
    """Write files into a partition's folder, where no reader sees them before `replace_files`.

    Where that fails, none of them is left. What a killed run leaves is left to Delta's vacuum.

    Args:
        uri: The table's.
        contents: Of Parquet files.
        run_date: The partition.

    Returns:
        What the commit has to say of the files.

    Raises:
        PublishError: a row has another run date.
        OSError: a file cannot be written.
        Exception: what `contents` raises.
    """
    folder = open_folder(f"{uri}/{RUN_DATE}={run_date}")
    names: list[str] = []
    try:
        files = []
        for content in contents:
            names.append(f"part-{len(names):05d}-{uuid4()}-c000.zstd.parquet")  # as delta-rs's
            file = _described(f"{RUN_DATE}={run_date}/{names[-1]}", content, run_date, uri)
            folder.put_new(names[-1], content)
            files.append(file)
        return files
    except BaseException:
        for name in names:
            with suppress(OSError):  # it would replace the error
                folder.remove(name)
        raise


def _described(path: str, content: pa.Buffer, run_date: date, uri: str) -> "AddAction":
    from deltalake.transaction import AddAction

    metadata = pq.read_metadata(pa.BufferReader(content))
    days = _bounds(metadata, RUN_DATE)
    if days is not None and days != (run_date, run_date):
        raise PublishError(
            "rows of another run date", uri, str(run_date), " to ".join(map(str, days))
        )
    return AddAction(
        path=path,
        size=len(content),
        partition_values={RUN_DATE: str(run_date)},
        modification_time=time.time_ns() // 1_000_000,
        data_change=True,
        stats=_statistics(metadata),
    )


def replace_files(
    table: "DeltaTable | str",
    files: Sequence["AddAction"],
    columns: pa.Schema,
    run_date: date,
    transaction: tuple[str, int],
) -> None:
    """Replace a run date's rows by those of files, in one commit.

    Args:
        table: A table as it was when it was opened, or the path or URI of one to create.
        files: See `put_files`.
        columns: Those of the table after the commit, which has all of the files' columns.
        run_date: The partition.
        transaction: Application id and version to note in Delta's log with the commit.

    Raises:
        ConflictError: another run created the table meanwhile.
        CommitFailedError: another run wrote to it meanwhile. Either way nothing was changed.
    """
    from deltalake import DeltaTable, Schema
    from deltalake.exceptions import DeltaError
    from deltalake.transaction import create_table_with_add_actions

    schema, by, properties = Schema.from_arrow(columns), [RUN_DATE], properties_of(*transaction)
    with naming(place_of(table)):
        if not isinstance(table, str):
            partition = [(RUN_DATE, "=", str(run_date))]
            table.create_write_transaction(
                list(files), "overwrite", schema, by, partition, commit_properties=properties
            )
            return
        try:
            create_table_with_add_actions(
                table, schema, list(files), partition_by=by, commit_properties=properties
            )
        except DeltaError:
            if not DeltaTable.is_deltatable(table):
                raise
            raise conflict(table) from None


def _statistics(metadata: pq.FileMetaData) -> str:
    """A file's statistics, as Delta's log has them."""
    bounds = {name: _bounds(metadata, name) for name in _SEARCHED}
    known = {name: both for name, both in bounds.items() if both is not None}
    return json.dumps(
        {
            "numRecords": metadata.num_rows,
            "minValues": {name: low for name, (low, _) in known.items()},
            "maxValues": {name: high for name, (_, high) in known.items()},
        }
    )


def _bounds(metadata: pq.FileMetaData, name: str) -> tuple[Any, Any] | None:
    """The least and the largest value of a column; None where the file does not say."""
    place = metadata.schema.to_arrow_schema().get_field_index(name)
    leaves = [metadata.schema.column(leaf).path for leaf in range(metadata.num_columns)]
    if place < 0 or name not in leaves or not metadata.num_row_groups:
        return None
    groups = [
        metadata.row_group(group).column(leaves.index(name)).statistics
        for group in range(metadata.num_row_groups)
    ]
    if not all(each is not None and each.has_min_max for each in groups):
        return None
    return min(each.min for each in groups), max(each.max for each in groups)
