"""A backfill: each date as its own night would have been, and how it stops and continues."""

import shutil
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from pipeline.config.settings import Settings, load_settings
from pipeline.errors import ConfigError, DivergenceError, FearecError, InputError
from pipeline.runner import backfill as backfill_module
from pipeline.runner.backfill import backfill, run_dates
from pipeline.runner.cache import RunResults
from pipeline.runner.nightly import nightly, run_stage
from pipeline.runner.run_log import record_failure
from pipeline.runner.stages import Evaluate, Train
from tests.helpers.stages import locations
from tests.helpers.tiny_night import write_settings

pytestmark = pytest.mark.usefixtures("shared_traces", "without_reports")

FIRST = date(2026, 7, 1)
DAYS = [FIRST + timedelta(days=n) for n in range(3)]


def write_day(folder: Path, day: date) -> None:
    """Every user takes eight items of the day; each day adds items of its own."""
    rng = np.random.default_rng(day.day)
    users = np.repeat(np.arange(40), 8)
    items = [f"item-{index:02d}" for index in rng.integers(0, 14 + 3 * day.day, len(users))]
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    times = [start + timedelta(minutes=int(each)) for each in rng.permutation(1400)[: len(users)]]
    target = folder / "logs" / f"dt={day}"
    target.mkdir(parents=True)
    table = pa.table({"user_id": users, "item_id": items, "timestamp": times})
    pq.write_table(table, target / "part.parquet")


def settings_of(folder: Path) -> Settings:
    folder.mkdir(parents=True, exist_ok=True)
    # No test is about the gate, by which a model of one epoch may be too bad.
    return load_settings(write_settings(folder), ["gate.enabled=false"])


def rows(settings: Settings, table: str) -> list[dict[str, Any]]:
    """A table's rows, without what differs from one run to the next."""
    left_out = {"generated_at", "model_version", "source_file", "started_at", "finished_at"}
    found = DeltaTable(str(Path(settings.warehouse) / table)).to_pyarrow_table().to_pylist()
    kept = [{name: row[name] for name in row if name not in left_out} for row in found]
    return sorted(kept, key=repr)


@pytest.fixture(scope="module")
def backfilled(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("backfilled")
    settings = settings_of(folder)
    for day in DAYS[:2]:
        write_day(folder, day)
    done = list(backfill(settings, *DAYS[:2]))
    assert [each.run_date for each in done] == DAYS[:2]
    assert not any(each.done_before for each in done)
    return settings


def test_each_date_is_as_its_own_night_would_have_been(
    backfilled: Settings, tmp_path: Path
) -> None:
    settings = settings_of(tmp_path)
    for day in DAYS[:2]:
        write_day(tmp_path, day)  # the logs of later days are not there yet
        nightly(settings, day)
    for table in ("recommendations", "vocabulary"):
        assert rows(backfilled, table) == rows(settings, table)
    facts = ("run_date", "decision", "metrics", "n_users", "n_items", "n_interactions")
    by_hand, filled = (
        [{name: row[name] for name in facts} for row in rows(each, "runs")]
        for each in (settings, backfilled)
    )
    assert filled == by_hand


@pytest.mark.parametrize("overrides", [[], ["score.top_k=3"]])
def test_dates_that_are_done_are_not_done_again(backfilled: Settings, overrides: list[str]) -> None:
    """Neither with other settings, nor where a later day's log file has come."""
    folder = Path(backfilled.warehouse).parent
    write_day(folder, DAYS[2])
    settings = load_settings(folder / "fearec.toml", ["gate.enabled=false", *overrides])
    done = list(backfill(settings, *DAYS[:2]))
    shutil.rmtree(folder / f"logs/dt={DAYS[2]}")
    assert [(each.run_date, each.done_before) for each in done] == [(day, True) for day in DAYS[:2]]


@pytest.mark.slow
def test_a_date_whose_work_folder_is_gone_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(tmp_path)
    for day in DAYS[:2]:
        write_day(tmp_path, day)
    first, second = backfill(settings, *DAYS[:2])
    shutil.rmtree(tmp_path / f"work/run_date={DAYS[0]}")  # as the housekeeping does
    with pytest.raises(
        ConfigError, match="evaluate needs"
    ):  # a look leaves a folder with the lock of the run date
        run_stage(settings, DAYS[0], Evaluate)
    record_failure(locations(settings, DAYS[1]), datetime.now(UTC), RunResults(), FearecError("x"))
    shutil.rmtree(tmp_path / f"work/run_date={DAYS[1]}")
    runs = []

    def failing(settings: Settings, day: date, **options: Any) -> None:
        runs.append(day)
        raise FearecError("stop")

    monkeypatch.setattr(backfill_module, "nightly", failing)
    done = backfill(settings, *DAYS[:2])
    assert next(done) == replace(first, done_before=True)
    with pytest.raises(FearecError, match=f"run date {DAYS[1]}: stop"):
        next(done)
    assert runs == [DAYS[1]]
    with pytest.raises(FearecError):
        next(backfill(settings, *DAYS[:2], force=True))
    assert runs == [DAYS[1], DAYS[0]]
    assert second.decision == "promoted"


@pytest.mark.slow
def test_a_later_event_of_a_date_is_known_when_it_is_filled(tmp_path: Path) -> None:
    """An event that came after its night counts: the backfill knows today's logs."""
    settings = settings_of(tmp_path)
    write_day(tmp_path, DAYS[0])
    late = tmp_path / "logs" / "late.parquet"
    time = datetime(2026, 7, 1, 12, tzinfo=UTC)
    pq.write_table(pa.table({"user_id": [7], "item_id": ["late"], "timestamp": [time]}), late)
    (done,) = backfill(settings, DAYS[0], DAYS[0])
    assert "late" in {row["item_id"] for row in rows(settings, "vocabulary")}
    assert done.decision == "first"


def test_a_held_date_is_passed_and_a_failed_one_ends_it_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(tmp_path)
    for day in DAYS[:2]:
        write_day(tmp_path, day)
    done = []

    def train(stage: Train) -> Any:
        done.append(stage.locations.run_date)
        if stage.locations.run_date == DAYS[1]:
            raise DivergenceError("the training diverged")
        if stage.locations.run_date == DAYS[2]:
            raise InputError("nothing to train on", "the folder", found="no user")
        return trained(stage)

    trained = Train.run
    monkeypatch.setattr(Train, "run", train)
    dates = backfill(settings, DAYS[0], DAYS[2] + timedelta(days=1))
    first, held = next(dates), next(dates)
    assert (first.decision, held.decision) == ("first", "held")
    assert held.model_version == first.model_version
    with pytest.raises(InputError) as caught:
        next(dates)
    assert str(caught.value).startswith(f"run date {DAYS[2]}: the folder: nothing to train on")
    assert done == DAYS
    published = {row["run_date"] for row in rows(settings, "recommendations")}
    assert published == set(DAYS[:2])


def test_a_date_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def held(settings: Settings, day: date, **options: Any) -> None:
        raise FearecError("the run is held", f"run date {day}")

    monkeypatch.setattr(backfill_module, "nightly", held)
    with pytest.raises(FearecError, match=f"^run date {DAYS[0]}: the run is held$"):
        next(backfill(Settings(warehouse=str(tmp_path)), DAYS[0], DAYS[0]))


def test_impossible_ranges_are_refused_before_any_run(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings()
    monkeypatch.setattr(backfill_module, "nightly", pytest.fail)
    with pytest.raises(ConfigError, match="2026-07-02 to 2026-07-01"):
        next(backfill(settings, DAYS[1], DAYS[0]))
    with pytest.raises(ConfigError, match="the last run date: the run date is in the future"):
        next(backfill(settings, DAYS[0], settings.today() + timedelta(days=2)))
    assert run_dates(settings, DAYS[0], DAYS[0]) == [DAYS[0]]
