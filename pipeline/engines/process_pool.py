"""Several devices: a process each ranks whole parts, which come back in their order."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from multiprocessing.queues import SimpleQueue

from pipeline.engines.own_process import end_with_parent
from pipeline.errors import PublishError
from pipeline.scoring.output_rows import Ranked
from pipeline.scoring.scorer import ListScorer
from pipeline.scoring.user_histories import UserHistories

# Takes a device's id.
MakeScorer = Callable[[int], ListScorer]


@dataclass(frozen=True)
class Devices:
    """Ranks parts on `count` devices at once.

    Attributes:
        make: Opens the scorer of a device; it travels to other processes.
        count: Devices 0 to count - 1.
        top_k: K.
    """

    make: MakeScorer
    count: int
    top_k: int

    def ranked(
        self, parts: Iterable[UserHistories], scored: Callable[[int], None]
    ) -> Generator[Ranked, None, None]:
        """The best items of each part's users; `scored` is told when a part is done.

        Raises:
            PublishError: a process died.
        """
        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        free: SimpleQueue[int] = context.SimpleQueue()
        for device in range(self.count):
            free.put(device)
        running: deque[Future[Ranked]] = deque()
        with ProcessPoolExecutor(self.count, context, _begin, (self.make, free)) as pool:

            def first() -> Ranked:
                try:
                    ranked = running.popleft().result()
                except BrokenProcessPool:
                    raise PublishError(
                        "a scoring process died, for want of memory perhaps",
                        remedy="Finished parts are kept: run again with --resume.",
                    ) from None
                scored(len(ranked.user_id))
                return ranked

            try:
                for part in parts:
                    running.append(pool.submit(_rank, part))
                    if len(running) > self.count:  # one more waits for the first to be free
                        yield first()
                while running:
                    yield first()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


# In a process of its own.


def _begin(make: MakeScorer, free: "SimpleQueue[int]") -> None:
    global _open
    end_with_parent()  # a killed run must not leave its devices taken

    @cache
    def opened() -> ListScorer:  # where an error reaches the caller, unlike here
        return make(free.get())

    _open = opened


def _rank(part: UserHistories) -> Ranked:
    return _open().rank(part, lambda users: None)


_open: Callable[[], ListScorer]
