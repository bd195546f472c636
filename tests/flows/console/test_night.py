"""The report of a night."""

from pathlib import Path
from typing import Any

import pytest

from flows.console.night import headlines
from pipeline.results import Evaluated, Gated, Ingested, Published, Scored
from pipeline.runner.cache import RunResults, StageRecord
from pipeline.runner.nightly import FinishedRun
from tests.helpers.ingest_cases import TODAY


def lines(quarantined: dict[str, int] | None = None, unknown_listed: int = 0) -> list[str]:
    counts: dict[str, Any] = dict.fromkeys(Scored.__dataclass_fields__, 0)
    results: dict[str, Any] = {
        "ingest": Ingested("id", 1, 1, 9, 7, 1, 1, 0, quarantined or {}),
        "evaluate": Evaluated(
            "leave-one-out", 4, 3, {"NDCG@10": 0.3}, {"NDCG@10": 0.1}, {"NDCG@10": 0.05}
        ),
        "gate": Gated("first", (), "v1", Path("bundle"), "v1", None),
        "score": Scored(**{**counts, "unknown_listed": unknown_listed}),
        "publish": Published("table", "id", 1, 8, 4),
    }
    records = [StageRecord(name, "", "", 0.0, result) for name, result in results.items()]
    return headlines(FinishedRun(TODAY, RunResults(*records)))


def test_quarantined_rows_are_named_by_reason_where_there_are_any() -> None:
    one = "quarantined: 1,500 timestamp after the run date, 2 null user_id"
    assert one in lines({"timestamp after the run date": 1500, "null user_id": 2})
    assert not any("quarantined" in line for line in lines())


@pytest.mark.parametrize(("unknown", "line"), [(3, "3 listed items unknown"), (0, None)])
def test_a_night_says_how_many_listed_items_are_unknown(unknown: int, line: str | None) -> None:
    printed = [text for text in lines(unknown_listed=unknown) if "unknown" in text]
    assert printed == ([f"allow and deny files: {line}"] if line else [])
