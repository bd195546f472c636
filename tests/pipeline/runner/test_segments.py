"""A night with segments, with real training on data small enough for seconds."""

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.config.score_section import ScoreSettings
from pipeline.config.settings import load_settings
from pipeline.errors import ConfigError, TableCheckError
from pipeline.results import SegmentCounts
from pipeline.runner.nightly import FinishedRun, nightly
from pipeline.runner.stages import Score
from pipeline.scoring.eligibility import Eligibility, eligible_items
from pipeline.warehouse.tables import dataset_of, open_table
from tests.helpers.stages import table_uri
from tests.helpers.tiny_night import ITEMS, USERS, write_logs, write_settings

pytestmark = pytest.mark.usefixtures("shared_traces", "without_reports")

DAY = date(2026, 7, 1)
SEGMENTS = """
[items]
path = "{folder}/items.csv"
[users]
path = "{folder}/users.csv"
[[score.segment]]
name = "vip"
users = "{folder}/vip.txt"
top_k = 2
[[score.segment]]
name = "abroad"
users = "country <> 'DE'"
where = "price < 10"
"""


def write_users(path: Path, abroad: range) -> None:
    lines = (f"{user},{'FR' if user in abroad else 'DE'}" for user in range(USERS))
    path.write_text("user_id,country\n" + "\n".join(lines))


def overlooking(items: pa.Table, settings: ScoreSettings, *given: Any) -> Eligibility:
    eligible = eligible_items(items, settings, *given)
    everything = np.ones(len(eligible.is_new), bool)
    segments = tuple(replace(each, chosen=everything) for each in eligible.segments)
    return replace(eligible, segments=segments)


def test_a_night_gives_segments_their_lists_and_follows_the_users_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_logs(tmp_path / "logs")
    prices = (f"item-{item:02d},{5 if item < 6 else 50}" for item in range(ITEMS))
    (tmp_path / "items.csv").write_text("item_id,price\n" + "\n".join(prices))
    (tmp_path / "vip.txt").write_text("3\n4\n")
    write_users(tmp_path / "users.csv", range(4, 10))
    config = write_settings(tmp_path)
    config.write_text(config.read_text() + SEGMENTS.format(folder=tmp_path))
    settings = load_settings(config, ["score.exclude_seen=false"])

    def redone(night: FinishedRun) -> list[str]:
        return [record.stage for record in night.results.records if not record.reused]

    def check_lists(abroad: range) -> None:
        published = open_table(table_uri(settings, "recommendations"))
        assert published is not None
        rows = dataset_of(published).to_table(["user_id", "item_id"])
        for user in range(USERS):
            items = rows.filter(pa.compute.equal(rows["user_id"], user))["item_id"].to_pylist()
            assert len(items) == (2 if user in (3, 4) else 4)
            if user in abroad and user != 4:
                assert set(items) <= {f"item-{item:02d}" for item in range(6)}

    night = nightly(settings, DAY)
    check_lists(range(4, 10))
    counts = (SegmentCounts("vip", 2, 2), SegmentCounts("abroad", 5, 5))
    assert night.results[Score].result.segments == counts
    assert redone(nightly(settings, DAY)) == []

    write_users(tmp_path / "users.csv", range(20, 30))
    assert redone(nightly(settings, DAY)) == ["score", "publish"]
    check_lists(range(20, 30))

    with monkeypatch.context() as patch:  # as if scoring had overlooked the segment's condition
        patch.setattr("pipeline.scoring.run.eligible_items", overlooking)
        write_users(tmp_path / "users.csv", range(30))
        with pytest.raises(TableCheckError, match="not allowed, filtered"):
            nightly(settings, DAY)
    check_lists(range(20, 30))

    (tmp_path / "users.csv").write_text("user_id,city\n1,Rome\n")
    with pytest.raises(ConfigError, match=r"'abroad' users: unknown column country"):
        nightly(settings, DAY, force=True)
