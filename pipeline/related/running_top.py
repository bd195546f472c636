"""The best N of a stream of scored columns per row, exact.

Scores come in tiles from matrix products in float32, whose last bits depend on the processor and on
the place of a column in its tile. So a product only chooses candidates: those that could be among
the best N for all that rounding may have changed. Their scores are computed again, each by itself,
and decide; equal ones go to the smaller index.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float32]
# The exact float32 scores of pairs: of rows, and columns of a tile, both int64 (P,).
PairScores = Callable[[Integers, Integers], Floats]

# The largest tile, in scores: 8 MB, which a core's caches partly hold.
TILE = 2**21

_BLOCK = 64  # columns that share a maximum, by which most of a tile is passed over
_NOTHING = np.int64(2**63 - 1)


class RunningTop:
    """The best N columns of each row so far.

    Args:
        rows: The number of rows, Q.
        n: N.
    """

    def __init__(self, rows: int, n: int) -> None:
        # A key is a score and an index in one integer: the smaller the better.
        self._keys = np.full((rows, n), _NOTHING)

    def offer(
        self,
        scores: Floats,
        index: Integers,
        error: float | NDArray[np.float64],
        exact: PairScores,
    ) -> None:
        """Take what is among the best of a tile.

        Args:
            scores: (Q, C), near the exact ones; -inf for columns that a row must not have.
            index: (C,), what each column is called; below 2**32, and no column comes twice.
            error: The most by which a score may differ from the exact one; per row (Q, 1).
            exact: Computes the exact scores of candidates.
        """
        # Where N columns of a row reach some score, what is more than two errors below it cannot be
        # among the best N.
        floor = np.maximum(self._last()[:, None], _lower_bound(scores, self._keys.shape[1]))
        rows, columns = _at_least(scores, floor - 2 * np.asarray(error, np.float32))
        self.take(rows, index[columns], exact(rows, columns))

    def take(self, rows: Integers, index: Integers, scores: Floats) -> None:
        """Take pairs whose scores are exact; those of a row in any order, and no pair twice.

        Args:
            rows: (P,).
            index: (P,), below 2**32.
            scores: (P,), finite.
        """
        keys = _keys_of(scores, index)
        better = keys < self._keys.max(axis=1)[rows]
        rows, keys = rows[better], keys[better]
        order = np.lexsort((keys, rows))
        rows, keys = rows[order], keys[order]
        changed, begins, counts = np.unique(rows, return_index=True, return_counts=True)
        n = self._keys.shape[1]
        place = np.arange(len(rows)) - np.repeat(begins, counts)
        best = place < n  # no more of a row, however unequal rows are
        merged = np.full((len(changed), 2 * n), _NOTHING)
        merged[:, :n] = self._keys[changed]
        row = np.repeat(np.arange(len(changed)), counts)
        merged[row[best], n + place[best]] = keys[best]
        self._keys[changed] = np.partition(merged, n - 1, axis=1)[:, :n]

    def best(self) -> tuple[Integers, Floats]:
        """The indices (Q, N) and scores (Q, N), best first.

        Where a row has fewer columns, the rest is index -1 and score -inf.
        """
        keys = np.sort(self._keys, axis=1)
        present = keys != _NOTHING
        index = np.where(present, keys & np.int64(2**32 - 1), np.int64(-1))
        return index, np.where(present, _scores_of(keys), np.float32(-np.inf))

    def _last(self) -> Floats:
        """The score of each row's N-th best, -inf where it has fewer."""
        keys = self._keys.max(axis=1)
        return np.where(keys == _NOTHING, np.float32(-np.inf), _scores_of(keys))


def product_error(width: int) -> float:
    """A bound of the rounding error of float32 dot products, per product of both vectors' norms.

    Whatever the order of the sum, of vectors of `width` floats that are themselves rounded.
    """
    return (width + 4) * 2.0**-24 * 1.01


def pair_products(
    left: NDArray[np.float32], right: NDArray[np.float32], rows: Integers, columns: Integers
) -> NDArray[np.float64]:
    """The dot products of pairs of float32 vectors, in float64: equal vectors have equal ones.

    Args:
        left: (Q, D).
        right: (C, D).
        rows: (P,) of `left`.
        columns: (P,) of `right`.
    """
    products = np.empty(len(rows))
    step = max(1, TILE // (4 * left.shape[1]))
    for begin in range(0, len(rows), step):
        part = slice(begin, begin + step)
        pairs = left[rows[part]].astype(np.float64)
        pairs *= right[columns[part]]
        pairs.sum(axis=1, out=products[part])
    return products


def _lower_bound(scores: Floats, n: int) -> Floats:
    """(Q, 1): a score that at least N columns of the row reach, -inf where there are fewer."""
    columns = scores.shape[1]
    blocks = columns // _BLOCK
    if blocks >= n:
        # Each block has a column with its maximum. A block's columns lie `blocks` apart, so that
        # the maxima are taken of whole vectors.
        scores = scores[:, : blocks * _BLOCK].reshape(len(scores), _BLOCK, blocks).max(axis=1)
        columns = blocks
    elif columns < n:
        return np.full((len(scores), 1), -np.inf, np.float32)
    return np.partition(scores, columns - n, axis=1)[:, columns - n, None]


def _at_least(scores: Floats, floor: Floats) -> tuple[Integers, Integers]:
    """The rows and columns of the scores that reach their row's floor and are not -inf."""
    reached = scores >= np.maximum(floor, np.finfo(np.float32).min)
    found = np.flatnonzero(reached)
    rows, columns = np.divmod(found, scores.shape[1])
    return rows, columns


def _keys_of(scores: Floats, index: Integers) -> Integers:
    bits = (scores + np.float32(0)).view(np.int32)  # -0.0 becomes 0.0
    ascending = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
    return (~ascending).astype(np.int64) << 32 | index


def _scores_of(keys: Integers) -> Floats:
    ascending = ~(keys >> 32).astype(np.int32)
    return (ascending ^ ((ascending >> 31) & np.int32(0x7FFFFFFF))).view(np.float32)
