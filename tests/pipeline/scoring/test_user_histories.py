from dataclasses import replace
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.scoring.user_histories import UserHistories, split_parts
from tests.helpers.history_strategies import as_lists, input_lists, seen_lists, some_histories


@given(some_histories(), st.integers(1, 7), st.integers(1, 15), st.data())
def test_where_parts_are_cut_does_not_depend_on_how_users_arrive(
    everybody: UserHistories, users: int, limit: int, data: st.DataObject
) -> None:
    borders = sorted(data.draw(st.lists(st.integers(0, len(everybody)), max_size=4)))
    edges = [0, *borders, len(everybody)]
    pieces = [everybody.slice(a, b) for a, b in pairwise(edges)]

    parts = list(split_parts(pieces, users, limit))

    assert [items for part in parts for items in as_lists(part)] == as_lists(everybody)
    assert [items for part in parts for items in seen_lists(part)] == seen_lists(everybody)
    assert [as_lists(part) for part in parts if len(part)] == [
        as_lists(part) for part in split_parts([everybody], users, limit) if len(part)
    ]
    for part in parts:
        assert len(part) <= users
        assert len(part.items) <= limit or len(part) == 1


@given(some_histories(), st.data())
def test_what_counts_as_seen_is_kept_with_its_events(
    everybody: UserHistories, data: st.DataObject
) -> None:
    keep = data.draw(st.lists(st.booleans(), min_size=len(everybody), max_size=len(everybody)))
    chosen = everybody.filter(np.array(keep, bool))
    expected = [
        items for items, is_kept in zip(seen_lists(everybody), keep, strict=True) if is_kept
    ]
    assert seen_lists(chosen) == expected
    assert as_lists(chosen.seen()) == expected
    unknown = data.draw(st.sets(st.integers(1, 9)), label="unknown items")
    indices = np.where(np.isin(everybody.items, list(unknown)), 0, everybody.items)
    known = replace(everybody, items=indices).without_pad()
    for lists in (seen_lists, input_lists):
        assert lists(known) == [
            [item for item in items if item not in unknown] for items in lists(everybody)
        ]
    assert as_lists(chosen.inputs()) == input_lists(chosen)
