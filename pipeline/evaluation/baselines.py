"""The baselines: the most popular items, and those that most often came next.

Both look at few items per user, however many there are: as many of the first ones as are asked for,
and as many again as the user may not get.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from model.training.histories import EventHistories
from pipeline.evaluation.rankers import BestItems, UserInputs
from pipeline.schema import PAD


@dataclass(frozen=True)
class Popularity:
    """Ranks items by how often they occur in training, ties by the smaller index.

    Attributes:
        counts: int64 (V,), how often each occurs.
        best_first: int64 (V - 1,), the items, the most popular first; without PAD.
    """

    counts: Tensor
    best_first: Tensor

    @classmethod
    def learn(cls, histories: EventHistories, n_items: int) -> "Popularity":
        """Count the items of the training histories."""
        counts = torch.bincount(histories.items, minlength=n_items)
        return cls(counts, 1 + counts[1:].sort(descending=True, stable=True).indices)

    def __call__(self, users: UserInputs, k: int) -> BestItems:
        """See `Ranker`."""
        candidates = self.first(k + _most_seen(users)).repeat(len(users.item_seq), 1)
        return BestItems(_first_allowed(candidates, _seen(candidates, users), k), 0)

    def first(self, n: int) -> Tensor:
        """The `n` most popular items, or all."""
        return self.best_first[:n]


@dataclass(frozen=True)
class CoOccurrence:
    """Ranks items by how often they directly followed the user's last item in training.

    Ties, and all that never followed it, go by popularity.

    Attributes:
        popularity: Of the same training histories.
        starts: int64 (V + 1,), where the followers of each item begin.
        followers: int64 (P,), item indices, of each item the best first.
    """

    popularity: Popularity
    starts: Tensor
    followers: Tensor

    @classmethod
    def learn(cls, histories: EventHistories, popularity: Popularity) -> "CoOccurrence":
        """Count the pairs of neighbours in the training histories, in O(N log N)."""
        n_items = len(popularity.counts)
        items = histories.items.numpy().astype(np.int64)
        follows = np.ones(max(len(items) - 1, 0), np.bool_)
        starts = histories.offsets[1:-1].numpy()
        follows[starts[(starts > 0) & (starts < len(items))] - 1] = False
        pairs, counts = np.unique((items[:-1] * n_items + items[1:])[follows], return_counts=True)
        place = np.zeros(n_items, np.int64)
        place[popularity.best_first.numpy()] = np.arange(n_items - 1)
        item, follower = np.divmod(pairs, n_items)
        order = np.lexsort((place[follower], -counts, item))
        return cls(
            popularity,
            torch.from_numpy(np.searchsorted(item, np.arange(n_items + 1))),
            torch.from_numpy(follower[order]),
        )

    def __call__(self, users: UserInputs, k: int) -> BestItems:
        """See `Ranker`."""
        n_users, wanted = len(users.item_seq), k + _most_seen(users)
        last = users.item_seq.gather(1, users.item_seq_len[:, None] - 1).squeeze(1)
        begins = self.starts[last, None]
        n_followers = (self.starts[last + 1, None] - begins).clamp(max=wanted)
        places = torch.arange(int(n_followers.max()))
        there = places < n_followers
        followers = torch.zeros(there.shape, dtype=torch.int64)
        followers[there] = self.followers[(begins + places)[there]]
        popular = self.popularity.first(wanted).repeat(n_users, 1)
        again = _among(popular, torch.arange(n_users)[:, None].expand_as(followers), followers)
        candidates = torch.cat([followers, popular], 1)
        excluded = torch.cat([~there, again], 1) | _seen(candidates, users)
        return BestItems(_first_allowed(candidates, excluded, k), 0)


def _most_seen(users: UserInputs) -> int:
    """The largest number of items that a user may not get."""
    if users.seen is None or not len(users.seen[0]):
        return 0
    return int(torch.bincount(users.seen[0]).max())


def _seen(candidates: Tensor, users: UserInputs) -> Tensor:
    """Which candidates their users may not get, bool (S, C)."""
    if users.seen is None:
        return torch.zeros(candidates.shape, dtype=torch.bool)
    return _among(candidates, *users.seen)


def _among(candidates: Tensor, rows: Tensor, items: Tensor) -> Tensor:
    """Which candidates, (S, C), are among some items of their row, bool (S, C)."""
    width = 1 + max(int(each.max()) if each.numel() else 0 for each in (candidates, items))
    keys = torch.arange(len(candidates))[:, None] * width + candidates
    return torch.isin(keys, rows * width + items)


def _first_allowed(candidates: Tensor, excluded: Tensor, k: int) -> Tensor:
    """The first K candidates of each row, (S, C), that are not excluded; 0 where there are few."""
    if candidates.shape[1] < k:
        missing = k - candidates.shape[1]
        candidates, excluded = (
            pad(candidates, (0, missing)),
            pad(excluded, (0, missing), value=True),
        )
    order = excluded.to(torch.int8).argsort(dim=1, stable=True)[:, :k]
    return candidates.gather(1, order).masked_fill(excluded.gather(1, order), PAD)
