"""What the scoring benchmarks share: a bundle of random weights, logs or sequences, one core."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from model.config import FEARecConfig
from model.export.graphs import export_both
from model.network.fearec import FEARec
from model.training.weights import save_weights
from pipeline.bundles.bundle import ITEMS, WEIGHTS, Bundle, publish_bundle
from pipeline.bundles.description import BundleDescription, DataSnapshot
from pipeline.schema import vocabulary_schema

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def make_bundle(config: FEARecConfig, folder: Path) -> tuple[Bundle, FEARec]:
    """A bundle of a random network whose item ids are its item indices."""
    torch.manual_seed(0)
    network = FEARec(config).eval()
    staging = folder / "staging"
    staging.mkdir(parents=True)
    export_both(network, staging)
    save_weights(network, staging / WEIGHTS)
    index = pa.array(np.arange(1, config.n_items))
    items = pa.table(
        [index, index, pa.repeat(1, len(index)), pa.repeat(NOW, len(index))],
        names=vocabulary_schema(pa.int64()).names,
    )
    pq.write_table(items.cast(vocabulary_schema(pa.int64())), staging / ITEMS)
    described = BundleDescription(
        model_version="benchmark",
        created_at=NOW,
        settings={},
        hyper_parameters=config.model_dump(mode="json"),
        data=DataSnapshot(
            interactions_version=None, first_event=NOW, last_event=NOW,
            n_users=1, n_items=config.n_items - 1, n_interactions=1,
        ),
        metrics={}, refit=False, parity={}, versions={},
    )  # fmt: skip
    return publish_bundle(staging, folder / "bundle", described), network


def fearec_score(*arguments: str, cores: Collection[int] = (0,)) -> tuple[float, float, list[str]]:
    """Run `fearec-score`, by default on one core; CPU seconds, peak GiB and what it printed."""
    command = [str(Path(sys.executable).with_name("fearec-score")), *arguments]
    with tempfile.TemporaryFile("w+") as messages:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=messages, text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )  # fmt: skip
        assert process.stdout is not None
        printed = process.stdout.read().splitlines()
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            messages.seek(0)
            sys.exit(messages.read())
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20, printed
