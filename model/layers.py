"""FEARec's layers: hybrid attention, and the block of it and the feed-forward network.

Parameter names are the reference's, so that its weights load as they are.
"""

import math

import torch
import torch.nn.functional as fn
from torch import Tensor, nn

from model import spectral
from model.config import FEARecConfig
from model.dropout import Dropout
from model.feed_forward import FeedForward


class HybridAttention(nn.Module):
    """Frequency-domain autocorrelation and, with `dual_domain`, time-domain attention.

    Paper, Eq. 10-18. Three methods compute the same thing: `forward` in the matrix form,
    `last_row` its row of each sequence's last item alone, `forward_fft` as the paper writes it.
    """

    basis: Tensor
    synthesis: Tensor
    constant: Tensor
    rotation: Tensor
    band_mask: Tensor

    def __init__(self, config: FEARecConfig, layer: int) -> None:
        super().__init__()
        hidden, length = config.hidden_size, config.MAX_ITEM_LIST_LENGTH
        self.config = config
        self.band = spectral.frequency_band(config, layer)
        self.period = spectral.correlation_period(self.band, length)
        self.query_layer = nn.Linear(hidden, hidden)
        self.key_layer = nn.Linear(hidden, hidden)
        self.value_layer = nn.Linear(hidden, hidden)
        self.attn_dropout = Dropout(config.attn_dropout_prob)
        self.dense = nn.Linear(hidden, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, eps=config.layer_norm_eps)
        self.out_dropout = Dropout(config.hidden_dropout_prob)

        basis = spectral.band_basis(self.band, length)
        steps = torch.arange(length)
        mask = torch.zeros(length // 2 + 1)
        mask[list(self.band)] = 1.0
        for name, value in {
            "basis": basis,
            "synthesis": spectral.correlation_basis(self.band, length),
            "constant": basis.sum(0)[:, None],  # coefficients of a constant: what a bias becomes
            "rotation": (steps[None, :] - steps[:, None]) % length,
            "band_mask": mask,
        }.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, hidden: Tensor, attention_mask: Tensor, views: int) -> Tensor:
        """Every position, in the matrix form.

        Args:
            hidden: (B, L, D).
            attention_mask: (B, L, L), added to the attention scores.
            views: how many equal groups B is made of; in training each shares its delays.

        Returns:
            (B, L, D).
        """
        value = self.value_layer(hidden)
        query_band, key_band, value_band = self.band_coefficients(hidden)
        context = value
        if self.band:
            delays, weights = self._delays(query_band, key_band, views)
            context = spectral.delay_matrix(delays, weights, self.rotation) @ value
        if self.config.dual_domain:
            if self.config.std:
                coefficients = torch.cat([query_band, key_band, value_band], dim=-1)
                query, key, value = (self.basis @ coefficients).chunk(3, dim=-1)
            else:
                query, key = self.query_layer(hidden), self.key_layer(hidden)
            context = self._mix(context, self._attend(query, key, value, attention_mask))
        return self._output(context, hidden)

    def last_row(self, hidden: Tensor, attention_mask: Tensor, last: Tensor, views: int) -> Tensor:
        """The output row of each sequence's last item, at the cost of one row.

        Args:
            hidden: (B, L, D).
            attention_mask: (B, 1, L), the row of the last item.
            last: int64 (B,), the last item's position.
            views: as in `forward`.

        Returns:
            (B, D).
        """
        length = self.config.MAX_ITEM_LIST_LENGTH
        query_band, key_band, value_band = self.band_coefficients(hidden)
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        hidden_last = hidden[rows, last]
        # The weights of the delays add up to 1, so the projection may follow the weighted sum.
        delayed = hidden_last
        if self.band:
            delays, weights = self._delays(query_band, key_band, views)
            at = (last[:, None] + delays) % length
            by_time = weights.new_zeros(weights.shape[0], length).scatter(1, at, weights)
            delayed = (by_time.unsqueeze(1) @ hidden).squeeze(1)
        context = self.value_layer(delayed)
        if self.config.dual_domain:
            if self.config.std:
                query = (self.basis[last].unsqueeze(1) @ query_band).squeeze(1)
                key, value, basis = key_band, value_band, self.basis
            else:
                query = self.query_layer(hidden_last)
                key, value, basis = self.key_layer(hidden), self.value_layer(hidden), None
            attended = self._attend_last(query, key, value, basis, attention_mask)
            context = self._mix(context, attended)
        return self._output(context, hidden_last)

    def forward_fft(self, hidden: Tensor, attention_mask: Tensor, views: int) -> Tensor:
        """Every position, as the paper and the reference write it; arguments as in `forward`."""
        # (B, H, E, L): one transform a head and channel
        query, key, value = (
            self._split_heads(layer(hidden)).permute(0, 2, 3, 1)
            for layer in (self.query_layer, self.key_layer, self.value_layer)
        )
        context = value
        if self.band:
            corr = spectral.fft_correlation(query, key, self.band_mask).mean((1, 2))
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
                query, key, value = (
                    spectral.fft_band(x, self.band_mask) for x in (query, key, value)
                )
            query, key, value = (x.permute(0, 3, 1, 2).flatten(-2) for x in (query, key, value))
            context = self._mix(context, self._attend(query, key, value, attention_mask))
        return self._output(context, hidden)

    def band_coefficients(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``U.T`` of query, key and value, (B, R, D) each; the value's only where it is used.

        The input is transformed once and projected then, not three projections transformed.
        """
        layers = [self.query_layer, self.key_layer]
        if self.config.dual_domain and self.config.std:
            layers.append(self.value_layer)
        weight = torch.cat([layer.weight for layer in layers])
        bias = torch.cat([layer.bias for layer in layers])
        band = fn.linear(self.basis.T @ hidden, weight) + self.constant * bias
        query, key, *value = band.chunk(len(layers), dim=-1)
        return query, key, value[0] if value else query

    def _delays(self, query_band: Tensor, key_band: Tensor, views: int) -> tuple[Tensor, Tensor]:
        return self._select(spectral.correlation(query_band, key_band, self.synthesis), views)

    def _select(self, corr: Tensor, views: int) -> tuple[Tensor, Tensor]:
        """Delays int64 (B, K) and their softmax weights (B, K) (paper, Eq. 13-14)."""
        count = self.config.delay_count
        if self.training and self.config.delays == "batch":
            shared = corr.detach().view(views, -1, corr.shape[1]).mean(1)
            delays = spectral.select_delays(shared, count, self.period)
            delays = delays.repeat_interleave(corr.shape[0] // views, dim=0)
        else:
            delays = spectral.select_delays(corr.detach(), count, self.period)
        return delays, torch.softmax(corr.gather(1, delays), dim=-1)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Multi-head attention over (B, L, D) (paper, Eq. 16-17).

        Head by head, as slices of the hidden axis: their products need no transposed copies.
        """
        width = self.config.hidden_size // self.config.n_heads
        query = query / math.sqrt(width)
        heads = []
        for q, k, v in zip(
            query.split(width, -1), key.split(width, -1), value.split(width, -1), strict=True
        ):
            scores = torch.baddbmm(mask, q, k.transpose(-1, -2))
            heads.append(self.attn_dropout(torch.softmax(scores, dim=-1)) @ v)
        return torch.cat(heads, dim=-1)

    def _attend_last(
        self, query: Tensor, key: Tensor, value: Tensor, basis: Tensor | None, mask: Tensor
    ) -> Tensor:
        """Attention of one query row (B, D) to keys and values (B, R, D) given in `basis`."""
        heads = self.config.n_heads
        query = query.view(-1, heads, 1, query.shape[-1] // heads)
        key, value = (self._split_heads(x).transpose(1, 2) for x in (key, value))
        scores = (query @ key.transpose(-1, -2)).squeeze(2) / math.sqrt(query.shape[-1])
        if basis is not None:
            scores = scores @ basis.T
        probs = self.attn_dropout(torch.softmax(scores + mask, dim=-1))
        if basis is not None:
            probs = probs @ basis
        return (probs.unsqueeze(2) @ value).flatten(1)

    def _mix(self, frequency: Tensor, time: Tensor) -> Tensor:
        """Paper, Eq. 18."""
        return torch.lerp(frequency, time, self.config.spatial_ratio)

    def _output(self, context: Tensor, residual: Tensor) -> Tensor:
        output: Tensor = self.LayerNorm(self.out_dropout(self.dense(context)) + residual)
        return output

    def _split_heads(self, x: Tensor) -> Tensor:
        """(..., D) to (..., H, E)."""
        return x.unflatten(-1, (self.config.n_heads, -1))


class FEABlock(nn.Module):
    """Hybrid attention, then feed-forward."""

    def __init__(self, config: FEARecConfig, layer: int) -> None:
        super().__init__()
        self.hybrid_attention = HybridAttention(config, layer)
        self.feed_forward = FeedForward(config)

    def forward(self, hidden: Tensor, attention_mask: Tensor, views: int) -> Tensor:
        """Every position: (B, L, D) to (B, L, D)."""
        output: Tensor = self.feed_forward(self.hybrid_attention(hidden, attention_mask, views))
        return output

    def last_row(self, hidden: Tensor, attention_mask: Tensor, last: Tensor, views: int) -> Tensor:
        """The last item's row: (B, L, D) to (B, D)."""
        row = self.hybrid_attention.last_row(hidden, attention_mask, last, views)
        output: Tensor = self.feed_forward(row)
        return output

    def forward_fft(self, hidden: Tensor, attention_mask: Tensor, views: int) -> Tensor:
        """Every position, in the FFT form."""
        context = self.hybrid_attention.forward_fft(hidden, attention_mask, views)
        output: Tensor = self.feed_forward(context)
        return output
