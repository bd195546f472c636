"""Dropout by shared random bits: the formula's value and gradients, share and mean."""

import pytest
import torch
import torch.nn.functional as fn
from torch import Tensor

from model.kernels import disabled
from model.kernels.dropout import Dropout, dropout_mask, plain_dropout


def gradients(output: Tensor, *inputs: Tensor | None) -> list[Tensor]:
    direction = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    given = [each for each in inputs if each is not None]
    return list(torch.autograd.grad((output * direction).sum(), given))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_is_the_plain_formula_for_its_own_mask(
    p: float, with_residual: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(7, 5, 3, generator=generator, dtype=dtype).transpose(0, 1).requires_grad_()
    residual = torch.randn(5, 7, 3, generator=generator, dtype=dtype).requires_grad_()
    given = (x, residual if with_residual else None)
    torch.manual_seed(1)
    found = Dropout(p)(*given)
    torch.manual_seed(1)
    mask = dropout_mask(x, p)
    monkeypatch.setattr(fn, "dropout", lambda x, p: x * mask)
    expected = plain_dropout(*given, p)
    torch.testing.assert_close(found, expected)
    for mine, theirs in zip(gradients(found, *given), gradients(expected, *given), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.75, 0.9])
def test_dropout_keeps_the_share_and_the_mean(p: float) -> None:
    dropout = Dropout(p)
    x = torch.full((1000, 300), 2.0, requires_grad=True)
    y = dropout(x)
    kept = y != 0
    # Within five standard deviations, and a rounding of p.
    assert abs(1 - kept.double().mean().item() - p) < 5 * (p * (1 - p) / x.numel()) ** 0.5 + 1e-4
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 2 / (1 - p)), rtol=1e-3, atol=0)
    y.sum().backward()
    assert x.grad is not None
    assert (x.grad != 0).equal(kept)
    torch.testing.assert_close(x.grad * 2, y.detach())
    assert not dropout(x).equal(y)
    assert dropout.eval()(x).equal(x)


@pytest.mark.parametrize("p", [1e-12, 5e-6, 1e-5])
def test_a_tiny_probability_keeps_nearly_all(p: float) -> None:
    assert dropout_mask(torch.ones(10_000), p).mean() > 0.99


def test_disabled_it_is_pytorchs_dropout() -> None:
    x = torch.ones(100, 30)
    with disabled("dropout"):
        torch.manual_seed(0)
        found = Dropout(0.3)(x, x)
    torch.manual_seed(0)
    assert found.equal(plain_dropout(x, x, 0.3))
    torch.manual_seed(0)
    assert not Dropout(0.3)(x, x).equal(found)
