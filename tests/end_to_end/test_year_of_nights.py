"""A year of nights on tiny data: disk use stays bounded, and a night takes no longer at the end."""

import gc
import os
import time
from dataclasses import dataclass
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
MONTH = 30
FIRST = date(2025, 1, 1)
USERS, ITEMS, EARLIER, PER_DAY = 100, 40, 3000, 5


@dataclass
class Nights:
    """A warehouse, its logs and its work folder, night after night."""

    folder: Path
    day: date

    def __post_init__(self) -> None:
        self.logs, self.random = self.folder / "logs", np.random.default_rng(0)
        self.settings = Settings(
            warehouse=str(self.folder / "warehouse"),
            work_dir=self.folder / "work",
            logs={"path": str(self.logs)},
            model={"hidden_size": 8, "inner_size": 8, "n_layers": 1, "MAX_ITEM_LIST_LENGTH": 10},
            train={"epochs": 1, "train_batch_size": 512},
            retention={"work": 3, "models": 10, "recommendations": 30, "table_days": 0},
        )
        self.logs.mkdir(parents=True)
        self.write_log(self.day - timedelta(days=1), EARLIER)

    def write_log(self, day: date, count: int) -> None:
        start = datetime(day.year, day.month, day.day, tzinfo=UTC)
        times = [start + timedelta(seconds=int(s)) for s in self.random.integers(0, 86_400, count)]
        users = self.random.integers(0, USERS, count)
        items = (users + self.random.integers(0, 8, count)) % ITEMS
        table = pa.table({"user_id": users, "item_id": items, "timestamp": times})
        pq.write_table(table, self.logs / f"{day}.parquet")

    def run(self) -> float:
        """Run the next night; return its CPU seconds."""
        self.write_log(self.day, PER_DAY)
        begun = time.process_time()
        nightly(self.settings, self.day)
        self.day += timedelta(days=1)
        return time.process_time() - begun

    @property
    def size(self) -> int:
        return disk_use(self.folder / "warehouse") + disk_use(self.folder / "work")


def n_objects() -> int:
    gc.collect()
    return len(gc.get_objects())


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
def test_a_year_of_nights_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A year of run dates passes within an hour: nothing may be kept for being young.
    monkeypatch.setattr(pipeline.bundles.unused, "_YOUNG", timedelta(0))
    old, seconds, sizes, objects = Nights(tmp_path / "old", FIRST), [], [], []
    for number in range(1, NIGHTS - MONTH):
        seconds.append(old.run())
        sizes.append(old.size)
        if number % MONTH == 0:
            objects.append(n_objects())
            month = sum(seconds[-MONTH:]) / MONTH
            print(f"night {number}: {month:.2f} CPU s a night, {sizes[-1] / 2**20:.1f} MiB, "
                  f"{objects[-1]:,} objects")  # fmt: skip
    # CPU seconds depend on what else the machine does, so the last month runs beside a first one.
    young, first, last = Nights(tmp_path / "young", old.day), [], []
    for _ in range(1 + MONTH):
        first.append(young.run())
        last.append(old.run())
        sizes.append(old.size)
    objects.append(n_objects())
    first, last = first[1:], last[1:]  # the very first night merges nothing
    ratio = sum(last) / sum(first)
    print(f"CPU s per night: first month {sum(first) / MONTH:.2f}, last {sum(last) / MONTH:.2f}: "
          f"{ratio:.2f}x; {sizes[-1] / 2**20:.1f} MiB, {objects[-1]:,} objects")  # fmt: skip
    assert ratio < 1.3
    # Bounded once the oldest partitions go; events and rows of `runs` are all that is added.
    assert max(sizes[-MONTH:]) < 1.25 * max(sizes[40:70])
    # Nor does a process grow that lives for a year of nights.
    assert objects[-1] < 1.1 * objects[1]
