"""Full ranking of the catalogue: ranks of held-out items, top-k items, and metrics of ranks."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def target_ranks(scores: Tensor, target: Tensor, seen: tuple[Tensor, Tensor] | None) -> Tensor:
    """The rank of each target item, from 1; ties go to the smaller index.

    Args:
        scores: (B, V); changed in place.
        target: int64 (B,).
        seen: Rows and item indices to leave out; a target among them ranks last, as it could
            not be recommended. PAD is always left out.

    Returns:
        int64 (B,).
    """
    _mask(scores, seen)
    own = scores.gather(1, target[:, None])
    above = (scores > own).sum(1)
    earlier = torch.arange(scores.shape[1], device=scores.device) < target[:, None]
    ranks = 1 + above + ((scores == own) & earlier).sum(1)
    # NaN, of a diverged network, compares false and so ranks last.
    return torch.where(own.squeeze(1) > -torch.inf, ranks, scores.shape[1])


def top_items(scores: Tensor, k: int, seen: tuple[Tensor, Tensor] | None) -> Tensor:
    """The top k items, by the rules of `target_ranks`.

    Args:
        scores: (B, V); changed in place.
        k: At most V - 1.
        seen: Rows and item indices to leave out.

    Returns:
        int64 (B, k), best first; 0 where fewer than k items remain.
    """
    _mask(scores, seen)
    scores.nan_to_num_(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    # One more than k, to detect a tie between the k-th item and the next.
    best, items = scores.topk(k + 1)
    # `topk` does not define the order of ties; only rows with ties need a full sort.
    tied = ((best[:, 1:] == best[:, :-1]) & (best[:, 1:] > -torch.inf)).any(1)
    if tied.any():
        items[tied] = scores[tied].sort(descending=True, stable=True).indices[:, : k + 1]
    return items.where(best > -torch.inf, 0)[:, :k]


def _mask(scores: Tensor, seen: tuple[Tensor, Tensor] | None) -> None:
    scores[:, 0] = -torch.inf
    if seen is not None:
        scores[seen] = -torch.inf


METRICS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "HR": torch.ones_like,
    "NDCG": lambda ranks: 1 / torch.log2(ranks + 1),
    "MRR": lambda ranks: 1 / ranks,
}


def metrics_at(ranks: Tensor, topk: tuple[int, ...]) -> dict[str, float]:
    """Mean HR, NDCG and MRR at each k of ranks int64 (U,), under keys such as ``NDCG@10``."""
    ranks = ranks.double()
    return {
        f"{name}@{k}": float((gain(ranks) * (ranks <= k)).mean())
        for name, gain in METRICS.items()
        for k in topk
    }
