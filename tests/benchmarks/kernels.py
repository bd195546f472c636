"""What each kernel of `model.kernels` is worth: a training step with it and with its formula.

    .venv/bin/python tests/benchmarks/kernels.py [--rounds 3]

One thread, paper preset, ml-100k shapes, CPU seconds. As memory once allocated makes later steps
faster, each variant trains in a process of its own, in turns; a round's gain is the ratio of the
medians of its processes. Of the cross-entropies: the time of one loss and its gradient, and the
resident memory that they add.
"""

import argparse
import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from machine import describe
from training import CONFIG, ITEMS, TRAINING, ours, training_samples

from model.kernels import Kernel, disabled
from model.kernels.chunked_cross_entropy import chunked_cross_entropy, plain_cross_entropy
from model.training.sampled_softmax import ItemSampler, sampled_cross_entropy

SPEED: tuple[Kernel, ...] = ("dropout", "blocked_feed_forward")
STEPS = 14
CATALOGUE, CHUNK, SAMPLES, BATCH = 1_000_000, 65_536, 8_192, 256


def without(kernel: Kernel | None) -> AbstractContextManager[None]:
    return nullcontext() if kernel is None else disabled(kernel)


def step_seconds(kernel: Kernel | None, bf16: bool) -> float:
    """Median CPU seconds of a training step without a kernel."""
    with without(kernel):
        return median(ours(training_samples(), STEPS, bf16)[1:])


def loss_cost(way: str) -> tuple[float, float]:
    """Of a loss over `CATALOGUE` items with its gradient: CPU seconds, and GiB that it adds."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    output = torch.randn(BATCH, CONFIG.hidden_size, requires_grad=True)
    items = torch.randn(CATALOGUE, CONFIG.hidden_size, requires_grad=True)
    target = torch.randint(1, CATALOGUE, (BATCH,))
    sampler = ItemSampler.build(target, CATALOGUE, SAMPLES)
    before, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for _ in range(3):
        items.grad = None
        started = time.process_time()
        if way == "plain":
            loss = plain_cross_entropy(output, items, target)
        elif way == "chunked":
            loss = chunked_cross_entropy(output, items, target, CHUNK)
        else:
            sampled = sampler.sample()
            loss = sampled_cross_entropy(output, items, target, sampled)
        loss.backward()
        seconds.append(time.process_time() - started)
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    return median(seconds), memory


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
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
    print(
        f"cross-entropy and its gradient, V={CATALOGUE:,}, batch {BATCH}; chunks of {CHUNK:,}, or "
        f"{SAMPLES:,} sampled items"
    )
    for way in ("plain", "chunked", "sampled"):
        spent, memory = in_new_process(loss_cost, way)
        print(f"  {way:8s} {spent:.2f} CPU seconds, {memory:.2f} GiB")


if __name__ == "__main__":
    main()
