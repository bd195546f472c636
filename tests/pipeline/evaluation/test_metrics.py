"""Metrics against trec_eval, and against their definitions written out."""

import math
from typing import Any

import numpy as np
import pytest
import pytrec_eval
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.ranking import metrics_at, top_items
from pipeline.evaluation.metric_sums import DistinctRows
from pipeline.evaluation.metrics import bootstrap_intervals, catalogue_metrics, user_metrics

TOPK = (1, 3, 5, 10)
N_ITEMS = 14


@st.composite
def lists_and_relevant(draw: st.DrawFn) -> tuple[list[int], set[int]]:
    """Ten items in some order, and what was relevant: some of them, and some never listed."""
    items = draw(st.permutations(range(1, N_ITEMS)))[:10]
    return items, draw(st.sets(st.integers(1, N_ITEMS - 1), min_size=1, max_size=N_ITEMS - 1))


def trec(items: list[int], relevant: set[int]) -> dict[str, float]:
    """The same figures by trec_eval."""
    judged = {"u": {str(item): 1 for item in relevant}}
    run = {"u": {str(item): float(-place) for place, item in enumerate(items)}}
    cuts = ",".join(map(str, TOPK))
    wanted = {f"{name}.{cuts}" for name in ("success", "recall", "ndcg_cut", "map_cut")}
    found = pytrec_eval.RelevanceEvaluator(judged, wanted).evaluate(run)["u"]
    figures = {}
    for k in TOPK:
        first = {"u": dict(list(run["u"].items())[:k])}
        cut = pytrec_eval.RelevanceEvaluator(judged, {"recip_rank"}).evaluate(first)["u"]
        figures |= {
            f"HR@{k}": found[f"success_{k}"],
            f"Recall@{k}": found[f"recall_{k}"],
            f"NDCG@{k}": found[f"ndcg_cut_{k}"],
            f"MRR@{k}": cut["recip_rank"],
            # trec_eval divides by all relevant items, even those a list of k has no room for.
            f"MAP@{k}": found[f"map_cut_{k}"] * len(relevant) / min(len(relevant), k),
        }
    return figures


@given(st.lists(lists_and_relevant(), min_size=1, max_size=6))
def test_user_figures_are_those_of_trec_eval(cases: list[tuple[list[int], set[int]]]) -> None:
    hits = torch.tensor([[item in relevant for item in items] for items, relevant in cases])
    n_relevant = torch.tensor([len(relevant) for _, relevant in cases])
    found = user_metrics(hits, n_relevant, TOPK)
    for row, case in enumerate(cases):
        expected = trec(*case)
        assert {name: float(values[row]) for name, values in found.items()} == pytest.approx(
            expected
        )


@given(st.lists(st.integers(1, 15), min_size=1, max_size=20))
def test_with_one_relevant_item_they_follow_from_its_rank(ranks: list[int]) -> None:
    hits = torch.tensor(ranks)[:, None] == torch.arange(1, 11)
    found = user_metrics(hits, torch.ones(len(ranks), dtype=torch.int64), TOPK)
    means = {name: float(values.mean()) for name, values in found.items()}
    by_rank = metrics_at(torch.tensor(ranks), TOPK)  # what training is stopped by
    assert {name: means[name] for name in by_rank} == pytest.approx(by_rank)
    for k in TOPK:
        assert means[f"Recall@{k}"] == means[f"HR@{k}"]
        assert means[f"MAP@{k}"] == pytest.approx(means[f"MRR@{k}"])


@given(
    st.lists(st.integers(0, 9), min_size=2, max_size=25),
    st.data(),
)
def test_figures_of_the_catalogue(times: list[int], data: st.DataObject) -> None:
    n_items = len(times)
    counted = st.lists(st.integers(0, 9), min_size=n_items, max_size=n_items)
    popular = data.draw(counted)
    found = catalogue_metrics(torch.tensor([7, *times]), torch.tensor([7, *popular]), 12)
    listed = [item for item, count in enumerate(times) for _ in range(count)]
    if not listed:
        assert set(found.values()) == {0.0}
        return
    assert found["Coverage"] == pytest.approx(len(set(listed)) / n_items)
    # Gini's mean absolute difference over all pairs.
    difference = np.abs(np.subtract.outer(times, times)).mean()
    assert found["Gini"] == pytest.approx(difference / (2 * np.mean(times)))
    total = max(sum(popular), 1)
    surprise = [-math.log2(max(popular[item], 1) / total) for item in listed]
    assert found["Novelty"] == pytest.approx(np.mean(surprise))
    best_first = sorted(range(n_items), key=lambda item: (-popular[item], item))
    head = best_first[: math.ceil(n_items / 5)]
    assert found["PopularShare"] == pytest.approx(np.mean([item in head for item in listed]))
    assert found["MostListed"] == pytest.approx(max(times) / 12)


@st.composite
def scored(draw: st.DrawFn) -> tuple[torch.Tensor, list[set[int]], int]:
    n_items, rows = draw(st.integers(2, 12)), draw(st.integers(1, 5))
    score = st.sampled_from(
        [-1.5, 0.0, 0.5, 2.0, math.inf, math.nan]
    )  # few, so that there are ties
    row = st.lists(score, min_size=n_items, max_size=n_items)
    scores = draw(st.lists(row, min_size=rows, max_size=rows))
    seen = [draw(st.sets(st.integers(1, n_items - 1))) for _ in range(rows)]
    return torch.tensor(scores), seen, draw(st.integers(1, n_items - 1))


@given(scored(), st.booleans())
def test_the_top_items_are_the_head_of_a_sort(
    case: tuple[torch.Tensor, list[set[int]], int], masked: bool
) -> None:
    scores, seen, k = case
    pairs = torch.tensor([(row, item) for row, items in enumerate(seen) for item in items])
    pairs = pairs.view(-1, 2).T.long()
    found = top_items(scores.clone(), k, (pairs[0], pairs[1]) if masked else None)
    for row, line in enumerate(scores.tolist()):
        hidden = {0} | (seen[row] if masked else set())
        hidden |= {item for item, score in enumerate(line) if math.isnan(score)}
        order = sorted(set(range(len(line))) - hidden, key=lambda item: (-line[item], item))
        assert found[row].tolist() == (order + [0] * k)[:k]


def kinds(values: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rows, counts = np.unique(values[:, None], axis=0, return_counts=True)
    return rows, counts


def test_intervals_are_those_of_scipys_bootstrap() -> None:
    from scipy.stats import bootstrap

    values = np.random.default_rng(1).exponential(size=60).round(1)
    expected = bootstrap(
        (values,), np.mean, n_resamples=100_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    found = bootstrap_intervals(*kinds(values), 100_000, seed=3)
    assert found.shape == (2, 1)
    assert found[:, 0] == pytest.approx([expected.low, expected.high], abs=0.01)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    random = np.random.default_rng(5)
    held = 0
    for seed in range(300):
        low, high = bootstrap_intervals(
            *kinds(random.binomial(1, 0.3, 200).astype(float)), 400, seed
        )
        held += bool(low[0] <= 0.3 <= high[0])
    assert 0.91 <= held / 300 <= 0.98


def test_intervals_in_chunks_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, counts = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([30, 70])
    whole = bootstrap_intervals(rows, counts, 500, seed=1)
    monkeypatch.setattr("pipeline.evaluation.metrics._WEIGHTS", 2 * 7)
    assert np.allclose(bootstrap_intervals(rows, counts, 500, seed=1), whole)
    assert (whole[0] < [0.7, 0.3]).all()
    assert (whole[1] > [0.7, 0.3]).all()


@given(st.lists(st.lists(st.tuples(*[st.integers(0, 3)] * 2), min_size=1), min_size=1))
def test_distinct_rows_are_counted_whatever_the_batches(
    batches: list[list[tuple[int, int]]],
) -> None:
    found = DistinctRows()
    for batch in batches:
        found.add(np.array(batch, float))
    every = np.array([row for batch in batches for row in batch], float)
    rows, counts = np.unique(every, axis=0, return_counts=True)
    assert (found.merged()[0] == rows).all()
    assert (found.merged()[1] == counts).all()


def test_distinct_rows_do_not_grow_with_what_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.evaluation.metric_sums._PENDING", 100)
    random, found, most = np.random.default_rng(0), DistinctRows(), 0
    for _ in range(200):
        found.add(random.integers(0, 5, (50, 2)).astype(float))
        most = max(most, sum(map(len, found._rows)))
    assert most < 100 + 2 * 25 + 50
    assert found.merged()[1].sum() == 200 * 50
