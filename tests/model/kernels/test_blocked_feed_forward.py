"""The blocked feed-forward network: the formula's value and gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from model.kernels import blocked_feed_forward as kernel
from model.kernels import disabled
from model.kernels.blocked_feed_forward import blocked_feed_forward, plain_feed_forward
from model.network.feed_forward import ACTIVATIONS

D, INNER = 4, 6


def tensors(rows: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """x, w1, b1, w2, b2."""
    generator = torch.Generator().manual_seed(rows)
    shapes = [(rows, D), (INNER, D), (INNER,), (D, INNER), (D,)]
    return [
        torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes
    ]


@given(st.integers(1, 40), st.integers(1, 10), st.sampled_from(sorted(ACTIVATIONS)))
def test_blocks_give_the_value_and_the_gradients_of_the_whole(
    rows: int, block_rows: int, activation: str
) -> None:
    given, act = tensors(rows), ACTIVATIONS[activation]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "BLOCK_BYTES", 8 * block_rows * INNER)
        blocked = blocked_feed_forward(*given, act)
        whole = plain_feed_forward(*given, act)
        torch.testing.assert_close(blocked, whole)
        direction = torch.linspace(-1, 1, rows * D, dtype=torch.float64).view(rows, D)
        gradients = (torch.autograd.grad((y * direction).sum(), given) for y in (blocked, whole))
        for mine, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(mine, theirs)


def test_autocast_rounds_as_it_does_the_plain_formula() -> None:
    given, act = tensors(200, torch.float32), ACTIVATIONS["gelu"]
    exact = plain_feed_forward(*given, act)
    outcomes = []
    for compute in (blocked_feed_forward, plain_feed_forward):
        with torch.autocast("cpu", torch.bfloat16):
            output = compute(*given, act)
        assert output.dtype == torch.bfloat16
        torch.testing.assert_close(output.float(), exact, rtol=0.03, atol=0.03)
        found = torch.autograd.grad(output.float().square().sum(), given)
        assert [gradient.dtype for gradient in found] == [torch.float32] * len(given)
        outcomes.append(found)
    for mine, theirs in zip(*outcomes, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0.05, atol=0.02 * float(theirs.abs().max()))


def test_disabled_it_is_the_plain_formula() -> None:
    given, act = tensors(9), ACTIVATIONS["gelu"]
    with disabled("blocked_feed_forward"):
        found = blocked_feed_forward(*given, act)
    assert type(found.grad_fn).__name__ == "AddmmBackward0"
    assert found.equal(plain_feed_forward(*given, act))
