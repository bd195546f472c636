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
    """Workers ended before they returned the result of a part; the message says how, in one line.

    It is raised where nobody else can compute the part.
    """


class Engine(Protocol[PartIn, ResultOut]):
    """An ordered map of a worker over parts.

    A worker is made once per place, a process or this one, when the first part arrives there.
    """

    @property
    def count(self) -> int:
        """The largest number of workers at a time."""

    def results(
        self, parts: Iterable[PartIn], progress: Progress
    ) -> Generator[ResultOut, None, None]:
        """The results in the order of the parts, which are read as workers become free.

        Closing the generator ends all work: nothing goes on in other processes.

        Raises:
            WorkerDiedError: see there.
            Exception: whatever a worker or `parts` raises, where its result would have come.
        """


@dataclass(frozen=True)
class SameProcess(Generic[Part, Result]):
    """The engine that calls one worker in this process, part by part.

    Attributes:
        worker: The worker; it calls `progress` itself, as often as it likes.
    """

    worker: Worker[Part, Result]

    @property
    def count(self) -> int:
        """One."""
        return 1

    def results(self, parts: Iterable[Part], progress: Progress) -> Generator[Result, None, None]:
        """See `Engine`."""
        return (self.worker(part, progress) for part in parts)


def already_made(worker: Item, index: int) -> Item:
    """Make the worker of a place: this one, which is sent there as it is."""
    return worker


def prefetch(source: Iterator[Item]) -> Generator[Item, None, None]:
    """The items of `source`, none of them None; each is made in a thread while the last is used."""
    with ThreadPoolExecutor(1) as maker:
        upcoming = maker.submit(next, source, None)
        while (item := upcoming.result()) is not None:
            upcoming = maker.submit(next, source, None)
            yield item
