"""The stages of a night, with rules on what counts as seen; nothing is trained."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.bundles.bundle import Bundle
from pipeline.config.export_section import ExportSettings
from pipeline.config.score_section import ScoreSettings
from pipeline.config.settings import Settings
from pipeline.dates import RunDay
from pipeline.errors import ConfigError
from pipeline.results import Gated
from pipeline.runner.cache import RunResults, StageRecord
from pipeline.runner.scoring_checks import check_scoring
from pipeline.runner.stages import Publish, Score
from pipeline.storage.locations import RunLocations, Warehouse
from pipeline.warehouse.tables import dataset_of, open_table
from tests.helpers.prepared_folders import write_prepared

DAY = date(2026, 7, 1)
USERS, ITEMS, EVENTS = 20, 12, 8

# The item, the days before the end of the run date, and the type of each user's events.
HISTORIES = [
    [((user + n) % ITEMS, EVENTS - 1 - n, "view" if n % 2 else "buy") for n in range(EVENTS)]
    for user in range(USERS)
]


@pytest.mark.parametrize(
    ("exclude", "days", "types", "absent"),
    [
        (["buy", "gift", "5 days"], 5, {"buy"}, ("gift",)),
        ("3 days", 3, {"buy", "view"}, ()),
    ],
)
def test_lists_of_a_night_leave_out_what_counts_as_seen_and_pass_their_checks(
    exclude: Any,
    days: int,
    types: set[str],
    absent: tuple[str, ...],
    make_bundle: Callable[..., Bundle],
    tmp_path: Path,
) -> None:
    locations = RunLocations(Warehouse(str(tmp_path / "warehouse")), tmp_path / "work", DAY)
    path = tmp_path / "warehouse" / "models" / "v1"
    bundle = make_bundle(path, list(range(ITEMS)), model_version="v1")
    # The last hour of the run date in its zone is of the next day in UTC.
    late = datetime(2026, 7, 2, 2, tzinfo=UTC)
    prepared = write_prepared(
        locations.prepared,
        [[item for item, _, _ in each] for each in HISTORIES],
        [[late - timedelta(days=ago) for _, ago, _ in each] for each in HISTORIES],
        list(range(ITEMS)),
        [[kind for _, _, kind in each] for each in HISTORIES],
    )
    settings = Settings(
        warehouse=locations.warehouse.root,
        work_dir=locations.work_dir,
        time_zone="America/New_York",
        score={"exclude_seen": exclude, "top_k": ITEMS, "provider": "cpu"},
    )
    done = RunResults(
        StageRecord("prepare", "", "", 0.0, prepared),
        StageRecord("gate", "", "", 0.0, Gated("first", (), "v1", path, "v1", None)),
    )
    scored = Score.of(settings, locations, done).run()
    assert scored.absent_types == absent
    done = done.with_record(StageRecord("score", "", "", 0.0, scored))
    published = Publish.of(settings, locations, done).run()
    table = open_table(published.table)
    assert table is not None
    found: dict[int, set[int]] = {user: set() for user in range(USERS)}
    for row in dataset_of(table).to_table(["user_id", "item_id"]).to_pylist():
        found[row["user_id"]].add(row["item_id"])
    eligible = {row["item_id"] for row in bundle.items().to_pylist() if row["popularity"]}
    assert found == {
        user: eligible - {item for item, ago, kind in each if ago < days and kind in types}
        for user, each in enumerate(HISTORIES)
    }


def test_a_type_that_no_event_has_is_refused_before_the_training(tmp_path: Path) -> None:
    kinds = [["view", "buy"], ["view", "buy"]]
    prepared = write_prepared(tmp_path / "prepared", [[1, 2], [2, 1]], kinds=kinds)

    def check(*types: str) -> None:
        score = ScoreSettings(top_k=1, provider="cpu", exclude_seen=types)
        check_scoring(prepared, ExportSettings(), score, None, run_day=RunDay(DAY, "UTC"))

    with pytest.raises(ConfigError, match="expected bought; found buy, view"):
        check("bought")
    check("view")
    with pytest.raises(ConfigError, match="every user has seen every eligible item"):
        check("buy", "view")
