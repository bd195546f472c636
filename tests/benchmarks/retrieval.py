"""Exact top-k users/s on one CPU thread, beside the float32 product alone, torch and FAISS.

    .venv/bin/python tests/benchmarks/retrieval.py [--items 1000000] [--rounds 5]

FAISS takes part if it is installed (pip install faiss-cpu). All sides take turns, so that each
meets the same machine; of batch sizes, each side's best one counts.
"""

import argparse
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx
import onnxruntime
import torch
from machine import describe
from onnx import TensorProto, helper, numpy_helper

from model.export.graphs import OPSET
from model.export.quantize import quantize
from model.export.retrieval import add_retrieval
from model.training.weights import ITEM_TABLE

TOP_K = (10, 100)
SEEN = 50  # items a user is excluded from, in one more row
EMBEDDING = "user_embedding"

Array = Any
Sides = dict[str, dict[int, Callable[[], object]]]  # name -> batch size -> what to time


def users_to(output: str, nodes: list[onnx.NodeProto], table: Array) -> onnx.ModelProto:
    """A graph from users' embeddings (B, D) and the item table."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "benchmark",
        [value(EMBEDDING, TensorProto.FLOAT, ["B", table.shape[1]])],
        [value(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(table, ITEM_TABLE)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def session(built: onnx.ModelProto, folder: Path) -> onnxruntime.InferenceSession:
    """A session as from a bundle: large tensors are in a file beside the graph."""
    path = Path(tempfile.mkdtemp(dir=folder)) / "graph.onnx"
    onnx.save(built, str(path), save_as_external_data=True, location="data.bin")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def bound(of: onnxruntime.InferenceSession, **feeds: Array) -> Callable[[], None]:
    binding = of.io_binding()
    for name, value in feeds.items():
        binding.bind_cpu_input(name, value)
    for output in of.get_outputs():
        binding.bind_output(output.name)
    return lambda: of.run_with_iobinding(binding)


def sides(table: Array, users: Array, batch_sizes: list[int], folder: Path) -> Sides:
    node = helper.make_node
    found: Sides = {}
    parts = {size: users[:size] for size in batch_sizes}
    whole = [size for size in batch_sizes if size * len(table) <= 2**27]  # 512 MB of scores
    whole = whole or batch_sizes[:1]

    # The item table is the first factor: ONNX Runtime is faster so than by Gemm(users, items).
    product = session(
        users_to(
            "s",
            [
                node("Transpose", [EMBEDDING], ["u"], perm=[1, 0]),
                node("MatMul", [ITEM_TABLE, "u"], ["s"]),
            ],
            table,
        ),
        folder,
    )
    gemm = session(
        users_to("s", [node("Gemm", [EMBEDDING, ITEM_TABLE], ["s"], transB=1)], table), folder
    )
    found["ONNX product alone, items x users"] = {
        size: bound(product, user_embedding=parts[size]) for size in whole
    }
    found["ONNX product alone, users x items"] = {
        size: bound(gemm, user_embedding=parts[size]) for size in whole
    }
    items = torch.from_numpy(table)
    tensors = {size: torch.from_numpy(parts[size]) for size in whole}
    into = torch.empty(max(whole), len(table))
    found["torch product alone"] = {
        size: lambda size=size: torch.matmul(tensors[size], items.T, out=into[:size])
        for size in whole
    }
    for k in TOP_K:
        found[f"torch matmul+topk, top-{k}"] = {
            size: lambda size=size, k=k: torch.topk(
                torch.matmul(tensors[size], items.T, out=into[:size]), k
            )
            for size in whole
        }
    if importlib.util.find_spec("faiss"):
        import faiss

        faiss.omp_set_num_threads(1)
        index = faiss.IndexFlatIP(table.shape[1])
        index.add(table)
        for k in TOP_K:
            found[f"FAISS IndexFlatIP, top-{k}"] = {
                size: lambda size=size, k=k: index.search(parts[size], k) for size in whole[-1:]
            }

    bias = np.zeros(len(table), np.float32)
    random = np.random.default_rng(1)
    for form, quantized, sizes in (
        ("matrix", None, whole),
        ("two passes", quantize(table), batch_sizes),
    ):
        built = users_to(EMBEDDING, [], table)
        add_retrieval(built, len(table), quantized)
        runs = session(built, folder)
        for k, width in (*((k, 0) for k in TOP_K), (TOP_K[0], SEEN)):
            exclude = random.integers(1, len(table), (max(sizes), width))
            name = f"fearec, {form}, top-{k}" + (f", {width} excluded" if width else "")
            found[name] = {
                size: bound(
                    runs,
                    user_embedding=parts[size],
                    exclude=exclude[:size],
                    item_bias=bias,
                    k=np.array([k]),
                )
                for size in sizes
            }
    return found


def measure(sides: Sides, rounds: int) -> dict[str, tuple[float, int]]:
    """The median users/s of every side at its best batch size, and that size."""
    rates: dict[tuple[str, int], list[float]] = {}
    for turn in range(rounds + 1):
        for name, sizes in sides.items():
            for size, run in sizes.items():
                started = time.perf_counter()
                run()
                if turn:  # the first warms up
                    rate = size / (time.perf_counter() - started)
                    rates.setdefault((name, size), []).append(rate)
    return {
        name: max((median(rates[name, size]), size) for size in sizes)
        for name, sizes in sides.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    table = random.standard_normal((arguments.items, arguments.dimensions), np.float32)
    users = random.standard_normal((max(arguments.batch_sizes), arguments.dimensions), np.float32)
    print(describe("onnxruntime-gpu", "torch", "faiss-cpu"))
    print(f"{arguments.items:,} items x {arguments.dimensions}, one thread, users/s")
    with tempfile.TemporaryDirectory() as folder:
        rates = measure(
            sides(table, users, sorted(arguments.batch_sizes), Path(folder)), arguments.rounds
        )
    for name, (rate, size) in rates.items():
        print(f"{name:45s} {rate:10,.0f}   batch {size}")
    product = max(rate for name, (rate, _) in rates.items() if "alone" in name)
    for k in TOP_K:
        ours = rates[f"fearec, two passes, top-{k}"][0]
        print(f"\nfearec, two passes, top-{k}: {ours / product:.2f}x the fastest product alone")
        for other in (f"torch matmul+topk, top-{k}", f"FAISS IndexFlatIP, top-{k}"):
            ratio = f"{ours / rates[other][0]:.1f}x" if other in rates else "absent:"
            print(f"  {ratio} {other}")


main()
