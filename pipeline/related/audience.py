"""The audience of items: for each, the users whose embeddings score highest with it, exact."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np

from pipeline.errors import BundleError
from pipeline.related.running_top import (
    TILE,
    Floats,
    Integers,
    RunningTop,
    pair_products,
    product_error,
)
from pipeline.scoring.user_encoder import EmbeddedUsers


@dataclass(frozen=True)
class Audience:
    """The best users of M items.

    Attributes:
        position: (M, N) the users' positions among all users, best first; -1 where there are fewer.
        score: (M, N) float32, -inf where there are fewer.
    """

    position: Integers
    score: Floats


def find_audience(
    users: Iterable[EmbeddedUsers],
    table: Floats,
    items: Integers,
    n: int,
    *,
    exclude_seen: bool,
    progress: Callable[[int], None] = lambda users: None,
) -> Audience:
    """The N users with the highest score for each of some items; ties: the smaller position first.

    The score is the product of both embeddings, as in the recommendations. Memory is a part of
    the users, a tile of scores, and N keys per item.

    Args:
        users: Everybody, part by part.
        table: (V, D) float32 item embeddings, which may be mapped.
        items: (M,) distinct indices of the items, at least one.
        n: N.
        exclude_seen: Leave out users who have seen the item.
        progress: Is called with the number of users done.

    Raises:
        BundleError: a score is infinite.
    """
    vectors = table[items]
    row_of = np.full(len(table), -1)
    row_of[items] = np.arange(len(items))
    top = RunningTop(len(items), n)
    norms, longest = _norms(vectors), 0.0
    step = max(1, TILE // len(items))
    for part in users:
        longest = max(longest, float(_norms(part.embedding).max(initial=0)))
        error = product_error(table.shape[1]) * longest * norms[:, None]
        for begin in range(0, len(part.position), step):
            embedding = part.embedding[begin : begin + step]
            scores = _finite_products(vectors, embedding)
            if exclude_seen:
                own = part.histories.slice(begin, begin + len(embedding)).seen()
                row, column = row_of[own.items], np.repeat(np.arange(len(own)), own.lengths)
                scores[row[row >= 0], column[row >= 0]] = -np.inf
            position = part.position[begin : begin + step]
            top.offer(scores, position, error, partial(_products, vectors, embedding))
        progress(part.n_done)
    return Audience(*top.best())


def _finite_products(vectors: Floats, embedding: Floats) -> Floats:
    with np.errstate(over="ignore", invalid="ignore"):
        scores = vectors @ embedding.T
    if not np.isfinite(scores).all():
        raise BundleError(
            "the model computes scores that are NaN or infinite",
            remedy="The training diverged: train and export the model again.",
        )
    return scores


def _products(vectors: Floats, embedding: Floats, rows: Integers, columns: Integers) -> Floats:
    return pair_products(vectors, embedding, rows, columns).astype(np.float32)


def _norms(vectors: Floats) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
