"""The Delta table `runs`: what each run did, one row per run date."""

from dataclasses import dataclass
from datetime import date, datetime

import pyarrow as pa
import pyarrow.dataset as ds

from pipeline.runner.cache import RunResults, StageRecord, hash_of, read_record, write_record
from pipeline.runner.stages import Evaluate, Export, Ingest, Prepare, Publish, Score, Train
from pipeline.schema import RUN_DATE, RUNS, RUNS_SCHEMA
from pipeline.storage.locations import RunLocations
from pipeline.warehouse.tables import (
    create_table,
    dataset_of,
    open_table,
    replace_run_date,
    until_committed,
)

PUBLISHED = "published"  # the decision of a run


@dataclass(frozen=True)
class RunRow:
    """That the row was written, and into which version of the table."""

    table: str
    version: int


def record_run(locations: RunLocations, started_at: datetime, results: RunResults) -> None:
    """Write the run's row in place of an earlier one, unless that is of these same results."""
    key = hash_of({record.stage: record.result for record in results.records})
    uri, path = locations.warehouse.table(RUNS), locations.record(RUNS)
    known = read_record(path, RunRow)
    if known and known.cache_key == key and _has_row(uri, locations.run_date):
        return
    ingested, prepared = results[Ingest].result, results[Prepare].result
    evaluated = results[Evaluate].result
    intervals = evaluated.intervals.get("model", {})
    seconds = {record.stage: record.seconds for record in results.records}
    row = {
        RUN_DATE: locations.run_date,
        "started_at": started_at,
        "seconds": sum(seconds.values()),
        "stage_seconds": seconds,
        "decision": PUBLISHED,
        "model_version": results[Export].result.model_version,
        "parent": results[Train].result.parent,
        "n_users": prepared.n_users,
        "n_items": prepared.n_items - 1,
        "n_interactions": prepared.n_interactions,
        "n_added": ingested.added,
        "n_duplicates": ingested.duplicates,
        "n_quarantined": ingested.quarantined,
        "n_recommendations": results[Publish].result.n_rows,
        "n_fallback": results[Score].result.n_fallback,
        "protocol": evaluated.protocol,
        "metrics": evaluated.model,
        "metrics_low": {name: low for name, (low, _) in intervals.items()},
        "metrics_high": {name: high for name, (_, high) in intervals.items()},
        "popularity_metrics": evaluated.popularity,
        "co_occurrence_metrics": evaluated.co_occurrence,
    }
    rows = pa.Table.from_pylist([row], RUNS_SCHEMA)
    version = write_row(uri, rows, locations.run_date)
    write_record(path, StageRecord(RUNS, key, key, 0.0, RunRow(uri, version)))


def write_row(uri: str, row: pa.Table, run_date: date) -> int:
    """Replace the row of a run date in a table of runs; returns the table's version.

    Raises:
        ConflictError: other runs wrote to the table each time that it was tried.
    """

    def write() -> int:
        table = open_table(uri) or create_table(uri, RUNS_SCHEMA)
        # The schema merges into that of a table from before some column existed.
        replace_run_date(table, row, run_date, schema_mode="merge")
        return table.version()

    return until_committed(write)


def _has_row(uri: str, run_date: date) -> bool:
    table = open_table(uri)
    if table is None:
        return False
    return bool(dataset_of(table).count_rows(filter=ds.field(RUN_DATE) == run_date))
