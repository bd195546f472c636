"""Warehouses written by hand for reports: a night of each kind, without a training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import write_deltalake

from pipeline.config.settings import Settings
from pipeline.results import Evaluated, Gated, PairedDifference, Trained
from pipeline.runner.cache import StageRecord, write_record
from pipeline.schema import INTERACTIONS, QUARANTINE, QUARANTINE_SCHEMA, RECOMMENDATIONS, RUN_DATE
from pipeline.storage.locations import RunLocations, Warehouse
from pipeline.warehouse.runs import append_run

DAYS = [date(2026, 6, 28) + timedelta(days=number) for number in range(4)]
STAGES = ("ingest", "prepare", "check", "train", "evaluate", "export", "gate", "score", "publish")
# What may not be taken for markup, mathematics, an escape sequence or a line.
NASTY = "<script>alert(1)</script>&amp;\"'$x_1$ \x1b[31m\u202e\n{{ 7 * 7 }}"

Lists = Mapping[Any, Sequence[tuple[Any, float]]]  # items with scores, by user


@dataclass(frozen=True)
class ReportCase:
    """A warehouse and a work folder.

    Attributes:
        settings: Where they are.
    """

    settings: Settings

    @property
    def warehouse(self) -> Warehouse:
        return Warehouse(self.settings.warehouse)

    def locations(self, day: date) -> RunLocations:
        return RunLocations(self.warehouse, self.settings.work_dir, day)

    def run(self, day: date, decision: str = "promoted", **columns: Any) -> None:
        """Record a run."""
        values = {"NDCG@10": 0.3, "HR@10": 0.5, "NDCG@5": 0.2}
        ended = datetime(day.year, day.month, day.day, 3, tzinfo=UTC)
        row = {
            RUN_DATE: day,
            "started_at": ended - timedelta(hours=1),
            "finished_at": ended,
            "seconds": 300.0,
            "stage_seconds": dict.fromkeys(STAGES, 33.0),
            "decision": decision,
            "model_version": "new",
            "candidate": "new",
            "champion": "old",
            "protocol": "leave-one-out",
            "metrics": values,
            "metrics_low": {name: value - 0.1 for name, value in values.items()},
            "metrics_high": {name: value + 0.1 for name, value in values.items()},
            "popularity_metrics": dict.fromkeys(values, 0.1),
            "co_occurrence_metrics": dict.fromkeys(values, 0.2),
            "champion_metrics": dict.fromkeys(values, 0.25),
            "difference": {"champion": 0.05},
            "difference_low": {"champion": 0.01},
            "difference_high": {"champion": 0.09},
            "realised": {"HR": 0.4, "popularity_HR": 0.1, "n_users": 50.0, "n_events": 70.0},
            "checks": [check_row("users", "passed", value=9.0)],
            "table_checks": [check_row("overlap", "passed")],
            "n_added": 10,
            "n_interactions": 1000,
            "n_recommendations": 12,
            "n_fallback": 0,
            "last_event": ended,
        }
        append_run(self.warehouse, row | columns)

    def publish(self, day: date, lists: Lists, source: str = "model", layout: str = "long") -> None:
        """Append a partition of recommendations."""
        stamps = {"source": source, "model_version": "new", RUN_DATE: day}
        if layout == "long":
            rows = [
                {"user_id": user, "rank": rank, "item_id": item, "score": score, **stamps}
                for user, items in lists.items()
                for rank, (item, score) in enumerate(items, start=1)
            ]
        else:
            rows = [
                {
                    "user_id": user,
                    "recommendations": [{"item_id": i, "score": s} for i, s in items],
                    **stamps,
                }
                for user, items in lists.items()
            ]
        uri = self.warehouse.table(RECOMMENDATIONS)
        write_deltalake(uri, pa.Table.from_pylist(rows), mode="append", partition_by=[RUN_DATE])

    def interact(self, events: Sequence[tuple[Any, Any, datetime]]) -> None:
        """Append events: user, item, time."""
        names = ("user_id", "item_id", "timestamp")
        rows = [dict(zip(names, event, strict=True)) for event in events]
        uri = self.warehouse.table(INTERACTIONS)
        write_deltalake(uri, pa.Table.from_pylist(rows), mode="append")

    def quarantine(self, day: date, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append bad rows."""
        table = pa.Table.from_pylist([{RUN_DATE: day, **row} for row in rows], QUARANTINE_SCHEMA)
        write_deltalake(self.warehouse.table(QUARANTINE), table, mode="append")

    def record(self, day: date, stage: str, result: Any) -> None:
        """Record a stage of a run as done."""
        record = StageRecord(stage, "key", "key", 1.0, result)
        write_record(self.locations(day).record(stage), record)

    def train(self, day: date, *logs: str) -> None:
        """Record a training with the logs of its attempts, CSV files."""
        folder = self.locations(day).training / "abc"
        folder.mkdir(parents=True)
        for attempt, log in enumerate(logs):
            path = folder / f"held_out/logs/version_{attempt}/metrics.csv"
            path.parent.mkdir(parents=True)
            path.write_text(log)
        self.record(day, "train", Trained(folder, 2, 0.3, None, refit=True))


def check_row(
    name: str, outcome: str, message: str = "as expected", value: float | None = None
) -> dict[str, Any]:
    """A check as `runs` has it."""
    return {"name": name, "outcome": outcome, "message": message, "value": value, "limit": None}


def case_in(folder: Path, **settings: Any) -> ReportCase:
    """An empty warehouse and work folder."""
    given = {"warehouse": f"{folder}/warehouse", "work_dir": folder / "work", **settings}
    return ReportCase(Settings(**given))


LISTS: Lists = {
    user: [(f"item-{(user + place) % 9}", 3.0 - place / 10 - user / 100) for place in range(4)]
    for user in range(12)
}


def write_nights(case: ReportCase) -> None:
    """A promoted night on the third day, with everything a report can show, after two others."""
    for number, day in enumerate(DAYS[:3]):
        case.run(day, "promoted" if number else "first", n_added=10 + number)
    case.publish(DAYS[1], LISTS)
    case.publish(DAYS[2], {user: items[::-1] for user, items in LISTS.items()})
    noon = datetime(2026, 6, 30, 12, tzinfo=UTC)
    case.interact([(user, f"item-{user % 5}", noon) for user in range(12)])
    bad = {"source_file": "dt=2026-06-30/a.parquet", "timestamp": "2026-06-30 12:00:00"}
    rows = [{**bad, "user_id": None, "item_id": "a", "reason": "null user_id", "source_row": row}
            for row in range(5)]  # fmt: skip
    rows.append({**bad, "user_id": "7", "reason": "null item_id", "source_row": 9})
    case.quarantine(DAYS[2], rows)
    case.train(DAYS[2], "epoch,step,NDCG@10,loss\n0,9,0.1,\n0,9,,5.0\n1,19,0.2,\n1,19,,4.5\n")
    case.record(DAYS[2], "evaluate", evaluated())
    gated = Gated("promoted", (), "new", case.settings.work_dir, "new", "old", ("close: +.05",))
    case.record(DAYS[2], "gate", gated)


def evaluated() -> Evaluated:
    """The metrics that `ReportCase.run` records, with what `runs` has not."""
    values = {"NDCG@10": 0.3, "HR@10": 0.5, "NDCG@5": 0.2}
    others = [dict.fromkeys(values, value) for value in (0.1, 0.2)]
    interval = {"NDCG@10": (0.25, 0.35)}
    return Evaluated(
        "leave-one-out",
        2000,
        1990,
        values,
        *others,
        intervals={"model": interval, "popularity": {"NDCG@10": (0.05, 0.15)}},
        champion=dict.fromkeys(values, 0.25),
        differences={"champion": PairedDifference(0.05, 0.01, 0.09)},
    )


def held(*messages: str) -> list[dict[str, Any]]:
    """Checks that hold a run, after one that passed."""
    passed = check_row("users", "passed", "users: 9", 9.0)
    return [passed, *(check_row("new_items", "held", message, 0.9) for message in messages)]
