"""A night, from Parquet logs to the published table, by the local engine and on Ray.

    .venv/bin/python tests/benchmarks/ray_night.py [--users 1000000] [--items 100000]

Each is one command, `fearec nightly`, on the same logs: 1 to 30 events per user. One user in fifty
makes purchases, three events in ten, which the network is trained to predict, for one epoch. The
network is of the size that `ray_scoring.py` has. The local engine has one core; the cluster is two
nodes of a core on this machine, with a worker each, beside the driver. The driver's memory is what
it allocated itself, by the stage.
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # as the driver and the local engine have

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from machine import describe
from ray_scoring import Cost, measure

from pipeline.storage.locations import RunLocations, Warehouse

DAY = date(2026, 7, 1)
TOP_K, LONGEST, DAYS = 20, 30, 60
BUYERS, PURCHASES = 50, 0.3
SETTINGS = {
    "logs.event_type": "event_type",
    "event_types.targets": "purchase",
    "model.preset": "paper",
    "model.contrast": "none",
    "train.epochs": 1,
    "train.refit": "false",
    "train.precision": "auto",
    "score.top_k": TOP_K,
    "score.provider": "cpu",
    "score.threads": 1,
    "evaluate.bootstrap": 0,
    "resources.threads": 1,
}


def write_logs(folder: Path, users: int, items: int) -> int:
    """Logs of 1 to 30 events per user, in files of 65,536 users; returns the number of events."""
    folder.mkdir()
    random, n_events = np.random.default_rng(0), 0
    first = np.datetime64(DAY, "us") - np.timedelta64(DAYS, "D")
    for begin in range(0, users, 65_536):
        user = np.repeat(
            np.arange(begin, min(users, begin + 65_536)),
            random.integers(1, LONGEST + 1, min(65_536, users - begin)),
        )
        purchase = (user % BUYERS == 0) & (random.random(len(user)) < PURCHASES)
        seconds = random.integers(0, DAYS * 86_400, len(user))
        rows = {
            "user_id": user,
            "item_id": np.minimum(random.zipf(1.2, len(user)) % items, items - 1) + 1,
            "timestamp": first + seconds.astype("m8[s]"),
            "event_type": pa.array(np.where(purchase, "purchase", "view")),
        }
        pq.write_table(pa.table(rows), folder / f"{begin:09d}.parquet", compression="zstd")
        n_events += len(user)
    return n_events


def published(warehouse: Path) -> pa.Table:
    """What both nights must have published alike."""
    table = DeltaTable(str(warehouse / "recommendations")).to_pyarrow_table()
    return table.drop(["generated_at", "model_version"]).sort_by(
        [("user_id", "ascending"), ("rank", "ascending")]
    )


@dataclass(frozen=True)
class Night:
    cost: Cost
    stages: dict[str, tuple[float, float]]  # seconds, and the driver's memory at most, GiB

    def print(self, engine: str, users: int) -> None:
        print(self.cost.line(engine, users))
        for name, (seconds, memory) in self.stages.items():
            print(f"  {name:>10} {seconds:7.1f} s {memory:6.2f} GiB")


def night(folder: Path, name: str, *more: str) -> Night:
    """One command, with a warehouse and a work folder of its own."""
    command = [str(Path(sys.executable).with_name("fearec")), "nightly", "--date", str(DAY)]
    command += ["--force-publish", "--json"]  # nothing is to be learned from random events
    own = {"warehouse": folder / name, "work_dir": folder / f"{name}-work"}
    for key, value in ({**SETTINGS, **own, "logs.path": folder / "logs"}).items():
        command += ["--set", f"{key}={value}"]
    told = folder / f"{name}.json"
    with told.open("w") as out:
        cost = measure([*command, *more], out)
    stages, begin = {}, 0.0
    records = RunLocations(Warehouse(str(folder / name)), own["work_dir"], DAY).record
    for stage in json.loads(told.read_text())["records"]:
        end = records(stage["stage"]).stat().st_mtime
        stages[stage["stage"]] = stage["seconds"], cost.most_memory(begin, end)
        begin = end
    return Night(cost, stages)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--memory", default="300MB", help="of DuckDB")
    arguments = parser.parse_args()
    SETTINGS["resources.memory"] = arguments.memory
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        n_events = write_logs(folder / "logs", arguments.users, arguments.items)
        found = {"local": night(folder, "local")}
        cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 2**30}
        )
        cluster.add_node(num_cpus=1, object_store_memory=2**30)
        try:
            on_ray = ["--engine", "ray", "--set", f"engine.address={cluster.address}"]
            on_ray += ["--set", "engine.train_workers=1"]  # with more, other weights would follow
            found["Ray, 2 workers"] = night(folder, "ray", *on_ray)
        finally:
            cluster.shutdown()
        equal = published(folder / "local").equals(published(folder / "ray"))
    print(describe("fearec", "ray", "onnxruntime-gpu", "pyarrow"))
    print(f"{arguments.users:,} users, {n_events:,} events, top {TOP_K}; equal rows: {equal}")
    for engine, each in found.items():
        each.print(engine, arguments.users)


if __name__ == "__main__":
    main()
