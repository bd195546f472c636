"""A gang of workers without a cluster: what is raised, what is tried again, and who is ended."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config.engine_section import EngineSettings
from pipeline.engines import ray_gang, ray_place
from pipeline.engines.base import WorkerDiedError
from pipeline.engines.ray_gang import PeerLostError, RayGang, Seat
from pipeline.engines.ray_place import WorkerLostError
from pipeline.errors import ConfigError

NEVER = object()  # the outcome of a call that hangs
ERRORS = (
    "ActorUnavailableError", "ObjectLostError", "NodeDiedError", "RayTaskError",
    "OutOfMemoryError", "RayActorError", "RayError",
)  # fmt: skip


@dataclass(frozen=True)
class Late:
    """An outcome that is there some looks later."""

    value: Any


@dataclass(eq=False)
class Call:
    """A call of an actor's method, as the reference to its result."""

    value: Any
    looks: int = 0

    def is_ready(self) -> bool:
        self.looks += 1
        return self.value is not NEVER and (not isinstance(self.value, Late) or self.looks > 5)


class FakeRay:
    """The module `ray`, whose actors have the outcomes that a function says.

    Args:
        worker: The result of a worker, or the exception that it ends by.
        room: The number of actors that start.
    """

    exceptions = SimpleNamespace(**{name: type(name, (Exception,), {}) for name in ERRORS})

    def __init__(self, worker: Callable[[Seat, Any], Any], room: int = 99) -> None:
        self.worker = worker
        self.room = room
        self.begun: list[Any] = []
        self.ended: list[Any] = []

    def remote(self, **resources: Any) -> Any:
        return lambda kind: SimpleNamespace(remote=self._start)

    def _start(self) -> Any:
        node = "node" if len(self.begun) - len(self.ended) < self.room else NEVER

        def method(outcome: Callable[..., Any]) -> Any:
            return SimpleNamespace(remote=lambda *given: Call(outcome(*given)))

        actor = SimpleNamespace(
            start=method(lambda *given: node),
            address=method(lambda: ("host", 7)),
            join=method(self.worker),
        )
        self.begun.append(actor)
        return actor

    def put(self, value: Any) -> Any:
        return value

    def wait(self, refs: list[Call], timeout: float) -> tuple[list[Call], list[Call]]:
        time.sleep(0.001)
        ready = [ref for ref in refs if ref.is_ready()]
        return ready, [ref for ref in refs if ref not in ready]

    def get(self, ref: Call) -> Any:
        value = ref.value.value if isinstance(ref.value, Late) else ref.value
        if isinstance(value, BaseException):
            raise value
        return value

    def kill(self, handle: Any) -> None:
        self.ended.append(handle)

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(self.room)}


@pytest.fixture(autouse=True)
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_gang, "_GRACE", 0.1)
    monkeypatch.setattr(ray_place, "_PATIENCE", 0.1)


def run(ray: FakeRay, reached: Callable[[], Any] = lambda: 0, size: int = 2) -> Any:
    no_worker: Any = None
    gang = RayGang(ray, no_worker, EngineSettings(kind="ray"), size, lambda: None)
    try:
        return gang.run(reached)
    finally:
        assert ray.ended == ray.begun  # all of them, in any case


def test_the_first_workers_result_is_the_gangs() -> None:
    seats: list[Seat] = []

    def worker(seat: Seat, before: Any) -> Any:
        seats.append(seat)
        return seat.rank, before

    assert run(FakeRay(worker), lambda: "begun", size=3) == (0, "begun")
    assert seats == [Seat(rank, 3, "host", 7, 1) for rank in range(3)]


@pytest.mark.parametrize("late", [False, True])
def test_a_workers_error_is_raised_not_what_follows_from_it(late: bool) -> None:
    def worker(seat: Seat, before: Any) -> Any:
        if seat.rank:
            return Late(ValueError("diverged")) if late else ValueError("diverged")
        return PeerLostError("connection closed")

    ray = FakeRay(worker)
    with pytest.raises(ValueError, match="diverged"):
        run(ray)
    assert len(ray.begun) == 2


def test_a_gang_whose_worker_is_lost_goes_on_from_what_was_reached(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def worker(seat: Seat, before: Any) -> Any:
        if seat.attempt == 2:
            return before
        return WorkerLostError("killed") if seat.rank else PeerLostError("connection closed")

    reached = iter(["nothing", "an epoch"])
    assert run(FakeRay(worker), lambda: next(reached)) == "an epoch"
    assert caplog.messages == [
        "a worker on the Ray cluster is lost: killed; all of them start again"
    ]


def test_survivors_that_hang_are_ended() -> None:
    def worker(seat: Seat, before: Any) -> Any:
        if seat.attempt == 2:
            return "done"
        return WorkerLostError("killed") if seat.rank else NEVER

    assert run(FakeRay(worker)) == "done"


def test_one_that_hangs_at_its_end_is_not_waited_for() -> None:
    assert run(FakeRay(lambda seat, before: NEVER if seat.rank else "done")) == "done"


def test_three_losses_end_the_run_unless_something_was_reached_between_them() -> None:
    ray = FakeRay(lambda seat, before: WorkerLostError("killed"))
    with pytest.raises(WorkerDiedError, match="3 workers were lost in a row: killed"):
        run(ray)
    assert len(ray.begun) == 3 * 2

    progress = iter([0, 0, 0, 1, 1, 2, 2, 2])

    def worker(seat: Seat, before: Any) -> Any:
        return "done" if seat.attempt == 7 else WorkerLostError("killed")

    assert run(FakeRay(worker), lambda: next(progress)) == "done"


def test_too_little_room_is_one_line() -> None:
    expected = r"no worker has started.*1 workers of 1 cores.*2 cores.*or train_workers\."
    with pytest.raises(ConfigError, match=expected):
        run(FakeRay(lambda seat, before: "done", room=2), size=3)
