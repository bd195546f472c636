"""Batches for the recommender: the last items of each user, padded, and the items to exclude."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.scoring.user_histories import Integers, UserHistories
from pipeline.scoring.user_lists import UserItems, pair_keys

# The largest size of one batch's `exclude`; a user with 50,000 items makes the batch smaller.
_EXCLUDE_ENTRIES = 4 * 2**20

# Of N users: flat items, the position after each user's last one (N,), and the counts (N,).
ItemsPerUser = tuple[Integers, Integers, Integers]


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
    histories: UserHistories,
    *,
    max_length: int,
    batch_size: int,
    exclude_seen: bool,
    listed: UserItems | None = None,
) -> Iterator[ScoringBatch]:
    """Batches of all users with an item that the model sees.

    Users come in descending order of their number of items to exclude, so that few batches have a
    wide `exclude`.

    Args:
        histories: The histories of a part's users.
        max_length: L.
        batch_size: The largest B.
        exclude_seen: Whether `exclude` holds the items that a user has seen in the whole history.
        listed: Items that `exclude` holds besides; None for none.
    """
    read = histories.inputs()
    lengths = read.lengths
    items = excluded_items(histories, exclude_seen=exclude_seen, listed=listed)
    _, _, widths = items
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
            pad(read.items, read.offsets[1:][rows], last, max_length),
            last,
            pad_rows(items, rows),
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


def pad_rows(items: ItemsPerUser, rows: Integers) -> Integers:
    """(B, E) int64: the items of B users, right-padded with 0; E is the most that one has."""
    flat, ends, counts = items
    return pad(flat, ends[rows], counts[rows], int(counts[rows].max(initial=0)))


def excluded_items(
    histories: UserHistories, *, exclude_seen: bool, listed: UserItems | None
) -> ItemsPerUser:
    """The distinct items that each user may not get: as `distinct_items`.

    Args:
        histories: The histories of N users.
        exclude_seen: Whether these are the items that a user has seen in the whole history.
        listed: Items that a user may not get besides; None for none.
    """
    return _distinct(*_excluded(histories, exclude_seen, listed), len(histories))


def excluded_keys(
    histories: UserHistories, n_items: int, *, exclude_seen: bool, listed: UserItems | None
) -> Integers:
    """The `pair_keys` of what each user may not get, of V items; otherwise as `excluded_items`."""
    return pair_keys(*_excluded(histories, exclude_seen, listed), n_items)


def _excluded(
    histories: UserHistories, exclude_seen: bool, listed: UserItems | None
) -> tuple[Integers, Integers]:
    user, item = (np.zeros(0, np.int64),) * 2
    if listed is not None:
        user, item = listed.pairs(histories.user_id)
    if exclude_seen:
        seen = histories.seen()
        user = np.append(user, np.repeat(np.arange(len(seen)), seen.lengths))
        item = np.append(item, seen.items)
    return user, item


def distinct_items(histories: UserHistories) -> ItemsPerUser:
    """Each user's distinct items: flat items, ascending per user, ends (N,), counts (N,)."""
    user = np.repeat(np.arange(len(histories)), histories.lengths)
    return _distinct(user, histories.items, len(histories))


def _distinct(user: Integers, item: Integers, users: int) -> ItemsPerUser:
    # As single integers the pairs are sorted fast. Users are counted from 0, so `user` fits.
    span = int(item.max(initial=0)) + 1
    keys = pair_keys(user, item, span)
    user = keys // span
    counts = np.bincount(user, minlength=users)
    return keys - user * span, np.cumsum(counts), counts
