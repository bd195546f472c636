"""The table `runs`: a row per run, the newest of a date current."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

import pipeline.warehouse.runs
from pipeline.schema import RUN_DATE
from pipeline.storage.locations import Warehouse
from pipeline.warehouse.runs import append_run, current_run, runs_before

DAYS = [date(2026, 6, day) for day in (1, 2, 3)]


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
    for day, hour, decision in [(1, 5, "held"), (0, 2, "failed"), (0, 4, "first"), (1, 3, "x")]:
        append_run(warehouse, row(DAYS[day], hour, decision=decision))
    append_run(warehouse, row(DAYS[2], decision="promoted"))
    newest = current_run(warehouse, DAYS[0])
    assert newest is not None
    assert newest["decision"] == "first"
    before = runs_before(warehouse, DAYS[2], 28)
    assert [each["decision"] for each in before] == ["first", "held"]
    assert [each["decision"] for each in runs_before(warehouse, DAYS[2], 1)] == ["held"]
