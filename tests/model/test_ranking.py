"""Ranks of held-out items and the metrics of ranks, against a plain sort."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.config import FEARecConfig
from model.network.fearec import FEARec
from model.ranking import metrics_at, target_ranks
from model.training.histories import EventHistories
from model.training.lightning_module import rank_positions


@st.composite
def scored(draw: st.DrawFn) -> tuple[list[list[float]], list[int], list[set[int]]]:
    n_items, rows = draw(st.integers(2, 12)), draw(st.integers(1, 5))
    score = st.sampled_from([-1.5, 0.0, 0.5, 2.0])  # few, so that there are ties
    scores = draw(st.lists(st.lists(score, min_size=n_items, max_size=n_items),
                           min_size=rows, max_size=rows))  # fmt: skip
    target = [draw(st.integers(1, n_items - 1)) for _ in range(rows)]
    seen = [draw(st.sets(st.integers(1, n_items - 1))) for _ in range(rows)]
    return scores, target, seen


@given(scored(), st.booleans())
def test_a_rank_is_the_place_in_the_sorted_catalogue(
    case: tuple[list[list[float]], list[int], list[set[int]]], masked: bool
) -> None:
    scores, target, seen = case
    pairs = torch.tensor([(row, item) for row, items in enumerate(seen) for item in items])
    pairs = pairs.view(-1, 2).T.long()
    ranks = target_ranks(
        torch.tensor(scores), torch.tensor(target), (pairs[0], pairs[1]) if masked else None
    )
    for row, own in enumerate(target):
        hidden = {0} | (seen[row] if masked else set())
        order = sorted(
            set(range(len(scores[row]))) - hidden, key=lambda item: (-scores[row][item], item)
        )
        if own in order:
            assert ranks[row] == 1 + order.index(own)
        else:  # it could not be recommended
            assert ranks[row] > len(order)


def test_a_diverged_model_ranks_nothing_well() -> None:
    scores = torch.full((3, 50), torch.nan)
    ranks = target_ranks(scores, torch.tensor([1, 20, 49]), None)
    assert metrics_at(ranks, (10,)) == {"HR@10": 0.0, "NDCG@10": 0.0, "MRR@10": 0.0}


def test_metrics_of_ranks() -> None:
    found = metrics_at(torch.tensor([1, 2, 5, 11]), (1, 5, 10))
    log2 = math.log2
    assert found == pytest.approx(
        {
            "HR@1": 1 / 4, "HR@5": 3 / 4, "HR@10": 3 / 4,
            "NDCG@1": 1 / 4,
            "NDCG@5": (1 + 1 / log2(3) + 1 / log2(6)) / 4,
            "NDCG@10": (1 + 1 / log2(3) + 1 / log2(6)) / 4,
            "MRR@1": 1 / 4, "MRR@5": (1 + 1 / 2 + 1 / 5) / 4, "MRR@10": (1 + 1 / 2 + 1 / 5) / 4,
        }
    )  # fmt: skip


@pytest.mark.parametrize("mask_seen", [False, True])
def test_positions_are_ranked_by_the_networks_scores(mask_seen: bool) -> None:
    config: dict[str, Any] = {"n_items": 12, "MAX_ITEM_LIST_LENGTH": 4, "hidden_size": 8}
    network = FEARec(FEARecConfig(**config, initializer_range=0.5)).eval()
    # The first user's target was met before, longer ago than the window reaches.
    histories = EventHistories(
        torch.tensor([7, 1, 2, 3, 4, 7, 5, 6, 8], dtype=torch.int32), torch.tensor([0, 6, 9])
    )
    positions = torch.tensor([5, 8])
    with torch.no_grad():
        ranks = rank_positions(network, histories, positions, mask_seen)
        output = network(torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]]), torch.tensor([4, 2]))
    scores = output @ network.item_embedding.weight.detach().T
    scores[:, 0] = -torch.inf
    if mask_seen:
        scores[0, [7, 1, 2, 3, 4]] = -torch.inf
        scores[1, [5, 6]] = -torch.inf
    expected = [int((row > row[item]).sum()) + 1 for row, item in zip(scores, [7, 8], strict=True)]
    assert ranks[1] == expected[1]
    assert ranks[0] == (12 if mask_seen else expected[0])
