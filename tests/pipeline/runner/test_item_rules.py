"""A night with a condition on items, with real training on data small enough for seconds."""

from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.score_section import ScoreSettings
from pipeline.config.settings import load_settings
from pipeline.errors import ConfigError, TableCheckError
from pipeline.results import RuleCounts, Scored
from pipeline.runner.explain import explain
from pipeline.runner.nightly import FinishedRun, nightly
from pipeline.runner.stages import Score
from pipeline.scoring.eligibility import Eligibility, eligible_items
from pipeline.scoring.run import score_histories
from pipeline.warehouse.tables import dataset_of, open_table
from tests.helpers.stages import table_uri
from tests.helpers.tiny_night import ITEMS, write_logs, write_settings

pytestmark = pytest.mark.usefixtures("shared_traces", "without_reports")

DAY, NEXT = date(2026, 7, 1), date(2026, 7, 2)
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

    def exported_meanwhile(*given: Any, **options: Any) -> Scored:
        scored = score_histories(*given, **options)
        write_table(table, range(3, 7))
        return scored

    write_table(table, range(2, 9))
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.runner.stages.table_stages.score_histories", exported_meanwhile)
        with pytest.raises(TableCheckError, match=f"{table} changed since .*: run it again"):
            nightly(settings, DAY)
    assert recommended() == rows
    assert redone(nightly(settings, DAY)) == ["score", "publish"]
    assert recommended() == {f"item-{item:02d}" for item in range(3, 7)}

    table.write_text("item_id,weight\nitem-01,3\n")
    with pytest.raises(ConfigError, match=r"score\.where: unknown column price"):
        nightly(settings, DAY, force=True)


def test_nights_with_and_without_a_new_item_whose_id_is_too_wide_for_the_model(
    tmp_path: Path,
) -> None:
    write_logs(tmp_path / "logs")
    (path,) = (tmp_path / "logs").rglob("*.parquet")
    log = pq.read_table(path)
    numbers = [int(item.removeprefix("item-")) for item in log["item_id"].to_pylist()]
    pq.write_table(log.set_column(1, "item_id", pa.array(numbers, pa.int32())), path)
    items, wide = tmp_path / "items.csv", 2**33
    settings = load_settings(
        write_settings(tmp_path),
        [
            f"items.path={items}",
            "items.similar_by=['category']",
            "score.new_items={share=0.1,within_days=1}",
            "checks.changed_lists={limit=1.0,action='off'}",
        ],
    )
    known = "".join(f"{item},A,2020-01-01\n" for item in range(ITEMS))
    items.write_text(f"item_id,category,created_at\n{known}{wide},A,{DAY}\n")

    for day in (DAY, NEXT):
        assert nightly(settings, day).results[Score].result.n_users
        table = open_table(table_uri(settings, "recommendations"))
        assert table is not None
        rows = dataset_of(table).to_table(["run_date", "item_id"])
        assert rows["item_id"].type == pa.int64()
        listed = rows.filter(pa.compute.equal(rows["run_date"], pa.scalar(day)))["item_id"]
        assert (wide in listed.to_pylist()) == (day == DAY)
        (reason,) = explain(settings, "0", str(wide), day).reasons
        assert reason.name == ("listed" if day == DAY else "unknown")
