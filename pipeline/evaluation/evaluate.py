"""Stage: measure the model that never saw the held-out events, beside two baselines."""

import torch

from model.config import TrainingConfig
from model.training.threads import set_threads
from model.training.weights import load_network
from pipeline.bundles.bundle import HELD_OUT_WEIGHTS
from pipeline.config.sections import EvaluateSettings, ModelSettings
from pipeline.data.held_out import HeldOut
from pipeline.data.prepared import read_histories
from pipeline.data.splits import Split, split_histories
from pipeline.evaluation.baselines import CoOccurrence, Popularity
from pipeline.evaluation.evaluator import RankingProtocol, Scorer, evaluate_scorers
from pipeline.evaluation.protocol import check_topk, describe
from pipeline.results import Evaluated, Prepared, Trained


def evaluate(
    prepared: Prepared,
    trained: Trained,
    model: ModelSettings,
    training: TrainingConfig,
    evaluation: EvaluateSettings,
    held_out: HeldOut,
) -> Evaluated:
    """Rank the whole catalogue for every user with held-out events, by the PyTorch model.

    Args:
        prepared: The data.
        trained: The weights; those that never saw the held-out events are measured.
        model: The network.
        training: With the batch size and threads of evaluation, and the seed of the bootstrap.
        evaluation: The protocol.
        held_out: The events to rank.

    Raises:
        ConfigError: a k is larger than the catalogue.
        InputError: no user has a held-out event.
    """
    check_topk(evaluation, prepared.n_items)
    split = split_histories(read_histories(prepared.folder), held_out, prepared)
    config = model.config(prepared.n_items)
    network = load_network(config, trained.folder / HELD_OUT_WEIGHTS)

    def score(item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> torch.Tensor:
        output = network(item_seq, item_seq_len)
        return (output @ network.item_embedding.weight.T).float()

    length = config.MAX_ITEM_LIST_LENGTH
    weights = "PyTorch, weights that never saw the held-out events"
    return compare(
        score,
        split,
        evaluation,
        training,
        learned_until=split.valid_from,
        n_items=prepared.n_items,
        length=length,
        protocol=describe(evaluation, held_out, training.seed, length, weights),
    )


def compare(
    model: Scorer,
    split: Split,
    evaluation: EvaluateSettings,
    training: TrainingConfig,
    *,
    learned_until: torch.Tensor,
    n_items: int,
    length: int,
    protocol: str,
) -> Evaluated:
    """The metrics of a model and of both baselines, under one protocol.

    Args:
        model: What to measure.
        split: What to measure it on.
        evaluation: The protocol.
        training: With the batch size and threads of evaluation, and the seed of the bootstrap.
        learned_until: int64 (U,), the positions that end what the model has learned from each
            user: the baselines learn from the same.
        n_items: V, of the model.
        length: L, of the model.
        protocol: As text.
    """
    set_threads(training.threads)
    learned = split.before(learned_until)
    popularity = Popularity.learn(learned, n_items)
    scorers: dict[str, Scorer] = {
        "model": model,
        "popularity": popularity,
        "co_occurrence": CoOccurrence.learn(learned, popularity),
    }
    ranking = RankingProtocol(
        n_items, length, evaluation.mask_seen, evaluation.topk, training.eval_batch_size
    )
    with torch.inference_mode():
        sums = evaluate_scorers(scorers, split, popularity, ranking)
    metrics = {name: each.means(popularity.counts) for name, each in sums.items()}
    tested = split.tested
    return Evaluated(
        protocol,
        n_users=len(tested),
        n_served=int((split.test_from > split.begins)[tested].sum()),
        model=metrics["model"],
        popularity=metrics["popularity"],
        co_occurrence=metrics["co_occurrence"],
        intervals={
            name: each.intervals(evaluation.bootstrap, training.seed) for name, each in sums.items()
        },
    )
