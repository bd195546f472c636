"""A night on events of several types: which the model sees, which it predicts, which count more."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.bundles.bundle import Bundle
from pipeline.config.event_types_section import EventTypeSettings
from pipeline.config.settings import Settings, load_settings
from pipeline.errors import ConfigError
from pipeline.results import Evaluated
from pipeline.runner.nightly import evaluate_bundle_of, nightly
from pipeline.runner.stages import Evaluate, Export, Score, Train
from pipeline.scoring.run import score
from pipeline.warehouse.tables import dataset_of, open_table
from tests.helpers.stages import evaluate, ingest, prepare, table_uri, train
from tests.helpers.tiny_night import write_settings

pytestmark = pytest.mark.usefixtures("shared_traces", "without_reports")

FIRST, SECOND = date(2026, 6, 30), date(2026, 7, 1)
USERS, ITEMS, BOUGHT = 40, 30, 14
PURCHASES = {
    "event_types.inputs": "buy",
    "event_types.targets": "buy",
    "evaluate.mask_seen": "buy",
    "score.exclude_seen": "buy",
}


def write_typed_logs(folder: Path, day: date, steps: range) -> None:
    """Everybody buys items in one order, and views two others at random between two purchases."""
    random = np.random.default_rng(day.toordinal())
    rows = []
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    for user in range(USERS):
        for step in steps:
            time = noon - timedelta(hours=10 * (steps[-1] - step))
            rows.append((user, f"item-{(user + step) % BOUGHT:02d}", time, "buy"))
            views = random.integers(BOUGHT, ITEMS, 2)
            rows += [
                (user, f"item-{item:02d}", time + timedelta(hours=1 + number), "view")
                for number, item in enumerate(views)
                if step != steps[-1]
            ]
    folder.mkdir(exist_ok=True)
    columns = zip(*rows, strict=True)
    names = ["user_id", "item_id", "timestamp", "kind"]
    pq.write_table(pa.table([*map(pa.array, columns)], names=names), folder / f"{day}.parquet")


def given(folder: Path, *more: str, **types: str) -> Settings:
    training = ("train.epochs=10", "train.learning_rate=0.03", "train.refit=false")
    settings = [f"{name}={value}" for name, value in types.items()]
    common = ("logs.event_type=kind", "gate.enabled=false", "train.train_batch_size=64", *training)
    return load_settings(write_settings(folder), [*common, *settings, *more])


def of_purchases(found: Evaluated, name: str = "model") -> float:
    return found.by_event_type["buy"].metrics[name]["NDCG@5"]


def measured(settings: Settings) -> Evaluated:
    """The metrics of a model trained on the first day."""
    prepared = prepare(settings, FIRST, ingest(settings, FIRST))
    return evaluate(settings, FIRST, prepared, train(settings, FIRST, prepared))


def test_a_model_of_purchases_learns_what_views_hide_and_serves_it(tmp_path: Path) -> None:
    write_typed_logs(tmp_path / "logs", FIRST, range(8))
    plain = measured(given(tmp_path))
    # Everybody's last event is a purchase, which is hard to tell from the views before it.
    assert list(plain.by_event_type) == ["buy"]
    assert of_purchases(plain) == plain.model["NDCG@5"]

    settings = given(tmp_path, **PURCHASES)
    night = nightly(settings, FIRST)
    found = night.results[Evaluate].result
    assert "leave-one-out (last item of events of type buy)" in found.protocol
    assert "seen items masked of events of type buy" in found.protocol
    assert found.by_event_type["buy"].n_users == found.n_users == USERS
    assert of_purchases(found) > 0.8 > 0.5 > of_purchases(plain)

    # The tables of the night are those of fearec-score with the same bundle and logs.
    bundle = Bundle.load(night.results[Export].result.bundle)
    assert bundle.description.input_types == ("buy",)
    table = open_table(table_uri(settings, "recommendations"))
    assert table is not None
    order = [("user_id", "ascending"), ("rank", "ascending")]
    columns = ["user_id", "rank", "item_id", "score"]
    published = dataset_of(table).to_table(columns).sort_by(order)
    logs = [str(tmp_path / "logs")]
    score(
        logs,
        bundle,
        tmp_path / "out",
        settings.score,
        logs=settings.logs,
        run_date=FIRST,
        time_zone="UTC",
    )
    scored = pq.read_table(tmp_path / "out", columns=columns).sort_by(order)
    assert scored["item_id"].to_pylist() == published["item_id"].to_pylist()
    np.testing.assert_allclose(scored["score"], published["score"], atol=1e-6)
    with pytest.raises(ConfigError, match="of the bundle names types of events"):
        score(
            logs,
            bundle,
            tmp_path / "untyped",
            replace_seen(settings).score,
            logs=settings.logs.model_copy(update={"event_type": None}),
            run_date=FIRST,
            time_zone="UTC",
        )

    # The night after, the champion is measured on the purchases of the new day, by its own inputs.
    write_typed_logs(tmp_path / "logs", SECOND, range(7, 10))
    second = nightly(settings, SECOND).results
    compared = second[Evaluate].result
    assert compared.not_compared is None
    assert of_purchases(compared, "champion") > 0.5
    again = evaluate_bundle_of(settings, SECOND, second[Export].result.bundle)
    assert "buy" in again.by_event_type
    assert second[Train].result.parent == bundle.model_version
    assert second[Score].result.n_fallback == 0


def replace_seen(settings: Settings) -> Settings:
    return settings.model_copy(
        update={"score": settings.score.model_copy(update={"exclude_seen": True})}
    )


def test_all_types_are_predicted_and_measured_apart_and_weights_move_them(tmp_path: Path) -> None:
    write_typed_logs(tmp_path / "logs", FIRST, range(8))
    by_time = ("evaluate.split=time", "evaluate.test_days=1", "evaluate.valid_days=1")
    settings = given(tmp_path, *by_time, "evaluate.mask_seen=false")
    equal = measured(settings)
    assert list(equal.by_event_type) == ["buy", "view"]
    weights = EventTypeSettings(weights={"buy": 50})
    heavy = measured(settings.model_copy(update={"event_types": weights}))

    def hits(found: Evaluated, kind: str) -> float:
        return found.by_event_type[kind].metrics["model"]["HR@10"]

    assert hits(heavy, "buy") > hits(equal, "buy")
    assert hits(heavy, "view") < hits(equal, "view")


def test_types_that_no_event_has_are_named_before_training(tmp_path: Path) -> None:
    write_typed_logs(tmp_path / "logs", FIRST, range(3))
    with pytest.raises(ConfigError, match=r"event_types.targets names.*expected rent; found buy"):
        nightly(given(tmp_path, **{"event_types.targets": "rent"}), FIRST)
    settings = given(tmp_path, **{"event_types.inputs": "rent"})
    with pytest.raises(ConfigError, match=r"event_types.inputs names.*expected rent; found buy"):
        nightly(settings, FIRST)
