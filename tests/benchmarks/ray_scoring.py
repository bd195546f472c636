"""`fearec-score` by the local engine on one core, and on Ray by one and two workers of a core each.

    .venv/bin/python tests/benchmarks/ray_scoring.py [--users 200000] [--items 100000]

The cluster is two nodes on this machine. CPU seconds are those of the driver and of all processes
of the cluster; wall seconds are from the start of the command to its end. The driver's memory is
what it allocated itself, without the parts that it maps from Ray's object store.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # as the driver and the local engine have

import million_users
import pyarrow.parquet as pq
from machine import describe
from scoring import make_bundle

from model.config import FEARecConfig

TOP_K = 20


@dataclass(frozen=True)
class Cost:
    wall: float
    cpu: float
    driver_cpu: float
    memory: list[tuple[float, float]]  # of the driver: GiB by the time of the clock

    def most_memory(self, begin: float = 0, end: float = float("inf")) -> float:
        return max((size for at, size in self.memory if begin < at <= end), default=0)

    def line(self, name: str, users: int) -> str:
        return (
            f"{name}: {self.wall:.1f} wall seconds, {users / self.wall:,.0f} users/s; "
            f"{self.cpu:.1f} CPU seconds, of the driver {self.driver_cpu:.1f}; "
            f"driver's memory {self.most_memory():.2f} GiB at most"
        )


def processes() -> dict[int, tuple[int, float]]:
    """Parent and CPU seconds of every process."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            values = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        ticks = sum(int(value) for value in values[11:13])
        found[int(folder.name)] = (int(values[1]), ticks / os.sysconf("SC_CLK_TCK"))
    return found


def descendants_cpu() -> dict[int, float]:
    """CPU seconds of every process below this one."""
    every = processes()
    below, new = {os.getpid()}, True
    while new:
        new = {pid for pid, (parent, _) in every.items() if parent in below} - below
        below |= new
    return {pid: every[pid][1] for pid in below - {os.getpid()} if pid in every}


def anonymous_memory(process: int) -> float:
    """GiB, without what is mapped from files or shared."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(x.split()[1]) for x in lines if x.startswith("RssAnon")), 0) / 2**20


def measure(command: list[str], out: IO[str] | int = subprocess.DEVNULL) -> Cost:
    before, started = descendants_cpu(), time.perf_counter()
    memory, seconds = [], dict(before)
    with (
        tempfile.TemporaryFile() as messages,
        subprocess.Popen(command, stdout=out, stderr=messages) as driver,
    ):
        while driver.poll() is None:
            memory.append((time.time(), anonymous_memory(driver.pid)))
            seconds |= descendants_cpu()  # Ray does not wait for workers that it ends
            time.sleep(0.2)
        wall = time.perf_counter() - started
        if driver.returncode:
            messages.seek(0)
            sys.exit(messages.read().decode())
    spent = sum(seconds.values()) - sum(before.values())
    return Cost(wall, spent, seconds[driver.pid], memory)


def rows(out: Path) -> Any:
    return pq.read_table(out).drop(["generated_at"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=100_000)
    arguments = parser.parse_args()
    users, million_users.ITEMS = arguments.users, arguments.items
    from ray.cluster_utils import Cluster

    config = FEARecConfig.from_preset("paper", n_items=arguments.items + 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle, _ = make_bundle(config, folder)
        inputs = folder / "sequences.parquet"
        million_users.write_sequences(inputs, users)
        command = [
            str(Path(sys.executable).with_name("fearec-score")), str(inputs), "--model",
            str(bundle.path), "--top-k", str(TOP_K), "--provider", "cpu", "--threads", "1",
        ]  # fmt: skip
        found = {"local, one core": measure([*command, "--output", str(folder / "local")])}
        cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 2**30}
        )
        cluster.add_node(num_cpus=1, object_store_memory=2**30)
        try:
            for count in (1, 2):
                on_ray = ["--engine", "ray", "--set", f"engine.address={cluster.address}"]
                on_ray += ["--set", f"engine.max_workers={count}"]
                out = folder / f"{count}"
                found[f"Ray, {count} workers"] = measure([*command, *on_ray, "--output", str(out)])
                assert rows(out).equals(rows(folder / "local"))
        finally:
            cluster.shutdown()
    print(describe("fearec", "ray", "onnxruntime-gpu", "pyarrow"))
    print(f"{users:,} users, {arguments.items:,} items, top {TOP_K}; equal rows")
    for name, cost in found.items():
        print(cost.line(name, users))
    local, one, two = found.values()
    print(f"one worker: {one.cpu / local.cpu:.2f}x the local engine's CPU seconds")
    print(f"two workers: {one.wall / two.wall:.2f}x one worker's rate")


if __name__ == "__main__":
    main()
