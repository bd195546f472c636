"""The cross-spectrum: the formula's value and gradients."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.kernels import disabled
from model.kernels.cross_spectrum import cross_spectrum, plain_cross_spectrum


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 5), st.integers(0, 1000))
@settings(deadline=None)
def test_it_gives_the_value_and_the_gradients_of_the_formula(
    rows: int, bins: int, dim: int, seed: int
) -> None:
    torch.manual_seed(seed)
    given = torch.randn(2, rows, 2 * bins, dim, dtype=torch.float64, requires_grad=True)
    directions = torch.randn(2, rows, bins, dtype=torch.float64)
    outcomes = []
    for compute in (cross_spectrum, plain_cross_spectrum):
        even, odd = compute(*given.unbind())
        total = (even * directions[0] + odd * directions[1]).sum()
        outcomes.append((even, odd, *torch.autograd.grad(total, given)))
    for mine, theirs in zip(*outcomes, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_the_formula_is_a_product_of_complex_numbers() -> None:
    query, key = torch.randn(2, 3, 8, 5, dtype=torch.float64)
    # A spectrum with cosine coefficient c and sine coefficient s is c - i s.
    q, k = (torch.complex(x[:, :4], -x[:, 4:]) for x in (query, key))
    product = (q * k.conj()).sum(-1)
    even, odd = plain_cross_spectrum(query, key)
    torch.testing.assert_close(even, product.real)
    torch.testing.assert_close(odd, -product.imag)


def test_sums_are_in_float32_under_autocast() -> None:
    query, key = torch.randn(2, 3, 8, 5).bfloat16().requires_grad_().unbind()
    with torch.autocast("cpu", torch.bfloat16):
        even, odd = cross_spectrum(query, key)
    assert even.dtype == odd.dtype == torch.float32


def test_disabled_it_is_the_plain_formula() -> None:
    query = torch.randn(3, 8, 5, requires_grad=True)
    assert "CrossSpectrum" in str(cross_spectrum(query, query)[0].grad_fn)
    with disabled("cross_spectrum"):
        assert "CrossSpectrum" not in str(cross_spectrum(query, query)[0].grad_fn)
    assert "CrossSpectrum" in str(cross_spectrum(query, query)[0].grad_fn)
