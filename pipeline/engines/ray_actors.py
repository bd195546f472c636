"""The actors of `RayEngine`: started, given parts, replaced when they die, and ended."""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.config.engine_section import EngineSettings
from pipeline.engines.base import Worker, WorkerDiedError
from pipeline.engines.ray_cluster import deferred_sigterm
from pipeline.engines.ray_place import LOOK, Patience, Place, WorkerLostError, end_actor, outcome
from pipeline.version import fearec_version

_log = logging.getLogger(__name__)

_MOST_LOSSES = 3  # of actors that start, one after another


@dataclass(eq=False)
class RayActor:
    """An actor, and the id of its node once it has started."""

    handle: Any
    node: str | None = None


class RayActors:
    """Actors with a worker each.

    Args:
        ray: The module, connected.
        make_worker: See `RayEngine`.
        settings: The resources of an actor, and how many must be there for the first part.
        count: The number of actors; those that find no room yet wait for it.
    """

    def __init__(
        self,
        ray: Any,
        make_worker: Callable[[int], Worker[Any, Any]],
        settings: EngineSettings,
        count: int,
    ) -> None:
        self._ray = ray
        self._settings = settings
        self._class = ray.remote(
            num_cpus=settings.num_cpus, num_gpus=settings.num_gpus, max_restarts=0
        )(Place)
        self._make_worker = ray.put(make_worker)
        # By the reference to what they are at.
        self._starting: dict[Any, RayActor] = {}
        self._at_work: dict[Any, RayActor] = {}
        self._idle: deque[RayActor] = deque()
        self._lost_in_start = 0
        self._lacking = settings.min_workers
        self._patience = Patience(ray, settings, "min_workers")
        for _ in range(count):
            self._start()

    def take_idle(self) -> RayActor | None:
        """An actor without work; None where there is none, or too few have started."""
        return self._idle.popleft() if self._idle and not self._lacking else None

    def work(self, actor: RayActor, part: Any) -> Any:
        """Let an actor compute a part; returns the reference to its result."""
        result = actor.handle.work.remote(part)
        self._at_work[result] = actor
        return result

    def wait(self) -> list[Any]:
        """Wait for a result or for an actor, a second at most; returns the results that are there.

        Raises:
            WorkerDiedError: too few actors are left, and none can be started.
            ConfigError: none finds room on the cluster, or another version of fearec is there.
            Exception: what making a worker raised.
        """
        awaited = [*self._at_work, *self._starting]
        if not awaited:
            raise WorkerDiedError("workers on the Ray cluster are lost as they start")
        with deferred_sigterm():
            ready, _ = self._ray.wait(awaited, timeout=LOOK)
        for ref in ready:
            if ref in self._starting:
                self._started(ref)
        has_enough = (self._idle or self._at_work) and not self._lacking
        self._patience.check(0 if has_enough else max(1, self._lacking))
        return [ref for ref in ready if ref in self._at_work]

    def result(self, ref: Any) -> Any:
        """A result that is there; its actor is idle then, or replaced.

        Raises:
            WorkerLostError: the actor, its memory or its node is gone.
            Exception: what the worker raised.
        """
        actor = self._at_work.pop(ref)
        try:
            result = outcome(self._ray, ref)
        except WorkerLostError as loss:
            self._replace(actor)
            if loss.with_node:
                for other in [each for each in self._idle if each.node == actor.node]:
                    self._idle.remove(other)
                    self._replace(other)
            raise
        self._idle.append(actor)
        return result

    def end(self) -> None:
        """End all actors, whatever they are at."""
        for actor in (*self._starting.values(), *self._idle, *self._at_work.values()):
            end_actor(self._ray, actor.handle)

    def _start(self) -> None:
        handle = self._class.remote()
        ref = handle.start.remote(fearec_version(), (self._make_worker,))
        self._starting[ref] = RayActor(handle)

    def _replace(self, actor: RayActor) -> None:
        end_actor(self._ray, actor.handle)  # one that cannot be reached may still run
        self._start()

    def _started(self, ref: Any) -> None:
        actor = self._starting.pop(ref)
        try:
            actor.node = outcome(self._ray, ref)
        except WorkerLostError as loss:
            _log.warning("a worker on the Ray cluster is lost as it starts: %s", loss)
            self._lost_in_start += 1
            if self._lost_in_start < _MOST_LOSSES:
                self._replace(actor)
            else:
                end_actor(self._ray, actor.handle)
            return
        self._lost_in_start = 0
        self._idle.append(actor)
        self._lacking = max(0, self._lacking - 1)
