"""The Delta table `runs`: a row per run; of a run date the newest is current."""

from collections.abc import Mapping
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipeline.errors import naming
from pipeline.schema import RUN_DATE, RUNS, RUNS_SCHEMA
from pipeline.storage.conditional_writes import until_committed
from pipeline.storage.locations import Warehouse
from pipeline.warehouse.tables import (
    append,
    dataset_of,
    open_or_create_table,
    open_table,
)


def append_run(warehouse: Warehouse, row: Mapping[str, Any]) -> None:
    """Append a run's row; columns that it lacks are null.

    Raises:
        ConflictError: other runs wrote to the table each time that it was tried.
    """

    def write() -> None:
        table = open_or_create_table(warehouse.table(RUNS), RUNS_SCHEMA)
        # The schema merges into that of a table from before some column existed.
        append(table, pa.Table.from_pylist([dict(row)], RUNS_SCHEMA).to_reader())

    until_committed(write)


def current_run(warehouse: Warehouse, run_date: date) -> dict[str, Any] | None:
    """The newest row of a run date; None where it has none."""
    rows = _rows(warehouse, ds.field(RUN_DATE) == run_date)
    return rows[-1] if rows else None


def runs_before(warehouse: Warehouse, run_date: date, count: int) -> list[dict[str, Any]]:
    """The newest row of each of the last run dates before one, oldest first."""
    rows = _rows(warehouse, ds.field(RUN_DATE) < run_date)
    newest = {row[RUN_DATE]: row for row in rows}
    return [newest[day] for day in sorted(newest)[-count:]]


def _rows(warehouse: Warehouse, condition: ds.Expression) -> list[dict[str, Any]]:
    """The rows under a condition in the order of their end; all columns of the schema."""
    table = open_table(warehouse.table(RUNS))
    if table is None:
        return []
    with naming(warehouse.table(RUNS)):
        rows = dataset_of(table).replace_schema(RUNS_SCHEMA).to_table(filter=condition)
    # Rows of version 0.1 do not say when they ended.
    ends = pc.coalesce(rows["finished_at"], rows["started_at"])
    return rows.append_column("ended", ends).sort_by("ended").drop(["ended"]).to_pylist()
