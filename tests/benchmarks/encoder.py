"""Encoder users/s, one thread, Beauty shapes, paper preset: ONNX Runtime beside PyTorch.

    make recbole && .venv/bin/python tests/benchmarks/encoder.py [--length 50]

Sides: both exported forms in ONNX Runtime; FEARec and `model.reference` in PyTorch eager; RecBole's
FEARec with the same weights in its own environment. CPU seconds on one thread; of batch sizes, each
side's best one counts.
"""

import json
import os
import subprocess
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnxruntime
import torch
from machine import beside_recbole, describe

from model.config import FEARecConfig
from model.export import export_encoder
from model.network import FEARec
from model.reference import ReferenceFEARec

ITEMS, USERS = 12_101, 2048
BATCHES = {"onnx matmul": (16, 32, 64, 256), "onnx dft": (64,), "torch": (64, 256)}


def sequences(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded sequences of Beauty's lengths: 4 to L, most of them short, longest first.

    `fearec-score` scores users in this order; all sides get it.
    """
    random = np.random.default_rng(0)
    lengths = torch.from_numpy(np.clip(random.geometric(1 / 6, USERS) + 3, 4, length))
    lengths = lengths.sort(descending=True).values
    items = torch.from_numpy(random.integers(1, ITEMS + 1, (USERS, length)))
    return items * (torch.arange(length) < lengths[:, None]), lengths


def timed(call, item_seq: torch.Tensor, item_seq_len: torch.Tensor, batch: int) -> float:
    """Users/s."""
    call(item_seq[:batch], item_seq_len[:batch])
    started = time.process_time()
    for part in zip(item_seq.split(batch), item_seq_len.split(batch), strict=True):
        call(*part)
    return len(item_seq) / (time.process_time() - started)


def onnx_side(path: Path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda seq, length: session.run(
        None, {"item_seq": seq.numpy(), "item_seq_len": length.numpy()}
    )


@torch.inference_mode()
def main() -> None:
    options = beside_recbole(__doc__, length=50)
    length = options.length
    model = FEARecConfig.from_preset("paper", n_items=ITEMS + 1, MAX_ITEM_LIST_LENGTH=length)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = FEARec(model).eval()
    reference = ReferenceFEARec(model).eval()
    reference.load_state_dict(network.state_dict())
    item_seq, item_seq_len = sequences(length)
    figures: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for form in ("matmul", "dft"):
            export_encoder(network, Path(folder, f"{form}.onnx"), fft=form)
        arrays = Path(folder, "arrays.npz")
        weights = {f"w/{name}": value.numpy() for name, value in network.state_dict().items()}
        np.savez(
            arrays, item_seq=item_seq, item_seq_len=item_seq_len,
            item_id=np.ones(USERS, np.int64), **weights,
        )  # fmt: skip
        config = {**model.model_dump(), "fredom_type": None, "train_batch_size": 256}
        script = Path(__file__).with_name("recbole_inference.py")
        command = [options.recbole_python, script, arrays, json.dumps(config), "10", "64", "256"]
        for _ in range(options.rounds):
            for form in ("matmul", "dft"):
                side = onnx_side(Path(folder, f"{form}.onnx"))
                few = slice(None) if form == "matmul" else slice(256)
                for batch in BATCHES[f"onnx {form}"]:
                    speed = timed(side, item_seq[few], item_seq_len[few], batch)
                    figures[f"ONNX Runtime, {form}, batch {batch}"].append(speed)
                eager = reference if form == "dft" else network
                for batch in BATCHES["torch"]:
                    speed = timed(eager, item_seq, item_seq_len, batch)
                    figures[f"PyTorch eager, {form}, batch {batch}"].append(speed)
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            for batch, (forward, _) in json.loads(done.stdout.splitlines()[-1]).items():
                figures[f"RecBole eager, batch {batch}"].append(forward)
    print(describe("fearec", "torch", "onnxruntime-gpu"))
    print(f"V={ITEMS + 1}, L={length}, D=64, paper preset, one thread, {USERS} users")
    speeds = {name: median(values) for name, values in figures.items()}
    for name, speed in speeds.items():
        print(f"{name:36s} {speed:8.0f} users/s")

    def best(prefix: str) -> float:
        return max(speed for name, speed in speeds.items() if name.startswith(prefix))

    ours = best("ONNX Runtime, matmul")
    for name in (
        "RecBole eager",
        "PyTorch eager, dft",
        "PyTorch eager, matmul",
        "ONNX Runtime, dft",
    ):
        print(f"ONNX Runtime, matmul, is {ours / best(name):6.1f}x {name}")


if __name__ == "__main__":
    main()
