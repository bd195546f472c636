"""The committed sample: reproducible, small, spoilt as stated, and worth a sequence model."""

import importlib.util
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.config.settings import Settings, load_settings
from pipeline.logs.items_table import read_items_table
from pipeline.warehouse.tables import open_table
from tests.helpers.prepared_folders import sequences
from tests.helpers.stages import evaluate, ingest, prepare, table_uri, train

SAMPLE = Path(__file__).parents[2] / "sample_data"
DIRTY = {
    "null user_id": 12,
    "null item_id": 9,
    "null timestamp": 7,
    "timestamp before 1990": 6,
    "timestamp after the run date": 5,
}
DUPLICATES = 80


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", SAMPLE / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("sample")
    return Settings(
        warehouse=str(folder / "warehouse"),
        work_dir=folder / "work",
        logs={"path": str(SAMPLE / "logs")},
    )


def files(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*.parquet"))}


@pytest.fixture(scope="module")
def items() -> pa.Table:
    return read_items_table(SAMPLE / "items.parquet")


def test_the_committed_files_are_what_the_script_writes(generate: ModuleType, tmp_path: Path):
    generate.main(tmp_path / "one")
    generate.main(tmp_path / "two")
    committed, one, two = files(SAMPLE), files(tmp_path / "one"), files(tmp_path / "two")
    assert list(committed) == list(one) == list(two)
    assert len(committed) == 31
    assert list(committed)[:2] == ["items.parquet", "logs/dt=2026-06-01/part-0.parquet"]
    for name, path in committed.items():
        assert one[name].read_bytes() == two[name].read_bytes()
        # Another pyarrow may write other bytes, never other rows.
        assert pq.ParquetFile(path).read().equals(pq.ParquetFile(one[name]).read())


def test_all_of_the_sample_is_small():
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) < 2_000_000


def test_the_settings_beside_them_point_at_them():
    settings = load_settings(SAMPLE / "fearec.toml")
    assert settings.logs.path == "sample_data/logs"
    assert settings.items.path == "sample_data/items.parquet"
    assert settings.warehouse == "warehouse"


def test_the_items_table_covers_all_items_and_can_be_read_by_people(items: pa.Table):
    assert items.schema.names == [
        "item_id", "title", "category", "series", "price", "created_at",
    ]  # fmt: skip
    assert not any(column.null_count for column in items.columns)
    logged = pq.read_table(SAMPLE / "logs")["item_id"].drop_null().unique()
    new = [f"item-{number:04d}" for number in range(800, 810)]
    assert items["item_id"].to_pylist() == [*sorted(logged.to_pylist()), *new]
    titles = items["title"].to_pylist()
    assert len(set(titles)) == len(titles) == 810
    assert all(title == title.strip() and len(title) > 10 for title in titles)
    assert len(items["category"].unique()) == 8
    assert pc.min(items["price"]).as_py() > 0


def test_no_item_is_met_before_it_was_created(items: pa.Table):
    events = pq.read_table(SAMPLE / "logs", columns=["item_id", "timestamp"]).drop_null()
    events = events.filter(pc.greater(pc.year(events["timestamp"]), 1990))
    joined = events.join(items.select(["item_id", "created_at"]), "item_id")
    assert pc.all(pc.less_equal(joined["created_at"], joined["timestamp"])).as_py()


def test_ids_tell_nothing_of_series(items: pa.Table):
    titles = items.sort_by("item_id")["title"].to_pylist()
    series = [title.partition(":")[0].rpartition(" ")[0] for title in titles]
    together = sum(one == other for one, other in pairwise(series))
    assert together < 40  # of 809; 20 by chance


def test_dirty_rows_are_counted_exactly_and_nothing_is_lost(settings: Settings):
    result = ingest(settings, date(2026, 7, 1))
    rows = sum(pq.read_metadata(path).num_rows for path in files(SAMPLE / "logs").values())
    assert result.files == 30
    assert result.rows == rows
    assert result.quarantined == sum(DIRTY.values())
    assert result.duplicates == DUPLICATES
    assert result.added == rows - DUPLICATES - sum(DIRTY.values())
    quarantine = open_table(table_uri(settings, "quarantine")).to_pyarrow_dataset().to_table()
    counts = pc.value_counts(quarantine["reason"]).to_pylist()
    assert {count["values"]: count["counts"] for count in counts} == DIRTY


@dataclass(frozen=True)
class LeaveOneOut:
    """Everybody's events but the last, and that one to be ranked."""

    users: np.ndarray  # of each known event
    items: np.ndarray
    days: np.ndarray
    target: np.ndarray  # the last item of each user
    target_day: np.ndarray

    def ndcg(self, scores: np.ndarray) -> float:
        """NDCG@10, seen items masked."""
        seen = np.zeros(scores.shape, bool)
        seen[self.users, self.items] = True
        scores = np.where(seen, -np.inf, scores)
        target = np.take_along_axis(scores, self.target[:, None], axis=1)
        rank = (scores > target).sum(axis=1)
        return float(np.where(rank < 10, 1 / np.log2(rank + 2), 0).mean())


@pytest.fixture(scope="module")
def leave_one_out(settings: Settings, items: pa.Table) -> LeaveOneOut:
    run_date = date(2026, 7, 1)
    prepared = prepare(settings, run_date, ingest(settings, run_date))
    assert prepared.n_users == 2_000
    assert prepared.n_items == 801
    assert 40_000 <= prepared.n_interactions <= 60_000
    histories = sequences(prepared.folder)
    lists = histories["item_ids"].combine_chunks()
    codes = pc.index_in(lists.flatten(), items["item_id"]).to_numpy()
    days = histories["timestamps"].combine_chunks().flatten().to_numpy().astype("datetime64[D]")
    lengths = lists.value_lengths().to_numpy()
    last = np.cumsum(lengths) - 1
    known = np.ones(len(codes), bool)
    known[last] = False
    users = np.repeat(np.arange(2_000), lengths)
    return LeaveOneOut(users[known], codes[known], days[known], codes[last], days[last])


def test_the_next_item_follows_from_several_steps_back_not_from_the_last(
    leave_one_out: LeaveOneOut, items: pa.Table
):
    one = leave_one_out
    shape = 2_000, 800
    popularity = np.bincount(one.items, minlength=800).astype(float)
    inside = one.users[1:] == one.users[:-1]
    after = np.zeros((800, 800))
    np.add.at(after, (one.items[:-1][inside], one.items[1:][inside]), 1)
    last = np.append(np.flatnonzero(~inside), len(one.items) - 1)

    # Oracles know the rule: the next volume of a series, read from the titles.
    items = items.slice(0, 800)  # without those that nobody has taken
    place = {title.partition(":")[0]: row for row, title in enumerate(items["title"].to_pylist())}
    following = np.full(800, -1)
    for name, row in place.items():
        series, _, volume = name.rpartition(" ")
        following[row] = place.get(f"{series} {int(volume) + 1}", -1)
    ahead = following[one.items]
    begun = ahead >= 0
    order = np.arange(len(ahead)) / len(ahead)  # of two the newer

    def oracle(weight: np.ndarray) -> float:
        scores = np.zeros(shape)
        np.maximum.at(scores, (one.users[begun], ahead[begun]), (weight + order)[begun])
        return one.ndcg(scores + 1e-9 * popularity)

    lag = (one.target_day[one.users] - one.days).astype(int)
    by_popularity = one.ndcg(np.broadcast_to(popularity, shape))
    by_last_item = one.ndcg(after[one.items[last]] + 1e-6 * popularity)
    by_series = oracle(np.zeros(len(lag)))
    by_rhythm = oracle(2.0 * np.isin(lag, [0, 7, 14]))
    assert by_last_item > 4 * by_popularity
    assert by_series > by_last_item + 0.1
    assert by_rhythm > by_last_item + 0.25
    assert by_rhythm > by_series + 0.05
    assert by_rhythm < 0.8  # there is noise
    # A long tail: a tenth of the items has more than a quarter of the events.
    assert np.sort(popularity)[-80:].sum() > 0.25 * popularity.sum()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2020, 1])
def test_the_model_beats_both_baselines_beyond_doubt(seed: int, tmp_path: Path):
    """Some 40 CPU seconds per seed."""
    given = [
        f"warehouse={tmp_path}/warehouse",
        f"work_dir={tmp_path}/work",
        f"logs.path={SAMPLE}/logs",
        "train.refit=false",
        "train.accelerator=cpu",
        f"train.seed={seed}",
    ]
    settings, run_date = load_settings(SAMPLE / "fearec.toml", given), date(2026, 7, 1)
    prepared = prepare(settings, run_date, ingest(settings, run_date))
    trained = train(settings, run_date, prepared)
    intervals = evaluate(settings, run_date, prepared, trained).intervals
    for metric in ("NDCG@10", "HR@10"):
        lowest = intervals["model"][metric][0]
        assert lowest > intervals["popularity"][metric][1]
        assert lowest > intervals["co_occurrence"][metric][1]


def test_users_and_items_go_on_appearing():
    days = [pq.ParquetFile(path).read() for path in files(SAMPLE / "logs").values()]
    for name in ("user_id", "item_id"):
        first_days = set(days[0][name].to_pylist())
        first_half = {value for day in days[:15] for value in day[name].to_pylist()}
        everything = {value for day in days for value in day[name].to_pylist()}
        assert first_days < first_half < everything
