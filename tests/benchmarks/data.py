"""Ingest, prepare and a day on top, beside a copy of the files and a bare sort of their rows.

    .venv/bin/python tests/benchmarks/data.py [--events 100000000] [--ids uuid] [--repeats 0.05]

Logs of 100 days are written, and of one more for the increment, which comes to the same files each
time. Every step is a process of its own. The yardstick of ingest is pyarrow, which reads the
same files and writes them again; that of prepare is DuckDB, which sorts the same rows by user and
time into one Parquet file, with the memory and the threads that prepare has.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from machine import describe

from pipeline.logs.conversion import plain_ids
from pipeline.schema import ITEM_ID, TIME, TIMESTAMP, USER_ID

EVENTS, USERS, ITEMS = 100_000_000, 2_000_000, 500_000
DAYS, FIRST_DAY = 100, date(2026, 1, 1)
MICROSECONDS = 86_400_000_000  # per day
COMPRESSION = "snappy"  # as delta-rs has it


@dataclass(frozen=True)
class Cost:
    """What a step took."""

    cpu: float  # seconds
    wall: float  # seconds
    memory: float  # GiB at most


def write_day(folder: Path, number: int, options: argparse.Namespace, ids: list[pa.Array]) -> None:
    """One day's file: few users and items have many events; some rows are there twice."""
    random = np.random.default_rng([options.seed, number])
    rows = options.events // DAYS
    users, items = (
        names.take(pa.array((random.random(rows) ** power * len(names)).astype(np.int64)))
        for names, power in zip(ids, (2, 3), strict=True)
    )
    day = FIRST_DAY + timedelta(days=number)
    times = np.datetime64(day, "us").astype(int) + np.sort(random.integers(0, MICROSECONDS, rows))
    table = pa.table([users, items, pa.array(times).cast(TIME)], [USER_ID, ITEM_ID, TIMESTAMP])
    again = np.sort(random.integers(0, rows, round(options.repeats * rows)))
    fresh = np.arange(len(again), rows)  # the repeats come in the place of other rows
    table = table.take(pa.array(np.sort(np.concatenate([fresh, again]))))
    pq.write_table(table, folder / f"{day}.parquet", compression=COMPRESSION)


def make_ids(count: int, kind: str, seed: int) -> pa.Array:
    if kind == "int":
        return pa.array(np.arange(count))
    content = np.random.default_rng(seed).bytes(16 * count)
    storage = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(16), count, [None, pa.py_buffer(content)]
    )
    return plain_ids(pa.ExtensionArray.from_storage(pa.uuid(), storage), pa.string(), "ids")


def copy(logs: Path, out: Path) -> None:
    out.mkdir()
    for path in sorted(logs.iterdir()):
        pq.write_table(pq.read_table(path), out / path.name, compression=COMPRESSION)


def sort(logs: Path, out: Path) -> None:
    from pipeline.storage.scratch_db import scratch_database

    with (
        tempfile.TemporaryDirectory(dir=out.parent) as folder,
        scratch_database(Path(folder)) as db,
    ):
        db.execute(
            f"""COPY (FROM read_parquet('{logs}/*.parquet') ORDER BY user_id, timestamp)
            TO '{out}' (FORMAT parquet, COMPRESSION {COMPRESSION})"""
        )


YARDSTICKS = {"copy": copy, "sort": sort}


def cost_of(*command: str | Path) -> Cost:
    """Run a command to its end; where it fails, end with what it printed."""
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    messages = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(messages)
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(cpu, time.monotonic() - begun, usage.ru_maxrss / 2**20)


def print_step(name: str, cost: Cost, beside: Cost | None = None) -> None:
    ratio = f"  {cost.cpu / beside.cpu:6.2f}x" if beside else ""
    print(
        f"{name:28} {cost.cpu:8.1f} CPU s {cost.wall:8.1f} s {cost.memory:7.2f} GiB{ratio}",
        flush=True,
    )


def measure(folder: Path, options: argparse.Namespace) -> None:
    logs, settings = folder / "logs", folder / "fearec.toml"
    logs.mkdir(parents=True, exist_ok=True)
    settings.write_text(
        f'warehouse = "{folder / "warehouse"}"\nwork_dir = "{folder / "work"}"\n'
        f'[logs]\npath = "{logs}"\n'
    )
    scale = options.events / EVENTS
    ids = [make_ids(max(100, round(count * scale)), options.ids, count) for count in (USERS, ITEMS)]
    for number in range(DAYS):
        write_day(logs, number, options, ids)
    size = sum(path.stat().st_size for path in logs.iterdir()) / 2**20
    print(describe("fearec", "pyarrow", "duckdb", "deltalake"))
    print(
        f"{options.events:,} events of {len(ids[0]):,} users and {len(ids[1]):,} items"
        f" ({options.ids}), {options.repeats:.0%} of them repeats; {DAYS} files, {size:,.0f} MiB",
        flush=True,
    )

    def fearec(stage: str, day: int) -> Cost:
        run_date = str(FIRST_DAY + timedelta(days=day))
        return cost_of("-m", "flows.cli.main", stage, "--config", settings, "--date", run_date)

    def yardstick(name: str, out: str) -> Cost:
        return cost_of(Path(__file__), "--step", name, "--folder", logs, "--out", folder / out)

    def with_yardstick(name: str, out: str, stage: str) -> tuple[Cost, Cost]:
        beside, cost = yardstick(name, out), fearec(stage, DAYS - 1)
        print_step(name, beside)
        print_step(f"fearec {stage}", cost, beside)
        return beside, cost

    with_yardstick("copy", "copy", "ingest")
    _, prepared = with_yardstick("sort", "sorted.parquet", "prepare")
    write_day(logs, DAYS, options, ids)
    print_step("a day on top: fearec ingest", fearec("ingest", DAYS))
    print_step("a day on top: fearec prepare", fearec("prepare", DAYS), prepared)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--ids", choices=["int", "uuid"], default="int")
    parser.add_argument("--repeats", type=float, default=0.0, help="share of exact repeats")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where all is written, and stays")
    parser.add_argument("--step", choices=YARDSTICKS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        YARDSTICKS[options.step](options.folder, options.out)
    elif options.folder:
        measure(options.folder, options)
    else:
        with tempfile.TemporaryDirectory(prefix="fearec-") as folder:
            measure(Path(folder), options)


if __name__ == "__main__":
    main()
