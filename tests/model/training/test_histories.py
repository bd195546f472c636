"""Flat histories: windows and seen items."""

from dataclasses import replace
from random import Random

import torch
from hypothesis import given
from hypothesis import strategies as st

from model.training.histories import EventHistories
from tests.helpers.event_histories import histories_of, prefix, targets_of, users_of_items


@given(users_of_items, st.integers(1, 12))
def test_windows_are_the_last_items_before_a_position(users: list[list[int]], length: int) -> None:
    histories = histories_of(users)
    positions = targets_of(histories)
    item_seq, item_seq_len = histories.windows(positions, length)
    assert item_seq.dtype == item_seq_len.dtype == torch.int64
    assert item_seq.shape == (len(positions), length)
    for i, position in enumerate(positions.tolist()):
        expected = prefix(users, position)[-length:]
        assert item_seq[i].tolist() == expected + [0] * (length - len(expected))
        assert item_seq_len[i] == len(expected)


@given(users_of_items, st.integers(1, 12), st.randoms(use_true_random=False))
def test_windows_hold_inputs_alone_and_seen_items_are_those_that_count(
    users: list[list[int]], length: int, random: Random
) -> None:
    every = histories_of(users)
    n = len(every.items)
    masks = [torch.tensor([random.random() < 0.5 for _ in range(n)]) for _ in range(2)]
    histories = replace(every, is_input=masks[0], is_seen=masks[1])
    positions = targets_of(every)
    item_seq, item_seq_len = histories.windows(positions, length)
    rows, seen = histories.seen(positions)
    has_input = histories.with_inputs(positions)
    for i, position in enumerate(positions.tolist()):
        begin = position - len(prefix(users, position))
        before = range(begin, position)
        inputs = [int(every.items[at]) for at in before if masks[0][at]][-length:]
        assert item_seq[i].tolist() == inputs + [0] * (length - len(inputs))
        assert item_seq_len[i] == len(inputs)
        assert has_input[i] == bool(inputs)
        assert seen[rows == i].tolist() == [int(every.items[at]) for at in before if masks[1][at]]
    # Without the other events the windows are the same.
    kept = histories.only(masks[0])
    mine = positions[masks[0][positions] & has_input]
    again = kept.windows(masks[0].cumsum(0)[mine] - 1, length)
    assert again[0].equal(histories.windows(mine, length)[0])


@given(users_of_items)
def test_seen_is_every_item_before_a_position(users: list[list[int]]) -> None:
    histories = histories_of(users)
    positions = targets_of(histories)
    rows, items = histories.seen(positions)
    for i, position in enumerate(positions.tolist()):
        assert items[rows == i].tolist() == prefix(users, position)


def test_users_without_items_shift_nobody() -> None:
    histories = EventHistories(
        torch.tensor([1, 2, 3, 4], dtype=torch.int32), torch.tensor([0, 0, 2, 2, 4, 4])
    )
    item_seq, item_seq_len = histories.windows(torch.tensor([1, 3]), 3)
    assert item_seq.tolist() == [[1, 0, 0], [3, 0, 0]]
    assert item_seq_len.tolist() == [1, 1]
