"""The interface of engines: an ordered map of a worker over parts.

A *worker* turns one part into one result. An engine calls workers, one or several at a time, here
or in other processes, and yields the results in the order of the parts.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Item = TypeVar("Item")
Part = TypeVar("Part", bound=Sized)
PartIn = TypeVar("PartIn", bound=Sized, contravariant=True)
Result = TypeVar("Result")
ResultOut = TypeVar("ResultOut", covariant=True)

# Takes the number of a part's elements that were done since its last call.
Progress = Callable[[int], None]

Worker = Callable[[Part, Progress], Result]


class WorkerDiedError(Exception):
    """A worker's process ended before it returned its result."""


class Engine(Protocol[PartIn, ResultOut]):
    """An ordered map of a worker over parts."""

    def results(
        self, parts: Iterable[PartIn], progress: Progress
    ) -> Generator[ResultOut, None, None]:
        """The results in the order of the parts, which are read as workers become free.

        Raises:
            WorkerDiedError: a worker's process ended before its result came back.
            Exception: whatever a worker or `parts` raises, where its result would have come.
        """


@dataclass(frozen=True)
class SameProcess(Generic[Part, Result]):
    """The engine that calls one worker in this process, part by part.

    Attributes:
        worker: The worker; it calls `progress` itself, as often as it likes.
    """

    worker: Worker[Part, Result]

    def results(self, parts: Iterable[Part], progress: Progress) -> Generator[Result, None, None]:
        """See `Engine`."""
        return (self.worker(part, progress) for part in parts)


def prefetch(source: Iterator[Item]) -> Generator[Item, None, None]:
    """The items of `source`, none of them None; each is made in a thread while the last is used."""
    with ThreadPoolExecutor(1) as maker:
        upcoming = maker.submit(next, source, None)
        while (item := upcoming.result()) is not None:
            upcoming = maker.submit(next, source, None)
            yield item
