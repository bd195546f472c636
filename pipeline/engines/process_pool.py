"""The engine that runs several processes, each with a worker and a device of its own."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from multiprocessing.context import SpawnContext
from multiprocessing.queues import SimpleQueue
from typing import Any, Generic

from model.process_logs import ProcessLogs
from pipeline.engines.base import Part, Progress, Result, Worker, WorkerDiedError
from pipeline.engines.own_process import end_with_parent


@dataclass(frozen=True)
class ProcessPool(Generic[Part, Result]):
    """The engine that calls workers in `count` processes at once; parts and results must pickle.

    Attributes:
        make_worker: Makes a process's worker, once, when its first part arrives. It is given the
            index of the process, from 0, which serves as the id of its device. It must pickle.
        count: The number of processes.
    """

    make_worker: Callable[[int], Worker[Part, Result]]
    count: int

    def results(self, parts: Iterable[Part], progress: Progress) -> Generator[Result, None, None]:
        """See `Engine`; `progress` is called once per part, when its result is there."""
        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        indices: SimpleQueue[int] = context.SimpleQueue()
        for index in range(self.count):
            indices.put(index)
        running: deque[tuple[int, Future[Result]]] = deque()
        with ProcessLogs() as logs, self._pool(context, indices, logs) as pool:

            def oldest() -> Result:
                size, future = running.popleft()
                try:
                    result = future.result()
                except BrokenProcessPool:
                    raise WorkerDiedError(
                        "the system ended it, as it does when memory runs out"
                    ) from None
                progress(size)
                return result

            try:
                for part in parts:
                    running.append((len(part), _submitted(pool, part)))
                    if len(running) > self.count:  # one part waits for the first free process
                        yield oldest()
                while running:
                    yield oldest()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _pool(
        self, context: SpawnContext, indices: "SimpleQueue[int]", logs: ProcessLogs
    ) -> ProcessPoolExecutor:
        initial = (self.make_worker, indices, logs)
        return ProcessPoolExecutor(self.count, context, _start, initial)


def _submitted(pool: ProcessPoolExecutor, part: Any) -> Future[Any]:
    """A part's future; where a process has died already, one that fails in its turn."""
    try:
        return pool.submit(_work, part)
    except BrokenProcessPool as error:
        failed: Future[Any] = Future()
        failed.set_exception(error)
        return failed


# The rest runs in a process of the pool.


def _start(
    make_worker: Callable[[int], Worker[Any, Any]], indices: "SimpleQueue[int]", logs: ProcessLogs
) -> None:
    global _worker
    end_with_parent()  # or a killed run would keep its devices
    logs.connect()
    index = indices.get()
    _worker = cache(lambda: make_worker(index))  # called in `_work`, whose errors reach the caller


def _work(part: Any) -> Any:
    return _worker()(part, lambda done: None)


_worker: Callable[[], Worker[Any, Any]]
