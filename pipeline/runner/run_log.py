"""The Delta table `runs`: what each night did, one row a run date."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from pipeline.config.settings import Settings
from pipeline.runner.cache import Record, fingerprint, read_record, write_record
from pipeline.schema import RUN_DATE, TIME
from pipeline.warehouse.tables import dataset_of, open_table, table_uri

RUNS = "runs"

_FIGURES = pa.map_(pa.string(), pa.float64())

_SCHEMA = pa.schema(
    [
        (RUN_DATE, pa.date32()),
        ("started_at", TIME),
        ("seconds", pa.float64()),  # of all stages, those done in an earlier run included
        ("stage_seconds", _FIGURES),
        ("decision", pa.string()),
        ("model_version", pa.string()),
        ("parent", pa.string()),
        ("n_users", pa.int64()),
        ("n_items", pa.int64()),
        ("n_interactions", pa.int64()),
        ("n_added", pa.int64()),
        ("n_duplicates", pa.int64()),
        ("n_quarantined", pa.int64()),
        ("n_recommendations", pa.int64()),
        ("n_fallback", pa.int64()),
        ("protocol", pa.string()),
        ("metrics", _FIGURES),
        ("metrics_low", _FIGURES),  # 95% intervals of the model's
        ("metrics_high", _FIGURES),
        ("popularity_metrics", _FIGURES),
        ("co_occurrence_metrics", _FIGURES),
    ]
)


@dataclass(frozen=True)
class RunRow:
    """That the row was written, and into which version of the table."""

    table: str
    version: int


def record_run(
    settings: Settings, run_date: date, started_at: datetime, stages: Mapping[str, Record[Any]]
) -> None:
    """Write the night's row in place of an earlier one, unless that is of these same results."""
    results = {name: record.result for name, record in stages.items()}
    identity = fingerprint(RUNS, {}, results)
    known = read_record(settings, run_date, RUNS, RunRow)
    if known and known.fingerprint == identity and _has_row(settings, run_date):
        return

    from deltalake import write_deltalake

    seconds = {name: record.seconds for name, record in stages.items()}
    ingested, prepared, trained = results["ingest"], results["prepare"], results["train"]
    evaluated, exported = results["evaluate"], results["export"]
    intervals = evaluated.intervals.get("model", {})
    row = {
        RUN_DATE: run_date,
        "started_at": started_at,
        "seconds": sum(seconds.values()),
        "stage_seconds": seconds,
        "decision": "published",
        "model_version": exported.model_version,
        "parent": trained.parent,
        "n_users": prepared.n_users,
        "n_items": prepared.n_items - 1,
        "n_interactions": prepared.n_interactions,
        "n_added": ingested.added,
        "n_duplicates": ingested.duplicates,
        "n_quarantined": ingested.quarantined,
        "n_recommendations": results["publish"].n_rows,
        "n_fallback": results["score"].n_fallback,
        "protocol": evaluated.protocol,
        "metrics": evaluated.model,
        "metrics_low": {name: low for name, (low, _) in intervals.items()},
        "metrics_high": {name: high for name, (_, high) in intervals.items()},
        "popularity_metrics": evaluated.popularity,
        "co_occurrence_metrics": evaluated.co_occurrence,
    }
    uri = table_uri(settings, RUNS)
    write_deltalake(
        uri,
        pa.Table.from_pylist([row], _SCHEMA),
        mode="overwrite",
        predicate=f"{RUN_DATE} = '{run_date}'",
        schema_mode="merge",  # of a table from before some column was there
    )
    table = open_table(settings, RUNS)
    assert table is not None
    write_record(settings, run_date, Record(RUNS, identity, 0.0, RunRow(uri, table.version())))


def _has_row(settings: Settings, run_date: date) -> bool:
    table = open_table(settings, RUNS)
    if table is None:
        return False
    rows = dataset_of(table).count_rows(filter=ds.field(RUN_DATE) == run_date)
    return bool(rows)
