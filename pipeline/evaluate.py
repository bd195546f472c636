"""Stage: measure the model that never saw the held-out items, beside a popularity baseline."""

from dataclasses import dataclass
from datetime import date

import torch

from model.module import rank_positions
from model.ranking import metrics_at, target_ranks
from model.sampling import Histories
from model.warm_start import load_network
from pipeline.bundle import HELD_OUT_WEIGHTS
from pipeline.errors import InputError
from pipeline.prepare import Prepared
from pipeline.sequences import Split, leave_one_out, read_histories
from pipeline.settings import Settings
from pipeline.train import Trained


@dataclass(frozen=True)
class Evaluated:
    """Held-out figures, keyed ``NDCG@10``, under the protocol they were measured by."""

    protocol: str
    n_users: int
    model: dict[str, float]
    popularity: dict[str, float]


def evaluate(settings: Settings, run_date: date, prepared: Prepared, trained: Trained) -> Evaluated:
    """HR, NDCG and MRR of each user's last item, ranked among the whole catalogue.

    Raises:
        InputError: no user has a held-out item.
    """
    histories = read_histories(prepared.folder)
    split = leave_one_out(histories)
    if not len(split.test):
        raise InputError(
            "nobody to evaluate on",
            str(prepared.folder),
            expected="a user with at least two interactions",
            found=f"{prepared.n_interactions} interactions of {prepared.n_users} users",
        )
    config = settings.model.config(prepared.n_items)
    network = load_network(config, trained.folder / HELD_OUT_WEIGHTS)
    mask_seen = settings.evaluate.mask_seen
    popularity = _training_counts(histories, split, config.n_items)
    model_ranks, popularity_ranks = [], []
    with torch.inference_mode():
        for positions in split.test.split(settings.train.eval_batch_size):
            model_ranks.append(rank_positions(network, histories, positions, mask_seen))
            popularity_ranks.append(
                target_ranks(
                    popularity.repeat(len(positions), 1),
                    histories.items[positions].long(),
                    histories.seen(positions) if mask_seen else None,
                )
            )
    topk = settings.evaluate.topk
    return Evaluated(
        protocol=(
            "leave-one-out (last item), full ranking, seen items "
            f"{'masked' if mask_seen else 'kept'}, "
            f"max length {config.MAX_ITEM_LIST_LENGTH}, PyTorch, before the refit"
        ),
        n_users=len(split.test),
        model=metrics_at(torch.cat(model_ranks), topk),
        popularity=metrics_at(torch.cat(popularity_ranks), topk),
    )


def _training_counts(histories: Histories, split: Split, n_items: int) -> torch.Tensor:
    """How often each item occurs outside of validation and test, float32 (V,)."""
    known = torch.ones(len(histories.items), dtype=torch.bool)
    known[torch.cat([split.valid, split.test])] = False
    return torch.bincount(histories.items[known].long(), minlength=n_items).float()
