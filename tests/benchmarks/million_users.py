"""One million users' sequences, 100,000 items, top 20, on one core: time and memory.

    .venv/bin/python tests/benchmarks/million_users.py [--users 1000000] [--provider cuda]

Beside it, the same batches through `recommender.onnx` alone: encoder and retrieval without
reading, padding, excluding and writing. On a GPU: the wall seconds, with all cores beside it.
"""

import argparse
import os
import tempfile
import time
from datetime import date
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
from machine import describe
from scoring import fearec_score, make_bundle

from model.config import FEARecConfig
from pipeline.bundles.sessions import auto_batch_size

ITEMS, TOP_K, SAMPLE = 100_000, 20, 8_192
CPU = "CPUExecutionProvider"


def write_sequences(path: Path, users: int, first_day: date | None = None) -> None:
    """Sequences of 1 to 60 items, 65,536 users at a time; an item a day from the first day on."""
    schema = pa.schema([("user_id", pa.int64()), ("item_ids", pa.list_(pa.int64()))])
    if first_day:
        schema = schema.append(pa.field("timestamps", pa.list_(pa.timestamp("us", tz="UTC"))))
    random = np.random.default_rng(0)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for begin in range(0, users, 65_536):
            count = min(65_536, users - begin)
            offsets = np.concatenate([[0], np.cumsum(random.integers(1, 61, count))])
            items = random.integers(1, ITEMS + 1, offsets[-1])
            lists = [items]
            if first_day:
                place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))
                lists.append(np.datetime64(first_day, "us") + place.astype("m8[D]"))
            columns = [np.arange(begin, begin + count)]
            columns += [
                pa.ListArray.from_arrays(offsets.astype(np.int32), values) for values in lists
            ]
            table = pa.Table.from_arrays(
                [
                    pa.array(column).cast(field.type)
                    for column, field in zip(columns, schema, strict=True)
                ],
                schema=schema,
            )
            writer.write_table(table)


def graph_alone(bundle: Path, config: FEARecConfig) -> float:
    """CPU seconds a user of the graph, at the batch size that scoring chooses."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        bundle / "recommender_cpu.onnx", options, providers=[CPU]
    )
    batch = auto_batch_size(CPU, config.n_items)
    random = np.random.default_rng(1)
    lengths = random.integers(1, 51, batch)
    feeds = {
        "item_seq": np.where(
            np.arange(50) < lengths[:, None], random.integers(1, ITEMS + 1, (batch, 50)), 0
        ),
        "item_seq_len": lengths,
        "exclude": random.integers(1, ITEMS + 1, (batch, 30)),
        "item_bias": np.zeros(config.n_items, np.float32),
        "k": np.array([TOP_K]),
    }
    session.run(None, feeds)
    started = time.process_time()
    for _ in range(SAMPLE // batch):
        session.run(None, feeds)
    return (time.process_time() - started) / (SAMPLE // batch * batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--provider", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    users, on_gpu = arguments.users, arguments.provider == "cuda"
    config = FEARecConfig.from_preset("paper", n_items=ITEMS + 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle, _ = make_bundle(config, folder)
        write_sequences(folder / "sequences.parquet", users)
        before = 0.0 if on_gpu else graph_alone(bundle.path, config)
        started = time.perf_counter()
        seconds, memory, told = fearec_score(
            str(folder / "sequences.parquet"), "--model", str(bundle.path), "--top-k", str(TOP_K),
            "--output", str(folder / "out"), "--provider", arguments.provider,
            cores=os.sched_getaffinity(0) if on_gpu else (0,),
        )  # fmt: skip
        wall = time.perf_counter() - started
        alone = 0.0 if on_gpu else users * (before + graph_alone(bundle.path, config)) / 2
    print(describe("fearec", "onnxruntime-gpu", "pyarrow"))
    print(f"{users} users, {ITEMS} items, top {TOP_K}; {told[-1]}")
    print(f"fearec-score {seconds:.0f} CPU seconds, peak memory {memory:.2f} GiB")
    if on_gpu:
        print(f"{wall:.1f} wall seconds, start-up included: {users / wall:,.0f} users/s")
    else:
        print(f"encoder and retrieval alone {alone:.0f} CPU seconds: {seconds / alone:.2f}x")


if __name__ == "__main__":
    main()
