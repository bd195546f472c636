"""Metrics of recommendation lists: per user, over the catalogue, and their intervals.

They are keyed by their name and the length of the list: ``NDCG@10``.
"""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# Of the catalogue's items, the share that counts as popular (the short head).
HEAD = 0.2

_USER_METRICS = ("HR", "Recall", "NDCG", "MRR", "MAP")
_WEIGHTS = 2**23  # elements of the bootstrap's largest array


def user_metrics(hits: Tensor, n_relevant: Tensor, topk: tuple[int, ...]) -> dict[str, Tensor]:
    """Each user's metrics at each k; relevance is binary.

    HR is whether there is any hit, Recall the share of the relevant items that were hit, MRR one
    over the first hit's place. NDCG is divided by that of the best possible list, which begins
    with min(R, k) hits; MAP, the mean of the precision at every hit, by min(R, k), as in RecBole.
    With one relevant item Recall is HR, and MAP is MRR.

    Args:
        hits: bool (B, K), whether each place of the list, best first, holds a relevant item.
        n_relevant: int64 (B,), R >= 1, how many items are relevant.
        topk: The k, none above K.

    Returns:
        float64 (B,) by name.
    """
    place = torch.arange(1, hits.shape[1] + 1, dtype=torch.float64)
    discount = 1 / torch.log2(place + 1)
    found = hits.cumsum(1)
    dcg, ideal = (hits * discount).cumsum(1), discount.cumsum(0)
    reciprocal = (hits & (found == 1)) / place
    precision = (hits * found / place).cumsum(1)
    metrics: dict[str, dict[int, Tensor]] = {name: {} for name in _USER_METRICS}
    for k in topk:
        possible = n_relevant.clamp(max=k)
        metrics["HR"][k] = (found[:, k - 1] > 0).double()
        metrics["Recall"][k] = found[:, k - 1] / n_relevant.double()
        metrics["NDCG"][k] = dcg[:, k - 1] / ideal[possible - 1]
        metrics["MRR"][k] = reciprocal[:, :k].sum(1)
        metrics["MAP"][k] = precision[:, k - 1] / possible
    return {f"{name}@{k}": metrics[name][k] for name in _USER_METRICS for k in topk}


def catalogue_metrics(recommended: Tensor, popularity: Tensor, n_lists: int) -> dict[str, float]:
    """How recommendations spread over the catalogue; all 0 where there are none.

    - Coverage: the share of the catalogue that was recommended to anybody.
    - Gini: of how often each item of the catalogue was recommended; 0 is evenly, towards 1 is
      always the same few (RecBole's GiniIndex).
    - Novelty: the mean of -log2 of a recommended item's share of the training interactions (the
      self-information of Zhou et al., PNAS 2010); an item without any counts as having one.
    - PopularShare: the share of recommendations that are of the most popular fifth of the
      catalogue, the short head (one less the long-tail share APLT of Abdollahpouri et al., 2019).
    - MostListed: the share of the lists that hold the item that is in most of them; 1 where
      everybody gets it.

    Args:
        recommended: int64 (V,), in how many lists each item is; PAD does not count.
        popularity: int64 (V,), in how many training interactions.
        n_lists: How many lists there are, at least 1.
    """
    times, popular = recommended[1:].double(), popularity[1:].double()
    n_items, total = len(times), float(times.sum())
    if not total:
        return dict.fromkeys(("Coverage", "Gini", "Novelty", "PopularShare", "MostListed"), 0.0)
    place = torch.arange(1, n_items + 1, dtype=torch.float64)
    uneven = float(((2 * place - n_items - 1) * times.sort().values).sum())
    information = -torch.log2(popular.clamp(min=1) / popular.sum().clamp(min=1))
    head = popular.sort(descending=True, stable=True).indices[: math.ceil(HEAD * n_items)]
    return {
        "Coverage": float((times > 0).double().mean()),
        "Gini": uneven / (n_items * total),
        "Novelty": float((times * information).sum()) / total,
        "PopularShare": float(times[head].sum()) / total,
        "MostListed": float(times.max()) / n_lists,
    }


def bootstrap_intervals(
    rows: npt.NDArray[np.float64], counts: npt.NDArray[np.int64], resamples: int, seed: int
) -> npt.NDArray[np.float64]:
    """95% percentile intervals of the means over users.

    Users with the same metrics are equal to a resample, so it draws how many of each kind there
    are: under leave-one-out there are no more kinds than places, however many users.

    Args:
        rows: (G, M), the distinct metrics of users.
        counts: (G,), how many users have them.
        resamples: How often U users are drawn, with replacement.
        seed: Of the draws.

    Returns:
        (2, M), the lower and the upper ends.
    """
    random = np.random.default_rng(seed)
    users = int(counts.sum())
    at_once = max(1, _WEIGHTS // len(counts))
    means = [
        random.multinomial(users, counts / users, min(at_once, resamples - done)) @ rows / users
        for done in range(0, resamples, at_once)
    ]
    return np.quantile(np.concatenate(means), [0.025, 0.975], axis=0)
