"""The spectral core: the bins a layer keeps, band projection, autocorrelation, delays.

Every transform is a product with a constant real basis, and the autocorrelation is averaged over
heads and channels *before* its only inverse transform. `model.reference` has the same mathematics
by FFT, as the paper writes it.
"""

import math

import numpy as np
import torch
from torch import Tensor

from model.config import FEARecConfig


def frequency_band(config: FEARecConfig, layer: int) -> range:
    """The bins of the real spectrum that a layer keeps (paper, Eq. 6-9: the frequency ramp).

    The first layer keeps the highest bins, the last layer the lowest. A `global_ratio` of
    ``1/n_layers`` or less is replaced by ``1/n_layers``. Rounding down is the reference's: the
    lowest bin may belong to no layer, and a band is empty where there are fewer bins than layers.

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
        float32 (L, 2 * len(band)), orthonormal: one cosine per bin, then one sine per bin; the
        sines of the constant bin and of the Nyquist bin are zero columns.
    """
    time = np.arange(length)[:, None]
    bins = np.array(band, dtype=np.int64)[None, :]
    # Reduced modulo L as an integer, so that the angle is exact for long sequences too.
    angle = 2 * np.pi * (time * bins % length) / length
    single = (bins == 0) | (2 * bins == length)
    scale = np.where(single, np.sqrt(1 / length), np.sqrt(2 / length))
    sine = np.where(single, 0.0, np.sin(angle) * scale)
    basis = np.concatenate([np.cos(angle) * scale, sine], axis=1)
    return torch.from_numpy(basis.astype(np.float32))


def correlation_basis(band: range, length: int) -> Tensor:
    """The inverse transform of the cross-spectrum: its products to correlations by delay.

    Returns:
        float32 (2 * len(band), L): cosine rows, then sine rows, of amplitude 1.
    """
    delay = np.arange(length)[None, :]
    bins = np.array(band, dtype=np.int64)[:, None]
    angle = 2 * np.pi * (bins * delay % length) / length
    return torch.from_numpy(np.concatenate([np.cos(angle), np.sin(angle)]).astype(np.float32))


def correlation(query: Tensor, key: Tensor, synthesis: Tensor) -> Tensor:
    """Autocorrelation averaged over heads and channels, from band coefficients (paper, Eq. 10-12).

    The inverse transform is linear, so the mean is taken before it:
    ``mean_d irfft(mask * rfft(q_d) * conj(rfft(k_d))) = irfft(mask * mean_d(...))``.

    Args:
        query: (B, R, D), ``basis.T @ q``, R = 2 * bins of the band.
        key: (B, R, D), ``basis.T @ k``.
        synthesis: (R, L), `correlation_basis`.

    Returns:
        (B, L), in float32 under autocast too.
    """
    spectrum = torch.cat(cross_spectrum(query, key), dim=1)
    basis = synthesis / query.shape[-1]
    kind = query.device.type
    if torch.is_autocast_enabled(kind):  # it would round the product, and delays would tie
        with torch.autocast(kind, enabled=False):
            return spectrum @ basis
    return spectrum @ basis


def cross_spectrum(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """The cross-spectrum ``sum_d q_d * conj(k_d)`` of band coefficients.

    Args:
        query: (B, R, D), the first R/2 rows cosine coefficients, the others sine coefficients.
        key: (B, R, D), likewise.

    Returns:
        Its even part (factors of a delay's cosines) and its odd part (of the sines), both
        (B, R/2), summed in at least float32.
    """
    exact = torch.promote_types(query.dtype, torch.float32)
    query_cos, query_sin = query.chunk(2, dim=1)
    key_cos, key_sin = key.chunk(2, dim=1)
    even = query_cos * key_cos + query_sin * key_sin
    odd = query_sin * key_cos - query_cos * key_sin
    return even.sum(-1, dtype=exact), odd.sum(-1, dtype=exact)


def correlation_period(band: range, length: int) -> int:
    """The period, at most L, after which the correlation of a band repeats exactly."""
    return length // math.gcd(length, *band)


def select_delays(corr: Tensor, count: int, period: int) -> Tensor:
    """The delays of the `count` highest correlations, highest first, ties by the smaller delay.

    A correlation of period P < L has exact ties, which rounding would break at random. So one
    period is searched, and its delays are repeated.

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
    """The weighted sum of rotated sequences, as a matrix over time.

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
