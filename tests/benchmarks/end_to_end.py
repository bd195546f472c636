"""Parquet logs to Parquet recommendations, Beauty's sizes, beside RecBole's scoring alone.

    make recbole && .venv/bin/python tests/benchmarks/end_to_end.py

`fearec-score` as a whole process (start-up, reading, sorting, scoring, writing) against RecBole's
`full_sort_predict` and top-k in a loop over ready tensors, which reads and writes nothing. Same
weights, one core each, CPU seconds.
"""

import json
import subprocess
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from machine import beside_recbole, describe
from scoring import fearec_score, make_bundle

from model.config import FEARecConfig

USERS, ITEMS, INTERACTIONS, TOP_K = 22_363, 12_101, 198_502, 10


def main() -> None:
    options = beside_recbole(__doc__)
    random = np.random.default_rng(0)
    config = FEARecConfig.from_preset("paper", n_items=ITEMS + 1)
    lengths = 5 + random.multinomial(INTERACTIONS - 5 * USERS, random.dirichlet([0.5] * USERS))
    items = random.integers(1, ITEMS + 1, INTERACTIONS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle, network = make_bundle(config, folder)
        users = np.repeat(np.arange(USERS), lengths)
        shuffled = random.permutation(INTERACTIONS)
        logs = {
            "user_id": users[shuffled],
            "item_id": items[shuffled],
            "timestamp": 1_600_000_000 + np.arange(INTERACTIONS)[shuffled],
        }
        pq.write_table(pa.table(logs), folder / "logs.parquet")
        last = np.minimum(lengths, 50)
        begins = np.cumsum(lengths) - last
        columns = np.arange(50)
        inside = columns < last[:, None]
        item_seq = np.where(inside, items[np.minimum(begins[:, None] + columns, len(items) - 1)], 0)
        weights = {f"w/{key}": value.numpy() for key, value in network.state_dict().items()}
        arrays = folder / "arrays.npz"
        np.savez(
            arrays, item_seq=item_seq, item_seq_len=last, item_id=np.ones(USERS, np.int64),
            **weights,
        )  # fmt: skip
        recbole_config = {**config.model_dump(), "fredom_type": None, "train_batch_size": 256}
        script = Path(__file__).with_name("recbole_inference.py")
        command = [
            options.recbole_python, script, arrays, json.dumps(recbole_config), str(TOP_K),
            "256", "1024",
        ]  # fmt: skip
        ours, theirs = [], []
        for number in range(options.rounds):
            seconds, _, told = fearec_score(
                str(folder / "logs.parquet"), "--model", str(bundle.path), "--top-k", str(TOP_K),
                "--output", str(folder / f"out{number}"), "--provider", "cpu",
            )  # fmt: skip
            ours.append(USERS / seconds)
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            speeds = json.loads(done.stdout.splitlines()[-1])
            theirs.append(max(whole for _, whole in speeds.values()))
    print(describe("fearec", "onnxruntime-gpu", "pyarrow", "duckdb"))
    print(f"{USERS} users, {ITEMS} items, {INTERACTIONS} events, top {TOP_K}, one core")
    print(f"fearec-score, whole process   {median(ours):8.0f} users/s   ({told[-1]})")
    print(f"RecBole, scoring loop alone   {median(theirs):8.0f} users/s")
    print(f"ratio {median(ours) / median(theirs):.1f}x")


if __name__ == "__main__":
    main()
