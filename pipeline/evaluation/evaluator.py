"""The evaluator: ranks the catalogue for every tested user by several scorers at once."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from model.ranking import top_items
from model.training.histories import expand_ranges
from pipeline.data.splits import Split
from pipeline.evaluation.baselines import Popularity
from pipeline.evaluation.metric_sums import MetricSums
from pipeline.evaluation.metrics import user_metrics
from pipeline.results.evaluated import headline_metric

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


@dataclass(frozen=True)
class ScorerGroup:
    """Scorers of one vocabulary, and the users' events in its indices.

    Indices of V and above are items that the scorers do not know: in the test they count as
    relevant and are never hit.

    Attributes:
        scorers: By name.
        split: Whose test is ranked.
        popularity: What users without a history get.
        ranking: How lists are made.
    """

    scorers: Mapping[str, Scorer]
    split: Split
    popularity: Popularity
    ranking: RankingProtocol

    def popular(self) -> Tensor:
        """The list of a user without any item before the test, int64 (1, K)."""
        nothing = torch.zeros(1, 1, dtype=torch.int64)
        return self._top(self.popularity(nothing, nothing[0]), None)

    def top(self, scores: Tensor, batch: "EvalBatch", popular: Tensor) -> Tensor:
        """The lists of a batch, int64 (B, K), given the scores of the users who are served."""
        lists = popular.repeat(len(batch.served), 1)
        if len(scores):
            lists[batch.served] = self._top(scores, batch.seen)
        return lists

    def _top(self, scores: Tensor, seen: tuple[Tensor, Tensor] | None) -> Tensor:
        """The best items; where the vocabulary has fewer than K, 0 follows them."""
        longest = max(self.ranking.topk)
        known = min(longest, self.ranking.n_items - 1)
        return pad(top_items(scores, known, seen), (0, longest - known))


def evaluate_scorers(*groups: ScorerGroup) -> dict[str, MetricSums]:
    """Sum the metrics of every scorer's lists for every tested user.

    A user without any item before the test gets the most popular items. All items of the user's
    test are relevant, repeated ones once. The groups have the same users with the same held-out
    events, so that every user's metrics can be compared with those of the very first scorer.

    Args:
        groups: At least one.

    Returns:
        The sums by the name of the scorer.
    """
    sums = {
        name: MetricSums(group.ranking.n_items, group.ranking.topk)
        for group in groups
        for name in group.scorers
    }
    popular = [group.popular() for group in groups]
    users = min(group.ranking.users_per_batch for group in groups)
    for batches in zip(*(_batches(group, users) for group in groups), strict=True):
        first = None
        for group, batch, fallback in zip(groups, batches, popular, strict=True):
            for name, scorer in group.scorers.items():
                scores = batch.scores(scorer)
                sums[name].n_not_finite += int((~scores.sum(1).isfinite()).sum())
                lists = group.top(scores, batch, fallback)
                metrics = user_metrics(batch.hits(lists), batch.n_relevant, group.ranking.topk)
                first = metrics[headline_metric(group.ranking.topk)] if first is None else first
                sums[name].add(lists, metrics, first)
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

    def scores(self, scorer: Scorer) -> Tensor:
        """What a scorer gives those who have a history, (S, V)."""
        if not len(self.item_seq):
            return torch.zeros(0, 1)
        return scorer(self.item_seq, self.item_seq_len)

    @property
    def n_relevant(self) -> Tensor:
        """int64 (B,)."""
        return torch.bincount(self.relevant // self.width, minlength=len(self.served))

    def hits(self, lists: Tensor) -> Tensor:
        """Which places of the lists int64 (B, K) hold a relevant item, bool (B, K)."""
        rows = torch.arange(len(lists))[:, None]
        return torch.isin(rows * self.width + lists, self.relevant)


def _batches(group: ScorerGroup, users_per_batch: int) -> Iterator[EvalBatch]:
    split, ranking = group.split, group.ranking
    histories = split.histories
    width = max(int(histories.items.max()) + 1, ranking.n_items)
    for users in split.tested.split(users_per_batch):
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
