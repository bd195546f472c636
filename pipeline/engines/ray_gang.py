"""A gang of workers on a Ray cluster: they work all together, or not at all.

When one of them is lost, all are ended, and a new gang goes on from what the last one has reached.
"""

import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.config.engine_section import EngineSettings
from pipeline.engines.base import WorkerDiedError
from pipeline.engines.ray_cluster import deferred_sigterm
from pipeline.engines.ray_place import LOOK, Patience, Place, WorkerLostError, end_actor, outcome
from pipeline.version import fearec_version

_log = logging.getLogger(__name__)

_MOST_LOSSES = 3  # without anything reached between them
_GRACE = 10.0  # seconds for the others: for a cause of the loss to show, or to end by themselves


class PeerLostError(WorkerLostError):
    """A worker could not reach another one; that one's end, or error, is the cause."""


@dataclass(frozen=True)
class Seat:
    """A worker's place in its gang.

    Attributes:
        rank: The worker's number, from 0.
        size: The number of workers.
        host: The address of the first worker's node.
        port: A port there that was free.
        attempt: The number of the gang, from 1; earlier ones have ended, or cannot be reached.
    """

    rank: int
    size: int
    host: str
    port: int
    attempt: int


@dataclass(frozen=True)
class RayGang:
    """Workers that are started together, and called at the same time.

    Attributes:
        ray: The module, connected.
        make_worker: Makes a worker, once per actor; it is given 0, must pickle, and is sent to
            every node once. The worker is called with its `Seat` and what was reached before, and
            raises `PeerLostError` where another one is gone.
        settings: The resources of a worker.
        size: The number of workers.
        look: Called every second, on the driver.
    """

    ray: Any
    make_worker: Callable[[int], Callable[[Seat, Any], Any]]
    settings: EngineSettings
    size: int
    look: Callable[[], None]

    def run(self, reached: Callable[[], Any]) -> Any:
        """Let the gang work to its end; returns the first worker's result.

        Args:
            reached: What the work goes on from, read before each start. Losses between which it
                stays the same count together.

        Raises:
            WorkerDiedError: three workers were lost, and nothing was reached between them.
            ConfigError: the cluster has no room, or another version of fearec is there.
            Exception: what a worker raised.
        """
        with deferred_sigterm():
            make_worker = self.ray.put(self.make_worker)
        before, losses, attempt = reached(), 0, 1
        while True:
            try:
                return self._attempt(make_worker, before, attempt)
            except WorkerLostError as loss:
                now = reached()
                losses = losses + 1 if now == before else 1
                if losses == _MOST_LOSSES:
                    raise WorkerDiedError(f"{losses} workers were lost in a row: {loss}") from None
                message = "a worker on the Ray cluster is lost: %s; all of them start again"
                _log.warning(message, loss)
                before, attempt = now, attempt + 1

    def _attempt(self, make_worker: Any, before: Any, attempt: int) -> Any:
        settings = self.settings
        member = self.ray.remote(
            num_cpus=settings.num_cpus, num_gpus=settings.num_gpus, max_restarts=0
        )(_Member)
        handles: list[Any] = []
        try:
            with deferred_sigterm():
                for _ in range(self.size):
                    handles.append(member.remote())
            self._start(handles, make_worker)
            # Now, as a port that was free minutes ago may not be.
            host, port = self._first_result([handles[0].address.remote()])
            with deferred_sigterm():
                given = self.ray.put(before)
            seats = (Seat(rank, self.size, host, port, attempt) for rank in range(self.size))
            return self._first_result(
                [
                    handle.join.remote(seat, given)
                    for handle, seat in zip(handles, seats, strict=True)
                ]
            )
        finally:
            with deferred_sigterm():
                for handle in handles:
                    end_actor(self.ray, handle)

    def _start(self, handles: list[Any], make_worker: Any) -> None:
        starting = [handle.start.remote(fearec_version(), (make_worker,)) for handle in handles]
        patience = Patience(self.ray, self.settings, "train_workers")
        while starting:
            ready, starting = self._wait(starting)
            for ref in ready:
                outcome(self.ray, ref)
                patience.check(0)  # anew for the others
            patience.check(len(starting))

    def _first_result(self, refs: list[Any]) -> Any:
        """The result of the first of some calls at the same time.

        Raises:
            WorkerLostError: a worker is lost; where any of the others says why, that is raised.
            Exception: what any of the workers raised.
        """
        first, results = refs[0], {}
        losses: list[WorkerLostError] = []
        waiting, end = refs, float("inf")
        while waiting and time.monotonic() < end:
            ready, waiting = self._wait(waiting)
            for ref in ready:
                try:
                    results[ref] = outcome(self.ray, ref)
                except WorkerLostError as loss:
                    losses.append(loss)
            if losses or first in results:
                end = min(end, time.monotonic() + _GRACE)
        if first in results:
            return results[first]
        raise min(losses, key=lambda loss: isinstance(loss, PeerLostError))

    def _wait(self, refs: list[Any]) -> tuple[list[Any], list[Any]]:
        """Wait a moment for any of some results; those that are there, and the others."""
        with deferred_sigterm():
            ready, waiting = self.ray.wait(refs, timeout=LOOK)
        self.look()
        return ready, waiting


class _Member(Place):
    """An actor: a worker of a gang."""

    def address(self) -> tuple[str, int]:
        """The address of the node, and a free port there."""
        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    def join(self, seat: Seat, before: Any) -> Any:
        """The worker's result."""
        return self._worker(seat, before)
