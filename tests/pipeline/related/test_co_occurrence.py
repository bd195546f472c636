"""Related items by co-occurrence against counts in plain Python."""

import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import StorageError
from pipeline.related import co_occurrence
from pipeline.related.co_occurrence import co_occurrence_neighbours
from pipeline.scoring.user_histories import UserHistories
from pipeline.storage.resources import ResourceSettings


def as_histories(lists: Sequence[Sequence[int]]) -> UserHistories:
    offsets = np.cumsum([0, *map(len, lists)])
    items = np.array([item for each in lists for item in each], np.int64)
    return UserHistories(pa.array(range(len(lists))), items, offsets)


def brute(lists: list[list[int]], items: list[int], n: int) -> dict[int, list[tuple[int, float]]]:
    users: dict[int, int] = dict.fromkeys(items, 0)
    both: dict[tuple[int, int], int] = {}
    for each in lists:
        own = sorted({*each} & {*items})
        for item in own:
            users[item] += 1
        for pair in combinations(own, 2):
            both[pair] = both.get(pair, 0) + 1
    found: dict[int, list[tuple[float, int]]] = {item: [] for item in items}
    for (one, other), count in both.items():
        score = float(np.float32(count / math.sqrt(users[one] * users[other])))
        found[one].append((-score, other))
        found[other].append((-score, one))
    return {item: [(i, -s) for s, i in sorted(each)[:n]] for item, each in found.items()}


@pytest.mark.parametrize("n", [1, 4, 100])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_count_of_users_who_have_both(
    seed: int, n: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(co_occurrence, "_PAIRS", 64)
    rng = np.random.default_rng(seed)
    lists = [np.minimum(rng.geometric(0.12, rng.integers(0, 12)), 29).tolist() for _ in range(120)]
    untrained = {3, 8, 30}
    items = [i for i in range(1, 31) if i not in untrained]
    offered = items if seed % 2 else [i for i in items if rng.random() < 0.4]
    done: list[int] = []
    found = co_occurrence_neighbours(
        [as_histories(lists[begin : begin + 50]) for begin in range(0, 120, 50)],
        np.array(items), 31, n, tmp_path, ResourceSettings(memory="100MB", threads=1), done.append,
        np.array(offered),
    )  # fmt: skip
    assert found.item_index.tolist() == items
    rows = zip(items, found.related_index.tolist(), found.score.tolist(), strict=True)
    pairs = {
        item: [(i, s) for i, s in zip(related, score, strict=True) if i]
        for item, related, score in rows
    }
    every = brute(lists, items, len(items))
    assert pairs == {
        item: [(i, s) for i, s in related if i in offered][:n] for item, related in every.items()
    }
    assert done == [50, 100, 120]


def test_parts_are_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.related.neighbours._PART", 2)
    found = co_occurrence_neighbours(
        [as_histories([[1, 2, 3], [3, 1]])], np.arange(1, 6), 6, 2, tmp_path,
        ResourceSettings(memory="100MB", threads=1),
    )  # fmt: skip
    parts = list(found.parts())
    assert [part.item_index.tolist() for part in parts] == [[1, 2], [3, 4], [5]]
    whole = [each for part in parts for each in part.related_index.tolist()]
    assert whole == found.related_index.tolist() == [[3, 2], [1, 3], [1, 2], [0, 0], [0, 0]]


def test_what_does_not_fit_on_the_disk_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        import duckdb

        raise duckdb.IOException("IO Error: Could not write to file: No space left on device")

    monkeypatch.setattr(co_occurrence, "_taken", full)
    with pytest.raises(StorageError, match=str(tmp_path)):
        co_occurrence_neighbours(
            [as_histories([[1]])], np.array([1]), 2, 1, tmp_path, ResourceSettings()
        )
