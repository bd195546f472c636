"""Related items by their embeddings: for each item, those with the largest cosine, exact."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.related.neighbours import Neighbours
from pipeline.related.running_top import (
    TILE,
    Floats,
    Integers,
    RunningTop,
    pair_products,
    product_error,
)

_ROWS = 256  # of a tile: a matrix product of fewer is slower


def cosine_neighbours(
    table: Floats, items: Integers, n: int, offered: Integers | None = None
) -> Iterator[Neighbours]:
    """The N items with the largest cosine to each item, in parts; ties: the smaller index first.

    Every pair is compared: M * O * D multiplications for M items. Memory is a copy of their
    embeddings, one of those of the offered items, and a tile of scores. An item whose embedding is
    all zeros has no direction: it is nobody's neighbour, and has none.

    Args:
        table: (V, D) float32 item embeddings, which may be mapped.
        items: (M,) the indices of the items to compare, ascending.
        n: N.
        offered: (O,) those of them that may be neighbours, ascending; default all.
    """
    compared = _UnitVectors.of(table, items, items if offered is None else offered)
    for begin in range(0, len(compared.items), _ROWS):
        yield compared.neighbours(begin, min(begin + _ROWS, len(compared.items)), n)


@dataclass(frozen=True)
class _UnitVectors:
    """The items that have a direction.

    Attributes:
        table: (V, D) embeddings.
        items: (M,) their indices.
        norms: (M,) float64.
        unit: (M, D) float32, the embeddings divided by their norms.
        places: (O,) the places in `items` of those that may be neighbours, ascending.
        others: (O, D), theirs of `unit`.
    """

    table: Floats
    items: Integers
    norms: NDArray[np.float64]
    unit: Floats
    places: Integers
    others: Floats

    @classmethod
    def of(cls, table: Floats, items: Integers, offered: Integers) -> "_UnitVectors":
        norms, unit = np.empty(len(items)), np.empty((len(items), table.shape[1]), np.float32)
        step = max(1, TILE // table.shape[1])
        for begin in range(0, len(items), step):
            part = slice(begin, begin + step)
            vectors = table[items[part]].astype(np.float64)
            norms[part] = np.sqrt((vectors * vectors).sum(axis=1))
            with np.errstate(invalid="ignore"):  # 0 / 0, which is left out
                unit[part] = vectors / norms[part, None]
        known = norms > 0
        items, norms, unit = items[known], norms[known], unit[known]
        places = np.flatnonzero(np.isin(items, offered))
        others = unit if len(places) == len(items) else unit[places]
        return cls(table, items, norms, unit, places, others)

    def neighbours(self, begin: int, end: int, n: int) -> Neighbours:
        """The neighbours of the items from place `begin` to `end`."""
        error = product_error(self.table.shape[1])
        top = RunningTop(end - begin, n)
        step = TILE // _ROWS
        for first in range(0, len(self.places), step):
            tile = self.unit[begin:end] @ self.others[first : first + step].T
            places = self.places[first : first + step]
            itself = np.flatnonzero((places >= begin) & (places < end))
            tile[places[itself] - begin, itself] = -np.inf
            top.offer(tile, places, error, partial(self._cosines, begin, places))
        return Neighbours.of(top, self.items[begin:end], self.items)

    def _cosines(self, begin: int, places: Integers, rows: Integers, columns: Integers) -> Floats:
        one, other = rows + begin, places[columns]
        products = pair_products(self.table, self.table, self.items[one], self.items[other])
        return (products / (self.norms[one] * self.norms[other])).astype(np.float32)
