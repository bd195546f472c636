"""The spectral core: bands, bases, autocorrelation, delays."""

from typing import Any

import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.config import FEARecConfig
from model.network import spectral
from model.reference import fft_band, fft_correlation

lengths = st.integers(1, 200)
ratios = st.one_of(st.sampled_from([0.05, 0.2, 0.4, 0.6, 0.8, 1.0]), st.floats(0.01, 1.0))


def small(length: int, **changes: Any) -> FEARecConfig:
    sizes: dict[str, Any] = {"hidden_size": 8, "inner_size": 8, "n_heads": 2}
    still = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
    return FEARecConfig(n_items=23, MAX_ITEM_LIST_LENGTH=length, **{**sizes, **still, **changes})


# Bands


def reference_band(length: int, n_layers: int, global_ratio: float, i: int) -> list[int]:
    """RecBole's HybridAttention.__init__, line by line."""
    if global_ratio > (1 / n_layers):
        slide_step = ((length // 2 + 1) * (1 - global_ratio)) // (n_layers - 1)
        w, s = global_ratio, slide_step
    else:
        local_ratio = 1 / n_layers
        filter_size = local_ratio * (length // 2 + 1)
        w, s = local_ratio, filter_size
    left = int(((length // 2 + 1) * (1 - w)) - (i * s))
    right = int((length // 2 + 1) - i * s)
    return list(range(left, right))


@given(lengths, st.integers(2, 8), ratios)
@example(50, 3, 0.4)  # flooring leaves the lowest bin uncovered
@example(50, 3, 0.8)
def test_bands_are_the_references(length: int, n_layers: int, ratio: float) -> None:
    config = small(length, n_layers=n_layers, global_ratio=ratio)
    for layer in range(n_layers):
        band = spectral.frequency_band(config, layer)
        assert list(band) == reference_band(length, n_layers, ratio, layer)
        assert all(0 <= i <= length // 2 for i in band)


@given(lengths, ratios)
def test_one_layer_keeps_every_bin(length: int, ratio: float) -> None:
    # 1/n_layers is 1: a smaller ratio is replaced by it.
    config = small(length, n_layers=1, global_ratio=ratio)
    assert spectral.frequency_band(config, 0) == range(length // 2 + 1)


def test_bands_slide_from_the_highest_bins_to_the_lowest() -> None:
    config = small(50, n_layers=2, global_ratio=0.6)
    assert spectral.frequency_band(config, 0) == range(10, 26)
    assert spectral.frequency_band(config, 1) == range(16)


@st.composite
def bands(draw: st.DrawFn) -> tuple[int, range]:
    length = draw(lengths)
    left = draw(st.integers(0, length // 2 + 1))
    return length, range(left, draw(st.integers(left, length // 2 + 1)))


def mask_of(band: range, length: int) -> Tensor:
    mask = torch.zeros(length // 2 + 1, dtype=torch.float64)
    mask[list(band)] = 1
    return mask


@given(bands())
def test_a_bands_basis_is_orthonormal(case: tuple[int, range]) -> None:
    length, band = case
    basis = spectral.band_basis(band, length).double()
    assert basis.shape == (length, 2 * len(band))
    gram = basis.T @ basis
    # The sines of the constant and of the Nyquist bin are zero columns.
    zero = [len(band) + i for i, b in enumerate(band) if b == 0 or 2 * b == length]
    expected = torch.eye(2 * len(band), dtype=torch.float64)
    expected[zero, zero] = 0
    torch.testing.assert_close(gram, expected, rtol=0, atol=1e-6)


@given(bands(), st.integers(0, 2**32))
def test_projection_by_the_basis_is_masking_the_spectrum(
    case: tuple[int, range], seed: int
) -> None:
    length, band = case
    x = torch.randn(3, length, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    basis, mask = spectral.band_basis(band, length).double(), mask_of(band, length)
    masked = torch.fft.irfft(mask * torch.fft.rfft(x), n=length)
    torch.testing.assert_close(x @ basis @ basis.T, masked, rtol=0, atol=1e-5)
    torch.testing.assert_close(fft_band(x, mask), masked)


# Autocorrelation and delays


def test_the_cross_spectrum_is_a_product_of_complex_numbers() -> None:
    query, key = torch.randn(2, 3, 8, 5, dtype=torch.float64)
    # A spectrum of cosine coefficient c and sine coefficient s is c - i s.
    q, k = (torch.complex(x[:, :4], -x[:, 4:]) for x in (query, key))
    product = (q * k.conj()).sum(-1)
    even, odd = spectral.cross_spectrum(query, key)
    torch.testing.assert_close(even, product.real)
    torch.testing.assert_close(odd, -product.imag)


def test_the_cross_spectrum_is_summed_in_float32_under_autocast() -> None:
    query, key = torch.randn(2, 3, 8, 5).bfloat16().unbind()
    with torch.autocast("cpu", torch.bfloat16):
        even, odd = spectral.cross_spectrum(query, key)
    assert even.dtype == odd.dtype == torch.float32


def test_the_correlation_is_float32_under_autocast() -> None:
    """Rounded to bfloat16, the highest delays of one row in twenty would tie."""
    length, band = 50, range(1, 20)
    query, key = torch.randn(2, 8, 2 * len(band), 16).bfloat16().unbind()
    synthesis = spectral.correlation_basis(band, length)
    expected = spectral.correlation(query.float(), key.float(), synthesis)
    with torch.autocast("cpu", torch.bfloat16):
        found = spectral.correlation(query, key, synthesis)
    assert found.dtype == torch.float32
    error = (found - expected).abs().max() / expected.abs().max()
    assert error < 2**-7  # of the products of bfloat16; that of the sum would be ties
    assert all(len(row.unique()) == length for row in found)


def brute_force_correlation(query: Tensor, key: Tensor) -> Tensor:
    """``sum_t query[(t + delay) mod L] * key[t]`` for every delay, over the last axis."""
    return torch.stack(
        [(query.roll(-delay, -1) * key).sum(-1) for delay in range(query.shape[-1])], dim=-1
    )


@given(bands(), st.integers(0, 2**32))
@settings(max_examples=50)
def test_both_autocorrelations_are_the_circular_sums(case: tuple[int, range], seed: int) -> None:
    length, band = case
    generator = torch.Generator().manual_seed(seed)
    query, key = torch.randn(2, 2, 3, length, dtype=torch.float64, generator=generator)
    mask = mask_of(band, length)
    # The band of the query is enough: the product's other bins are then 0.
    expected = brute_force_correlation(fft_band(query, mask), key)
    by_fft = fft_correlation(query[:, None], key[:, None], mask)[:, 0]
    torch.testing.assert_close(by_fft, expected)

    basis = spectral.band_basis(band, length).double()
    by_matrix = spectral.correlation(
        basis.T @ query.mT,  # (B, R, D)
        basis.T @ key.mT,
        spectral.correlation_basis(band, length).double(),
    )
    scale = 1 + expected.abs().max().item()
    torch.testing.assert_close(by_matrix, expected.mean(1), rtol=0, atol=1e-6 * scale)


@given(bands(), st.integers(0, 2**32))
@settings(max_examples=50)
def test_a_bands_correlation_repeats_after_its_period(case: tuple[int, range], seed: int) -> None:
    length, band = case
    assume(band)
    period = spectral.correlation_period(band, length)
    assert 1 <= period <= length
    assert length % period == 0
    generator = torch.Generator().manual_seed(seed)
    coefficients = torch.randn(2 * len(band), dtype=torch.float64, generator=generator)
    corr = coefficients @ spectral.correlation_basis(band, length).double()
    torch.testing.assert_close(corr.roll(period), corr, rtol=0, atol=1e-5 * len(band))
    shorter = [d for d in range(1, period) if length % d == 0]
    assert not any((corr.roll(d) - corr).abs().max() < 1e-5 for d in shorter)


@given(st.integers(1, 40), st.integers(1, 5), st.data())
def test_the_delays_are_those_of_the_highest_correlations(
    period: int, repeats: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, period * repeats))
    corr = torch.randperm(period).double().repeat(2, repeats)
    corr[1] = corr[1].roll(1)
    # Rounding must not choose among exact ties.
    noisy = corr + 1e-9 * torch.randn(corr.shape, dtype=torch.float64)
    delays = spectral.select_delays(corr, count, period)
    assert delays.shape == (2, count)
    assert spectral.select_delays(noisy, count, period).equal(delays)
    for row, found in zip(corr, delays, strict=True):
        best = sorted(range(len(row)), key=lambda delay: (-row[delay], delay))[:count]
        assert found.tolist() == best


@given(st.integers(1, 30), st.data())
def test_the_delay_matrix_is_the_weighted_sum_of_rotations(
    length: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, length))
    delays = torch.stack([torch.randperm(length)[:count] for _ in range(3)])
    weights = torch.rand(3, count, dtype=torch.float64)
    values = torch.randn(3, length, 4, dtype=torch.float64)
    matrix = spectral.delay_matrix(delays, weights, length)
    for b in range(3):
        expected = sum(
            w * values[b].roll(-int(d), 0) for d, w in zip(delays[b], weights[b], strict=True)
        )
        torch.testing.assert_close(matrix[b] @ values[b], expected)
