"""The table `runs`: a row per run, the newest of a date current."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from deltalake import DeltaTable, write_deltalake

import pipeline.warehouse.runs
from pipeline.schema import RUN_DATE, RUNS_SCHEMA
from pipeline.storage.locations import Warehouse
from pipeline.warehouse.runs import all_runs, append_run, current_run, runs_before

DAYS = [date(2026, 6, day) for day in (1, 2, 3)]
DECISIONS = ("first", "held", "promoted")


def row(day: date, hour: int = 2, **columns: Any) -> dict[str, Any]:
    return {RUN_DATE: day, "finished_at": datetime(2026, 6, 9, hour, tzinfo=UTC), **columns}


@pytest.mark.parametrize("first", [True, False])
def test_two_runs_that_end_at_once_have_a_row_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    warehouse = Warehouse(str(tmp_path))
    append = pipeline.warehouse.runs.append
    if not first:
        append_run(warehouse, row(DAYS[0]))

    def meanwhile(*arguments: Any) -> None:
        monkeypatch.setattr(pipeline.warehouse.runs, "append", append)
        append_run(warehouse, row(DAYS[1]))
        append_run(warehouse, row(DAYS[2]))
        append(*arguments)

    monkeypatch.setattr(pipeline.warehouse.runs, "append", meanwhile)
    append_run(warehouse, row(DAYS[2]))  # of the same date, on another machine
    found = sorted(DeltaTable(warehouse.table("runs")).to_pyarrow_table()[RUN_DATE].to_pylist())
    assert found == [*([] if first else DAYS[:1]), DAYS[1], DAYS[2], DAYS[2]]


def test_the_newest_row_of_a_date_is_current(tmp_path: Path) -> None:
    warehouse = Warehouse(str(tmp_path))
    assert current_run(warehouse, DAYS[0]) is None
    assert runs_before(warehouse, DAYS[2], 28) == []
    for day, hour, decision in [(1, 3, "x"), (0, 2, "failed"), (0, 4, "first"), (1, 5, "held")]:
        append_run(warehouse, row(DAYS[day], hour, decision=decision))
    append_run(warehouse, row(DAYS[2], decision="promoted"))
    newest = current_run(warehouse, DAYS[0])
    assert newest is not None
    assert newest["decision"] == "first"
    before = runs_before(warehouse, DAYS[2], 28)
    assert [each["decision"] for each in before] == ["first", "held"]
    assert [each["decision"] for each in runs_before(warehouse, DAYS[2], 1)] == ["held"]
    everything = [
        {RUN_DATE: day, "decision": each} for day, each in zip(DAYS, DECISIONS, strict=True)
    ]
    assert all_runs(warehouse, (RUN_DATE, "decision")) == everything


def test_a_later_row_is_newest_though_the_clock_was_ahead(tmp_path: Path) -> None:
    warehouse = Warehouse(str(tmp_path))
    for hour, decision in [(20, "failed"), (2, "held"), (3, "promoted")]:
        append_run(warehouse, row(DAYS[0], hour, decision=decision))
    append_run(warehouse, row(DAYS[1], 4))
    newest, of_next = all_runs(warehouse, (RUN_DATE, "decision", "finished_at"))
    ahead = row(DAYS[0], 20)["finished_at"]
    assert newest["decision"] == "promoted"
    assert newest["finished_at"] == ahead + timedelta(microseconds=2)
    assert of_next["finished_at"] == row(DAYS[1], 4)["finished_at"]


@dataclass
class Reads:
    """A dataset that counts the values that are read of it."""

    rows: ds.Dataset
    values: list[int] = field(default_factory=list)

    def replace_schema(self, columns: pa.Schema) -> "Reads":
        return Reads(self.rows.replace_schema(columns), self.values)

    def to_table(self, *given: Any, **options: Any) -> pa.Table:
        found = self.rows.to_table(*given, **options)
        self.values.append(found.num_rows * found.num_columns)
        return found


def test_what_a_run_reads_of_earlier_ones_does_not_grow_with_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset_of = pipeline.warehouse.runs.dataset_of
    values: list[int] = []
    monkeypatch.setattr(
        pipeline.warehouse.runs, "dataset_of", lambda table: Reads(dataset_of(table), values)
    )
    read = {}
    for n_nights in (40, 400):
        warehouse = Warehouse(str(tmp_path / str(n_nights)))
        days = [DAYS[0] + timedelta(days=number) for number in range(n_nights)]
        rows = pa.Table.from_pylist([row(day) for day in days], RUNS_SCHEMA)
        write_deltalake(warehouse.table("runs"), rows)
        values.clear()
        found = runs_before(warehouse, days[-1], 28)
        assert [each[RUN_DATE] for each in found] == days[-29:-1]
        assert current_run(warehouse, days[-1]) is not None
        read[n_nights] = sum(values) - (n_nights - 1)  # the run dates alone
    assert read[40] == read[400]
