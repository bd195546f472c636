"""A night with a condition on items, with real training on data small enough for seconds."""

from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.config.score_section import ScoreSettings
from pipeline.config.settings import load_settings
from pipeline.errors import ConfigError, TableCheckError
from pipeline.results import RuleCounts
from pipeline.runner.nightly import FinishedRun, nightly
from pipeline.runner.stages import Score
from pipeline.scoring.eligibility import Eligibility, eligible_items
from pipeline.warehouse.tables import dataset_of, open_table
from tests.helpers.stages import table_uri
from tests.helpers.tiny_night import ITEMS, write_logs, write_settings

pytestmark = pytest.mark.usefixtures("shared_traces", "without_reports")

DAY = date(2026, 7, 1)
WHERE = "price < 10"


def write_table(path: Path, cheap: range) -> None:
    rows = (f"item-{item:02d},{5 if item in cheap else 50}" for item in range(1, ITEMS + 3))
    path.write_text("item_id,price\n" + "\n".join(rows))


def overlooking(items: pa.Table, settings: ScoreSettings, *given: Any) -> Eligibility:
    return eligible_items(items, settings.model_copy(update={"where": None}))


def test_a_night_recommends_the_chosen_items_and_follows_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_logs(tmp_path / "logs")
    table, config = tmp_path / "items.csv", write_settings(tmp_path)
    write_table(table, range(5))
    overrides = [f"items.path={table}", f"score.where={WHERE}", "score.exclude_seen=false"]
    settings = load_settings(config, overrides)

    def redone(night: FinishedRun) -> list[str]:
        return [record.stage for record in night.results.records if not record.reused]

    def recommended() -> set[str]:
        published = open_table(table_uri(settings, "recommendations"))
        assert published is not None
        return set(dataset_of(published).to_table(["item_id"])["item_id"].to_pylist())

    night = nightly(settings, DAY)
    assert recommended() == {f"item-{item:02d}" for item in range(1, 5)}
    assert night.results[Score].result.rules == RuleCounts(ITEMS - 4, 3, 1)
    assert redone(nightly(settings, DAY)) == []
    write_table(table, range(2, 6))
    assert redone(nightly(settings, DAY)) == ["score", "publish"]
    assert recommended() == {f"item-{item:02d}" for item in range(2, 6)}

    rows = recommended()
    with monkeypatch.context() as patch:  # as if scoring had overlooked the condition
        patch.setattr("pipeline.scoring.run.eligible_items", overlooking)
        write_table(table, range(9))
        with pytest.raises(TableCheckError, match="not allowed, filtered"):
            nightly(settings, DAY)
    assert recommended() == rows

    table.write_text("item_id,weight\nitem-01,3\n")
    with pytest.raises(ConfigError, match=r"score\.where: unknown column price"):
        nightly(settings, DAY, force=True)
