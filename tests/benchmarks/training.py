"""Training samples/s, one thread, paper preset, ml-100k shapes, beside RecBole 1.2.1.

    make recbole && .venv/bin/python tests/benchmarks/training.py [--length 50]

RecBole runs in its own environment, in turns with fearec, so that both meet the same machine.
Both are timed in CPU seconds: on one thread, wall seconds without those that other processes took.
"""

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from machine import beside_recbole, describe

from model.config import FEARecConfig, TrainingConfig
from model.training.histories import EventHistories
from model.training.lightning_module import FEARecModule
from model.training.losses import training_loss
from model.training.samples import ShuffledBatches, TrainingSet

USERS, ITEMS, INTERACTIONS = 943, 1682, 100_000  # ml-100k's
CONFIG = FEARecConfig.from_preset("paper", n_items=ITEMS + 1)
TRAINING = TrainingConfig()


def synthetic_histories() -> EventHistories:
    """Histories of ml-100k's size, its long tail of items and of users."""
    random = np.random.default_rng(0)
    lengths = 20 + random.multinomial(INTERACTIONS - 20 * USERS, random.dirichlet([0.6] * USERS))
    popularity = 1 / np.arange(1, ITEMS + 1) ** 0.8
    items = 1 + random.choice(ITEMS, INTERACTIONS, p=popularity / popularity.sum())
    return EventHistories(
        torch.from_numpy(items.astype(np.int32)),
        torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)])),
    )


def training_samples(config: FEARecConfig = CONFIG) -> TrainingSet:
    """Every event but each user's first as a sample."""
    histories = synthetic_histories()
    targets = torch.ones(INTERACTIONS, dtype=torch.bool)
    targets[histories.offsets[:-1]] = False
    return TrainingSet(histories, targets.nonzero().squeeze(1), config)


def ours(samples: TrainingSet, steps: int, bf16: bool) -> list[float]:
    torch.set_num_threads(1)
    module = FEARecModule(samples.config, TRAINING)
    network = module.network.train()
    optimiser = module.configure_optimizers()
    seconds = []
    for step, rows in enumerate(ShuffledBatches(len(samples), TRAINING.train_batch_size, 0)):
        started = time.process_time()
        batch = samples[rows]
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = training_loss(
                network,
                batch.item_seq,
                batch.item_seq_len,
                batch.item_id,
                same_target_seq=batch.same_target_seq,
                same_target_len=batch.same_target_len,
            )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seconds.append(time.process_time() - started)
        if step == steps:
            break
    return seconds[1:]


def recbole(python: Path, model: FEARecConfig, samples: Path, steps: int, mode: str) -> list[float]:
    config = {**model.model_dump(), "fredom_type": None, "train_batch_size": 256}
    script = Path(__file__).with_name("recbole_training.py")
    command = [str(python), str(script), str(samples), str(steps), mode, json.dumps(config)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])["seconds"]


def main() -> None:
    options = beside_recbole(__doc__, length=50)
    model = FEARecConfig.from_preset(
        "paper", n_items=ITEMS + 1, MAX_ITEM_LIST_LENGTH=options.length
    )
    samples = training_samples(model)
    histories, positions = samples.histories, samples.positions
    rows: dict[str, list[float]] = {
        name: [] for name in ("fearec float32", "fearec bf16", "RecBole as installed",
                              "RecBole anomaly mode off")
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "samples.npz"
        item_seq, item_seq_len = histories.windows(positions, options.length)
        item_id = histories.items[positions].long().numpy()
        np.savez(file, item_seq=item_seq, item_seq_len=item_seq_len, item_id=item_id)
        for _ in range(options.rounds):
            rows["fearec float32"] += ours(samples, 12, bf16=False)
            theirs = options.recbole_python, model, file
            rows["RecBole as installed"] += recbole(*theirs, 3, "as-installed")
            rows["fearec bf16"] += ours(samples, 12, bf16=True)
            rows["RecBole anomaly mode off"] += recbole(*theirs, 4, "anomaly-off")
    batch = TRAINING.train_batch_size
    speed = {name: batch / median(seconds) for name, seconds in rows.items()}
    print(describe("fearec", "torch", "recbole"))
    print(f"RecBole 1.2.1 in {options.recbole_python}")
    print(f"V={ITEMS + 1}, L={options.length}, batch {batch}, 1 thread")
    for name, value in speed.items():
        print(
            f"{name:26s} {value:8.0f} samples/s"
            f"   {value / speed['RecBole as installed']:6.1f}x as installed"
            f"   {value / speed['RecBole anomaly mode off']:6.1f}x anomaly off"
        )


if __name__ == "__main__":
    main()
