"""Users/s of the recommender on a GPU beside the best PyTorch on the same card.

    .venv/bin/python tests/benchmarks/gpu.py

From padded sequences in memory to ids and scores in memory, paper preset, random weights. Sides:
ONNX Runtime on CUDA (and on TensorRT where it loads) in float32 without TF32 and in float16;
PyTorch, whose encoder is compiled, then matmul and topk, in float32 without and with TF32 and in
float16. Every side is given its best batch size; ours has as many batches on the card at a time as
`fearec-score` has, torch's CUDA graph one. About ten minutes for all three catalogues, most of it
PyTorch compiling. `--device cpu --items 2000 --batch-sizes 64 --rounds 1` tries the script.
"""

import argparse
import copy
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from machine import describe

from model.config import FEARecConfig
from model.errors import ConfigError
from model.export.files import FLOAT16_RECOMMENDER, RECOMMENDER
from model.export.graphs import export_both
from model.network.fearec import FEARec
from pipeline.scoring.batches import ScoringBatch
from pipeline.scoring.recommender import load_recommender

TARGET = 1.5
SCORES = 2**29  # elements of a batch's (B, V) scores, at most
SAME, USERS_ALIKE = 1e-3, 0.99  # relative; delays tied to rounding let a few users differ

Found = tuple[Any, Any]  # item_index (B, K) and score (B, K)
Array = Any


@dataclass(frozen=True)
class Side:
    """One way to recommend."""

    name: str
    bytes_a_number: int
    run: Callable[[ScoringBatch], Found]
    at_once: int = 1


def sequences(users: int, n_items: int, length: int) -> ScoringBatch:
    """Of Beauty's lengths: 4 to 50, most of them short."""
    random = np.random.default_rng(0)
    lengths = np.clip(random.geometric(1 / 6, users) + 3, 4, length)
    items = random.integers(1, n_items, (users, length)) * (np.arange(length) < lengths[:, None])
    return ScoringBatch(np.arange(users), items, lengths, np.zeros((users, 0), np.int64))


def first(batch: ScoringBatch, users: int) -> ScoringBatch:
    return ScoringBatch(
        batch.rows[:users], batch.item_seq[:users], batch.item_seq_len[:users],
        batch.exclude[:users],
    )  # fmt: skip


def ours(folder: Path, device: str, n_items: int, top_k: int, users: int) -> Iterator[Side]:
    bias = np.zeros(n_items, np.float32)
    graphs = {"fp32": RECOMMENDER, "fp16": FLOAT16_RECOMMENDER}
    for provider in ("cuda", "tensorrt") if device == "cuda" else ("cpu",):
        for precision, name in graphs.items():
            try:
                recommender = load_recommender(
                    folder / name, provider, item_bias=bias, top_k=top_k, batch_size=users,
                    precision=precision, cache=folder / f"engines-{precision}",
                )  # fmt: skip
            except ConfigError as error:
                if provider == "cuda":
                    raise
                print(f"  {provider} left out: {error.what}")
                break
            size = 4 if precision == "fp32" else 2
            yield Side(f"fearec, {provider}, {precision}", size, recommender, recommender.at_once)
            del recommender


def torch_sides(network: FEARec, device: str, mode: str, top_k: int) -> Iterator[Side]:
    for name, dtype, precision in (
        ("fp32", torch.float32, "highest"),
        ("fp32 with TF32", torch.float32, "high"),
        ("fp16", torch.float16, "highest"),
    ):
        placed = copy.deepcopy(network).to(device, dtype)
        # What stops at a batch's longest sequence asks the device for it: no graph could be whole.
        placed._reach = lambda item_seq_len: network.config.MAX_ITEM_LIST_LENGTH  # type: ignore
        for block in placed.item_encoder.blocks:  # correlations are summed in float32
            block.hybrid_attention.synthesis = block.hybrid_attention.synthesis.float()
        torch.compiler.reset()
        forward = placed if mode == "none" else torch.compile(placed, mode=mode, dynamic=False)
        table = placed.item_embedding.weight.detach().T

        def run(
            batch: ScoringBatch,
            forward: Any = forward,
            table: Any = table,
            precision: str = precision,
        ) -> Found:
            torch.set_float32_matmul_precision(precision)
            given = [torch.from_numpy(x) for x in (batch.item_seq, batch.item_seq_len)]
            if device == "cuda":
                given = [x.pin_memory().to(device, non_blocking=True) for x in given]
            half = torch.autocast(device, torch.float16, enabled=table.dtype == torch.float16)
            with torch.inference_mode(), half:
                scores = forward(*given).to(table.dtype) @ table
                scores[:, 0] = -torch.inf
                score, item = scores.topk(top_k)
            return item.cpu().numpy(), score.float().cpu().numpy()

        yield Side(f"torch, {name}", dtype.itemsize, run)


def rate(side: Side, batch: ScoringBatch, rounds: int, seconds: float) -> float:
    """Users/s, the median of the rounds; each is many runs, whose results are all fetched."""
    with ThreadPoolExecutor(side.at_once) as threads:

        def run(times: int) -> float:
            started = time.perf_counter()
            if side.at_once == 1:
                for _ in range(times):
                    side.run(batch)
            else:
                list(threads.map(side.run, [batch] * times))
            return time.perf_counter() - started

        run(2 * side.at_once)
        runs = max(side.at_once, int(seconds * side.at_once / run(side.at_once)))
        return median(runs * len(batch.rows) / run(runs) for _ in range(rounds))


def bandwidth(device: str) -> float:
    """Bytes/s read and written by a copy."""
    source = torch.zeros(2**28 if device == "cuda" else 2**24, device=device)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(10):
        wait(device)
        started = time.perf_counter()
        target.copy_(source)
        wait(device)
        best = max(best, 2 * source.nbytes / (time.perf_counter() - started))
    return best


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def refuse_other_ids(found: Found, expected: Found) -> float:
    """The share of users with the same ids; elsewhere scores must be nearly tied."""
    (item, score), (other, exact) = found, expected
    near = np.abs(score - exact) <= SAME * np.maximum(np.abs(exact), 1)
    alike = ((item == other) | near).all(axis=1).mean()
    if not alike >= USERS_ALIKE:
        sys.exit(f"Only {alike:.2%} of users get what torch gives them: the figures mean nothing.")
    return float((item == other).all(axis=1).mean())


def compare(n_items: int, arguments: argparse.Namespace, moved: float, folder: Path) -> None:
    """Print every side's figures for one catalogue."""
    config = FEARecConfig.from_preset("paper", n_items=n_items)
    torch.manual_seed(0)
    network = FEARec(config).eval()
    export_both(network, folder, fp16=True)
    sizes = [size for size in arguments.batch_sizes if size * n_items <= SCORES]
    sizes = sizes or [max(1, SCORES // n_items)]
    everyone = sequences(max(sizes), n_items, config.MAX_ITEM_LIST_LENGTH)
    few = first(everyone, min(256, max(sizes)))
    for top_k in arguments.top_k:
        print(f"\n{n_items:,} items x {config.hidden_size}, top {top_k}", flush=True)
        rates: dict[str, tuple[float, int]] = {}
        found: dict[str, Found] = {}
        sides = itertools.chain(  # one at a time: each has the card's memory to itself
            ours(folder, arguments.device, n_items, top_k, max(sizes)),
            torch_sides(network, arguments.device, arguments.compile, top_k),
        )
        for side in sides:
            tried = {}
            for size in sizes:
                try:
                    tried[size] = rate(
                        side, first(everyone, size), arguments.rounds, arguments.seconds
                    )
                except (torch.OutOfMemoryError, ConfigError) as error:
                    print(f"  {side.name}, batch {size}: {str(error).splitlines()[0]}")
            if not tried:
                continue
            found[side.name] = side.run(few)
            best = max(tried, key=lambda size: tried[size])
            rates[side.name] = tried[best], best
            table = n_items * config.hidden_size * side.bytes_a_number
            matrix = 2 * best * n_items * side.bytes_a_number
            print(
                f"  {side.name:26s} {tried[best]:12,.0f} users/s   batch {best:5d}   "
                f"{tried[best] * table / best / moved:6.1%} of the bandwidth by the table, "
                f"{tried[best] * (table + matrix) / best / moved:6.1%} with scores",
                flush=True,
            )
            del side
        report(rates, found)


def report(rates: dict[str, tuple[float, int]], found: dict[str, Found]) -> None:
    """The ratios, and whether the sides recommend the same."""
    exact = found["torch, fp32"]
    for name in found:
        if name.startswith("fearec") and name.endswith("fp32") and "tensorrt" not in name:
            same = refuse_other_ids(found[name], exact)
            print(f"  {name}: same ids as torch for {same:.2%} of users, near ties elsewhere")
        elif name != "torch, fp32":
            shared = (found[name][0][:, :, None] == exact[0][:, None, :]).any(2).mean()
            print(f"  {name}: {shared:.2%} of the items of torch in fp32")
    for precision, others in {"fp32": ("fp32", "fp32 with TF32"), "fp16": ("fp16",)}.items():
        own = max(
            (rate for name, (rate, _) in rates.items() if name.endswith(precision)
             and name.startswith("fearec")), default=0.0,
        )  # fmt: skip
        for other in others:
            if f"torch, {other}" in rates:
                ratio = own / rates[f"torch, {other}"][0]
                print(f"  fearec {precision}: {ratio:.2f}x torch {other} (target {TARGET}x)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--items", type=int, nargs="+", default=[12_102, 10**6, 10**7])
    parser.add_argument("--top-k", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each round")
    parser.add_argument(
        "--compile", choices=["reduce-overhead", "default", "max-autotune", "none"],
        help="of torch's encoder; default reduce-overhead, which uses CUDA graphs; none on a CPU",
    )  # fmt: skip
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit(
            "No CUDA device that PyTorch can use: run this on a machine with an NVIDIA GPU and a "
            "CUDA build of PyTorch (or with --device cpu --items 2000, to try the script)."
        )
    arguments.compile = arguments.compile or (
        "reduce-overhead" if arguments.device == "cuda" else "none"
    )
    print(describe("onnxruntime-gpu", "torch"))
    if arguments.device == "cuda":
        card = torch.cuda.get_device_properties(0)
        print(f"{card.name}, {card.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}")
    else:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    moved = bandwidth(arguments.device)
    print(f"a copy moves {moved / 1e9:,.0f} GB/s; torch encoder compiled: {arguments.compile}")
    for n_items in arguments.items:
        with tempfile.TemporaryDirectory() as folder:
            try:
                compare(n_items, arguments, moved, Path(folder))
            except ConfigError as error:
                sys.exit(str(error))


main()
