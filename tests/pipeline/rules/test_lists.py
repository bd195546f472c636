"""Filled lists are those of a plain loop over users and candidates."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.rules.lists import Candidates, Cap, Slots, fill_lists
from pipeline.schema import PAD

V = 30
ELIGIBLE = np.arange(V) != PAD


def by_hand(
    ranking: Sequence[int],
    promotions: Sequence[tuple[Sequence[int], Sequence[int]]],
    caps: Sequence[Cap],
    top_k: int,
) -> list[int]:
    """One user's list."""
    places: dict[int, int] = {}

    def allowed(item: int) -> bool:
        if item in places.values():
            return False
        for cap in caps:
            group = cap.group[item]
            if group >= 0 and sum(cap.group[x] == group for x in places.values()) >= cap.most:
                return False
        return True

    for slots, promoted in promotions:
        left = list(slots)
        for item in promoted:
            if left and allowed(item):
                places[left.pop(0)] = item
    for item in ranking:
        free = [place for place in range(top_k) if place not in places]
        if free and allowed(item):
            places[free[0]] = item
    return [places[place] for place in sorted(places)]


def candidates_of(rankings: Sequence[Sequence[int]], length: int) -> Candidates:
    item_index = np.full((len(rankings), length), PAD, np.int64)
    for user, ranking in enumerate(rankings):
        item_index[user, : len(ranking[:length])] = ranking[:length]
    score = np.where(item_index == PAD, -np.inf, -np.arange(length)).astype(np.float32)
    return Candidates(item_index, score, length >= V - 1)


@settings(max_examples=200)
@given(data=st.data())
def test_lists_are_those_of_a_plain_loop(data: st.DataObject) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 2**32), label="seed"))
    top_k = data.draw(st.integers(1, 8), label="K")
    users = data.draw(st.integers(0, 6), label="users")

    def rankings() -> list[list[int]]:
        share = random.random()
        return [[int(x) for x in random.permutation(np.arange(1, V)) if random.random() < share]
                for _ in range(users)]  # fmt: skip

    caps = [
        Cap.over(
            random.integers(-1, random.integers(1, 8), V), int(random.integers(1, 4)), ELIGIBLE
        )
        for _ in range(data.draw(st.integers(0, 2), label="caps"))
    ]
    places = random.permutation(top_k)
    border = np.sort(random.integers(0, top_k + 1, data.draw(st.integers(0, 2), label="borders")))
    slots = [tuple(int(x) for x in each) for each in np.split(places, border)[:-1]]
    everything, promoted = rankings(), [rankings() for _ in slots]
    expected = [
        by_hand(
            everything[user],
            [(each, ranks[user]) for each, ranks in zip(slots, promoted, strict=True)],
            caps,
            top_k,
        )
        for user in range(users)
    ]
    length, widest = data.draw(st.integers(1, V), label="candidates"), V
    for count in (length, widest):
        promotions = [
            Slots(each, candidates_of(ranks, count))
            for each, ranks in zip(slots, promoted, strict=True)
        ]
        lists = fill_lists(candidates_of(everything, count), promotions, caps, top_k)
        for user in range(users):
            if lists.unsure[user]:
                assert count == length
                continue
            found = [int(item) for item in lists.item_index[user] if item != PAD]
            assert found == expected[user]
            assert (lists.item_index[user, len(found) :] == PAD).all()
            assert (lists.score[user, len(found) :] == -np.inf).all()


def test_a_promoted_item_keeps_its_slot_and_is_listed_once() -> None:
    ranking = candidates_of([[1, 2, 3, 4, 5]], 5)
    lists = fill_lists(ranking, [Slots((2,), candidates_of([[1, 9]], 2))], [], 4)
    np.testing.assert_array_equal(lists.item_index, [[2, 3, 1, 4]])
    np.testing.assert_array_equal(lists.promoted, [[False, False, True, False]])


def test_a_slot_without_a_promoted_item_is_a_place_like_any_other() -> None:
    ranking = candidates_of([[1, 2, 3], [1, 2, 3]], 3)
    lists = fill_lists(ranking, [Slots((1,), candidates_of([[], [7]], 1))], [], 3)
    np.testing.assert_array_equal(lists.item_index, [[1, 2, 3], [1, 7, 2]])
    np.testing.assert_array_equal(lists.promoted, [[False] * 3, [False, True, False]])


def test_a_list_that_more_candidates_could_fill_is_unsure() -> None:
    cap = Cap.over(np.arange(V) // 3, 1, ELIGIBLE)
    ranking = candidates_of([[3, 4, 5, 6]], 2)
    assert fill_lists(ranking, [], [cap], 2).unsure.tolist() == [True]
    assert fill_lists(ranking, [], [cap], 1).unsure.tolist() == [False]
    assert fill_lists(replace(ranking, complete=True), [], [cap], 2).unsure.tolist() == [False]
    assert fill_lists(candidates_of([[3, 4]], 3), [], [cap], 2).unsure.tolist() == [False]


def test_a_list_with_all_that_a_cap_allows_is_sure() -> None:
    ranking = candidates_of([[3, 4, 5, 6]], 2)
    one_group = Cap.over(np.zeros(V, np.int64), 1, ELIGIBLE)
    assert one_group.room == 1
    assert fill_lists(ranking, [], [one_group], 2).unsure.tolist() == [False]
    few_groups = Cap.over(np.minimum(np.arange(V), 2), 4, ELIGIBLE)
    assert few_groups.room == 5  # item 1, and 4 of the others
