"""Items that were not seen for long are not recommended, by the newest events that are known."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.errors import ConfigError
from pipeline.bundles.bundle import Bundle
from pipeline.config.guard_sections import CheckSettings
from pipeline.config.score_section import ScoreSettings
from pipeline.dates import days_before, run_end
from pipeline.errors import TableCheckError
from pipeline.publishing.checks import Served, check_tables
from pipeline.schema import ITEM_ID, ITEMS_FILE, TIME
from pipeline.scoring.eligibility import eligible_items
from pipeline.scoring.prepared_reader import PreparedHistories
from pipeline.scoring.run import score_histories
from pipeline.storage.locations import RunLocations, Warehouse
from tests.helpers import scoring_cases
from tests.helpers.prepared_folders import NOON, write_prepared

DAY = date(2026, 11, 20)
SINCE = datetime(2026, 11, 10, tzinfo=UTC)


def test_days_end_with_the_run_date_in_its_zone() -> None:
    assert days_before(DAY, None, "UTC") is None
    assert days_before(DAY, 1, "UTC") == datetime(2026, 11, 20, tzinfo=UTC)
    assert days_before(DAY, 10, "Asia/Tokyo") == datetime(2026, 11, 10, 15, tzinfo=UTC)
    assert days_before(DAY, 36_500, "UTC") == run_end(DAY - timedelta(36_500), "UTC")


def test_a_run_goes_by_its_own_events(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """The bundle's items were all last seen on 1 November; the run knows later events of some."""
    known = [f"item{index}" for index in range(41, 0, -1)]  # in another order than the bundle's
    rng = np.random.default_rng(1)
    histories = [[known[index] for index in rng.integers(0, 41, 6)] for _ in range(20)]
    prepared = write_prepared(tmp_path / "prepared", histories, items=known)
    seen = [SINCE + timedelta(days=int(days)) for days in rng.integers(-3, 3, 41)]
    path = prepared.folder / ITEMS_FILE
    items = pq.read_table(path)
    place = items.schema.get_field_index("last_seen")
    pq.write_table(items.set_column(place, "last_seen", pa.array(seen, TIME)), path)

    recent = {item for item, time in zip(known, seen, strict=True) if time >= SINCE}
    trained = {row[ITEM_ID] for row in tiny_bundle.items().to_pylist() if row["popularity"]}
    assert 5 < len(recent & trained) < len(trained)
    settings = ScoreSettings(top_k=5, provider="cpu")
    served = Served(prepared, tiny_bundle.path, settings, None, SINCE)
    locations = RunLocations(Warehouse(str(tmp_path / "warehouse")), tmp_path / "work", DAY)
    for retired_before, allowed in ((SINCE, recent), (None, None)):
        scored = score_histories(
            PreparedHistories(prepared.folder, None),
            tiny_bundle,
            tmp_path / f"out-{retired_before is None}",
            settings,
            run_date=DAY,
            resume_inputs={},
            retired_before=retired_before,
        )
        expected = {
            user: scoring_cases.brute_force(tiny_bundle, history, allowed=allowed)
            for user, history in enumerate(histories)
        }
        scoring_cases.assert_rows(scoring_cases.rows(scored.folder), expected)
        if retired_before:
            check_tables(scored, served, CheckSettings(), locations)
            continue
        with pytest.raises(
            TableCheckError, match="items that are denied, not allowed, filtered, retired"
        ):
            check_tables(scored, served, CheckSettings(), locations)
        check_tables(scored, replace(served, retired_before=None), CheckSettings(), locations)


def test_logs_are_scored_by_the_bundles_events(tiny_bundle: Bundle, tmp_path: Path) -> None:
    log = scoring_cases.write_log(tmp_path / "a.parquet", [("u", "item1", NOON)])
    scored = scoring_cases.run(log, tiny_bundle, tmp_path / "out", retire_after_days=20)
    assert scored.n_rows == 5
    with pytest.raises(ConfigError, match=r"no item is left.*retire_after_days"):
        scoring_cases.run(log, tiny_bundle, tmp_path / "none", retire_after_days=19)


def test_an_item_that_was_never_seen_is_retired(tiny_bundle: Bundle) -> None:
    items = tiny_bundle.items()
    unseen = pa.array([None] + [SINCE] * (len(items) - 1), TIME)
    items = items.set_column(items.schema.get_field_index("last_seen"), "last_seen", unseen)
    found = eligible_items(items, ScoreSettings(top_k=5), SINCE)
    assert found.item_bias[1] == -np.inf
    assert found.popular[:5].tolist() == [2, 3, 4, 5, 6]
    everything = eligible_items(items, ScoreSettings(top_k=5))
    assert everything.popular[:5].tolist() == [1, 2, 3, 4, 5]
