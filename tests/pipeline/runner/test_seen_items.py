"""A night whose lists leave out what was bought of late, and nothing else."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.export_section import ExportSettings
from pipeline.config.score_section import ScoreSettings
from pipeline.config.settings import load_settings
from pipeline.dates import RunDay
from pipeline.errors import ConfigError
from pipeline.runner.nightly import FinishedRun, nightly
from pipeline.runner.scoring_checks import check_scoring
from pipeline.runner.stages import Score
from pipeline.schema import TIME
from pipeline.warehouse.tables import dataset_of, open_table
from tests.helpers.prepared_folders import write_prepared
from tests.helpers.stages import table_uri
from tests.helpers.tiny_night import write_settings

DAY = date(2026, 7, 1)
USERS, ITEMS, EVENTS = 20, 12, 8

# The user, the item, the days before the end of the run date, and whether it was bought.
ROWS = [
    (user, (user + step) % ITEMS, EVENTS - 1 - step, step % 2 == 0)
    for user in range(USERS)
    for step in range(EVENTS)
]


def write_logs(folder: Path) -> None:
    folder.mkdir()
    users, items, days, bought = zip(*ROWS, strict=True)
    noon = datetime(2026, 7, 1, 12, tzinfo=UTC)
    table = {
        "user_id": users,
        "item_id": items,
        "timestamp": pa.array([noon - timedelta(days=each) for each in days], TIME),
        "kind": ["buy" if each else "view" for each in bought],
    }
    pq.write_table(pa.table(table), folder / "a.parquet")


def test_a_night_lists_again_what_does_not_count_as_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("page_of_run", "index_of_run"):
        monkeypatch.setattr(f"pipeline.runner.nightly.{name}", lambda *given: None)
    write_logs(tmp_path / "logs")
    config = write_settings(tmp_path)

    def night_with(exclude: str) -> FinishedRun:
        rule = f"score.exclude_seen={exclude}"
        given = ["logs.event_type=kind", f"score.top_k={ITEMS}", rule]
        return nightly(load_settings(config, given), DAY)

    def listed() -> dict[int, set[int]]:
        table = open_table(table_uri(load_settings(config), "recommendations"))
        assert table is not None
        found: dict[int, set[int]] = {user: set() for user in range(USERS)}
        for row in dataset_of(table).to_table(["user_id", "item_id"]).to_pylist():
            found[row["user_id"]].add(row["item_id"])
        return found

    night = night_with('["buy", "gift", "5 days"]')
    assert night.results[Score].result.absent_types == ("gift",)
    late = {(user, item) for user, item, days, bought in ROWS if bought and days < 5}
    assert listed() == {
        user: {item for item in range(ITEMS) if (user, item) not in late} for user in range(USERS)
    }
    again = night_with("3 days")
    redone = [record.stage for record in again.results.records if not record.reused]
    assert redone == ["score", "publish"]
    late = {(user, item) for user, item, days, _ in ROWS if days < 3}
    assert listed() == {
        user: {item for item in range(ITEMS) if (user, item) not in late} for user in range(USERS)
    }


def test_a_type_that_no_event_has_is_refused_before_the_training(tmp_path: Path) -> None:
    kinds = [["view", "buy"], ["view", "buy"]]
    prepared = write_prepared(tmp_path / "prepared", [[1, 2], [2, 1]], kinds=kinds)

    def check(*types: str) -> None:
        score = ScoreSettings(top_k=1, provider="cpu", exclude_seen=types)
        check_scoring(prepared, ExportSettings(), score, None, None, RunDay(DAY, "UTC"))

    with pytest.raises(ConfigError, match="expected bought; found buy, view"):
        check("bought")
    check("view")
    with pytest.raises(ConfigError, match="every user has seen every eligible item"):
        check("buy", "view")
