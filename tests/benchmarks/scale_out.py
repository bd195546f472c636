"""What more workers are worth: the scheduling of `RayEngine` over 2 to 256 workers, simulated.

    .venv/bin/python tests/benchmarks/scale_out.py [--users 100000000] [--measure 262144]

The engine is the real one, on a stand-in for Ray with a clock of its own (`simulated_ray.py`). With
`--measure`, what users of 100,000 items cost on this machine is measured first, in CPU seconds of
a process: reading them, scoring those of one part, copying parts and lists as Ray does, writing.
Otherwise the costs are given, by default as measured before (README.md beside this file). The
efficiency is the time of all parts at full speed, divided by the time of all workers; what else
that went into are the last columns.
"""

import argparse
import logging
import os
import pickle
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import nullcontext
from datetime import date
from functools import partial
from itertools import repeat
from math import inf
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from machine import describe
from simulated_ray import CAUSES, Driver, Workers, simulate

PART = 65_536  # users, at most
COUNTS = (2, 4, 8, 16, 32, 64, 128, 256)


class MeasuredEngine:
    """Reads all parts, scores one and writes its lists for every part; CPU seconds of each."""

    count = 1

    def __init__(self, worker: Callable[..., Any]) -> None:
        self._worker = worker
        self.seconds: dict[str, float] = {}
        self.bytes_sent = 0
        self.written_from = 0.0

    def results(self, parts: Iterable[Any], progress: Any) -> Generator[Any, None, None]:
        every = self._timed("read", lambda: list(parts))
        found = self._timed("score", lambda: self._worker(every[0], progress))
        self.seconds["score"] *= len(every)
        self._timed("send", lambda: self._send([*every, *[found] * len(every)]))
        self.written_from = time.process_time()
        yield from [found] * len(every)

    def _send(self, values: list[Any]) -> None:
        for value in values:
            buffers: list[pickle.PickleBuffer] = []
            head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
            copies = [bytes(buffer.raw()) for buffer in buffers]
            pickle.loads(head, buffers=copies)
            self.bytes_sent += len(head) + sum(map(len, copies))

    def _timed(self, name: str, do: Callable[[], Any]) -> Any:
        before = time.process_time()
        result = do()
        self.seconds[name] = time.process_time() - before
        return result


def measure(users: int) -> dict[str, float]:
    """CPU seconds per million users, of whole parts."""
    import million_users
    from scoring import make_bundle

    import pipeline.scoring.run as run
    from model.config import FEARecConfig
    from pipeline.config.score_section import ScoreSettings
    from pipeline.config.sections import LogSettings

    config = FEARecConfig.from_preset("paper", n_items=million_users.ITEMS + 1)
    settings = ScoreSettings(top_k=million_users.TOP_K, provider="cpu", threads=1)
    engines: list[MeasuredEngine] = []

    def engine(opener: Any, bundle: Any, settings: Any, _: Any) -> Any:
        engines.append(MeasuredEngine(opener(bundle, settings, device_id=0, encodes=True)))
        return nullcontext(engines[0]), million_users.CPU

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle, _ = make_bundle(config, folder)
        million_users.write_sequences(folder / "sequences.parquet", users)
        with mock.patch.object(run, "scoring_engine", engine):
            run.score(
                [str(folder / "sequences.parquet")], bundle, folder / "out", settings,
                logs=LogSettings(), run_date=date(2026, 7, 1), time_zone="UTC",
            )  # fmt: skip
        engines[0].seconds["write"] = time.process_time() - engines[0].written_from
        written = sum(part.stat().st_size for part in (folder / "out").glob("part-*"))
    per_million = {name: 1e6 / users * each for name, each in engines[0].seconds.items()}
    print(
        f"measured with {users:,} users, CPU seconds per million: "
        + ", ".join(f"{name} {each:.1f}" for name, each in per_million.items())
        + f"; per user {engines[0].bytes_sent / users:.0f} bytes sent, {written / users:.0f} kept"
    )
    return per_million


def slowdowns(random: np.random.Generator, share: float, factor: float) -> Iterator[float]:
    while True:
        yield factor if random.random() < share else 1.0


def lifetimes(random: np.random.Generator, losses_per_hour: float) -> Iterator[float]:
    while True:
        yield random.exponential(3600 / losses_per_hour)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    number = partial(parser.add_argument, type=float)
    parser.add_argument("--users", type=int, default=100_000_000)
    parser.add_argument("--measure", type=int, metavar="USERS")
    number("--score", default=428.0, help="seconds per million users and worker")
    number("--read", default=4.1, help="seconds per million users, of the driver, as the next two")
    number("--send", default=0.2)
    number("--write", default=0.2)
    number("--sigma", default=0.3, help="of the parts' log-normal times")
    number("--slow-share", default=0.05, help="of the workers")
    number("--slow-factor", default=2.0, help="by which these are slower")
    number("--losses-per-hour", default=0.05, help="per worker")
    number("--start", default=10.0, help="seconds until a worker has opened the bundle")
    number("--replacement", default=180.0, help="seconds until a lost worker's replacement has")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    logging.disable(logging.WARNING)  # of every loss
    print(describe("fearec", "numpy"))
    costs = {name: getattr(given, name) for name in ("score", "read", "send", "write")}
    if given.measure:
        costs = measure(given.measure)
    n_parts = -(-given.users // PART)
    per_part = {name: each * PART / 1e6 for name, each in costs.items()}
    driver = Driver(per_part["read"], per_part["send"], per_part["write"])
    for text, sigma, share, losses in (
        ("equal parts and workers, none lost", 0.0, 0.0, 0.0),
        ("with stragglers", given.sigma, given.slow_share, 0.0),
        ("with stragglers and losses", given.sigma, given.slow_share, given.losses_per_hour),
    ):
        print(
            f"\n{given.users:,} users in {n_parts:,} parts, {text}; seconds per part: "
            + ", ".join(f"{name} {each:.2f}" for name, each in per_part.items())
            + f"\nlog-normal with sigma {sigma}; {share:.0%} of the workers {given.slow_factor:g} "
            f"times slower; {losses:g} losses per worker and hour; start {given.start:g}, "
            f"replacement {given.replacement:g} seconds; seed {given.seed}\n"
        )
        print("| workers | hours | efficiency | bound by | " + " | ".join(CAUSES) + " | lost |")
        print("|---" * (5 + len(CAUSES)) + "|")
        normal = np.random.default_rng(given.seed).normal(-(sigma**2) / 2, sigma, n_parts)
        seconds = (per_part["score"] * np.exp(normal)).tolist()
        for count in COUNTS:
            speeds, ends = (np.random.default_rng([given.seed, count, each]) for each in (0, 1))
            workers = Workers(
                count,
                slowdowns(speeds, share, given.slow_factor),
                lifetimes(ends, losses) if losses else repeat(inf),
                given.start,
                given.replacement,
            )
            run = simulate(seconds, workers, driver)
            shares = " | ".join(f"{run.shares[name]:.1%}" for name in CAUSES)
            told = run.failure or f"{run.wall / 3600:.2f} | {run.efficiency:.1%} | {run.bound}"
            print(f"| {count} | {told} | {shares} | {run.n_lost} |")


if __name__ == "__main__":
    main()
