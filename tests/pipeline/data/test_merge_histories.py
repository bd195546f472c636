"""Merging events into histories, beside plain lists."""

from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as tuned
from hypothesis import strategies as st

from pipeline.data.merge_histories import BucketHistories, Events

# A user, a time and an item. The type of an event follows from all three.
Event = tuple[int, int, int]
events = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 5), st.integers(1, 9)), max_size=30)


def histories_of(ordered: list[Event], kind: pa.DataType, has_types: bool) -> BucketHistories:
    users = list(dict.fromkeys(user for user, _, _ in ordered))
    counts = [sum(user == each for each, _, _ in ordered) for user in users]
    return BucketHistories(
        pa.array([as_id(user, kind) for user in users], kind),
        np.cumsum([0, *counts]),
        np.array([time for _, time, _ in ordered], np.int64),
        np.array([item for _, _, item in ordered], np.int32),
        np.array(list(map(kind_of, ordered)), np.int32) if has_types else None,
    )


def events_of(ordered: list[Event], kind: pa.DataType, has_types: bool) -> Events:
    return Events(
        pa.array([as_id(user, kind) for user, _, _ in ordered], kind),
        np.array([time for _, time, _ in ordered], np.int64),
        np.array([item for _, _, item in ordered], np.int32),
        np.array(list(map(kind_of, ordered)), np.int32) if has_types else None,
    )


def kind_of(event: Event) -> int:
    return sum(event) % 4


def as_id(user: int, kind: pa.DataType) -> Any:
    return user if pa.types.is_integer(kind) else " abzà中𝄞"[user] + "x"  # in UTF-8's order


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64(), pa.large_string()], ids=str)
@given(
    old=events,
    new=events,
    gone=st.sets(st.tuples(st.integers(0, 6), st.integers(0, 5))),
    has_types=st.booleans(),
)
@tuned(max_examples=60)
def test_merging_is_sorting_them_together(
    kind: pa.DataType,
    old: list[Event],
    new: list[Event],
    gone: set[tuple[int, int]],
    has_types: bool,
) -> None:
    def by_user_and_time(each: list[Event]) -> list[Event]:
        return sorted(each, key=lambda event: event[:2])

    old = by_user_and_time(old)
    stay = [event for event in old if event[:2] not in gone]
    new = by_user_and_time([event for event in new if event[:2] not in {e[:2] for e in stay}])
    is_gone = np.array([event[:2] in gone for event in old], bool) if gone else None
    expected = defaultdict(list)
    for user, time, item in by_user_and_time([*stay, *new]):
        expected[user].append((time, item))
    before = histories_of(old, kind, has_types)
    merged = before.merged(events_of(new, kind, has_types), is_gone)
    found = [
        (row["user_id"], [t.timestamp() * 1e6 for t in row["timestamps"]], row["item_index"])
        for row in merged.rows().to_pylist()
    ]
    assert [(user, list(zip(times, items, strict=True))) for user, times, items in found] == [
        (as_id(user, kind), expected[user]) for user in sorted(expected)
    ]
    types = [row.get("event_type_index") for row in merged.rows().to_pylist()]
    if has_types:
        assert types == [
            [kind_of((user, *event)) for event in expected[user]] for user in sorted(expected)
        ]
    else:
        assert not any(types)
