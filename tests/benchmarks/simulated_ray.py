"""A stand-in for the module `ray` with a clock of its own, for `RayEngine` to run on.

What is simulated is time: how long workers compute parts and start, when they are lost, how long
the driver reads, sends and writes. Who gets which part, what is held back and what is done about a
loss is decided by `pipeline/engines` itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from math import inf
from types import SimpleNamespace
from typing import Any

import numpy as np

from pipeline.config.engine_section import EngineSettings
from pipeline.engines.base import WorkerDiedError
from pipeline.engines.ray_engine import RayEngine

# Where the time of workers goes, besides computing at full speed.
CAUSES = SLOW, START, LOSSES, DRIVER, ORDER, LAST = (
    "slow workers", "start", "losses", "driver", "order", "last part",
)  # fmt: skip


@dataclass(frozen=True)
class Driver:
    """Seconds per part on the machine where the command runs.

    Attributes:
        read: Reads a part, in a thread of its own, one part ahead.
        send: Puts a part into the object store and takes its result; no part is given out then.
        write: Writes a part, in a thread of its own; the next result waits for its end.
    """

    read: float = 0.0
    send: float = 0.0
    write: float = 0.0


@dataclass(frozen=True)
class Workers:
    """The workers of a run, in seconds.

    Attributes:
        count: Their number.
        slowdowns: By how much each is slower, in the order in which they start, replacements too.
        lifetimes: How long each works from its start on until it is lost, likewise.
        start: From the beginning of the run to an open bundle.
        replacement: From the loss of a worker to the open bundle of its replacement.
    """

    count: int
    slowdowns: Iterator[float] = field(default_factory=lambda: repeat(1.0))
    lifetimes: Iterator[float] = field(default_factory=lambda: repeat(inf))
    start: float = 0.0
    replacement: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """A simulated run.

    Attributes:
        wall: Seconds.
        efficiency: The seconds that all parts take at full speed, by the seconds of all workers.
        shares: Of the seconds of all workers, what else they went into; with the efficiency, 1.
        n_lost: Workers whose loss was noticed.
        failure: Why the run ended before its last part, if it did.
    """

    wall: float
    efficiency: float
    shares: dict[str, float]
    n_lost: int
    failure: str | None = None

    @property
    def bound(self) -> str:
        """What the run's time is due to: full workers, or what takes most of their time else."""
        return (
            "workers" if self.efficiency >= 0.9 else max(self.shares, key=self.shares.__getitem__)
        )


def simulate(seconds: Sequence[float], workers: Workers, driver: Driver) -> Outcome:
    """Run `RayEngine` over parts that take so many seconds at full speed."""
    ray = _SimulatedRay(workers, driver, len(seconds))
    engine: RayEngine[_Part, _Part] = RayEngine(
        ray, _no_worker, EngineSettings(kind="ray"), workers.count
    )
    written, failure = 0.0, None
    try:
        # As `write_parts` does it.
        for _ in engine.results(ray.read(seconds), lambda done: None):
            ray.advance(written, DRIVER)
            written = ray.now + driver.write
    except WorkerDiedError as error:
        failure = str(error)
    ray.advance(written, DRIVER)
    return ray.outcome(sum(seconds), failure)


@dataclass(frozen=True)
class _Part:
    seconds: float

    def __len__(self) -> int:
        return 1


@dataclass(eq=False)
class _Ref:
    """What ends at a time, with a result or with an error."""

    ends: float
    outcome: Any


def _no_worker(index: int) -> Any:
    raise AssertionError("simulated workers are not made")


class _Actor:
    def __init__(self, ray: "_SimulatedRay", number: int) -> None:
        workers = ray.workers
        self._ray, self._number = ray, number
        self._slowdown, self._lifetime = next(workers.slowdowns), next(workers.lifetimes)
        replaces = number >= workers.count
        self._start = workers.replacement if replaces else workers.start
        self._cause = LOSSES if replaces else START
        self._dies = inf
        self.start = SimpleNamespace(remote=self._started)
        self.work = SimpleNamespace(remote=self._worked)

    def _started(self, make_worker: Any, version: str) -> _Ref:
        now = self._ray.now
        ends = now + self._start
        self._dies = ends + self._lifetime
        self._ray.busy.append((now, ends, self._cause))
        return _Ref(ends, f"node {self._number}")

    def _worked(self, part: _Part) -> _Ref:
        now = self._ray.now
        fast, ends = now + part.seconds, now + part.seconds * self._slowdown
        if self._dies < ends:
            ends = max(now, self._dies)
            self._ray.busy.append((now, ends, LOSSES))
            self._ray.n_lost += 1
            return _Ref(ends, _ERRORS.NodeDiedError())
        self._ray.busy += [(now, fast, ""), (fast, ends, SLOW)]
        return _Ref(ends, part)


class _RayError(Exception):
    pass


_NAMES = ("ActorUnavailable", "ObjectLost", "NodeDied", "OutOfMemory", "RayActor", "RayTask")
_ERRORS = SimpleNamespace(
    RayError=_RayError, **{f"{name}Error": type(name, (_RayError,), {}) for name in _NAMES}
)


class _SimulatedRay:
    """What the engine calls of the module."""

    exceptions = _ERRORS

    def __init__(self, workers: Workers, driver: Driver, n_parts: int) -> None:
        self.workers = workers
        self.now = 0.0
        self.busy: list[tuple[float, float, str]] = []  # of workers: from, to, into what
        self.n_lost = 0
        self._driver = driver
        self._spent: list[tuple[float, float, str]] = []  # of the driver: from, to, why
        self._n_unread = n_parts
        self._n_actors = 0

    def read(self, seconds: Sequence[float]) -> Iterator[_Part]:
        """The parts as `prefetch` gives them."""
        ready = self.now + self._driver.read
        for each in seconds:
            self.advance(ready, DRIVER)
            ready = self.now + self._driver.read
            self._n_unread -= 1
            yield _Part(each)

    def advance(self, to: float, why: str) -> None:
        if to > self.now:
            self._spent.append((self.now, to, why))
            self.now = to

    def put(self, value: Any) -> Any:
        if isinstance(value, _Part):
            self.advance(self.now + self._driver.send, DRIVER)
        return value

    def remote(self, **resources: Any) -> Any:
        return lambda cls: SimpleNamespace(remote=self._new_actor)

    def wait(self, awaited: list[_Ref], timeout: float) -> tuple[list[_Ref], list[_Ref]]:
        """The first that ends; without a time-out, after which the engine only waits again."""
        first = min(awaited, key=lambda ref: ref.ends)
        self.advance(first.ends, ORDER if self._n_unread else LAST)
        return [first], [ref for ref in awaited if ref is not first]

    def get(self, ref: _Ref) -> Any:
        if isinstance(ref.outcome, Exception):
            raise ref.outcome
        return ref.outcome

    def kill(self, actor: _Actor) -> None:
        """Nothing: a simulated actor is lost already, or its run has ended."""

    def outcome(self, full_speed: float, failure: str | None) -> Outcome:
        """What came of it. Idle time of workers is due to what the driver did at that time."""
        whole = self.workers.count * self.now
        if not whole or failure:
            return Outcome(self.now, 0.0, dict.fromkeys(CAUSES, 0.0), self.n_lost, failure)
        shares = dict.fromkeys(CAUSES, 0.0)
        for begin, end, cause in self.busy:
            if cause:
                shares[cause] += (min(end, self.now) - min(begin, self.now)) / whole
        busy_until = _cumulative(self.busy)
        for begin, end, cause in self._spent:
            idle = self.workers.count * (end - begin) - (busy_until(end) - busy_until(begin))
            shares[cause] += max(idle, 0.0) / whole  # rounding may leave less than nothing
        return Outcome(self.now, full_speed / whole, shares, self.n_lost, None)

    def _new_actor(self) -> _Actor:
        self._n_actors += 1
        return _Actor(self, self._n_actors - 1)


def _cumulative(intervals: list[tuple[float, float, str]]) -> Any:
    """The length of all intervals up to a time, as a function of it."""
    begins, ends = (np.array([each[side] for each in intervals]) for side in (0, 1))
    times = np.concatenate([begins, ends])
    order = np.argsort(times, kind="stable")
    times = times[order]
    active = np.cumsum(np.repeat([1, -1], len(intervals))[order])
    lengths = np.concatenate([[0.0], np.cumsum(active[:-1] * np.diff(times))])
    return lambda time: float(np.interp(time, times, lengths))
