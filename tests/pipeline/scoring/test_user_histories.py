from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.scoring import user_histories as histories
from pipeline.scoring.user_histories import UserHistories, batches, pad, split_parts


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


@given(some_histories(), st.integers(1, 6), st.integers(1, 5), st.integers(1, 12), st.booleans())
def test_batches_hold_the_last_items_and_all_that_was_seen(
    everybody: UserHistories, length: int, size: int, entries: int, exclude_seen: bool
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(histories, "_EXCLUDE_ENTRIES", entries)
        found = list(
            batches(everybody, max_length=length, batch_size=size, exclude_seen=exclude_seen)
        )
    lists = as_lists(everybody)
    assert sorted(row for batch in found for row in batch.rows) == [
        row for row, items in enumerate(lists) if items
    ]
    for batch in found:
        assert len(batch.rows) <= size
        assert batch.exclude.size <= max(entries, batch.exclude.shape[1])
        for position, row in enumerate(batch.rows):
            last = lists[row][-length:]
            assert batch.item_seq_len[position] == len(last)
            assert batch.item_seq[position].tolist() == last + [0] * (length - len(last))
            seen = [item for item in batch.exclude[position].tolist() if item]
            assert seen == (sorted(set(lists[row])) if exclude_seen else [])


@given(some_histories(), st.integers(1, 7), st.integers(1, 15), st.data())
def test_where_parts_are_cut_does_not_depend_on_how_users_arrive(
    everybody: UserHistories, users: int, limit: int, data: st.DataObject
) -> None:
    borders = sorted(data.draw(st.lists(st.integers(0, len(everybody)), max_size=4)))
    edges = [0, *borders, len(everybody)]
    pieces = [everybody.slice(a, b) for a, b in pairwise(edges)]

    parts = list(split_parts(pieces, users, limit))

    assert [items for part in parts for items in as_lists(part)] == as_lists(everybody)
    assert [as_lists(part) for part in parts if len(part)] == [
        as_lists(part) for part in split_parts([everybody], users, limit) if len(part)
    ]
    for part in parts:
        assert len(part) <= users
        assert len(part.items) <= limit or len(part) == 1


@given(some_histories(), st.integers(1, 9))
def test_padding_is_what_a_loop_would_do(everybody: UserHistories, width: int) -> None:
    lengths = np.minimum(everybody.lengths, width)
    padded = pad(everybody.items, everybody.offsets[1:], lengths, width)
    assert padded.dtype == np.int64
    assert padded.tolist() == [
        items[-width:] + [0] * (width - len(items)) for items in as_lists(everybody)
    ]
