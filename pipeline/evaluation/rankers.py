"""Rankers: the best items of some users, by the scores of all items or by less."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from model.network.fearec import FEARec
from model.ranking import top_items
from pipeline.engines.base import Progress

# item_seq int64 (B, L) and item_seq_len int64 (B,) to scores (B, V), which may be changed.
Scorer = Callable[[Tensor, Tensor], Tensor]


class UserInputs(NamedTuple):
    """What is known of S users before the test, who all have a history."""

    item_seq: Tensor  # int64 (S, L)
    item_seq_len: Tensor  # int64 (S,)
    seen: tuple[Tensor, Tensor] | None  # rows of S, and items that these users may not get


class BestItems(NamedTuple):
    """Lists of S users."""

    items: Tensor  # int64 (S, K), best first; 0 where there are fewer
    n_not_finite: int  # users with a score that is not a finite number


class Ranker(Protocol):
    """Lists the best K items for users, K < V, ties by the smaller index."""

    def __call__(self, users: UserInputs, k: int) -> BestItems:
        """The lists."""


@dataclass(frozen=True)
class ByScores:
    """Ranks by the scores of the whole catalogue."""

    scorer: Scorer

    def __call__(self, users: UserInputs, k: int) -> BestItems:
        """See `Ranker`."""
        scores = self.scorer(users.item_seq, users.item_seq_len)
        n_not_finite = int((~scores.sum(1).isfinite()).sum())
        return BestItems(top_items(scores, k, users.seen), n_not_finite)


@dataclass(frozen=True)
class NetworkScorer:
    """The scores of a network for its whole catalogue, float32 (B, V)."""

    network: FEARec

    def __call__(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """See `Scorer`."""
        output = self.network(item_seq, item_seq_len)
        return (output @ self.network.item_embedding.weight.T).float()


@dataclass(frozen=True)
class Rankers:
    """Rankers of one vocabulary.

    Attributes:
        by_name: At least one.
        n_items: V, PAD included.
        longest: K, the length of the lists.
    """

    by_name: Mapping[str, Ranker]
    n_items: int
    longest: int

    def lists(self, ranker: Ranker, users: UserInputs) -> BestItems:
        """A ranker's lists, int64 (S, K); where there are fewer items, 0 follows them."""
        if not len(users.item_seq):
            return BestItems(torch.zeros(0, self.longest, dtype=torch.int64), 0)
        known = min(self.longest, self.n_items - 1)
        best = ranker(users, known)
        return BestItems(pad(best.items, (0, self.longest - known)), best.n_not_finite)


@dataclass(frozen=True)
class UserBatch:
    """Users on their way to a worker.

    Attributes:
        inputs: What every group of rankers knows of them.
        n_users: B, also those without a history.
    """

    inputs: tuple[UserInputs, ...]
    n_users: int

    def __len__(self) -> int:
        return self.n_users


@dataclass(frozen=True)
class RankingWorker:
    """The worker of an engine that evaluates: the lists of a batch, of every group, by name."""

    groups: tuple[Rankers, ...]

    def __call__(self, batch: UserBatch, progress: Progress) -> list[dict[str, BestItems]]:
        """See `Worker`."""
        with torch.inference_mode():
            found = [
                {name: group.lists(ranker, users) for name, ranker in group.by_name.items()}
                for group, users in zip(self.groups, batch.inputs, strict=True)
            ]
        progress(len(batch))
        return found


def open_ranking_worker(
    groups: tuple[Rankers, ...], threads: int | None, index: int
) -> RankingWorker:
    """A worker in a process of its own with so many threads of PyTorch, or in this one as it is."""
    if threads is not None:
        torch.set_num_threads(threads)
    return RankingWorker(groups)
