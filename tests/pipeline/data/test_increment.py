"""What is new since an instant, and how far it is from what was before: by brute force."""

import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as tuned
from hypothesis import strategies as st

from pipeline.data import increment
from pipeline.data.increment import Increment, population_stability_index, read_increment
from tests.helpers.prepared_folders import write_prepared

START = datetime(2026, 11, 1, tzinfo=UTC)
histories = st.lists(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6)), min_size=1, max_size=6),
    min_size=1,
    max_size=9,
)


@given(users=histories, last=st.integers(-1, 6), batch=st.integers(1, 4))
@tuned(max_examples=30)
def test_counts_are_those_of_brute_force(
    users: list[list[tuple[int, int]]], last: int, batch: int
) -> None:
    ordered = [sorted(each) for each in users]
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(increment, "_BATCH_ROWS", batch)
        folder = Path(name) / "prepared"
        write_prepared(
            folder,
            [[item for _, item in each] for each in ordered],
            [[START + timedelta(days=day) for day, _ in each] for each in ordered],
            items=range(1, 7),
        )
        found = read_increment(folder, START + timedelta(days=last))
    every = [event for each in ordered for event in each]
    assert found.before.tolist() == counts([item for day, item in every if day <= last], 7)
    assert found.new.tolist() == counts([item for day, item in every if day > last], 7)
    before = [sum(day <= last for day, _ in each) for each in ordered]
    assert found.lengths_before[:8].tolist() == counts([n for n in before if n], 8)
    assert found.lengths[:8].tolist() == counts([len(each) for each in ordered], 8)
    old = {item for day, item in every if day <= last}
    new = [item for day, item in every if day > last]
    assert found.n_new == len(new)
    there = {item for _, item in every}
    assert found.new_items == pytest.approx(len(there - old) / len(there))


def counts(values: list[int], size: int) -> list[int]:
    found = Counter(values)
    return [found[value] for value in range(size)]


def of(before: list[int], new: list[int]) -> Increment:
    lengths = np.zeros(3, np.int64)
    return Increment(np.array([0, *before]), np.array([0, *new]), lengths, lengths)


def test_few_events_say_nothing_about_their_distribution() -> None:
    assert of([50, 50], [10, 10]).unknown_items is None
    assert of([500, 500, 0], [400, 400, 100]).popularity_drift is None
    assert of([500, 500, 0], [400, 400, 100]).unknown_items == pytest.approx(1 / 9)


def test_drift_is_of_groups_of_items() -> None:
    popular = [1000 // rank for rank in range(1, 200)]
    same, turned = of(popular, popular), of(popular, popular[::-1])
    assert same.popularity_drift == pytest.approx(0)
    assert turned.popularity_drift > 1
    one_more = of([*popular, 0], [*popular, 5000])  # events on new items do not count
    assert one_more.popularity_drift == pytest.approx(0)


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=10), st.data())
@tuned(max_examples=50)
def test_psi_is_the_symmetric_divergence(before: list[int], data: st.DataObject) -> None:
    now = data.draw(st.lists(st.integers(0, 1000), min_size=len(before), max_size=len(before)))
    pairs = [(b + 0.5, n + 0.5) for b, n in zip(before, now, strict=True) if b]
    total, new = sum(b for b, _ in pairs), sum(n for _, n in pairs)
    expected = sum((n / new - b / total) * math.log((n / new) / (b / total)) for b, n in pairs)
    found = population_stability_index(np.array(before), np.array(now))
    assert found == pytest.approx(expected, abs=1e-12)
    assert found >= -1e-12
