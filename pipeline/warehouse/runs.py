"""The Delta table `runs`: a row per run; of a run date the newest is current."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipeline.dates import run_end
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

if TYPE_CHECKING:
    from deltalake import DeltaTable

# Rows of version 0.1 do not say when they ended.
_ENDED = pc.coalesce(ds.field("finished_at"), ds.field("started_at"))


def append_run(warehouse: Warehouse, row: Mapping[str, Any]) -> None:
    """Append a run's row as the newest of its run date; columns that it lacks are null.

    Where an earlier row ended later, by a clock that was ahead, this one's `finished_at` becomes a
    microsecond after it.

    Raises:
        ConflictError: other runs wrote to the table each time that it was tried.
    """

    def write() -> None:
        table = open_or_create_table(warehouse.table(RUNS), RUNS_SCHEMA)
        values, before = dict(row), _last_end(table, row[RUN_DATE])
        if before is not None and values["finished_at"] <= before:
            values["finished_at"] = before + timedelta(microseconds=1)
        # The schema merges into that of a table from before some column existed.
        append(table, pa.Table.from_pylist([values], RUNS_SCHEMA).to_reader())

    until_committed(write)


def last_known(rows: Iterable[Mapping[str, Any]], run_date: date, time_zone: str) -> datetime:
    """The last instant that the run of a date knew, by its row among some; else the date's end."""
    last_events = {row[RUN_DATE]: row["last_event"] for row in rows}
    return last_events.get(run_date) or run_end(run_date, time_zone)


def reasons_of(row: Mapping[str, Any]) -> list[str]:
    """How a run failed, and why it was held."""
    error = [row["error"]] if row["error"] else []
    return [*error, *(row["reasons"] or ())]


def has_runs(warehouse: Warehouse) -> bool:
    """Whether any run was recorded, be it as failed."""
    return open_table(warehouse.table(RUNS)) is not None


def current_run(warehouse: Warehouse, run_date: date) -> dict[str, Any] | None:
    """The newest row of a run date; None where it has none."""
    with naming(warehouse.table(RUNS)):
        runs = _open(warehouse)
        rows = _rows(runs, ds.field(RUN_DATE) == run_date, RUNS_SCHEMA.names) if runs else []
    return rows[-1] if rows else None


def runs_before(warehouse: Warehouse, run_date: date, count: int) -> list[dict[str, Any]]:
    """The newest row of each of the last run dates before one, oldest first."""
    with naming(warehouse.table(RUNS)):
        runs, is_before = _open(warehouse), ds.field(RUN_DATE) < run_date
        if runs is None:
            return []
        days = pc.unique(runs.to_table([RUN_DATE], filter=is_before)[RUN_DATE]).sort()[-count:]
        if not len(days):
            return []
        # A row becomes some 40 Python objects, and the table grows every night.
        return _newest(runs, is_before & (ds.field(RUN_DATE) >= days[0]), RUNS_SCHEMA.names)


def all_runs(warehouse: Warehouse, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Some columns, the run date among them, of every run date's newest row, oldest first."""
    with naming(warehouse.table(RUNS)):
        runs = _open(warehouse)
        return _newest(runs, ds.scalar(True), columns) if runs else []


def _open(warehouse: Warehouse) -> ds.Dataset | None:
    """The table, with all columns of the schema; None where there is none yet."""
    table = open_table(warehouse.table(RUNS))
    return _with_columns(table) if table else None


def _with_columns(table: "DeltaTable") -> ds.Dataset:
    return dataset_of(table).replace_schema(RUNS_SCHEMA)


def _last_end(table: "DeltaTable", run_date: date) -> datetime | None:
    """When the newest run of a date ended; None where it has none."""
    of_date = ds.field(RUN_DATE) == run_date
    ends = _with_columns(table).to_table({"ended": _ENDED}, filter=of_date)
    ended: datetime | None = pc.max(ends["ended"]).as_py()
    return ended


def _newest(
    runs: ds.Dataset, condition: ds.Expression, columns: Sequence[str]
) -> list[dict[str, Any]]:
    """The newest row of each run date under a condition, oldest first."""
    newest = {row[RUN_DATE]: row for row in _rows(runs, condition, columns)}
    return [newest[day] for day in sorted(newest)]


def _rows(
    runs: ds.Dataset, condition: ds.Expression, columns: Sequence[str]
) -> list[dict[str, Any]]:
    """The rows under a condition in the order of their end."""
    read = {name: ds.field(name) for name in columns} | {"ended": _ENDED}
    return runs.to_table(read, filter=condition).sort_by("ended").drop(["ended"]).to_pylist()
