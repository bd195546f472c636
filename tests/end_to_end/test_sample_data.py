"""The committed sample logs: reproducible, small, spoilt as stated, and worth a sequence model."""

import importlib.util
from datetime import date
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.config.settings import Settings, load_settings
from pipeline.schema import SEQUENCES_FILE
from pipeline.warehouse.tables import open_table
from tests.helpers.stages import ingest, prepare, table_uri

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


def test_the_committed_logs_are_what_the_script_writes(generate: ModuleType, tmp_path: Path):
    generate.main(tmp_path / "one")
    generate.main(tmp_path / "two")
    committed, one, two = files(SAMPLE / "logs"), files(tmp_path / "one"), files(tmp_path / "two")
    assert list(committed) == list(one) == list(two)
    assert len(committed) == 30
    assert next(iter(committed)) == "dt=2026-06-01/part-0.parquet"
    for name, path in committed.items():
        assert one[name].read_bytes() == two[name].read_bytes()
        # Another pyarrow may write other bytes, never other rows.
        assert pq.ParquetFile(path).read().equals(pq.ParquetFile(one[name]).read())


def test_the_committed_logs_are_small():
    assert sum(path.stat().st_size for path in files(SAMPLE / "logs").values()) < 2_000_000


def test_the_settings_beside_them_point_at_them():
    settings = load_settings(SAMPLE / "fearec.toml")
    assert settings.logs.path == "sample_data/logs"
    assert settings.warehouse == "warehouse"


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


def test_transitions_tell_far_more_than_popularity(settings: Settings):
    run_date = date(2026, 7, 1)
    prepared = prepare(settings, run_date, ingest(settings, run_date))
    assert prepared.n_users == 2_000
    assert prepared.n_items == 801
    assert 40_000 <= prepared.n_interactions <= 60_000
    lists = pq.read_table(prepared.folder / SEQUENCES_FILE)["item_ids"].combine_chunks()
    codes = lists.flatten().dictionary_encode().indices.to_numpy()
    bounds = np.concatenate([[0], np.cumsum(lists.value_lengths().to_numpy())])
    held_out = bounds[1:] - 1

    # Leave-one-out: counts of single items, and of pairs, without the last item of each user.
    known = np.ones(len(codes), bool)
    known[held_out] = False
    popularity = np.bincount(codes[known], minlength=800).astype(float)
    follows = known.copy()
    follows[bounds[:-1]] = False
    after = np.zeros((800, 800))
    np.add.at(after, (codes[np.flatnonzero(follows) - 1], codes[follows]), 1)

    user = np.repeat(np.arange(2_000), np.diff(bounds))
    seen = np.zeros((2_000, 800), bool)
    seen[user[known], codes[known]] = True

    def ndcg(scores: np.ndarray) -> float:
        scores = np.where(seen, -np.inf, scores)
        target = np.take_along_axis(scores, codes[held_out][:, None], axis=1)
        rank = (scores > target).sum(axis=1)
        return float(np.where(rank < 10, 1 / np.log2(rank + 2), 0).mean())

    by_popularity = ndcg(np.broadcast_to(popularity, (2_000, 800)))
    by_transition = ndcg(after[codes[held_out - 1]] + 1e-6 * popularity)
    assert by_transition > 8 * by_popularity
    # A long tail: a tenth of the items has more than a quarter of the events.
    assert np.sort(popularity)[-80:].sum() > 0.25 * popularity.sum()


def test_users_and_items_go_on_appearing():
    days = [pq.ParquetFile(path).read() for path in files(SAMPLE / "logs").values()]
    for name in ("user_id", "item_id"):
        first_days = set(days[0][name].to_pylist())
        first_half = {value for day in days[:15] for value in day[name].to_pylist()}
        everything = {value for day in days for value in day[name].to_pylist()}
        assert first_days < first_half < everything
