"""Related items of 100,000 items, and the audience of 100 of them: CPU seconds and memory.

    .venv/bin/python tests/benchmarks/related.py [--items 100000] [--users 200000]

Top 20 by cosine, beside the matrix product alone; top 20 by co-occurrence; top 1,000 users of 100
items, beside the encoder alone. Each in a process of its own with one thread, tables not included.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

import numpy as np
import pyarrow as pa
from machine import describe

from pipeline.bundles.bundle import Bundle
from pipeline.config.sections import ScoreSettings
from pipeline.related.audience import find_audience
from pipeline.related.co_occurrence import co_occurrence_neighbours
from pipeline.related.cosine import cosine_neighbours
from pipeline.related.item_vectors import item_vectors
from pipeline.scoring.user_encoder import UserEncoder
from pipeline.scoring.user_histories import UserHistories
from pipeline.storage.resources import ResourceSettings

TOP_N, LISTED, AUDIENCE = 20, 100, 1_000
BATCH = 32_768  # users that are read at a time


def histories(items: int, users: int) -> Iterator[UserHistories]:
    """Histories of 1 to 60 items; the lower its index, the more popular an item."""
    random = np.random.default_rng(0)
    for begin in range(0, users, BATCH):
        count = min(BATCH, users - begin)
        offsets = np.concatenate([[0], np.cumsum(random.integers(1, 61, count))])
        index = 1 + (items * random.random(offsets[-1]) ** 2).astype(np.int64)
        yield UserHistories(pa.array(np.arange(begin, begin + count)), index, offsets)


def product(bundle: Bundle, users: int) -> None:
    vectors = np.array(item_vectors(bundle)[1:])
    for begin in range(0, len(vectors), 256):
        for first in range(0, len(vectors), 8_192):
            vectors[begin : begin + 256] @ vectors[first : first + 8_192].T


def cosine(bundle: Bundle, users: int) -> None:
    for _ in cosine_neighbours(item_vectors(bundle), np.arange(1, bundle.n_items), TOP_N):
        pass


def co_occurrence(bundle: Bundle, users: int) -> None:
    items, n = np.arange(1, bundle.n_items), bundle.n_items
    everybody, resources = histories(n - 1, users), ResourceSettings(memory="1GB", threads=1)
    with tempfile.TemporaryDirectory() as scratch:
        co_occurrence_neighbours(everybody, items, n, TOP_N, Path(scratch), resources)


def encoder(bundle: Bundle, users: int, *, search: bool = False) -> None:
    vectors = item_vectors(bundle)
    settings = ScoreSettings(provider="cpu", threads=1)
    encode = UserEncoder.load(bundle, vectors.shape[1], settings)
    parts = encode.parts(histories(len(vectors) - 1, users))
    if search:
        listed = np.random.default_rng(1).choice(len(vectors) - 1, LISTED, replace=False) + 1
        find_audience(parts, vectors, listed, AUDIENCE, exclude_seen=True)
    else:
        for _ in parts:
            pass


def write_bundle(items: int, folder: Path) -> None:
    from scoring import make_bundle

    from model.config import FEARecConfig

    make_bundle(FEARecConfig.from_preset("paper", n_items=items + 1), folder)


BUNDLE = "bundle"
SIDES = {
    "matrix product alone": product,
    f"top {TOP_N} by cosine": cosine,
    f"top {TOP_N} by co-occurrence": co_occurrence,
    "encoder alone": encoder,
    f"top {AUDIENCE:,} users of {LISTED} items": partial(encoder, search=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--side", nargs=2, metavar=("NAME", "BUNDLE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        name, path = options.side
        if name == BUNDLE:
            write_bundle(options.items, Path(path))
            return
        bundle, started = Bundle.load(path), time.process_time()
        SIDES[name](bundle, options.users)
        seconds = time.process_time() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{name:28s} {seconds:8.1f} CPU seconds  {peak:6.2f} GiB at most")
        return
    print(describe("numpy", "onnxruntime-gpu", "duckdb"))
    print(f"{options.items:,} items of 64 dimensions, {options.users:,} users")
    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own: the next ones' peak begins with the memory of this one.
        for name in (BUNDLE, *SIDES):
            path = folder if name == BUNDLE else f"{folder}/bundle"
            sizes = ["--items", str(options.items), "--users", str(options.users)]
            command = [sys.executable, __file__, *sizes, "--side", name, path]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
