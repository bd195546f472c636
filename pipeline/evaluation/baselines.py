"""The baselines: the most popular items, and those that most often came next.

Both answer as a network does: sequences in, scores of the whole catalogue out. No two items of a
row score the same, so that a list does not depend on how ties are broken.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.training.histories import EventHistories, expand_ranges


@dataclass(frozen=True)
class Popularity:
    """Ranks items by how often they occur in training, ties by the smaller index.

    Attributes:
        counts: int64 (V,), how often each occurs.
        order: float64 (V,), from 0 for the least popular.
    """

    counts: Tensor
    order: Tensor

    @classmethod
    def learn(cls, histories: EventHistories, n_items: int) -> "Popularity":
        """Count the items of the training histories."""
        counts = torch.bincount(histories.items, minlength=n_items)
        order = torch.empty(n_items, dtype=torch.float64)
        best_first = counts.sort(descending=True, stable=True).indices
        order[best_first] = torch.arange(n_items - 1, -1, -1, dtype=torch.float64)
        return cls(counts, order)

    def __call__(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """Scores float64 (B, V), the same for every user."""
        return self.order.repeat(len(item_seq), 1)


@dataclass(frozen=True)
class CoOccurrence:
    """Ranks items by how often they directly followed the user's last item in training.

    Ties, and all that never followed it, go by popularity.

    Attributes:
        popularity: Of the same training histories.
        starts: int64 (V + 1,), where the followers of each item begin.
        followers: int64 (P,), item indices.
        counts: int64 (P,), how often each followed.
    """

    popularity: Popularity
    starts: Tensor
    followers: Tensor
    counts: Tensor

    @classmethod
    def learn(cls, histories: EventHistories, popularity: Popularity) -> "CoOccurrence":
        """Count the pairs of neighbours in the training histories, in O(N log N)."""
        n_items = len(popularity.counts)
        items = histories.items.numpy().astype(np.int64)
        follows = np.ones(max(len(items) - 1, 0), np.bool_)
        starts = histories.offsets[1:-1].numpy()
        follows[starts[(starts > 0) & (starts < len(items))] - 1] = False
        pairs, counts = np.unique((items[:-1] * n_items + items[1:])[follows], return_counts=True)
        return cls(
            popularity,
            torch.from_numpy(np.searchsorted(pairs, np.arange(n_items + 1) * n_items)),
            torch.from_numpy(pairs % n_items),
            torch.from_numpy(counts),
        )

    def __call__(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """Scores float64 (B, V)."""
        last = item_seq.gather(1, item_seq_len[:, None] - 1).squeeze(1)
        begins, lengths = self.starts[last], self.starts.diff()[last]
        rows, pairs = expand_ranges(begins, lengths)
        scores = self.popularity(item_seq, item_seq_len)
        # One more follow outweighs any popularity.
        scores[rows, self.followers[pairs]] += self.counts[pairs] * float(scores.shape[1])
        return scores
