"""A training by this process on one core, and on Ray by one and two workers of a core each.

    .venv/bin/python tests/benchmarks/ray_training.py [--epochs 6]

Histories of ml-100k's size, every eighth sample of them, paper preset, the same batches of 256
everywhere: two workers take half of each. The cluster is two nodes on this machine. Wall seconds:
of a step in the fastest epoch, and of the whole, with the start of the workers. Other
processes show in both.
"""

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # as this process has

from machine import describe
from training import CONFIG, training_samples

from model.config import TrainingConfig
from model.training.task import TrainingTask
from model.training.trainer import Fitted, fit
from pipeline.config.engine_section import EngineSettings
from pipeline.training.on_ray import fit_on_ray


class EpochEnds(logging.Handler):
    """Notes when each epoch ended, by the clock of the process that trained it."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.times: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "epoch"):
            self.times.append(record.created)


def measure(train: Callable[[], Fitted], steps: int) -> tuple[float, float]:
    """Seconds of a step in the fastest epoch, and of the whole training."""
    ends = EpochEnds()
    logger = logging.getLogger("model")
    logger.setLevel(logging.INFO)
    logger.addHandler(ends)
    begin = time.perf_counter()
    train()
    whole = time.perf_counter() - begin
    logger.removeHandler(ends)
    epochs = [after - before for before, after in zip(ends.times, ends.times[1:], strict=False)]
    return min(epochs) / steps, whole


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=6)
    epochs = parser.parse_args().epochs
    from ray.cluster_utils import Cluster

    samples = training_samples()
    training = TrainingConfig(epochs=epochs, accelerator="cpu", threads=1)
    task = TrainingTask(CONFIG, training, samples.histories, samples.positions[::8], None)
    steps = -(-len(task.train) // training.train_batch_size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = {"this process": measure(lambda: fit(task, folder / "here"), steps)}
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        cluster.add_node(num_cpus=1)
        try:
            for count in (1, 2):
                engine = EngineSettings(kind="ray", address=cluster.address, train_workers=count)
                there = folder / f"{count}"
                found[f"Ray, {count} workers"] = measure(
                    lambda engine=engine, there=there: fit_on_ray(task, there, engine), steps
                )
        finally:
            cluster.shutdown()
    print(describe("fearec", "ray", "torch", "lightning"))
    print(f"{len(task.train):,} samples, batch {training.train_batch_size}, {epochs} epochs")
    for name, (step, whole) in found.items():
        print(f"{name}: {1000 * step:.0f} ms per step, {whole:.0f} seconds in all")
    here, one, two = (step for step, _ in found.values())
    print(f"one worker: {one / here:.2f}x this process's seconds per step")
    print(f"two workers: {here / two:.2f} times this process's rate")


if __name__ == "__main__":
    main()
