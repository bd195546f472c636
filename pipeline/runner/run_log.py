"""What a run did, as a row of the table `runs`."""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pipeline.errors import FearecError, TableCheckError
from pipeline.results import Check, held_by
from pipeline.runner.cache import RunResults, hash_of
from pipeline.runner.stages import (
    CheckData,
    Evaluate,
    Gate,
    Ingest,
    Prepare,
    Publish,
    Score,
    Train,
)
from pipeline.schema import RUN_DATE
from pipeline.storage.locations import RunLocations
from pipeline.warehouse.runs import append_run, current_run

FAILED = "failed"


def record_run(locations: RunLocations, started_at: datetime, results: RunResults) -> None:
    """Append the row of a run whose stages are all done, unless the newest row has its results."""
    key = results_key(results)
    newest = current_run(locations.warehouse, locations.run_date)
    if newest is None or newest["results_key"] != key:
        append_run(locations.warehouse, _row(locations, started_at, results) | {"results_key": key})


def results_key(results: RunResults) -> str:
    """The hash of what the stages returned: a run that changed nothing has the same."""
    return hash_of({record.stage: record.result for record in results.records})


def record_failure(
    locations: RunLocations, started_at: datetime, results: RunResults, error: FearecError
) -> None:
    """Append the row of a run that failed, with the stages before; no model serves by it."""
    failed = {"decision": FAILED, "error": str(error), "model_version": None}
    row = _row(locations, started_at, results) | failed
    if isinstance(error, TableCheckError):
        row["table_checks"] = _as_rows(error.checks)
        row["reasons"] = held_by(error.checks)
    append_run(locations.warehouse, row)


def _row(locations: RunLocations, started_at: datetime, results: RunResults) -> dict[str, Any]:
    seconds = {record.stage: record.seconds for record in results.records}
    row: dict[str, Any] = {
        RUN_DATE: locations.run_date,
        "started_at": started_at,
        "finished_at": datetime.now(UTC),
        "seconds": sum(seconds.values()),
        "stage_seconds": seconds,
    }
    if ingested := results.get(Ingest):
        row["n_added"] = ingested.result.added
        row["n_duplicates"] = ingested.result.duplicates
        row["n_quarantined"] = ingested.result.quarantined
        row["n_filtered"] = ingested.result.filtered
    if prepared := results.get(Prepare):
        row["n_users"] = prepared.result.n_users
        row["n_items"] = prepared.result.n_items - 1
        row["n_interactions"] = prepared.result.n_interactions
        row["last_event"] = prepared.result.last_event
    if checked := results.get(CheckData):
        row["checks"] = _as_rows(checked.result.checks)
        row["realised"] = checked.result.realised
    if trained := results.get(Train):
        row["parent"] = trained.result.parent
    if evaluated := results.get(Evaluate):
        metrics = evaluated.result
        intervals = metrics.intervals.get("model", {})
        row["protocol"] = metrics.protocol
        row["metrics"] = metrics.model
        row["metrics_low"] = {name: low for name, (low, _) in intervals.items()}
        row["metrics_high"] = {name: high for name, (_, high) in intervals.items()}
        row["popularity_metrics"] = metrics.popularity
        row["co_occurrence_metrics"] = metrics.co_occurrence
        row["champion_metrics"] = metrics.champion or None
        differences = metrics.differences
        row["difference"] = {name: each.mean for name, each in differences.items()}
        row["difference_low"] = {name: each.low for name, each in differences.items()}
        row["difference_high"] = {name: each.high for name, each in differences.items()}
    if gated := results.get(Gate):
        row["decision"] = gated.result.decision
        row["reasons"] = list(gated.result.reasons)
        row["model_version"] = gated.result.model_version
        row["candidate"] = gated.result.candidate
        row["champion"] = gated.result.champion
    if scored := results.get(Score):
        row["n_fallback"] = scored.result.n_fallback
    if published := results.get(Publish):
        row["n_recommendations"] = published.result.n_rows
        row["table_checks"] = _as_rows(published.result.checks)
    return row


def _as_rows(checks: Iterable[Check]) -> list[dict[str, Any]]:
    return [asdict(check) for check in checks]
