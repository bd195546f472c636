"""Time and memory of an evaluation: 100,000 users, 10,000 items, model and both baselines.

    .venv/bin/python tests/benchmarks/evaluation.py [--split leave_one_out|time]

The network is random: what it says does not change what measuring it takes.
"""

import argparse
import resource
import tempfile
import time
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from machine import describe

from model.network.fearec import FEARec
from model.training.weights import save_weights
from pipeline import schema
from pipeline.bundles.bundle import HELD_OUT_WEIGHTS
from pipeline.config.settings import Settings
from pipeline.data.held_out import held_out_events
from pipeline.evaluation.evaluate import evaluate
from pipeline.results import Prepared, Trained
from pipeline.schema import ITEMS_FILE
from tests.helpers.prepared_folders import write_histories

DAY = date(2026, 6, 30)
LENGTH = 20  # events a user


def write(folder: Path, users: int, items: int) -> Prepared:
    random = np.random.default_rng(0)
    weights = 1 / np.arange(1, items + 1) ** 0.8
    events = users * LENGTH
    chosen = random.choice(items, events, p=weights / weights.sum())
    first = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
    times = np.sort(random.uniform(first, first + 30 * 86_400, (users, LENGTH)), axis=1)
    offsets = pa.array(np.arange(0, events + 1, LENGTH), pa.int32())
    stamps = pa.array((times.ravel() * 1e6).astype(np.int64)).cast(schema.TIME)
    columns = schema.prepared_schema(pa.int64())
    lists = [pa.ListArray.from_arrays(offsets, flat) for flat in (stamps, pa.array(chosen + 1))]
    rows = pa.table([pa.array(range(users)), *lists], names=columns.names).cast(columns)
    write_histories(folder, rows, 2**15)
    names = schema.vocabulary_schema(pa.int64())
    index = np.arange(1, items + 1)
    vocabulary = [index, index - 1, np.ones(items, np.int64), stamps[:items]]
    pq.write_table(pa.table(vocabulary, names=names.names).cast(names), folder / ITEMS_FILE)
    begin, end = (datetime.fromtimestamp(at, UTC) for at in (times.min(), times.max()))
    return Prepared(folder, "", 0, "", users, items + 1, events, begin, end)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--split", choices=["leave_one_out", "time"], default="leave_one_out")
    given = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings(evaluate={"split": given.split})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = write(folder, given.users, given.items)
        network = FEARec(settings.model.config(prepared.n_items))
        save_weights(network, folder / HELD_OUT_WEIGHTS)
        before = peak()
        begun, cpu = time.perf_counter(), time.process_time()
        found = evaluate(
            prepared,
            Trained(folder, 1, None, None, False),
            settings.model,
            settings.train,
            settings.evaluate,
            held_out_events(settings, DAY),
            settings.prepare,
            settings.event_types.inputs,
            champion=None,
        )
        wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
    print(describe("torch", "numpy"))
    print(f"{found.n_users:,} users tested, {prepared.n_items - 1:,} items; {found.protocol}")
    print(f"{wall:.0f} s ({cpu:.0f} CPU s), {found.n_users / cpu:,.0f} users a CPU second")
    print(f"peak memory {peak():.2f} GiB, of which {before:.2f} before it began")


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
