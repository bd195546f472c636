"""Parity as it is judged before a model is published."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import FEARecConfig
from model.errors import ExportParityError
from model.export.parity import check_parity, near_ties
from model.network.fearec import FEARec


def test_near_ties_are_found() -> None:
    torch.manual_seed(0)
    config = FEARecConfig(n_items=23, MAX_ITEM_LIST_LENGTH=8, hidden_size=8, initializer_range=0.3)
    network = FEARec(config).eval()
    item_seq = torch.randint(1, 23, (256, 8))
    assert near_ties(network, item_seq, torch.full((256,), 8)).float().mean() < 0.05
    with torch.no_grad():  # a correlation of 0 everywhere: every delay is tied
        for block in network.item_encoder.blocks:
            block.hybrid_attention.query_layer.weight.zero_()
    assert near_ties(network, item_seq, torch.full((256,), 8)).all()


def test_parity_counts_near_ties_apart() -> None:
    expected = torch.zeros(5, 3)
    found = expected.clone()
    found[1] = 1.0
    tied = torch.tensor([False, True, False, False, False])
    parity = check_parity(expected, found, tied, max_error=1e-4, max_near_ties=0.2)
    assert (parity.max_error, parity.sequences, parity.near_ties) == (0.0, 5, 1)
    for none_allowed in (0.0, 1e-4):
        with pytest.raises(ExportParityError, match=r"tied .* found 1 of 5"):
            check_parity(expected, found, tied, max_error=1e-4, max_near_ties=none_allowed)


def is_refused(n_tied: int, n: int, limit: float) -> bool:
    same = torch.zeros(n, 1)
    try:
        check_parity(same, same, torch.arange(n) < n_tied, max_error=1e-4, max_near_ties=limit)
    except ExportParityError:
        return True
    return False


def test_one_chance_tie_of_few_users_is_no_reason_to_refuse() -> None:
    assert not is_refused(1, 960, 1e-3)  # 160 users, whose histories end anywhere
    assert not is_refused(2, 960, 1e-3)
    assert is_refused(20, 960, 1e-3)
    assert not is_refused(5, 5, 1.0)


def share_refused(true_share: float, n: int, limit: float) -> float:
    """The probability that a model with this true share of tied sequences is refused."""
    of_count = [math.comb(n, k) * true_share**k * (1 - true_share) ** (n - k) for k in range(100)]
    return 1 - sum(p for k, p in enumerate(of_count[: n + 1]) if not is_refused(k, n, limit))


@given(st.integers(1, 3000), st.sampled_from([1e-4, 1e-3, 1e-2]))
@settings(max_examples=40)
def test_a_true_share_of_half_the_limit_is_hardly_ever_refused(n: int, limit: float) -> None:
    assert share_refused(limit / 2, n, limit) <= 1e-3


def test_a_true_share_of_ten_times_the_limit_is_nearly_always_refused() -> None:
    assert share_refused(1e-2, 2000, 1e-3) > 0.99


@pytest.mark.parametrize("wrong", [2e-4, float("nan"), float("inf")])
def test_a_difference_is_refused_by_its_sequence(wrong: float) -> None:
    expected = torch.zeros(5, 3)
    found = expected.clone()
    found[3, 1] = wrong
    with pytest.raises(ExportParityError, match=r"sequence 3.*at most 0\.0001"):
        check_parity(
            expected, found, torch.zeros(5, dtype=torch.bool), max_error=1e-4, max_near_ties=0.1
        )


def test_nan_in_a_tied_row_is_refused_too() -> None:
    expected = torch.zeros(2, 3)
    found = expected.clone()
    found[1] = torch.nan
    with pytest.raises(ExportParityError):
        check_parity(
            expected, found, torch.tensor([False, True]), max_error=1e-4, max_near_ties=0.5
        )
