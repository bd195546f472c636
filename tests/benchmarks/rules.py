"""Scoring with rules on items and lists beside scoring without: time and memory, one core.

    .venv/bin/python tests/benchmarks/rules.py [--users 1000000] [--rounds 3] [--only SIDE ...]

100,000 items of 200 categories, top 20: a condition that leaves 70% of the items, at most 3 items
of a category in a list, two slots for 500 promoted items, and 50 segments of equally many users,
each with a condition of its own that leaves 50% to 99% of the items; items seen in the last 30 of
60 days are left out, others may come again (without rules all are left out). Apart from these, 100
items listed per user that the user never gets, or that are all that the user may get.
"""

import argparse
import os
import tempfile
from datetime import date, timedelta
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from machine import describe
from million_users import ITEMS, TOP_K, write_sequences
from scoring import fearec_score, make_bundle

from model.config import FEARecConfig

CATEGORIES, LISTED, SEGMENTS = 200, 100, 50
BY_SEGMENT = ", ".join(
    f'{{name="{number}", users="grp = {number}", where="item_id % 100 >= {number}"}}'
    for number in range(SEGMENTS)
)
DAY = date(2026, 7, 1)
_PAIRS = "pairs.parquet"
RULES = {
    "none": [],
    "where": ["--where", "price < 70"],
    "max_per": ["--set", "score.max_per={category=3}"],
    "promotion": ["--set", 'score.promotion=[{where="price = 7 AND new", slots=[3, 7]}]'],
    "seen": ["--set", 'score.exclude_seen="30 days"'],
    "segments": ["--set", f"score.segment=[{BY_SEGMENT}]"],
}


def write_pairs(path: Path, users: int) -> None:
    """Some items listed per user, the users in random order."""
    random = np.random.default_rng(2)
    schema = pa.schema([("user_id", pa.int64()), ("item_id", pa.int64())])
    with pq.ParquetWriter(path, schema) as writer:
        for some in np.array_split(random.permutation(users), max(1, users // 10_000)):
            items = random.integers(1, ITEMS + 1, len(some) * LISTED)
            writer.write_table(pa.table([np.repeat(some, LISTED), items], schema=schema))


def write_items(path: Path) -> None:
    """Categories, prices, and whether an item is new."""
    random = np.random.default_rng(1)
    columns = {
        "item_id": np.arange(1, ITEMS + 1),
        "category": random.integers(0, CATEGORIES, ITEMS),
        "price": random.integers(0, 100, ITEMS),
        "new": random.random(ITEMS) < 0.5,
    }
    pq.write_table(pa.table(columns), path)


def write_users(path: Path, users: int) -> None:
    """Groups of users."""
    columns = {"user_id": np.arange(users), "grp": np.arange(users) % SEGMENTS}
    pq.write_table(pa.table(columns), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="sides besides none; all by default")
    given = parser.parse_args()
    users = given.users
    sides = {**RULES, "all": [flag for flags in RULES.values() for flag in flags]}
    sides |= {side: [f"--{side}", _PAIRS] for side in ("exclude", "candidates")}
    sides = {side: sides[side] for side in ["none", *(given.only or list(sides)[1:])]}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    memory = dict.fromkeys(sides, 0.0)
    print(describe("fearec", "onnxruntime-gpu"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle, _ = make_bundle(FEARecConfig.from_preset("paper", n_items=ITEMS + 1), folder)
        write_sequences(folder / "sequences.parquet", users, DAY - timedelta(days=60))
        write_items(folder / "items.parquet")
        write_users(folder / "users.parquet", users)
        write_pairs(folder / _PAIRS, users)
        for _ in range(given.rounds):
            for side, flags in sides.items():
                spent, peak, _ = fearec_score(
                    str(folder / "sequences.parquet"), "--model", str(bundle.path),
                    "--top-k", str(TOP_K), "--output", str(folder / "out"), "--overwrite",
                    "--provider", "cpu", "--run-date", str(DAY),
                    "--items", str(folder / "items.parquet"),
                    "--set", f"users.path={folder / 'users.parquet'}",
                    *(str(folder / flag) if flag == _PAIRS else flag for flag in flags),
                )  # fmt: skip
                seconds[side].append(spent)
                memory[side] = max(memory[side], peak)
    print(f"{users} users, {ITEMS} items, top {TOP_K}; CPU seconds, median of {given.rounds}")
    for side, spent in seconds.items():
        ratio = median(x / y for x, y in zip(spent, seconds["none"], strict=True))
        print(f"{side:10s} {median(spent):8.1f}  {ratio:.2f}x  {memory[side]:.2f} GiB at most")


main()
