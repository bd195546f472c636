"""An actor's place on a Ray cluster: the wait for it, the worker in it, what became of its work."""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pipeline.config.engine_section import EngineSettings
from pipeline.engines.ray_cluster import deferred_sigterm
from pipeline.errors import ConfigError, MemoryShortError
from pipeline.version import fearec_version

_log = logging.getLogger(__name__)

LOOK = 1.0  # seconds to wait for anything at a time, after which signals are noticed too
_WARNING, _PATIENCE = 60.0, 900.0  # seconds; a cloud's nodes take minutes to come
_UNITS = {"CPU": "cores", "GPU": "GPUs"}


class WorkerLostError(Exception):
    """An actor did not return its result, but another one may; the message says why."""

    def __init__(self, reason: str, *, with_node: bool = False) -> None:
        super().__init__(reason)
        self.with_node = with_node


class Place:
    """An actor: a worker in a process of the cluster."""

    def start(self, version: str, make_worker: tuple[Any]) -> str:
        """Make the worker; returns the id of the node.

        Args:
            version: The driver's.
            make_worker: The reference to what makes a worker; Ray reads none within a tuple by
                itself, and another version may not be able to.

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
        import ray

        self._worker: Callable[..., Any] = ray.get(make_worker[0])(0)
        return ray.get_runtime_context().get_node_id()

    def work(self, part: Any) -> Any:
        """The worker's result for a part."""
        return self._worker(part, lambda done: None)


def outcome(ray: Any, ref: Any) -> Any:
    """What an actor's method returned.

    Args:
        ray: The module, connected.
        ref: The reference to it.

    Raises:
        WorkerLostError: the actor, its memory or its node is gone.
        Exception: what it raised.
    """
    errors = ray.exceptions
    gone = (errors.ActorUnavailableError, errors.ObjectLostError, errors.NodeDiedError)
    try:
        with deferred_sigterm():
            return ray.get(ref)
    except errors.RayTaskError as error:
        if isinstance(error.cause, MemoryError | MemoryShortError):
            raise WorkerLostError("its memory ran out") from None
        if not isinstance(error.cause, gone):  # or else while it fetched something
            raise error.cause from None
    except errors.OutOfMemoryError:
        raise WorkerLostError("its node was short of memory") from None
    except (errors.RayActorError, *gone) as error:
        if not isinstance(error, gone) and "its node has died" not in str(error):
            reason = "the system ended it, as it does when memory runs out"
            raise WorkerLostError(reason) from None
    raise WorkerLostError("its node is gone", with_node=True)


def end_actor(ray: Any, handle: Any) -> None:
    """End an actor's process, whatever it is at."""
    with suppress(ray.exceptions.RayError, ValueError):
        ray.kill(handle)


class Patience:
    """The wait for actors to start.

    Args:
        ray: The module, connected.
        settings: The resources of an actor.
        number: The setting that says how many must start.
    """

    def __init__(self, ray: Any, settings: EngineSettings, number: str) -> None:
        self._ray = ray
        self._settings = settings
        self._number = number
        self._lacking_since: float | None = None
        self._warned = False

    def check(self, lacking: int) -> None:
        """Check that they come in time; `lacking` is the number of those that are waited for.

        Raises:
            ConfigError: none has come for minutes.
        """
        if not lacking:
            self._lacking_since = None
            return
        now = time.monotonic()
        if self._lacking_since is None:
            self._lacking_since = now
        waited = now - self._lacking_since
        if waited > _WARNING and not self._warned:
            expected, found = self._in_words(lacking)
            _log.warning("waiting for %s on the Ray cluster, which has %s", expected, found)
            self._warned = True
        if waited > _PATIENCE:
            expected, found = self._in_words(lacking)
            raise ConfigError(
                f"no worker has started on the Ray cluster for {waited / 60:.0f} minutes",
                "engine",
                expected=expected,
                found=found,
                remedy=f"Add nodes, or lower engine.num_cpus, num_gpus or {self._number}.",
            )

    def _in_words(self, lacking: int) -> tuple[str, str]:
        """The resources that are waited for, and those of the cluster."""
        settings, there = self._settings, self._ray.cluster_resources()
        room = (f"{there.get(name, 0):.0f} {unit}" for name, unit in _UNITS.items())
        each = f"{settings.num_cpus} cores and {settings.num_gpus} GPUs"
        return f"{lacking} workers of {each}", " and ".join(room)
