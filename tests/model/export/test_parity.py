"""Parity as it is judged before a model is published."""

import pytest
import torch

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
    with pytest.raises(ExportParityError, match="tied"):
        check_parity(expected, found, tied, max_error=1e-4, max_near_ties=0.1)


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
