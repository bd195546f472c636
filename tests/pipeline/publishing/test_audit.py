"""The audit of scored parts counts what brute force finds."""

import math
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as tuned
from hypothesis import strategies as st

from pipeline.publishing.audit import Findings, Rules, audit
from pipeline.publishing.parts import open_parts
from pipeline.rules.user_segments import UserSegments
from pipeline.scoring.user_histories import UserHistories
from tests.helpers.scored_parts import ListOf, write_parts

ITEMS, TOP_K = 6, 3
# PAD and item 5 are not; users 1 and 4 are in a segment that has items 2 and 4 alone, at most 1
ELIGIBLE = np.array([[0, 1, 1, 1, 1, 0, 1], [0, 0, 1, 0, 1, 0, 0]], bool)
SEGMENTS = UserSegments(("few",), pa.array([1, 4]), np.array([1, 1]))
SEGMENT_K = 1

entries = st.tuples(st.integers(0, ITEMS + 1), st.sampled_from([0.5, math.nan, math.inf, None]))
users = st.lists(
    st.tuples(st.lists(st.integers(1, ITEMS), max_size=5), st.lists(entries, max_size=4)),
    min_size=1,
    max_size=8,
)


def item(index: int) -> str:
    return f"item{index}"


def is_seen(item: int) -> bool:
    """Of the events that do not all count as seen, in `histories`."""
    return item % 2 == 1


def histories(
    each: list[list[int]], batch: int, *, some_seen: bool = False
) -> Iterator[UserHistories]:
    for begin in range(0, len(each), batch):
        some = each[begin : begin + batch]
        yield UserHistories(
            pa.array(range(begin, begin + len(some)), pa.int64()),
            np.array([item for own in some for item in own], np.int64),
            np.array([0, *accumulate(map(len, some))], np.int64),
            np.array([is_seen(item) for own in some for item in own], bool) if some_seen else None,
        )


def rules_of(top_k: int, *, exclude_seen: bool, n_new: int = 0) -> Rules:
    ids = pa.array(map(item, range(1, ITEMS + 1)))
    is_new = np.zeros_like(ELIGIBLE)
    is_new[0, 5] = n_new > 0  # not for the segment
    k, places = np.array([top_k, SEGMENT_K]), np.array([n_new, n_new])
    return Rules(ids, SEGMENTS, ELIGIBLE, k, exclude_seen, is_new=is_new, n_new=places)


def brute_force(
    lists: list[ListOf], owned: list[list[int]], *, exclude_seen: bool, n_new: int = 0
) -> dict[str, Any]:
    counts = dict.fromkeys(Findings.__dataclass_fields__, 0)
    known = {item(index): index for index in range(1, ITEMS + 1)}
    recommended = set()
    for user, (each, own) in enumerate(zip(lists, owned, strict=True)):
        seen = set(own) if exclude_seen else set()
        eligible, top_k = (ELIGIBLE[1], SEGMENT_K) if user in (1, 4) else (ELIGIBLE[0], TOP_K)
        new = n_new > 0 and user not in (1, 4)  # the one new item, for one place or more
        left = [i for i in range(1, ITEMS + 1) if eligible[i] and i not in seen]
        left += [5] * (new and 5 not in seen)
        counts["n_users"] += 1
        counts["n_fallback"] += each.popular
        counts["n_short"] += len(left) < top_k
        counts["wrong_lengths"] += len(each.items) != min(len(left), top_k)
        counts["repeated"] += sum(
            each.items.index(one) < place and one in known for place, one in enumerate(each.items)
        )
        for one, score, rank, place in zip(
            each.items, each.scores, each.ranks, range(1, 9), strict=False
        ):
            counts["wrong_ranks"] += rank != place
            counts["not_finite"] += score is None or not math.isfinite(score)
            counts["unknown"] += one not in known
            if one in known:
                recommended.add(known[one])
                counts["ineligible"] += not (eligible[known[one]] or (new and known[one] == 5))
                counts["seen"] += known[one] in seen
    return counts | {"mismatch": "", "recommended": sorted(recommended)}


@pytest.mark.parametrize("layout", ["long", "list"])
@given(
    users=users, batch=st.integers(1, 5), size=st.integers(1, 5), exclude_seen=st.booleans(),
    shift=st.integers(0, 1), some_seen=st.booleans(), n_new=st.integers(0, 2),
)  # fmt: skip
@tuned(max_examples=25)
def test_it_counts_what_brute_force_finds(
    layout: str,
    users: list[tuple[list[int], list[tuple[int, float | None]]]],
    batch: int,
    size: int,
    exclude_seen: bool,
    shift: int,
    some_seen: bool,
    n_new: int,
) -> None:
    owned = [own for own, _ in users]
    seen = [[item for item in own if is_seen(item) or not some_seen] for own in owned]
    rules = rules_of(TOP_K, exclude_seen=exclude_seen, n_new=n_new)
    lists = []
    for place, (own, (_, found)) in enumerate(zip(seen, users, strict=True)):
        eligible = (ELIGIBLE | rules.new)[int(place in (1, 4))]
        left = set(np.flatnonzero(eligible)) - (set(own) if exclude_seen else set())
        if layout == "long" and (not left or not found):  # a user has rows where there are items
            found = [(1, 0.5)] if left else []
        ranks = [rank + shift * (layout == "long") for rank in range(1, len(found) + 1)]
        items, scores = [item(index) for index, _ in found], [score for _, score in found]
        lists.append(ListOf(place, items, scores, ranks, popular=place % 3 == 0 and bool(found)))
    if not any(each.items for each in lists) and layout == "long":
        return  # nothing to publish, which `open_parts` refuses
    with TemporaryDirectory() as folder:
        write_parts(Path(folder) / "parts", lists, layout, size)
        given = open_parts(str(Path(folder) / "parts"))
        found_there = audit(given, histories(owned, batch, some_seen=some_seen), rules)
    counts = {**vars(found_there), "recommended": np.flatnonzero(found_there.recommended).tolist()}
    assert counts == brute_force(lists, seen, exclude_seen=exclude_seen, n_new=n_new)


@pytest.mark.parametrize("layout", ["long", "list"])
@pytest.mark.parametrize(
    ("there", "message"),
    [
        ([0, 1, 3], "one for 3 where that for 2 should be"),
        ([0, 1, 2], "none for 3"),
        ([0, 1, 2, 3, 4], "one too many for 4"),
        ([0, 1, 2, 3, 0], "one too many for 0"),
        ([1, 0, 2, 3], "one for 1 where that for 0 should be"),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 9])
def test_other_users_than_those_of_the_histories_are_named(
    layout: str, there: list[int], message: str, size: int, tmp_path: Path
) -> None:
    rules = rules_of(1, exclude_seen=True)
    lists = [ListOf(user, ["item1"], [0.5], [1], popular=False) for user in there]
    write_parts(tmp_path / "parts", lists, layout, size)
    found = audit(open_parts(str(tmp_path / "parts")), histories([[2]] * 4, 3), rules)
    assert found.mismatch
    if size == 9:
        assert message in found.mismatch


def test_a_user_without_anything_to_recommend_needs_no_row(tmp_path: Path) -> None:
    rules = rules_of(1, exclude_seen=True)
    everything = list(range(1, ITEMS + 1))
    lists = [ListOf(user, ["item1"], [0.5], [1], popular=False) for user in (0, 2)]
    write_parts(tmp_path / "parts", lists, "long", 9, n_users=3)
    given = open_parts(str(tmp_path / "parts"))
    found = audit(given, histories([[2], everything, [2]], 2), rules)
    assert (found.mismatch, found.n_users, found.n_short) == ("", 3, 1)
    found = audit(given, histories([[2], [2], [2]], 2), rules)
    assert found.mismatch == "one for 2 where that for 1 should be"
