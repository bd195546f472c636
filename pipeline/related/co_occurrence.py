"""Related items by their users: for each item, those that the same users have, exact.

Two items count as often as there are users who have both, whenever they took them. Pairs that
follow each other directly, as the baseline of the evaluation counts them, say what comes next;
there are too few of them to say what most items are like, and they are another for either side.

The score is the cosine of both items' columns of users: the users who have both, divided by the
root of the product of the users who have each. So a popular item is related to what its users have
beyond its mere popularity.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.related.neighbours import Neighbours
from pipeline.related.running_top import Integers, RunningTop
from pipeline.scoring.batches import distinct_items
from pipeline.scoring.user_histories import UserHistories
from pipeline.storage.resources import ResourceSettings
from pipeline.storage.scratch_db import scratch_database

_PAIRS = 2**20  # of items that are taken at a time

# Larger than memory on the disk, both the users' items and the counts of pairs.
_COUNTS = """
    SELECT one.item AS one, other.item AS other, count(*) AS users
    FROM taken AS one JOIN taken AS other ON one.user_row = other.user_row AND one.item < other.item
    GROUP BY one.item, other.item
"""


def co_occurrence_neighbours(
    histories: Iterable[UserHistories],
    items: Integers,
    n_items: int,
    n: int,
    scratch: Path,
    resources: ResourceSettings,
    progress: Callable[[int], None] = lambda users: None,
    offered: Integers | None = None,
) -> Neighbours:
    """The N items with the largest score to each item; ties: the smaller index first.

    The work grows with the square of the number of distinct items that a user has. Memory is that
    of `resources`, and N keys per item.

    Args:
        histories: Everybody's.
        items: (M,) the indices of the items to compare, ascending.
        n_items: V.
        n: N.
        scratch: An empty local folder for temporary files.
        resources: Memory and threads of the joins.
        progress: Is called with the number of users that were read.
        offered: Those of the items that may be neighbours; default all.

    Raises:
        StorageError: the temporary files do not fit on the disk.
    """
    place = np.full(n_items, -1)
    place[items] = np.arange(len(items))
    users_of = np.zeros(len(items), np.int64)
    may_be = np.isin(items, items if offered is None else offered)
    top = RunningTop(len(items), n)
    with scratch_database(scratch, resources) as base:
        base.execute("CREATE TABLE taken (user_row BIGINT, item INTEGER)")
        n_users = 0
        for part in histories:
            user, item = _taken(part, place)
            users_of += np.bincount(item, minlength=len(items))
            base.register("part", pa.table({"user_row": user + n_users, "item": item}))
            base.execute("INSERT INTO taken FROM part")
            base.unregister("part")
            n_users += len(part)
            progress(n_users)
        for counts in base.sql(_COUNTS).to_arrow_reader(_PAIRS):
            one, other, users = (counts[name].to_numpy() for name in ("one", "other", "users"))
            product = users_of[one].astype(np.float64) * users_of[other]
            score = (users / np.sqrt(product)).astype(np.float32)
            for item, related in ((one, other), (other, one)):
                kept = may_be[related]
                top.take(item[kept].astype(np.int64), related[kept].astype(np.int64), score[kept])
    return Neighbours.of(top, items, items)


def _taken(histories: UserHistories, place: Integers) -> tuple[Integers, Integers]:
    """Pairs of a user's row and the place of an item that the user has, each once."""
    items, _, counts = distinct_items(histories)
    user, item = np.repeat(np.arange(len(histories)), counts), place[items]
    return user[item >= 0], item[item >= 0]
