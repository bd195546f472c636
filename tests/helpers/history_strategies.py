"""Small random histories for property tests."""

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from pipeline.scoring.user_histories import UserHistories


@st.composite
def some_histories(draw: st.DrawFn) -> UserHistories:
    lists = draw(st.lists(st.lists(st.integers(1, 9), max_size=8), max_size=20))
    items = np.array([item for items in lists for item in items], np.int64)
    seen = draw(st.none() | st.lists(st.booleans(), min_size=len(items), max_size=len(items)))
    return UserHistories(
        pa.array(range(len(lists)), pa.int64()),
        items,
        np.cumsum([0, *map(len, lists)]),
        None if seen is None else np.array(seen, bool),
    )


def seen_lists(part: UserHistories) -> list[list[int]]:
    """The items of each user's events that count as seen, by a loop."""
    seen = [True] * len(part.items) if part.is_seen is None else part.is_seen.tolist()
    return [
        [item for item, is_seen in zip(part.items[a:b].tolist(), seen[a:b], strict=True) if is_seen]
        for a, b in zip(part.offsets[:-1], part.offsets[1:], strict=True)
    ]


def as_lists(part: UserHistories) -> list[list[int]]:
    return [
        part.items[begin:end].tolist()
        for begin, end in zip(part.offsets[:-1], part.offsets[1:], strict=True)
    ]
