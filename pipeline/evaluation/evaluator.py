"""The evaluator: ranks the catalogue for every tested user by several scorers, and sums metrics."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.ranking import top_items
from model.training.histories import expand_ranges
from pipeline.data.splits import Split
from pipeline.evaluation.baselines import Popularity
from pipeline.evaluation.metrics import bootstrap_intervals, catalogue_metrics, user_metrics

# item_seq int64 (B, L) and item_seq_len int64 (B,) to scores (B, V), which may be changed.
Scorer = Callable[[Tensor, Tensor], Tensor]

_SCORES = 2**24  # elements of a batch's (B, V) scores, at most


@dataclass(frozen=True)
class RankingProtocol:
    """How lists are made, the same for every scorer.

    Attributes:
        n_items: V, PAD included.
        length: L, how many of the last items a scorer sees.
        mask_seen: Whether items that the user has seen before the test are left out.
        topk: The k of the metrics; the longest is the length of the lists.
        batch_size: Users scored at once, or fewer where the catalogue is large.
    """

    n_items: int
    length: int
    mask_seen: bool
    topk: tuple[int, ...]
    batch_size: int

    @property
    def users_per_batch(self) -> int:
        """As many users as the memory of a batch allows."""
        return max(1, min(self.batch_size, _SCORES // self.n_items))


class MetricSums:
    """Sums of one scorer's metrics, kept without the lists.

    It keeps the distinct metrics of users with the number of users who have them, and how often
    each item was listed. Under leave-one-out its memory does not grow with the users.
    """

    def __init__(self, ranking: RankingProtocol) -> None:
        self._ranking = ranking
        self._names: list[str] = []
        self._rows: list[npt.NDArray[np.float64]] = []
        self._counts: list[npt.NDArray[np.int64]] = []
        self._listed = {k: torch.zeros(ranking.n_items, dtype=torch.int64) for k in ranking.topk}

    def add(self, lists: Tensor, hits: Tensor, n_relevant: Tensor) -> None:
        """Count a batch: lists int64 and hits bool (B, K), n_relevant int64 (B,)."""
        metrics = user_metrics(hits, n_relevant, self._ranking.topk)
        self._names = list(metrics)
        users = torch.stack(list(metrics.values()), 1).numpy()
        rows, counts = np.unique(users, axis=0, return_counts=True)
        self._rows.append(rows)
        self._counts.append(counts)
        for k, listed in self._listed.items():
            listed += torch.bincount(lists[:, :k].flatten(), minlength=len(listed))

    def means(self, popularity: Tensor) -> dict[str, float]:
        """Every metric by its name, given the popularity in training, int64 (V,)."""
        rows, counts = self._distinct()
        means = counts @ rows / counts.sum()
        of_lists = {k: catalogue_metrics(times, popularity) for k, times in self._listed.items()}
        return dict(zip(self._names, means.tolist(), strict=True)) | {
            f"{name}@{k}": of_lists[k][name]
            for name in next(iter(of_lists.values()))
            for k in self._ranking.topk
        }

    def intervals(self, resamples: int, seed: int) -> dict[str, tuple[float, float]]:
        """95% intervals of the metrics that are means over users; empty without resamples."""
        if not resamples:
            return {}
        low, high = bootstrap_intervals(*self._distinct(), resamples, seed).tolist()
        return dict(zip(self._names, zip(low, high, strict=True), strict=True))

    def _distinct(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """The distinct metrics of users (G, M), and how many users have them (G,)."""
        every, counts = np.concatenate(self._rows), np.concatenate(self._counts)
        rows, kinds = np.unique(every, axis=0, return_inverse=True)
        summed = np.bincount(kinds.reshape(-1), counts).astype(np.int64)
        self._rows, self._counts = [rows], [summed]
        return rows, summed


def evaluate_scorers(
    scorers: Mapping[str, Scorer], split: Split, popularity: Popularity, ranking: RankingProtocol
) -> dict[str, MetricSums]:
    """Sum the metrics of every scorer's lists for every tested user.

    A user without any item before the test gets the most popular items from every scorer.
    All items of the user's test are relevant, repeated ones once. Indices of V and above are
    items that no scorer knows: they count as relevant and are never hit.

    Args:
        scorers: By name.
        split: Whose test is ranked.
        popularity: What users without a history get.
        ranking: How lists are made.
    """
    sums = {name: MetricSums(ranking) for name in scorers}
    longest = max(ranking.topk)
    nothing = torch.zeros(1, 1, dtype=torch.int64)
    fallback = top_items(popularity(nothing, nothing[0]), longest, None)
    for batch in _batches(split, ranking):
        for name, scorer in scorers.items():
            lists = fallback.repeat(len(batch.served), 1)
            if len(batch.item_seq):
                scores = scorer(batch.item_seq, batch.item_seq_len)
                lists[batch.served] = top_items(scores, longest, batch.seen)
            sums[name].add(lists, batch.hits(lists), batch.n_relevant)
    return sums


@dataclass(frozen=True)
class EvalBatch:
    """A batch of B users, S of whom have a history.

    `relevant` holds sorted keys: row times `width`, plus an item.
    """

    served: Tensor  # bool (B,)
    item_seq: Tensor  # int64 (S, L)
    item_seq_len: Tensor  # int64 (S,)
    seen: tuple[Tensor, Tensor] | None  # rows of S, items
    relevant: Tensor
    width: int

    @property
    def n_relevant(self) -> Tensor:
        """int64 (B,)."""
        return torch.bincount(self.relevant // self.width, minlength=len(self.served))

    def hits(self, lists: Tensor) -> Tensor:
        """Which places of the lists int64 (B, K) hold a relevant item, bool (B, K)."""
        rows = torch.arange(len(lists))[:, None]
        return torch.isin(rows * self.width + lists, self.relevant)


def _batches(split: Split, ranking: RankingProtocol) -> Iterator[EvalBatch]:
    histories = split.histories
    width = max(int(histories.items.max()) + 1, ranking.n_items)
    for users in split.tested.split(ranking.users_per_batch):
        cuts = split.test_from[users]
        served = cuts > split.begins[users]
        ends = cuts[served]
        item_seq, item_seq_len = histories.windows(ends, ranking.length)
        rows, positions = expand_ranges(cuts, split.ends[users] - cuts)
        yield EvalBatch(
            served,
            item_seq,
            item_seq_len,
            histories.seen(ends) if ranking.mask_seen else None,
            torch.unique(rows * width + histories.items[positions]),
            width,
        )
