"""Small random histories for property tests."""

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.scoring.user_histories import UserHistories


@st.composite
def some_histories(draw: st.DrawFn) -> UserHistories:
    lists = draw(st.lists(st.lists(st.integers(1, 9), max_size=8), max_size=20))
    items = np.array([item for items in lists for item in items], np.int64)
    masks = st.none() | st.lists(st.booleans(), min_size=len(items), max_size=len(items))
    drawn = draw(st.tuples(masks, masks))
    seen, inputs = (None if mask is None else np.array(mask, bool) for mask in drawn)
    users = pa.array(range(len(lists)), pa.int64())
    return UserHistories(users, items, np.cumsum([0, *map(len, lists)]), seen, inputs)


def seen_lists(part: UserHistories) -> list[list[int]]:
    """The items of each user's events that count as seen, by a loop."""
    return _masked_lists(part, part.is_seen)


def input_lists(part: UserHistories) -> list[list[int]]:
    """The items of each user's events that the model sees, likewise."""
    return _masked_lists(part, part.is_input)


def _masked_lists(part: UserHistories, mask: NDArray[np.bool_] | None) -> list[list[int]]:
    chosen = [True] * len(part.items) if mask is None else mask.tolist()
    return [
        [item for item, is_in in zip(part.items[a:b].tolist(), chosen[a:b], strict=True) if is_in]
        for a, b in zip(part.offsets[:-1], part.offsets[1:], strict=True)
    ]


def as_lists(part: UserHistories) -> list[list[int]]:
    return [
        part.items[begin:end].tolist()
        for begin, end in zip(part.offsets[:-1], part.offsets[1:], strict=True)
    ]
