"""What each kernel of `model.kernels` is worth: a training step with it and with its formula.

    .venv/bin/python tests/benchmarks/kernels.py [--rounds 3]

One thread, paper preset, ml-100k shapes, CPU seconds. As memory once allocated makes later steps
faster, each variant trains in a process of its own, in turns; a round's gain is the ratio of the
medians of its processes. The chunked cross-entropy is for memory: its line is the resident memory
that one loss and its gradient add.
"""

import argparse
import multiprocessing
import os
import resource
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from machine import describe
from training import CONFIG, ITEMS, TRAINING, ours, training_samples

from model.kernels import Kernel, disabled
from model.kernels.chunked_cross_entropy import chunked_cross_entropy

SPEED: tuple[Kernel, ...] = ("dropout", "blocked_feed_forward")
STEPS = 14
CATALOGUE, CHUNK, BATCH = 1_000_000, 65_536, 256


def without(kernel: Kernel | None) -> AbstractContextManager[None]:
    return nullcontext() if kernel is None else disabled(kernel)


def step_seconds(kernel: Kernel | None, bf16: bool) -> float:
    """Median CPU seconds of a training step without a kernel."""
    with without(kernel):
        return median(ours(training_samples(), STEPS, bf16)[1:])


def added_memory(kernel: Kernel | None) -> float:
    """GiB of resident memory that a loss over `CATALOGUE` items, and its gradient, add."""
    torch.manual_seed(0)
    output = torch.randn(BATCH, CONFIG.hidden_size, requires_grad=True)
    items = torch.randn(CATALOGUE, CONFIG.hidden_size, requires_grad=True)
    target = torch.randint(1, CATALOGUE, (BATCH,))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with without(kernel):
        chunked_cross_entropy(output, items, target, CHUNK).backward()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20


def in_new_process(function: Callable[..., float], *arguments: Any) -> float:
    with multiprocessing.get_context("spawn").Pool(1) as process:
        return process.apply(function, arguments)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    print(describe("fearec", "torch"))
    batch = TRAINING.train_batch_size
    print(f"training step, V={ITEMS + 1}, L=50, batch {batch}, 1 thread, {rounds} rounds")
    for precision, bf16 in (("float32", False), ("bf16", True)):
        seconds: dict[Kernel | None, list[float]] = {kernel: [] for kernel in (None, *SPEED)}
        for _ in range(rounds):
            for kernel, spent in seconds.items():
                spent.append(in_new_process(step_seconds, kernel, bf16))
        print(f"{precision}, all kernels: {median(seconds[None]):.3f} CPU seconds")
        for kernel in SPEED:
            pairs = zip(seconds[kernel], seconds[None], strict=True)
            gains = sorted(100 * (plain / fast - 1) for plain, fast in pairs)
            print(
                f"  without {kernel:20s} {median(seconds[kernel]):.3f}: {median(gains):+.1f}%"
                f" (rounds {gains[0]:+.1f} to {gains[-1]:+.1f})"
            )
    print(f"cross-entropy and its gradient, V={CATALOGUE:,}, batch {BATCH}, chunks of {CHUNK:,}")
    print(f"  chunked_cross_entropy {in_new_process(added_memory, None):.2f} GiB")
    plain = in_new_process(added_memory, "chunked_cross_entropy")
    print(f"  plain formula         {plain:.2f} GiB")


if __name__ == "__main__":
    main()
