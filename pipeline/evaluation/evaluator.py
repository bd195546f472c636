"""The evaluator: ranks the catalogue for every tested user by several rankers at once."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from model.training.histories import expand_ranges
from pipeline.config.engine_section import LOCAL, EngineSettings
from pipeline.data.splits import Split
from pipeline.engines.base import WorkerDiedError
from pipeline.engines.choice import opened_engine
from pipeline.errors import MemoryShortError, raised_as
from pipeline.evaluation.baselines import Popularity
from pipeline.evaluation.metric_sums import MetricSums
from pipeline.evaluation.metrics import user_metrics
from pipeline.evaluation.rankers import (
    Ranker,
    Rankers,
    UserBatch,
    UserInputs,
    open_ranking_worker,
)
from pipeline.results.evaluated import headline_metric

ANY_TYPE = -1  # the index of a type

_SCORES = 2**24  # elements of a batch's (B, V) scores, at most


@dataclass(frozen=True)
class RankingProtocol:
    """How lists are made, the same for every ranker.

    Attributes:
        n_items: V, PAD included.
        length: L, how many of the last items a ranker sees.
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
class RankerGroup:
    """Rankers of one vocabulary, and the users' events in its indices.

    Indices of V and above are items that the rankers do not know: in the test they count as
    relevant and are never hit.

    Attributes:
        by_name: The rankers.
        split: Whose test is ranked.
        popularity: What users without a history get.
        ranking: How lists are made.
    """

    by_name: Mapping[str, Ranker]
    split: Split
    popularity: Popularity
    ranking: RankingProtocol

    @property
    def rankers(self) -> Rankers:
        """The rankers, without the users."""
        return Rankers(self.by_name, self.ranking.n_items, max(self.ranking.topk))

    def popular(self) -> Tensor:
        """The list of a user without any item before the test, int64 (1, K)."""
        nothing = torch.zeros(1, 1, dtype=torch.int64)
        return self.rankers.lists(self.popularity, UserInputs(nothing, nothing[0], None)).items


@dataclass(frozen=True)
class EvaluationSums:
    """What `evaluate_rankers` sums, by the name of the ranker.

    Attributes:
        all: Over all tested users.
        by_type: Over the users with a held-out event of a type, of which only such events are
            relevant, by the type; empty where events have no types.
    """

    all: Mapping[str, MetricSums]
    by_type: Mapping[str, Mapping[str, MetricSums]]


def evaluate_rankers(
    *groups: RankerGroup,
    engine: EngineSettings = LOCAL,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> EvaluationSums:
    """Sum the metrics of every ranker's lists for every tested user.

    A user without any input before the test gets the most popular items. All targets of the user's
    test are relevant, repeated ones once. The groups have the same users with the same held-out
    events, so that every user's metrics can be compared with those of the very first ranker.

    Args:
        groups: At least one.
        engine: Where lists are made.
        progress: Takes the number of users done, and of all.

    Raises:
        ConfigError: the engine cannot be reached.
        MemoryShortError: three workers were lost by one batch.
    """
    types = groups[0].split.types_in_test
    rankers = [(name, group.ranking) for group in groups for name in group.by_name]
    sums = {name: MetricSums(ranking.topk, ranking.n_items) for name, ranking in rankers}
    of_types = {
        kind: {name: MetricSums(ranking.topk) for name, ranking in rankers} for kind in types
    }
    popular = [group.popular() for group in groups]
    users = min(group.ranking.users_per_batch for group in groups)
    n_done, n_all = 0, len(groups[0].split.tested)
    waiting: deque[tuple[EvalBatch, ...]] = deque()

    def batches() -> Iterator[UserBatch]:
        for each in zip(*(_batches(group, users) for group in groups), strict=True):
            waiting.append(each)
            yield UserBatch(tuple(batch.inputs for batch in each), len(each[0].served))

    make_worker = partial(
        open_ranking_worker,
        tuple(group.rankers for group in groups),
        engine.num_cpus if engine.kind == "ray" else None,
    )
    with (
        raised_as(
            MemoryShortError,
            WorkerDiedError,
            "the lists could not be made on the Ray cluster",
            remedy="Lower train.eval_batch_size, or run fearec evaluate without --engine.",
        ),
        opened_engine(make_worker, engine.on_cpus()) as opened,
        closing(opened.results(batches(), lambda done: None)) as results,
    ):
        for found in results:
            ended = waiting.popleft()
            first: dict[int, Tensor] = {}  # the headline metric of the first ranker, by type
            for batch, fallback, group, best in zip(ended, popular, groups, found, strict=True):
                topk = group.ranking.topk
                relevant_of = {kind: batch.relevant_of(kind) for kind in (ANY_TYPE, *of_types)}
                for name, (items, n_not_finite) in best.items():
                    sums[name].n_not_finite += n_not_finite
                    lists = batch.with_fallback(items, fallback)
                    for kind, summed in [(ANY_TYPE, sums), *of_types.items()]:
                        relevant, tested, n_relevant = relevant_of[kind]
                        if not len(tested):
                            continue
                        hits = batch.hits(lists, relevant)[tested]
                        metrics = user_metrics(hits, n_relevant, topk)
                        first.setdefault(kind, metrics[headline_metric(topk)])
                        summed[name].add(lists[tested], metrics, first[kind])
            n_done += len(ended[0].served)
            progress(n_done, n_all)
    return EvaluationSums(sums, {types[kind]: summed for kind, summed in of_types.items()})


@dataclass(frozen=True)
class EvalBatch:
    """A batch of B users, S of whom have a history.

    `relevant` holds keys: row times `width`, plus an item; `kinds` the types of the events.
    """

    served: Tensor  # bool (B,)
    inputs: UserInputs  # of those S
    relevant: Tensor
    kinds: Tensor | None
    width: int

    def with_fallback(self, items: Tensor, popular: Tensor) -> Tensor:
        """The lists of all, int64 (B, K), given those of the users with a history, (S, K)."""
        lists = popular.repeat(len(self.served), 1)
        lists[self.served] = items
        return lists

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


def _batches(group: RankerGroup, users_per_batch: int) -> Iterator[EvalBatch]:
    split, ranking = group.split, group.ranking
    histories = split.histories
    width = max(int(histories.items.max()) + 1, ranking.n_items)
    all_served = split.served
    for users in split.tested.split(users_per_batch):
        cuts = split.test_from[users]
        served = all_served[users]
        ends = cuts[served]
        inputs = histories.windows(ends, ranking.length)
        rows, positions = expand_ranges(cuts, split.ends[users] - cuts)
        if split.is_target is not None:
            are_targets = split.is_target[positions]
            rows, positions = rows[are_targets], positions[are_targets]
        yield EvalBatch(
            served,
            UserInputs(*inputs, histories.seen(ends) if ranking.mask_seen else None),
            rows * width + histories.items[positions],
            None if split.kinds is None else split.kinds.index[positions],
            width,
        )
