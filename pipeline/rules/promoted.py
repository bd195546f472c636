"""The promoted items of one promotion, ranked for users by the model among themselves."""

from dataclasses import dataclass, replace
from typing import Self

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
        popularity: (P,) float64, their scores for users without history.
    """

    places: tuple[int, ...]
    items: Items
    bias: Floats
    popularity: NDArray[np.float64]

    def within(self, listed: NDArray[np.bool_]) -> Self:
        """Only the items that are true in (V,), or more."""
        kept = listed[self.items]
        return replace(
            self,
            items=self.items[kept],
            bias=self.bias[kept],
            popularity=self.popularity[kept],
        )

    def embeddings(self, table: Floats) -> Floats:
        """Their (P, D) embeddings, of an item table (V, D)."""
        return np.array(table[self.items])

    def scores(self, users: Floats, embeddings: Floats) -> Floats:
        """(B, P) their scores by the model, of users' embeddings (B, D) and their own."""
        return users @ embeddings.T

    def ranked(self, score: Floats, exclude: Items, count: int) -> Candidates:
        """Each user's best items, ties by the smaller index.

        Args:
            score: (B, P) float32, by the model.
            exclude: (B, E) int64, items that a user may not get, padded with PAD.
            count: The number of items for each user; fewer if P is smaller.
        """
        return self._best(score + self.bias, exclude, count)

    def popular(self, exclude: Items, count: int) -> Candidates:
        """Each user's most popular ones, for users without history; arguments as for `ranked`."""
        return self._best(np.tile(self.popularity, (len(exclude), 1)), exclude, count)

    def _best(self, score: Floats, exclude: Items, count: int) -> Candidates:
        """Those of the best scores, (B, P), which are changed."""
        place = np.minimum(np.searchsorted(self.items, exclude), max(0, len(self.items) - 1))
        if len(self.items):
            user, column = (self.items[place] == exclude).nonzero()
            score[user, place[user, column]] = -np.inf
        return best_of(self.items, score, count)


def best_of(items: Items, score: Floats, count: int) -> Candidates:
    """The best items of each row, ties by the earlier column.

    Args:
        items: (P,) int64, the columns' items, or (B, P), those of each row; P may be 0.
        score: (B, P) float32; what has the score -inf becomes PAD.
        count: The number of items for each row; fewer if P is smaller.
    """
    users, columns = score.shape
    width = min(count, columns)
    if not width:
        empty = np.full((users, 1), PAD, np.int64)
        return Candidates(empty, np.full((users, 1), -np.inf, np.float32), True)
    last = np.partition(score, columns - width, axis=1)[:, -width, None]
    better, tied = score > last, score == last
    wanted = width - better.sum(axis=1, keepdims=True)
    chosen = better | (tied & (np.cumsum(tied, axis=1) <= wanted))
    column = chosen.nonzero()[1].reshape(users, width)
    column = np.take_along_axis(
        column, np.argsort(-np.take_along_axis(score, column, 1), axis=1, kind="stable"), 1
    )
    best = np.take_along_axis(score, column, axis=1)
    chosen_items = items[column] if items.ndim == 1 else np.take_along_axis(items, column, axis=1)
    return Candidates(np.where(best == -np.inf, PAD, chosen_items), best, width == columns)
