"""A training run on a GPU: it learns what it learns on a CPU, and goes on after a kill."""

from pathlib import Path
from typing import Any

import pytest
import torch

from model.config import FEARecConfig
from model.network.fearec import FEARec
from model.ranking import metrics_at
from model.training.lightning_module import rank_positions
from tests.model.training.test_trainer import CATALOGUE, HISTORIES, TEST, train

pytestmark = pytest.mark.gpu

# Without dropout, whose random numbers each device draws its own way.
STILL = FEARecConfig.from_preset(
    "paper", n_items=CATALOGUE + 1, MAX_ITEM_LIST_LENGTH=10, hidden_size=16, inner_size=32,
    hidden_dropout_prob=0.0, attn_dropout_prob=0.0,
)  # fmt: skip
UNTIL_LEARNT: dict[str, Any] = {
    "epochs": 20, "train_batch_size": 64, "learning_rate": 8e-3, "mask_seen": False,
}  # fmt: skip


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_it_learns_a_cyclic_catalogue(tmp_path: Path, precision: str) -> None:
    fitted = train(tmp_path, **UNTIL_LEARNT, accelerator="gpu", precision=precision)
    assert next(fitted.network.parameters()).device.type == "cpu"
    with torch.no_grad():
        ranks = rank_positions(fitted.network, HISTORIES, TEST, mask_seen=False)
    assert metrics_at(ranks, (1,))["HR@1"] > 0.95


def test_a_gpu_and_a_cpu_train_the_same_network(tmp_path: Path) -> None:
    networks = [
        train(tmp_path / name, config=STILL, accelerator=name, epochs=3, valid=None).network
        for name in ("gpu", "cpu")
    ]
    assert_near(*networks)


@pytest.mark.parametrize("second", ["gpu", "cpu"])
def test_a_run_goes_on_where_it_was_on_either_device(tmp_path: Path, second: str) -> None:
    whole = train(tmp_path / "whole", config=STILL, accelerator="gpu", epochs=4, valid=None)
    train(tmp_path / "killed", config=STILL, accelerator="gpu", epochs=2, valid=None)
    rest = train(tmp_path / "killed", config=STILL, accelerator=second, epochs=4, valid=None)
    assert rest.epoch == 4
    assert_near(rest.network, whole.network)


def assert_near(found: FEARec, expected: FEARec) -> None:
    """Weights differ by rounding only: far less than the 0.05 that training moves them.

    Adam's steps do not shrink with the gradient, so rounding can move a few weights further.
    """
    pairs = zip(found.parameters(), expected.parameters(), strict=True)
    apart = torch.cat([(x - y).detach().abs().flatten() for x, y in pairs])
    assert apart.quantile(0.99) < 1e-3
    assert apart.max() < 0.02
