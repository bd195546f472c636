"""Batches for the recommender: the last items of each user, padded, and the items to exclude."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.scoring.user_histories import Integers, UserHistories

# The largest size of one batch's `exclude`; a user with 50,000 items makes the batch smaller.
_EXCLUDE_ENTRIES = 4 * 2**20


@dataclass(frozen=True)
class ScoringBatch:
    """The recommender's inputs for B users.

    Attributes:
        rows: (B,) int64, the users' positions in their part.
        item_seq: (B, L) int64, the last L items, right-padded with 0.
        item_seq_len: (B,) int64, from 1 to L.
        exclude: (B, E) int64, distinct items never to recommend, padded with 0; E may be 0.
    """

    rows: Integers
    item_seq: Integers
    item_seq_len: Integers
    exclude: Integers


def batches(
    histories: UserHistories, *, max_length: int, batch_size: int, exclude_seen: bool
) -> Iterator[ScoringBatch]:
    """Batches of all users with an item.

    Users come in descending order of their number of distinct items, so that few batches have a
    wide `exclude`.

    Args:
        histories: The histories of a part's users.
        max_length: L.
        batch_size: The largest B.
        exclude_seen: Whether `exclude` holds the items that a user has seen in the whole history.
    """
    lengths = histories.lengths
    seen, ends, widths = histories.items, histories.offsets[1:], np.zeros_like(lengths)
    if exclude_seen:
        seen, ends, widths = distinct_items(histories.seen())
    order = np.argsort(-widths, kind="stable")
    order = order[lengths[order] > 0]
    begin = 0
    while begin < len(order):
        width = int(widths[order[begin]])
        size = min(batch_size, max(1, _EXCLUDE_ENTRIES // max(1, width)))
        rows = order[begin : begin + size]
        last = np.minimum(lengths[rows], max_length)
        yield ScoringBatch(
            rows,
            pad(histories.items, histories.offsets[1:][rows], last, max_length),
            last,
            pad(seen, ends[rows], widths[rows], width),
        )
        begin += size


def pad(items: Integers, ends: Integers, lengths: Integers, width: int) -> Integers:
    """(B, width) int64: the `lengths` items before each end, right-padded with 0.

    Args:
        items: Flat items.
        ends: (B,) the position after each sequence's last item.
        lengths: (B,) at most `width`.
        width: The number of columns.
    """
    column = np.arange(width)
    inside = column < lengths[:, None]
    padded = np.zeros((len(ends), width), np.int64)
    padded[inside] = items[((ends - lengths)[:, None] + column)[inside]]
    return padded


def distinct_items(histories: UserHistories) -> tuple[Integers, Integers, Integers]:
    """Each user's distinct items: flat items, ends (N,), counts (N,)."""
    span = int(histories.items.max(initial=0)) + 1
    user = np.repeat(np.arange(len(histories)), histories.lengths)
    # Sort (user, item) pairs as single integers. Users are in order already, so `user` still fits.
    pairs = np.sort(user * span + histories.items)
    first = np.diff(pairs, prepend=-1) > 0
    user = user[first]
    items = pairs[first] - user * span
    counts = np.bincount(user, minlength=len(histories))
    return items, np.cumsum(counts), counts
