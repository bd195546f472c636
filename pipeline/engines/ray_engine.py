"""The engine that runs workers on a Ray cluster.

Every worker is an actor, with cores and perhaps a GPU of its own. The driver, which is the process
that reads the results, gives every idle actor the next part. When an actor dies, another one gets
its part, and a new one is started in its place.
"""

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic

from pipeline.config.engine_section import EngineSettings
from pipeline.engines.base import Part, Progress, Result, Worker, WorkerDiedError
from pipeline.engines.ray_actors import RayActors
from pipeline.engines.ray_cluster import connected, deferred_sigterm, room
from pipeline.engines.ray_place import WorkerLostError

_log = logging.getLogger(__name__)

_MOST_LOSSES = 3  # of workers by one part


@dataclass(frozen=True)
class RayEngine(Generic[Part, Result]):
    """The engine that calls workers on a Ray cluster; parts and results must pickle.

    Attributes:
        ray: The module, connected.
        make_worker: Makes a worker, once per actor. It is given 0, as Ray lets an actor see no GPU
            but its own. It must pickle, and is sent to every node once.
        settings: The resources of a worker.
        count: The number of actors.
        in_order: Whether results come in the order of the parts, not as soon as they are there.
        if_lost: Given a part that too many workers were lost by, and how, makes what stands for its
            result; None to raise an error.
    """

    ray: Any
    make_worker: Callable[[int], Worker[Part, Result]]
    settings: EngineSettings
    count: int
    in_order: bool = True
    if_lost: Callable[[Part, str], Result] | None = None

    def results(self, parts: Iterable[Part], progress: Progress) -> Generator[Result, None, None]:
        """See `Engine`; `progress` is called once per part, when its result is there.

        A part is computed per actor, one more waits for the next idle actor, and none is read while
        as many results as there are actors wait for those before them. All these are in Ray's
        object store, which writes to disk what does not fit in its memory.
        """
        actors = RayActors(self.ray, self.make_worker, self.settings, self.count)
        try:
            yield from _Map(self, actors, iter(parts)).results(progress)
        finally:
            actors.end()


@contextmanager
def opened_ray_engine(
    make_worker: Callable[[int], Worker[Part, Result]], settings: EngineSettings
) -> Iterator[RayEngine[Part, Result]]:
    """Connect to the cluster of the settings for as long as the engine is used.

    Raises:
        ConfigError: Ray is not installed, or no cluster answers.
    """
    with connected(settings) as ray:
        most = settings.max_workers
        count = max(settings.min_workers, room(ray, settings)) if most == "auto" else most
        yield RayEngine(ray, make_worker, settings, count)


@dataclass
class _Task:
    """A part on its way; its content is in Ray's object store."""

    number: int
    size: int
    part: Any  # an ObjectRef
    losses: int = 0


class _Map:
    """One map over parts.

    Args:
        engine: How.
        actors: They compute the parts.
        parts: The parts.
    """

    def __init__(
        self, engine: RayEngine[Any, Any], actors: RayActors, parts: Iterator[Any]
    ) -> None:
        self._engine = engine
        self._actors = actors
        self._parts = parts
        self._waiting: deque[_Task] = deque()  # for an actor
        self._running: dict[Any, _Task] = {}
        self._ended: dict[int, Any] = {}  # results, or what was raised instead
        self._n_read = 0
        self._all_read = False

    def results(self, progress: Progress) -> Iterator[Any]:
        """The results of the parts."""
        n_given = 0
        while True:
            self._hand_out()
            number = n_given if self._engine.in_order else min(self._ended, default=-1)
            if number in self._ended:
                size, result = self._ended.pop(number)
                if isinstance(result, BaseException):
                    raise result
                n_given += 1
                progress(size)
                yield result
            elif self._all_read and n_given == self._n_read:
                return
            else:
                self._take(self._actors.wait())

    def _hand_out(self) -> None:
        """Give every idle actor a part as soon as it is read; have one ready for the next."""
        while self._has_part() and (actor := self._actors.take_idle()) is not None:
            task = self._waiting.popleft()
            self._running[self._actors.work(actor, task.part)] = task

    def _has_part(self) -> bool:
        """Whether a part waits for an actor; reads one if none does and more may be read."""
        if self._waiting:
            return True
        if self._all_read or len(self._ended) >= self._engine.count:
            return False
        part = next(self._parts, None)
        if part is None:
            self._all_read = True
            return False
        with deferred_sigterm():
            stored = self._engine.ray.put(part)
        self._waiting.append(_Task(self._n_read, len(part), stored))
        self._n_read += 1
        return True

    def _take(self, ended: list[Any]) -> None:
        """Keep results that are there; a part whose actor is lost comes first in the next turn."""
        for ref in ended:
            task = self._running.pop(ref)
            result: Any
            try:
                result = self._actors.result(ref)
            except WorkerLostError as loss:
                task.losses += 1
                if task.losses < _MOST_LOSSES:
                    message = "a worker on the Ray cluster is lost: %s; another gets its part"
                    _log.warning(message, loss)
                    self._waiting.appendleft(task)
                    continue
                result = self._of_lost(task, f"{task.losses} workers were lost by one part: {loss}")
            except Exception as error:
                result = error
            self._ended[task.number] = (task.size, result)

    def _of_lost(self, task: _Task, reason: str) -> Any:
        if self._engine.if_lost is None:
            return WorkerDiedError(reason)
        return self._engine.if_lost(self._engine.ray.get(task.part), reason)
