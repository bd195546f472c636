"""FEARec as the paper and RecBole write it: for tests and as the benchmarks' yardstick.

FFTs per head and channel, a weighted sum of rotated copies, every position of every block; no
algebra and no optimisation. It shares its weights with `model.network.FEARec` and agrees with it
to rounding. Exported (``export_encoder(model, path, fft="dft")``) it uses the standard ONNX
operator ``DFT``.
"""

import torch
from torch import Tensor

from model.config import FEARecConfig
from model.network.attention import HybridAttention
from model.network.fearec import FEARec


class ReferenceFEARec(FEARec):
    """The network of the same weights, operator for operator the reference's."""

    def __init__(self, config: FEARecConfig) -> None:
        super().__init__(config)
        for layer, block in enumerate(self.item_encoder.blocks):
            block.hybrid_attention = ReferenceAttention(config, layer)
        self.apply(self._initialise)

    def forward(self, item_seq: Tensor, item_seq_len: Tensor, views: int = 1) -> Tensor:
        """Arguments and result as in `FEARec.forward`."""
        hidden = self.embed(item_seq, item_seq_len)
        length = self.config.MAX_ITEM_LIST_LENGTH
        mask = self.attention_mask(item_seq_len, length, hidden.dtype)
        for block in self.item_encoder.blocks:
            hidden = block(hidden, mask, views)
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        return hidden[rows, item_seq_len - 1]


class ReferenceAttention(HybridAttention):
    """Hybrid attention by FFT."""

    band_mask: Tensor

    def __init__(self, config: FEARecConfig, layer: int) -> None:
        super().__init__(config, layer)
        mask = torch.zeros(config.MAX_ITEM_LIST_LENGTH // 2 + 1)
        mask[list(self.band)] = 1.0
        self.register_buffer("band_mask", mask, persistent=False)

    def forward(self, hidden: Tensor, attention_mask: Tensor, views: int) -> Tensor:
        """Arguments and result as in `HybridAttention.forward`."""
        # (B, H, E, L): one transform per head and channel
        query, key, value = (
            self._split_heads(layer(hidden)).permute(0, 2, 3, 1)
            for layer in (self.query_layer, self.key_layer, self.value_layer)
        )
        context = value
        if self.band:
            corr = fft_correlation(query, key, self.band_mask).mean((1, 2))
            delays, weights = self._select(corr, views)
            context = torch.zeros_like(value)
            steps = torch.arange(value.shape[-1], device=value.device)
            for i in range(self.config.delay_count):
                at = (steps + delays[:, i, None]) % value.shape[-1]
                rotated = value.gather(-1, at[:, None, None, :].expand_as(value))
                context = context + rotated * weights[:, i, None, None, None]
        context = context.permute(0, 3, 1, 2).flatten(-2)
        if self.config.dual_domain:
            if self.config.std:
                query, key, value = (fft_band(x, self.band_mask) for x in (query, key, value))
            query, key, value = (x.permute(0, 3, 1, 2).flatten(-2) for x in (query, key, value))
            ratio = self.config.spatial_ratio
            key_value = torch.cat([key, value * ratio], dim=-1)
            context = self._attend(query, key_value, attention_mask, context * (1 - ratio))
        return self._output(context, hidden)


def fft_correlation(query: Tensor, key: Tensor, band_mask: Tensor) -> Tensor:
    """Autocorrelation of every head and channel by FFT (paper, Eq. 10-12).

    Args:
        query: (B, H, E, L).
        key: (B, H, E, L).
        band_mask: (F,), 1 where the layer keeps the bin, 0 elsewhere.

    Returns:
        (B, H, E, L).
    """
    cross = torch.fft.rfft(query) * torch.conj(torch.fft.rfft(key))
    return torch.fft.irfft(cross * band_mask, n=query.shape[-1])


def fft_band(values: Tensor, band_mask: Tensor) -> Tensor:
    """Projection of the last axis onto a band: ``irfft(mask * rfft(x))``, (..., L) to (..., L)."""
    return torch.fft.irfft(torch.fft.rfft(values) * band_mask, n=values.shape[-1])
