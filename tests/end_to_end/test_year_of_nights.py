"""A year of nights on tiny data: disk use stays bounded, and a night takes no longer at the end."""

import os
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline.bundles.unused
from pipeline.config.settings import Settings
from pipeline.runner.clean import disk_use
from pipeline.runner.nightly import nightly

NIGHTS = int(os.environ.get("NIGHTS", "365"))
FIRST = date(2025, 1, 1)
USERS, ITEMS, EARLIER, PER_DAY = 100, 40, 3000, 5


def write_log(logs: Path, day: date, count: int, random: np.random.Generator) -> None:
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    times = [start + timedelta(seconds=int(each)) for each in random.integers(0, 86_400, count)]
    users = random.integers(0, USERS, count)
    items = (users + random.integers(0, 8, count)) % ITEMS
    table = pa.table({"user_id": users, "item_id": items, "timestamp": times})
    pq.write_table(table, logs / f"{day}.parquet")


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
def test_a_year_of_nights_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A year of run dates passes within an hour: nothing may be kept for being young.
    monkeypatch.setattr(pipeline.bundles.unused, "_YOUNG", timedelta(0))
    settings = Settings(
        warehouse=str(tmp_path / "warehouse"),
        work_dir=tmp_path / "work",
        logs={"path": str(tmp_path / "logs")},
        model={"hidden_size": 8, "inner_size": 8, "n_layers": 1, "MAX_ITEM_LIST_LENGTH": 10},
        train={"epochs": 1, "train_batch_size": 512},
        retention={"work": 3, "models": 10, "recommendations": 30, "table_days": 0},
    )
    random = np.random.default_rng(0)
    (tmp_path / "logs").mkdir()
    write_log(tmp_path / "logs", FIRST - timedelta(days=1), EARLIER, random)
    seconds, sizes = [], []
    for number in range(NIGHTS):
        day = FIRST + timedelta(days=number)
        write_log(tmp_path / "logs", day, PER_DAY, random)
        begun = time.process_time()
        nightly(settings, day)
        seconds.append(time.process_time() - begun)
        sizes.append(disk_use(tmp_path / "warehouse") + disk_use(tmp_path / "work"))
        if number % 30 == 29:
            month = sum(seconds[-30:]) / 30
            print(f"night {number + 1}: {month:.2f} CPU s a night, {sizes[-1] / 2**20:.1f} MiB")
    first, last = sum(seconds[1:31]) / 30, sum(seconds[-30:]) / 30
    print(f"CPU s per night: first month {first:.2f}, last {last:.2f}: {last / first:.2f}x")
    assert last < 1.3 * first
    # Bounded once the oldest partitions go; events and rows of `runs` are all that is added.
    assert max(sizes[-30:]) < 1.25 * max(sizes[40:70])
