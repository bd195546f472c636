"""Cross-entropy over sampled items: its formula, what it estimates, and how items are drawn."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.config import FEARecConfig
from model.errors import ConfigError
from model.kernels.chunked_cross_entropy import plain_cross_entropy
from model.training.sampled_softmax import ItemSampler, SampledItems, sampled_cross_entropy

V, D, B = 40, 8, 6


def drawn(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs (B, D), items (V, D) and targets (B,)."""
    torch.manual_seed(seed)
    return torch.randn(B, D), torch.randn(V, D), torch.randint(V, (B,))


def sampler(count: int = V - 1) -> ItemSampler:
    """Item 1 is a target a thousand times, item 2 fifty times, the others never."""
    return ItemSampler.build(torch.tensor([1] * 1000 + [2] * 50), V, count)


@given(st.integers(0, 1000), st.integers(1, 30))
@settings(max_examples=50)
def test_the_loss_is_its_formula(seed: int, count: int) -> None:
    output, items, target = drawn(seed)
    sampled = sampler(count).sample()
    losses = []
    for user, wanted in zip(output.tolist(), target.tolist(), strict=True):
        score = [math.fsum(a * b for a, b in zip(user, row, strict=True)) for row in items.tolist()]
        total = math.exp(score[wanted])
        pairs = zip(sampled.item_id.tolist(), sampled.log_expected.tolist(), strict=True)
        for item, log_expected in pairs:
            if item != wanted:
                total += math.exp(score[item]) / math.exp(log_expected)
        losses.append(math.log(total) - score[wanted])
    weight = torch.rand(B) + 0.1
    found = sampled_cross_entropy(output, items, target, sampled)
    assert found.item() == pytest.approx(sum(losses) / B, rel=1e-4, abs=1e-5)
    weighted = sum(w * loss for w, loss in zip(weight.tolist(), losses, strict=True))
    found = sampled_cross_entropy(output, items, target, sampled, weight)
    assert found.item() == pytest.approx(weighted / weight.sum().item(), rel=1e-4, abs=1e-5)


def joined(samples: list[SampledItems]) -> SampledItems:
    """The items of several samples as one."""
    item_id, log_expected = map(torch.cat, zip(*samples, strict=True))
    return SampledItems(item_id, log_expected + math.log(len(samples)))


def test_with_many_samples_it_is_the_cross_entropy_over_all_items() -> None:
    output, items, target = drawn(5)
    items.requires_grad_()
    draw = sampler().sample
    sampled = joined([draw() for _ in range(10_000)])
    estimate = sampled_cross_entropy(output, items, target, sampled)
    exact = plain_cross_entropy(output, items, target)
    assert estimate.item() == pytest.approx(exact.item(), rel=0.01)
    gradients = [torch.autograd.grad(loss, items)[0] for loss in (estimate, exact)]
    torch.testing.assert_close(*gradients, rtol=0.05, atol=0.005)


def test_items_come_as_often_as_is_said() -> None:
    torch.manual_seed(0)
    draw = sampler().sample
    sampled = joined([draw() for _ in range(5_000)])
    times = sampled.item_id.bincount(minlength=V)
    assert len(times) == V
    expected = torch.zeros(V).index_put((sampled.item_id,), sampled.log_expected.exp())
    off = (times - expected).abs()
    assert (off < 5 * expected.sqrt()).all()
    # To the power of 0.75, and those without events too.
    assert expected[1] / expected[2] == pytest.approx((1001 / 51) ** 0.75, rel=1e-4)
    assert expected[2] / expected[3] == pytest.approx(51**0.75, rel=1e-4)
    assert expected.sum() == pytest.approx(5_000 * (V - 1), rel=1e-4)


def test_a_sample_of_targets_alone_costs_nothing() -> None:
    output, items, _ = drawn(1)
    target = torch.full((B,), 7)
    sampled = SampledItems(torch.full((3,), 7), torch.zeros(3))
    assert sampled_cross_entropy(output, items, target, sampled).item() == pytest.approx(0)


def test_as_many_samples_as_items_are_refused() -> None:
    with pytest.raises(ConfigError, match=rf"fewer than the {V} items.*found {V}"):
        sampler(V)


@pytest.mark.parametrize("other", [{"ce_chunk_size": 5}, {"loss_type": "BPR"}])
def test_what_it_cannot_go_with_is_refused(other: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="ce_samples is for loss_type CE"):
        FEARecConfig.model_validate({"n_items": 9, "ce_samples": 3, **other})
