"""The promoted items of one promotion, ranked for users by the model among themselves."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.rules.lists import Candidates, Items
from pipeline.schema import PAD

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Promoted:
    """Items that may be recommended, and the places of the list that are theirs.

    Attributes:
        places: Places from 0.
        items: (P,) int64, their indices, ascending; P may be 0.
        bias: (P,) float32, added to their scores.
        popularity: (P,) float32, their scores for users without history.
    """

    places: tuple[int, ...]
    items: Items
    bias: Floats
    popularity: Floats

    def within(self, eligible: NDArray[np.bool_]) -> "Promoted":
        """Only the items that are true in (V,)."""
        kept = eligible[self.items]
        return replace(
            self,
            items=self.items[kept],
            bias=self.bias[kept],
            popularity=self.popularity[kept],
        )

    def ranked(self, score: Floats, exclude: Items, count: int) -> Candidates:
        """Each user's best items, ties by the smaller index.

        Args:
            score: (B, P) float32, by the model.
            exclude: (B, E) int64, items that a user may not get, padded with PAD.
            count: The number of items for each user; fewer if P is smaller.
        """
        score = score + self.bias
        place = np.minimum(np.searchsorted(self.items, exclude), max(0, len(self.items) - 1))
        if len(self.items):
            user, column = (self.items[place] == exclude).nonzero()
            score[user, place[user, column]] = -np.inf
        return _best(self.items, score, count)

    def popular(self, count: int) -> Candidates:
        """The most popular ones, for one user without history."""
        return _best(self.items, self.popularity[None].copy(), count)


def _best(items: Items, score: Floats, count: int) -> Candidates:
    """The best items of each row; what has the score -inf becomes PAD."""
    users, width = len(score), min(count, len(items))
    if not width:
        empty = np.full((users, 1), PAD, np.int64)
        return Candidates(empty, np.full((users, 1), -np.inf, np.float32), True)
    last = np.partition(score, len(items) - width, axis=1)[:, -width, None]
    better, tied = score > last, score == last
    wanted = width - better.sum(axis=1, keepdims=True)
    chosen = better | (tied & (np.cumsum(tied, axis=1) <= wanted))
    column = chosen.nonzero()[1].reshape(users, width)
    column = np.take_along_axis(
        column, np.argsort(-np.take_along_axis(score, column, 1), axis=1, kind="stable"), 1
    )
    best = np.take_along_axis(score, column, axis=1)
    item_index = np.where(best == -np.inf, PAD, items[column])
    return Candidates(item_index, best, width == len(items))
