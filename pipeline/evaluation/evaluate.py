"""Stage: measure the model that never saw the held-out events, beside two baselines."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

import torch

from model.training.weights import load_network
from pipeline.bundles.bundle import HELD_OUT_WEIGHTS
from pipeline.config.settings import Settings
from pipeline.data.prepare import Prepared
from pipeline.data.prepared import read_histories
from pipeline.data.splits import Split, held_out
from pipeline.evaluation.baselines import CoOccurrence, Popularity
from pipeline.evaluation.evaluator import RankingProtocol, Scorer, measure
from pipeline.evaluation.protocol import describe, refuse_large_k
from pipeline.training.train import Trained


@dataclass(frozen=True)
class Evaluated:
    """Held-out figures, keyed ``NDCG@10``, under the protocol they were measured by.

    Attributes:
        protocol: Split, candidates, masking, length and weights, in words.
        n_users: Users with held-out events.
        n_served: Those whom the model can serve; the others, without any item before the test,
            get the most popular ones and count like everybody in all figures.
        model: Of the model.
        popularity: Of the most popular items, for everybody the same.
        co_occurrence: Of the items that most often followed the user's last item.
        intervals: 95% intervals of the figures that are means over users, by the names of the
            three above.
        unknown_seen: Events left out of histories, as the model does not know the items.
        unknown_held_out: Held-out events that are missed for the same reason.
    """

    protocol: str
    n_users: int
    n_served: int
    model: Mapping[str, float]
    popularity: Mapping[str, float]
    co_occurrence: Mapping[str, float]
    intervals: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    unknown_seen: int = 0
    unknown_held_out: int = 0


def evaluate(settings: Settings, run_date: date, prepared: Prepared, trained: Trained) -> Evaluated:
    """Rank the whole catalogue for every user with held-out events, by the PyTorch model.

    Raises:
        ConfigError: a k is larger than the catalogue.
        InputError: no user has a held-out event.
    """
    refuse_large_k(settings.evaluate, prepared.n_items)
    split = held_out(settings, run_date, prepared, read_histories(prepared.folder))
    config = settings.model.config(prepared.n_items)
    network = load_network(config, trained.folder / HELD_OUT_WEIGHTS)

    def score(item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> torch.Tensor:
        output = network(item_seq, item_seq_len)
        return (output @ network.item_embedding.weight.T).float()

    length = config.MAX_ITEM_LIST_LENGTH
    weights = "PyTorch, weights that never saw the held-out events"
    return compare(
        settings,
        score,
        split,
        learned_until=split.valid_from,
        n_items=prepared.n_items,
        length=length,
        protocol=describe(settings, run_date, length, weights),
    )


def compare(
    settings: Settings,
    model: Scorer,
    split: Split,
    *,
    learned_until: torch.Tensor,
    n_items: int,
    length: int,
    protocol: str,
) -> Evaluated:
    """The figures of a model and of both baselines, under one protocol.

    Args:
        settings: Of the evaluation.
        model: What to measure.
        split: What to measure it on.
        learned_until: int64 (U,), the positions that end what the model has learned from each
            user: the baselines learn from the same.
        n_items: V, of the model.
        length: L, of the model.
        protocol: In words.
    """
    learned = split.before(learned_until)
    popularity = Popularity.learn(learned, n_items)
    scorers: dict[str, Scorer] = {
        "model": model,
        "popularity": popularity,
        "co_occurrence": CoOccurrence.learn(learned, popularity),
    }
    chosen = settings.evaluate
    ranking = RankingProtocol(
        n_items, length, chosen.mask_seen, chosen.topk, settings.train.eval_batch_size
    )
    with torch.inference_mode():
        tallies = measure(scorers, split, popularity, ranking)
    figures = {name: tally.figures(popularity.counts) for name, tally in tallies.items()}
    tested = split.tested
    return Evaluated(
        protocol,
        n_users=len(tested),
        n_served=int((split.test_from > split.begins)[tested].sum()),
        model=figures["model"],
        popularity=figures["popularity"],
        co_occurrence=figures["co_occurrence"],
        intervals={
            name: tally.intervals(chosen.bootstrap, settings.train.seed)
            for name, tally in tallies.items()
        },
    )
