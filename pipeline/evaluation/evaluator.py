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

ANY_TYPE = -1  # the index of a type

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


@dataclass(frozen=True)
class EvaluationSums:
    """What `evaluate_scorers` sums, by the name of the scorer.

    Attributes:
        all: Over all tested users.
        by_type: Over the users with a held-out event of a type, of which only such events are
            relevant, by the type; empty where events have no types.
    """

    all: Mapping[str, MetricSums]
    by_type: Mapping[str, Mapping[str, MetricSums]]


def evaluate_scorers(*groups: ScorerGroup) -> EvaluationSums:
    """Sum the metrics of every scorer's lists for every tested user.

    A user without any input before the test gets the most popular items. All targets of the user's
    test are relevant, repeated ones once. The groups have the same users with the same held-out
    events, so that every user's metrics can be compared with those of the very first scorer.

    Args:
        groups: At least one.
    """
    types = groups[0].split.types_in_test
    scorers = [(name, group.ranking) for group in groups for name in group.scorers]
    sums = {name: MetricSums(ranking.topk, ranking.n_items) for name, ranking in scorers}
    of_types = {
        kind: {name: MetricSums(ranking.topk) for name, ranking in scorers} for kind in types
    }
    popular = [group.popular() for group in groups]
    users = min(group.ranking.users_per_batch for group in groups)
    for batches in zip(*(_batches(group, users) for group in groups), strict=True):
        first: dict[int, Tensor] = {}  # the headline metric of the first scorer, by type
        for group, batch, fallback in zip(groups, batches, popular, strict=True):
            topk = group.ranking.topk
            relevant_of = {kind: batch.relevant_of(kind) for kind in (ANY_TYPE, *of_types)}
            for name, scorer in group.scorers.items():
                scores = batch.scores(scorer)
                sums[name].n_not_finite += int((~scores.sum(1).isfinite()).sum())
                lists = group.top(scores, batch, fallback)
                for kind, summed in [(ANY_TYPE, sums), *of_types.items()]:
                    relevant, users, n_relevant = relevant_of[kind]
                    if not len(users):
                        continue
                    hits = batch.hits(lists, relevant)[users]
                    metrics = user_metrics(hits, n_relevant, topk)
                    first.setdefault(kind, metrics[headline_metric(topk)])
                    summed[name].add(lists[users], metrics, first[kind])
    return EvaluationSums(sums, {types[kind]: summed for kind, summed in of_types.items()})


@dataclass(frozen=True)
class EvalBatch:
    """A batch of B users, S of whom have a history.

    `relevant` holds keys: row times `width`, plus an item; `kinds` the types of the events.
    """

    served: Tensor  # bool (B,)
    item_seq: Tensor  # int64 (S, L)
    item_seq_len: Tensor  # int64 (S,)
    seen: tuple[Tensor, Tensor] | None  # rows of S, items
    relevant: Tensor
    kinds: Tensor | None
    width: int

    def scores(self, scorer: Scorer) -> Tensor:
        """What a scorer gives those who have a history, (S, V)."""
        if not len(self.item_seq):
            return torch.zeros(0, 1)
        return scorer(self.item_seq, self.item_seq_len)

    def relevant_of(self, kind: int) -> tuple[Tensor, Tensor, Tensor]:
        """The keys of the held-out events of a type, repeated ones once.

        Returns:
            The keys, the M users who have any, int64 (M,), and how many they have.
        """
        every = self.relevant
        if kind != ANY_TYPE and self.kinds is not None:
            every = every[self.kinds == kind]
        relevant = torch.unique(every)
        counts = torch.bincount(relevant // self.width, minlength=len(self.served))
        users = counts.nonzero().squeeze(1)
        return relevant, users, counts[users]

    def hits(self, lists: Tensor, relevant: Tensor) -> Tensor:
        """Which places of the lists int64 (B, K) hold an item with a key, bool (B, K)."""
        rows = torch.arange(len(lists))[:, None]
        return torch.isin(rows * self.width + lists, relevant)


def _batches(group: ScorerGroup, users_per_batch: int) -> Iterator[EvalBatch]:
    split, ranking = group.split, group.ranking
    histories = split.histories
    width = max(int(histories.items.max()) + 1, ranking.n_items)
    all_served = split.served
    for users in split.tested.split(users_per_batch):
        cuts = split.test_from[users]
        served = all_served[users]
        ends = cuts[served]
        item_seq, item_seq_len = histories.windows(ends, ranking.length)
        rows, positions = expand_ranges(cuts, split.ends[users] - cuts)
        if split.is_target is not None:
            are_targets = split.is_target[positions]
            rows, positions = rows[are_targets], positions[are_targets]
        yield EvalBatch(
            served,
            item_seq,
            item_seq_len,
            histories.seen(ends) if ranking.mask_seen else None,
            rows * width + histories.items[positions],
            None if split.kinds is None else split.kinds.index[positions],
            width,
        )
