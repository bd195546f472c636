"""The spectral core: which bins a layer keeps, band projection, autocorrelation, delays.

Two forms of the same mathematics: the FFT form, which is the readable definition (``fft_*``),
and the matrix form, where every transform is a product with a constant real basis and the
autocorrelation is averaged over heads and channels *before* its only inverse transform.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.config import FEARecConfig


def frequency_band(config: FEARecConfig, layer: int) -> range:
    """Bins of the real spectrum that `layer` keeps (paper, Eq. 6-9: the frequency ramp).

    The first layer keeps the highest bins, the last the lowest. A `global_ratio` of
    ``1/n_layers`` or less is replaced by ``1/n_layers``. Flooring is the reference's, so the band
    may leave the lowest bin uncovered, and is empty where there are fewer bins than layers.

    Returns:
        A range within ``[0, F)``, F = L // 2 + 1.
    """
    bins = config.MAX_ITEM_LIST_LENGTH // 2 + 1
    width: float = config.global_ratio
    if width > 1 / config.n_layers:
        step: float = bins * (1 - width) // (config.n_layers - 1)
    else:
        width = 1 / config.n_layers
        step = width * bins
    return range(int(bins * (1 - width) - layer * step), int(bins - layer * step))


def band_basis(band: range, length: int) -> Tensor:
    """The real Fourier basis U of a band: ``irfft(mask * rfft(x)) == U @ U.T @ x``.

    Returns:
        float32 (L, 2 * len(band)): a cosine a bin, then a sine a bin, orthonormal; the sines of
        the constant and of the Nyquist bin are zero columns.
    """
    time = np.arange(length)[:, None]
    bins = np.array(band, dtype=np.int64)[None, :]
    # The product is reduced modulo L before it meets pi: exact for long sequences.
    angle = 2 * np.pi * (time * bins % length) / length
    single = (bins == 0) | (2 * bins == length)
    scale = np.where(single, np.sqrt(1 / length), np.sqrt(2 / length))
    sine = np.where(single, 0.0, np.sin(angle) * scale)
    basis = np.concatenate([np.cos(angle) * scale, sine], axis=1)
    return torch.from_numpy(basis.astype(np.float32))


def correlation_basis(band: range, length: int) -> Tensor:
    """Synthesis of the autocorrelation from `correlation`'s products.

    Returns:
        float32 (2 * len(band), L): rows of cosines, then of sines, of amplitude 1.
    """
    delay = np.arange(length)[None, :]
    bins = np.array(band, dtype=np.int64)[:, None]
    angle = 2 * np.pi * (bins * delay % length) / length
    return torch.from_numpy(np.concatenate([np.cos(angle), np.sin(angle)]).astype(np.float32))


def correlation(query: Tensor, key: Tensor, synthesis: Tensor) -> Tensor:
    """Autocorrelation averaged over heads and channels, from band coefficients.

    Args:
        query: (B, R, D), ``basis.T @ q``, R = 2 * bins of the band.
        key: (B, R, D), ``basis.T @ k``.
        synthesis: (R, L), `correlation_basis`.

    Returns:
        (B, L): the mean over channels of ``irfft(mask * rfft(q) * conj(rfft(k)))``.
    """
    # Summed in float32 also under autocast.
    spectrum = _CrossSpectrum.apply if torch.is_grad_enabled() else _cross_spectrum
    even, odd = spectrum(query, key)
    return torch.cat([even, odd], dim=1) @ (synthesis / query.shape[-1])


def _cross_spectrum(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Even and odd parts (B, bins) of query times conjugate key, summed over channels."""
    exact = torch.promote_types(query.dtype, torch.float32)
    query_cos, query_sin = query.chunk(2, dim=1)
    key_cos, key_sin = key.chunk(2, dim=1)
    even = query_cos * key_cos + query_sin * key_sin
    odd = query_sin * key_cos - query_cos * key_sin
    return even.sum(-1, dtype=exact), odd.sum(-1, dtype=exact)


class _CrossSpectrum(torch.autograd.Function):
    """`_cross_spectrum`, its gradients written in half the passes over memory."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(query, key)
        return _cross_spectrum(query, key)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        query, key = ctx.saved_tensors
        even, odd = (grad.unsqueeze(-1).to(query.dtype) for grad in grads)
        query_cos, query_sin = query.chunk(2, dim=1)
        key_cos, key_sin = key.chunk(2, dim=1)
        grad_query, grad_key = torch.empty_like(query), torch.empty_like(key)
        cos, sin = grad_query.chunk(2, dim=1)
        torch.mul(key_cos, even, out=cos).addcmul_(key_sin, odd, value=-1)
        torch.mul(key_sin, even, out=sin).addcmul_(key_cos, odd)
        cos, sin = grad_key.chunk(2, dim=1)
        torch.mul(query_cos, even, out=cos).addcmul_(query_sin, odd)
        torch.mul(query_sin, even, out=sin).addcmul_(query_cos, odd, value=-1)
        return grad_query, grad_key


def fft_correlation(query: Tensor, key: Tensor, band_mask: Tensor) -> Tensor:
    """Autocorrelation of every head and channel by FFT (paper, Eq. 10-12).

    Args:
        query: (B, H, E, L).
        key: (B, H, E, L).
        band_mask: (F,), 1 where the layer keeps the bin.

    Returns:
        (B, H, E, L).
    """
    cross = torch.fft.rfft(query) * torch.conj(torch.fft.rfft(key))
    return torch.fft.irfft(cross * band_mask, n=query.shape[-1])


def fft_band(values: Tensor, band_mask: Tensor) -> Tensor:
    """Project the last axis onto a band: ``irfft(mask * rfft(x))``, (..., L) to (..., L)."""
    return torch.fft.irfft(torch.fft.rfft(values) * band_mask, n=values.shape[-1])


def correlation_period(band: range, length: int) -> int:
    """The delay after which a band's correlation repeats itself exactly, at most L."""
    return length // math.gcd(length, *band)


def select_delays(corr: Tensor, count: int, period: int) -> Tensor:
    """The delays of the `count` highest correlations, highest first, ties by the smaller delay.

    A correlation of period P < L has exact ties that rounding would break at random, so only one
    period is searched and its delays repeated.

    Args:
        corr: (..., L).
        count: K.
        period: `correlation_period`.

    Returns:
        int64 (..., K).
    """
    repeats = corr.shape[-1] // period
    best = torch.topk(corr[..., :period], -(-count // repeats), dim=-1).indices
    if repeats == 1:
        return best
    shifts = torch.arange(repeats, device=corr.device) * period
    return (best.unsqueeze(-1) + shifts).flatten(-2)[..., :count]


def delay_matrix(delays: Tensor, weights: Tensor, length: int) -> Tensor:
    """The weighted sum over rotated sequences as a matrix over time.

    Args:
        delays: int64 (B, K).
        weights: (B, K).
        length: L.

    Returns:
        (B, L, L): ``(matrix @ v)[t] = sum_i weights[i] * v[(t + delays[i]) mod L]``.
    """
    steps = torch.arange(length, device=delays.device)
    at = (delays[:, None, :] + steps[:, None]) % length  # (B, L, K)
    empty = weights.new_zeros(weights.shape[0], length, length)
    return empty.scatter(2, at, weights[:, None, :].expand_as(at))
