"""The ordered map over a cluster's actors, with actors that end and get lost in any order."""

from collections import deque
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.engine_section import EngineSettings
from pipeline.engines.base import WorkerDiedError
from pipeline.engines.ray_engine import RayEngine, _Map
from pipeline.engines.ray_place import WorkerLostError


class FakeActors:
    """`RayActors` without a cluster: whatever chance says ends next, or is lost.

    A part of the text `bad` raises, and one of `lost` is always lost.
    """

    def __init__(self, count: int, chance: Random) -> None:
        self.count = count
        self.idle = deque(range(count))
        self.at_work: dict[int, tuple[int, str]] = {}
        self.chance = chance
        self.n_given = 0
        self.losses: dict[str, int] = {}

    def take_idle(self) -> int | None:
        return self.idle.popleft() if self.idle else None

    def work(self, actor: int, part: str) -> int:
        self.n_given += 1
        self.at_work[self.n_given] = (actor, part)
        assert len(self.at_work) <= self.count
        return self.n_given

    def wait(self) -> list[int]:
        assert self.at_work, "the map waits for nothing"
        some = self.chance.randint(0, len(self.at_work))
        return self.chance.sample(sorted(self.at_work), some)

    def result(self, ref: int) -> str:
        actor, part = self.at_work.pop(ref)
        self.idle.append(actor)
        if part == "lost" or (self.losses.get(part, 0) < 2 and self.chance.random() < 0.2):
            self.losses[part] = self.losses.get(part, 0) + 1
            raise WorkerLostError("gone")
        if part == "bad":
            raise ValueError("a bad part")
        return part.upper()


BAD = st.none() | st.tuples(st.integers(0, 12), st.sampled_from(["bad", "lost"]))


def engine(count: int, **options: Any) -> RayEngine[Any, Any]:
    store = SimpleNamespace(put=lambda part: part, get=lambda ref: ref)
    no_worker: Any = None
    return RayEngine(store, no_worker, EngineSettings(kind="ray"), count, **options)


@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(0, 12), BAD)
def test_results_come_in_order_whatever_ends_first_or_is_lost(
    seed: int, count: int, n_parts: int, bad: tuple[int, str] | None
) -> None:
    parts = [f"part{number}" for number in range(n_parts)]
    if bad and bad[0] < n_parts:
        parts[bad[0]] = bad[1]
    read: list[str] = []
    source = (read.append(part) or part for part in parts)  # type: ignore[func-returns-value]
    actors: Any = FakeActors(count, Random(seed))
    done: list[int] = []
    found = _Map(engine(count), actors, source).results(done.append)
    for part in parts:
        if part == "bad":
            with pytest.raises(ValueError, match="a bad part"):
                next(found)
            return
        if part == "lost":
            with pytest.raises(WorkerDiedError, match="3 workers were lost by one part: gone"):
                next(found)
            assert actors.losses["lost"] == 3
            return
        assert next(found) == part.upper()
        # Those at work, one that waits, and results that wait for this one.
        assert len(read) <= len(done) + 2 * count + 1
    assert next(found, None) is None
    assert done == [len(part) for part in parts]
    assert read == parts
    assert not actors.at_work
    assert actors.n_given == len(parts) + sum(actors.losses.values())


@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(0, 12), st.integers(0, 12))
def test_without_an_order_every_result_comes_once_and_no_result_waits_for_another(
    seed: int, count: int, n_parts: int, lost: int
) -> None:
    parts = ["lost" if number == lost else f"part{number}" for number in range(n_parts)]
    actors: Any = FakeActors(count, Random(seed))
    options = {"in_order": False, "if_lost": lambda part, reason: f"{part}: {reason}"}
    read: list[str] = []
    source = (read.append(part) or part for part in parts)  # type: ignore[func-returns-value]
    found = []
    for result in _Map(engine(count, **options), actors, source).results(lambda size: None):
        found.append(result)
        assert len(read) - len(found) <= 2 * count + 1
    stands_for_it = "lost: 3 workers were lost by one part: gone"
    expected = [stands_for_it if part == "lost" else part.upper() for part in parts]
    assert sorted(found) == sorted(expected)
    assert not actors.at_work
