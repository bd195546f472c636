"""Training steps/s of one process and of two at once, by how long OpenMP's threads spin.

    .venv/bin/python tests/benchmarks/sharing.py

Each process has as many threads as there are cores. All sides take turns, so that all of them meet
the same machine; "alone" is alone only where nothing else runs. Wall seconds.
"""

import os
import subprocess
import sys
import time
from statistics import median

SPINS = {"300000 (libgomp's default)": "300000", "3000 (fearec's)": "3000", "none": "0"}
ROUNDS, SECONDS = 3, 3.0


def steps_per_second() -> float:
    """Steps of the sample's network: small ones, whose threads wait for each other most often."""
    import torch

    from model.config import FEARecConfig
    from model.cores import usable_cores
    from model.network.fearec import FEARec
    from model.training.losses import training_loss

    torch.set_num_threads(usable_cores())
    config = FEARecConfig.from_preset("best", n_items=500, MAX_ITEM_LIST_LENGTH=32, n_layers=1)
    network = FEARec(config).train()
    optimiser = torch.optim.Adam(network.parameters())
    item_seq, item_id = torch.randint(1, 500, (128, 32)), torch.randint(1, 500, (128,))
    item_seq_len = torch.full((128,), 32)
    steps, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        optimiser.zero_grad()
        training_loss(network, item_seq, item_seq_len, item_id).backward()
        optimiser.step()
        steps += 1
    return steps / (time.perf_counter() - started)


def together(processes: int, spins: str) -> float:
    """The mean steps/s of so many processes at once."""
    env = {**os.environ, "GOMP_SPINCOUNT": spins}
    command = [sys.executable, __file__, "steps"]
    started = [
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    return sum(float(process.communicate()[0]) for process in started) / processes


def main() -> None:
    from machine import describe

    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(ROUNDS):
        for name, spins in SPINS.items():
            for processes in (1, 2):
                found.setdefault((name, processes), []).append(together(processes, spins))
    print(describe("torch"))
    for name in SPINS:
        alone, shared = (median(found[name, processes]) for processes in (1, 2))
        print(f"{name:28s} {alone:7.2f} steps/s alone   {shared:7.2f} each of two")


if __name__ == "__main__":
    if "steps" in sys.argv:
        print(steps_per_second())
    else:
        main()
