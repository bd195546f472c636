"""The table `runs`: rows of two runs that end at once."""

from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

import pipeline.runner.run_log
from pipeline.schema import RUN_DATE, RUNS_SCHEMA


@pytest.mark.parametrize("first", [True, False])
def test_two_runs_that_end_at_once_have_a_row_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    uri, days = str(tmp_path / "runs"), [date(2026, 6, day) for day in (1, 2, 3)]
    write = pipeline.runner.run_log.write_row
    replace_run_date = pipeline.runner.run_log.replace_run_date

    def row(day: date) -> pa.Table:
        return pa.Table.from_pylist([{RUN_DATE: day, "n_added": day.day}], RUNS_SCHEMA)

    if not first:
        write(uri, row(days[0]), days[0])

    def meanwhile(*arguments: object, **options: object) -> None:
        monkeypatch.setattr(pipeline.runner.run_log, "replace_run_date", replace_run_date)
        write(uri, row(days[1]), days[1])
        write(uri, row(days[2]), days[2])
        replace_run_date(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline.runner.run_log, "replace_run_date", meanwhile)
    write(uri, row(days[2]), days[2])  # of the same date, on another machine
    found = sorted(DeltaTable(uri).to_pyarrow_table()[RUN_DATE].to_pylist())
    assert found == (days[1:] if first else days)
