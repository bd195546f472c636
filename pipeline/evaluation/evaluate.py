"""Stage: measure the weights that never saw the held-out events, beside the champion's."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from model.config import TrainingConfig
from model.training.threads import set_threads
from model.training.weights import load_network
from pipeline.bundles.bundle import HELD_OUT_WEIGHTS, Bundle
from pipeline.config.engine_section import LOCAL, EngineSettings
from pipeline.config.sections import EvaluateSettings, ModelSettings, PrepareSettings
from pipeline.data.held_out import HeldOut
from pipeline.data.prepared import read_histories
from pipeline.data.splits import Split, split_histories
from pipeline.evaluation.baselines import CoOccurrence, Popularity
from pipeline.evaluation.champion import (
    CHAMPION,
    champion_group,
    headline_then,
    obstacle,
)
from pipeline.evaluation.evaluator import RankerGroup, RankingProtocol, evaluate_rankers
from pipeline.evaluation.protocol import check_topk, describe
from pipeline.evaluation.rankers import ByScores, NetworkScorer, Ranker
from pipeline.results import Evaluated, Prepared, Trained
from pipeline.results.evaluated import TypeMetrics

Progress = Callable[[int, int | None], None]

# Of what the gate decides by: not fewer where `evaluate.bootstrap` is small or 0.
_RESAMPLES = 1000


def _unseen(done: int, total: int | None) -> None:
    """Show no progress."""


def evaluate(
    prepared: Prepared,
    trained: Trained,
    model: ModelSettings,
    training: TrainingConfig,
    evaluation: EvaluateSettings,
    held_out: HeldOut,
    limits: PrepareSettings,
    inputs: Sequence[str],
    champion: Path | None,
    *,
    engine: EngineSettings = LOCAL,
    progress: Progress = _unseen,
) -> Evaluated:
    """Rank the whole catalogue for every user with held-out events, by the PyTorch model.

    Args:
        prepared: The data.
        trained: The weights; those that never saw the held-out events are measured.
        model: The network.
        training: With the batch size and threads of evaluation, and the seed of the bootstrap.
        evaluation: The protocol.
        held_out: The events to rank.
        limits: The filter of users and items, for whether the champion's data had the same.
        inputs: Types of the events that the model sees; empty for all events.
        champion: Its bundle's folder; measured in the same pass, for the same users and events,
            where that is fair (see `pipeline.evaluation.champion`). None of a first run.
        engine: Where lists are made; no figure depends on it.
        progress: Takes the number of users done, and of all.

    Raises:
        ConfigError: a k is larger than the catalogue, or no event is of the types asked for.
        BundleError: the champion's bundle cannot be read.
        EmptyTestError: no user has a held-out event.
    """
    set_threads(training.threads)
    check_topk(evaluation, prepared.n_items)
    histories = read_histories(prepared.folder, inputs, evaluation.seen_types)
    split = split_histories(histories, held_out, prepared)
    config = model.config(prepared.n_items)
    network = load_network(config, trained.folder / HELD_OUT_WEIGHTS)
    length = config.MAX_ITEM_LIST_LENGTH
    weights = "PyTorch, weights that never saw the held-out events"
    ranking = RankingProtocol(
        prepared.n_items,
        length,
        bool(evaluation.mask_seen),
        evaluation.topk,
        training.eval_batch_size,
    )
    other = Bundle.load(champion) if champion else None
    why_not = obstacle(other, held_out, prepared, limits) if other else None
    beside = None
    if other and why_not is None:
        beside = champion_group(other, split, prepared, ranking)
    evaluated = compare(
        ByScores(NetworkScorer(network)),
        split,
        ranking,
        evaluation.bootstrap,
        training.seed,
        learned_until=split.valid_from,
        protocol=describe(evaluation, held_out, training.seed, length, weights),
        champion=beside,
        engine=engine,
        progress=progress,
    )
    return replace(
        evaluated,
        champion_version=other.model_version if other else None,
        not_compared=why_not,
        champion_then=headline_then(other, evaluation) if other and beside else None,
    )


def compare(
    model: Ranker,
    split: Split,
    ranking: RankingProtocol,
    resamples: int,
    seed: int,
    *,
    learned_until: torch.Tensor,
    protocol: str,
    champion: RankerGroup | None = None,
    engine: EngineSettings = LOCAL,
    progress: Progress = _unseen,
) -> Evaluated:
    """The metrics of a model, of both baselines and of the champion, under one protocol.

    Args:
        model: What to measure.
        split: What to measure it on.
        ranking: How lists are made.
        resamples: Of the users, for the intervals of the metrics; 0 for none.
        seed: Of the bootstrap.
        learned_until: int64 (U,), the positions that end what the model has learned from each
            user: the baselines learn from the same.
        protocol: As text.
        champion: With the same users and events; None where there is none to compare with.
        engine: Where lists are made.
        progress: Takes the number of users done, and of all.
    """
    learned = split.before(learned_until)
    popularity = Popularity.learn(learned, ranking.n_items)
    rankers: dict[str, Ranker] = {
        "model": model,
        "popularity": popularity,
        "co_occurrence": CoOccurrence.learn(learned, popularity),
    }
    groups = [RankerGroup(rankers, split, popularity, ranking), *([champion] if champion else [])]
    with torch.inference_mode():
        found = evaluate_rankers(*groups, engine=engine, progress=progress)
    sums = found.all
    learned_by = {name: group.popularity for group in groups for name in group.by_name}
    metrics = {name: each.means(learned_by[name].counts) for name, each in sums.items()}
    tested = split.tested
    return Evaluated(
        protocol,
        n_users=len(tested),
        n_served=int(split.served[tested].sum()),
        model=metrics["model"],
        popularity=metrics["popularity"],
        co_occurrence=metrics["co_occurrence"],
        intervals={name: each.intervals(resamples, seed) for name, each in sums.items()},
        champion=metrics.get(CHAMPION, {}),
        differences={
            name: each.difference(_RESAMPLES, seed)
            for name, each in sums.items()
            if name != "model"
        },
        headline_interval=sums["model"].headline_interval(_RESAMPLES, seed),
        n_items=ranking.n_items,
        champion_n_items=champion.ranking.n_items if champion else 0,
        n_not_finite=sums["model"].n_not_finite,
        by_event_type={
            name: TypeMetrics(
                of_type["model"].n_users,
                {ranker: each.user_means() for ranker, each in of_type.items()},
                of_type["model"].headline_interval(_RESAMPLES, seed),
            )
            for name, of_type in found.by_type.items()
        },
    )
