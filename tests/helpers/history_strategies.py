"""Small random histories for property tests."""

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from pipeline.scoring.user_histories import UserHistories


@st.composite
def some_histories(draw: st.DrawFn) -> UserHistories:
    lists = draw(st.lists(st.lists(st.integers(1, 9), max_size=8), max_size=20))
    return UserHistories(
        pa.array(range(len(lists)), pa.int64()),
        np.array([item for items in lists for item in items], np.int64),
        np.cumsum([0, *map(len, lists)]),
    )


def as_lists(part: UserHistories) -> list[list[int]]:
    return [
        part.items[begin:end].tolist()
        for begin, end in zip(part.offsets[:-1], part.offsets[1:], strict=True)
    ]
