"""Runs that the gate holds, with real training on data small enough for seconds."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from pipeline.bundles.registry import champion_before
from pipeline.config.settings import Settings
from pipeline.errors import GateError
from pipeline.results import Gated
from pipeline.runner.nightly import FinishedRun, nightly
from pipeline.runner.stages import Evaluate, Gate, Train
from tests.helpers.stages import locations, table_uri

pytestmark = pytest.mark.usefixtures("shared_traces", "without_reports")

FIRST = date(2026, 6, 1)
N_USERS, N_ITEMS = 80, 30


def settings_of(folder: Path, **train: Any) -> Settings:
    return Settings(
        warehouse=str(folder / "warehouse"),
        work_dir=folder / "work",
        logs={"path": str(folder / "logs")},
        model={
            "contrast": "none", "hidden_size": 16, "inner_size": 16, "n_layers": 1, "n_heads": 1,
            "MAX_ITEM_LIST_LENGTH": 5, "hidden_dropout_prob": 0.1, "attn_dropout_prob": 0.1,
        },
        train={"epochs": 4, "train_batch_size": 64, "learning_rate": 0.02, "accelerator": "cpu",
               **train},
        evaluate={"topk": (5,), "bootstrap": 50},
        score={"top_k": 5, "provider": "cpu"},
    )  # fmt: skip


def write_day(folder: Path, day: date, events: int = 2, seed: int | None = None) -> None:
    """Everybody takes the next items of a cycle; with a seed, any items."""
    offset = (day - FIRST).days
    users, items, times = [], [], []
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    first = 8 + 2 * (offset - 1) if offset else 0
    for user in range(N_USERS):
        for step in range(events):
            users.append(user)
            items.append((user * 7 + first + step) % N_ITEMS)
            times.append(start + timedelta(minutes=step))
    if seed is not None:
        items = np.random.default_rng(seed).integers(0, N_ITEMS, len(items)).tolist()
    path = folder / "logs" / f"{day}.parquet"
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"user_id": users, "item_id": items, "timestamp": times}), path)


def run(folder: Path, day: date, *, force_publish: bool = False, **train: Any) -> FinishedRun:
    return nightly(settings_of(folder, **train), day, force_publish=force_publish)


def gated(finished: FinishedRun) -> Gated:
    return finished.results[Gate].result


def published(folder: Path, day: date) -> set[str]:
    """The model versions of a run date's recommendations."""
    table = DeltaTable(table_uri(settings_of(folder), "recommendations"))
    rows = table.to_pyarrow_table(filters=[("run_date", "=", day)], columns=["model_version"])
    return set(rows["model_version"].to_pylist())


def rows_of(folder: Path, day: date) -> Sequence[dict[str, Any]]:
    rows = DeltaTable(table_uri(settings_of(folder), "runs")).to_pyarrow_table().to_pylist()
    return [
        row for row in sorted(rows, key=lambda row: row["finished_at"]) if row["run_date"] == day
    ]


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[FinishedRun]]:
    """A good night after a failed one, one that diverges, and one of shuffled item ids."""
    folder = tmp_path_factory.mktemp("nights")
    write_day(folder, FIRST, events=8)
    with pytest.raises(GateError) as caught:
        run(folder, FIRST, learning_rate=1e30)
    assert caught.value.exit_code == 1
    assert "the training diverged" in str(caught.value)
    done = [run(folder, FIRST)]
    for number, (learning_rate, seed) in enumerate([(1e30, None), (0.02, 1)], start=1):
        day = FIRST + timedelta(days=number)
        write_day(folder, day, seed=seed)
        done.append(run(folder, day, learning_rate=learning_rate))
    return folder, done


def test_decisions_of_real_runs(nights: tuple[Path, list[FinishedRun]]) -> None:
    first, diverged, spoilt = map(gated, nights[1])
    assert [each.decision for each in (first, diverged, spoilt)] == ["first", "held", "held"]
    assert first.reasons == ()
    (reason,) = diverged.reasons
    assert reason.startswith("train: ")
    assert "the training diverged" in reason
    assert diverged.candidate is None
    assert any("that the champion had on its own run date" in reason for reason in spoilt.reasons)
    assert spoilt.candidate not in (None, first.model_version)
    assert {each.champion for each in (diverged, spoilt)} == {first.model_version}


def test_a_held_run_publishes_the_champions_recommendations(
    nights: tuple[Path, list[FinishedRun]],
) -> None:
    folder, done = nights
    champion = {gated(done[0]).model_version}
    assert [published(folder, each.run_date) for each in done] == [champion] * 3


def test_the_run_after_a_held_one_starts_from_the_champion(
    nights: tuple[Path, list[FinishedRun]],
) -> None:
    _, (first, _, after) = nights
    champion = gated(first).model_version
    assert after.results[Train].result.parent == champion
    evaluated = after.results[Evaluate].result
    assert evaluated.champion_version == champion
    assert evaluated.champion_then == first.results[Evaluate].result.model["NDCG@5"]
    assert evaluated.champion_then > 2 * evaluated.model["NDCG@5"]


def test_the_rows_of_runs_have_the_champion_and_the_differences(
    nights: tuple[Path, list[FinishedRun]],
) -> None:
    folder, done = nights
    failed, first = rows_of(folder, done[0].run_date)
    assert (failed["decision"], first["decision"]) == ("failed", "first")
    assert first["champion_metrics"] is None
    (row,) = rows_of(folder, done[2].run_date)
    evaluated = done[2].results[Evaluate].result
    assert dict(row["champion_metrics"]) == evaluated.champion
    for name, difference in evaluated.differences.items():
        found = [dict(row[f"difference{end}"])[name] for end in ("", "_low", "_high")]
        assert found == [difference.mean, difference.low, difference.high]
    assert row["reasons"] == list(gated(done[2]).reasons)
    assert row["candidate"] == gated(done[2]).candidate
    assert champion_before(locations(settings_of(folder), FIRST + timedelta(days=3))) is not None
