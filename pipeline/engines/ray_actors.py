"""The actors of `RayEngine`: started, given parts, replaced when they die, and ended."""

import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pipeline.config.engine_section import EngineSettings
from pipeline.engines.base import Worker, WorkerDiedError
from pipeline.engines.ray_cluster import deferred_sigterm
from pipeline.errors import ConfigError, MemoryShortError
from pipeline.version import fearec_version

_log = logging.getLogger(__name__)

_MOST_LOSSES = 3  # of actors that start, one after another
_WARNING, _PATIENCE = 60.0, 900.0  # seconds; a cloud's nodes take minutes to come
_LOOK = 1.0  # seconds, after which signals are noticed too


class WorkerLostError(Exception):
    """An actor did not return its result, but another one may; the message says why."""

    def __init__(self, reason: str, *, with_node: bool = False) -> None:
        super().__init__(reason)
        self.with_node = with_node


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
        )(_Place)
        self._make_worker = ray.put(make_worker)
        # By the reference to what they are at.
        self._starting: dict[Any, RayActor] = {}
        self._at_work: dict[Any, RayActor] = {}
        self._idle: deque[RayActor] = deque()
        self._lost_in_start = 0
        self._lacking = settings.min_workers
        self._lacking_since: float | None = None
        self._warned = False
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
            ready, _ = self._ray.wait(awaited, timeout=_LOOK)
        for ref in ready:
            if ref in self._starting:
                self._started(ref)
        self._check_patience()
        return [ref for ref in ready if ref in self._at_work]

    def result(self, ref: Any) -> Any:
        """A result that is there; its actor is idle then, or replaced.

        Raises:
            WorkerLostError: the actor, its memory or its node is gone.
            Exception: what the worker raised.
        """
        actor = self._at_work.pop(ref)
        try:
            result = self._outcome(ref)
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
            self._end(actor)

    def _start(self) -> None:
        handle = self._class.remote()
        ref = handle.start.remote(self._make_worker, fearec_version())
        self._starting[ref] = RayActor(handle)

    def _end(self, actor: RayActor) -> None:
        with suppress(self._ray.exceptions.RayError, ValueError):
            self._ray.kill(actor.handle)

    def _replace(self, actor: RayActor) -> None:
        self._end(actor)  # one that cannot be reached may still run
        self._start()

    def _started(self, ref: Any) -> None:
        actor = self._starting.pop(ref)
        try:
            actor.node = self._outcome(ref)
        except WorkerLostError as loss:
            _log.warning("a worker on the Ray cluster is lost as it starts: %s", loss)
            self._lost_in_start += 1
            if self._lost_in_start < _MOST_LOSSES:
                self._replace(actor)
            else:
                self._end(actor)
            return
        self._lost_in_start = 0
        self._idle.append(actor)
        self._lacking = max(0, self._lacking - 1)

    def _outcome(self, ref: Any) -> Any:
        """What an actor's method returned.

        Raises:
            WorkerLostError: the actor, its memory or its node is gone.
            Exception: what it raised.
        """
        errors = self._ray.exceptions
        gone = (errors.ActorUnavailableError, errors.ObjectLostError, errors.NodeDiedError)
        try:
            with deferred_sigterm():
                return self._ray.get(ref)
        except errors.RayTaskError as error:
            if isinstance(error.cause, MemoryError | MemoryShortError):
                raise WorkerLostError("its memory ran out") from None
            raise error.cause from None
        except errors.OutOfMemoryError:
            raise WorkerLostError("its node was short of memory") from None
        except (errors.RayActorError, *gone) as error:
            if isinstance(error, gone) or "its node has died" in str(error):
                raise WorkerLostError("its node is gone", with_node=True) from None
            reason = "the system ended it, as it does when memory runs out"
            raise WorkerLostError(reason) from None

    def _check_patience(self) -> None:
        """Check that workers come in time.

        Raises:
            ConfigError: none has come for minutes.
        """
        if (self._idle or self._at_work) and not self._lacking:
            self._lacking_since = None
            return
        now = time.monotonic()
        if self._lacking_since is None:
            self._lacking_since = now
        waited = now - self._lacking_since
        if waited > _WARNING and not self._warned:
            _log.warning("waiting for %s on the Ray cluster, which has %s", *self._wanted())
            self._warned = True
        if waited > _PATIENCE:
            expected, found = self._wanted()
            raise ConfigError(
                f"no worker has started on the Ray cluster for {waited / 60:.0f} minutes",
                "engine",
                expected=expected,
                found=found,
                remedy="Add nodes, or lower engine.num_cpus, num_gpus or min_workers.",
            )

    def _wanted(self) -> tuple[str, str]:
        """The resources that are waited for, and those of the cluster, in words."""
        settings, there = self._settings, self._ray.cluster_resources()
        room = (f"{there.get(name, 0):.0f} {unit}" for name, unit in _UNITS.items())
        each = f"{settings.num_cpus} cores and {settings.num_gpus} GPUs"
        return f"{max(1, self._lacking)} workers of {each}", " and ".join(room)


_UNITS = {"CPU": "cores", "GPU": "GPUs"}


class _Place:
    """An actor: a worker in a process of the cluster."""

    def start(self, make_worker: Callable[[int], Worker[Any, Any]], version: str) -> str:
        """Make the worker; returns the id of the node.

        Raises:
            ConfigError: the driver has another version.
            Exception: what `make_worker` raises.
        """
        if version != fearec_version():
            raise ConfigError(
                "the nodes of the Ray cluster have another version of fearec",
                "engine.address",
                expected=version,
                found=fearec_version(),
                remedy="Install the same version everywhere.",
            )
        self._worker = make_worker(0)
        import ray

        return ray.get_runtime_context().get_node_id()

    def work(self, part: Any) -> Any:
        """The worker's result for a part."""
        return self._worker(part, lambda done: None)
