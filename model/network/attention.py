"""FEARec's layers: hybrid attention, and the block of it and the feed-forward network.

Parameter names are the reference's, so that its weights load as they are.
"""

import math

import torch
import torch.nn.functional as fn
from torch import Tensor, nn

from model.config import FEARecConfig
from model.kernels.dropout import Dropout
from model.network import spectral
from model.network.feed_forward import FeedForward


class HybridAttention(nn.Module):
    """Frequency-domain autocorrelation and, with `dual_domain`, time-domain attention.

    Paper, Eq. 10-18. Three methods compute the same thing: `forward` in the matrix form,
    `last_row` its row of each sequence's last item alone, `forward_fft` as the paper writes it.
    """

    basis: Tensor
    synthesis: Tensor
    constant: Tensor
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

        # ONNX Runtime computes products of width 0 wrongly, so an empty band has a column of 0.
        basis = spectral.band_basis(self.band, length) if self.band else torch.zeros(length, 1)
        synthesis = spectral.correlation_basis(self.band, length)
        if 0 in self.band:
            # The constant bin adds the same to every delay, which changes neither their order nor
            # their softmax; without it the differences that do count are not rounded away.
            synthesis[0] = 0.0
        mask = torch.zeros(length // 2 + 1)
        mask[list(self.band)] = 1.0
        for name, value in {
            "basis": basis,
            "synthesis": synthesis,
            "constant": basis.sum(0)[:, None],  # coefficients of a constant: what a bias becomes
            "band_mask": mask,
        }.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, hidden: Tensor, attention_mask: Tensor, views: int) -> Tensor:
        """Every position, in the matrix form.

        Args:
            hidden: (B, L, D).
            attention_mask: (B, L, T), added to the attention scores; T is at least the longest
                sequence, for nothing after it is attended to.
            views: how many equal groups B is made of; in training each shares its delays.

        Returns:
            (B, L, D).
        """
        length, reach = self.config.MAX_ITEM_LIST_LENGTH, attention_mask.shape[-1]
        # Its bias follows in `_output`: the weights of the delays add up to 1.
        value = fn.linear(hidden, self.value_layer.weight)
        band = self.basis.T @ hidden  # transformed once, projected then
        ratio = self.config.spatial_ratio if self.config.dual_domain else 0.0
        if self.band:  # Eq. 18's share, where it costs least
            delays, weights = self._select(self.correlation(band), views)
            context = spectral.delay_matrix(delays, weights * (1 - ratio), length) @ value
        else:
            context = value * (1 - ratio)
        if self.config.dual_domain:
            weight = torch.cat([self.key_layer.weight, self.value_layer.weight * ratio])
            bias = torch.cat([self.key_layer.bias, self.value_layer.bias * ratio])
            if self.config.std:
                query = self._from_band(
                    band, self.query_layer.weight, self.query_layer.bias, length
                )
                key_value = self._from_band(band, weight, bias, reach)
            else:
                query = self.query_layer(hidden)
                key_value = fn.linear(hidden[:, :reach], weight, bias)
            context = self._attend(query, key_value, attention_mask, context)
        return self._output(context, hidden, self.value_layer.bias * (1 - ratio))

    def _from_band(self, band: Tensor, weight: Tensor, bias: Tensor, reach: int) -> Tensor:
        """The first steps (B, reach, N) of a projection's band, from its input's (B, R, D)."""
        projected = fn.linear(band, weight)
        if 0 in self.band:
            projected = projected + self.constant * bias
        return self.basis[:reach] @ projected

    def last_row(self, hidden: Tensor, attention_mask: Tensor, last: Tensor, views: int) -> Tensor:
        """The output row of each sequence's last item, at the cost of one row.

        One row needs no keys and values of its own: the key projection is applied to the query,
        and the value projection to the attended row.

        Args:
            hidden: (B, L, D).
            attention_mask: (B, 1, T), the row of the last item.
            last: int64 (B,), the last item's position.
            views: as in `forward`.

        Returns:
            (B, D).
        """
        length, reach = self.config.MAX_ITEM_LIST_LENGTH, attention_mask.shape[-1]
        band = self.basis.T @ hidden
        # The weights of the delays add up to 1, so the projection may follow the weighted sum.
        at, weights = last[:, None], hidden.new_ones(hidden.shape[0], 1)
        if self.band:
            delays, weights = self._select(self.correlation(band), views)
            at = (at + delays) % length
        # Two rows by one product: picking the last one by its index costs more, backwards.
        empty = weights.new_zeros(weights.shape[0], length)
        by_time = torch.stack(
            [empty.scatter(1, at, weights), empty.scatter(1, last[:, None], 1.0)], dim=1
        )
        delayed, hidden_last = (by_time.to(hidden.dtype) @ hidden).unbind(1)
        context = self.value_layer(delayed)
        if self.config.dual_domain:
            if self.config.std:
                row = (self.basis[last].unsqueeze(1) @ band).squeeze(1)
                attended = self._attend_last(row, band, self.basis[:reach], attention_mask)
            else:
                source = hidden[:, :reach]
                attended = self._attend_last(hidden_last, source, None, attention_mask)
            ratio = self.config.spatial_ratio
            context = (1 - ratio) * context + ratio * attended
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
            ratio = self.config.spatial_ratio
            context = context * (1 - ratio)
            key_value = torch.cat([key, value * ratio], dim=-1)
            context = self._attend(query, key_value, attention_mask, context)
        return self._output(context, hidden)

    def correlation(self, band: Tensor) -> Tensor:
        """What delays are picked by, up to a constant: band coefficients (B, R, D) to (B, L).

        The sum over channels of query times key is a bilinear form of the input, one product
        instead of two projections. Their biases only touch the constant bin, which is left out.
        """
        # Correlations are sharp: in float32 this one product would double the error of them all.
        form = (self.key_layer.weight.double().T @ self.query_layer.weight.double()).to(band.dtype)
        return spectral.correlation(band, band @ form, self.synthesis)

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

    def _attend(self, query: Tensor, key_value: Tensor, mask: Tensor, context: Tensor) -> Tensor:
        """Add the share of multi-head attention to a context (B, L, D) (paper, Eq. 16-18).

        Head by head, as slices of the hidden axis: their products need no transposed copies.

        Args:
            query: (B, L, D).
            key_value: (B, T, 2D), the values already times their share.
            mask: (B, L, T).
            context: (B, L, D), already with the other share of it.
        """
        heads = self.config.n_heads
        width = self.config.hidden_size // heads
        slices = key_value.split(width, -1)
        parts = zip(
            query.split(width, -1),
            slices[:heads],
            slices[heads:],
            context.split(width, -1),
            strict=True,
        )
        mixed = []
        for own, key, value, part in parts:
            scores = torch.baddbmm(mask, own, key.transpose(-1, -2), alpha=1 / math.sqrt(width))
            probs = self.attn_dropout(torch.softmax(scores, dim=-1))
            mixed.append(torch.baddbmm(part, probs, value))
        return torch.cat(mixed, dim=-1)

    def _attend_last(
        self, row: Tensor, source: Tensor, basis: Tensor | None, mask: Tensor
    ) -> Tensor:
        """Multi-head attention of one row.

        Args:
            row: (B, D), what the query is a projection of.
            source: (B, R, D), what keys and values are projections of, in `basis`.
            basis: (T, R), or None where the source is in time, R = T.
            mask: (B, 1, T).

        Returns:
            (B, D).
        """
        # A bias is a constant in time: part of a band, or not in it at all.
        biased = basis is None or 0 in self.band
        query = self._by_head(fn.linear(row, self.query_layer.weight))
        if biased:
            query = query + self._split_heads(self.query_layer.bias)[:, None, :]
        # (H, B, E) @ (H, E, D); the key's bias adds the same to every score
        turned = query @ self.key_layer.weight.unflatten(0, (self.config.n_heads, -1))
        scores = source @ turned.permute(1, 2, 0) / math.sqrt(query.shape[-1])  # (B, R, H)
        scores = scores.transpose(1, 2)
        if basis is not None:
            scores = scores @ basis.T
        probs = self.attn_dropout(torch.softmax(scores + mask, dim=-1))
        attended = (probs if basis is None else probs @ basis) @ source  # (B, H, D)
        by_head = self.value_layer.weight.unflatten(0, (self.config.n_heads, -1))
        value = (attended.transpose(0, 1) @ by_head.transpose(1, 2)).transpose(0, 1)
        if biased:
            value = value + probs.sum(-1, keepdim=True) * self._split_heads(self.value_layer.bias)
        return value.flatten(1)

    def _output(self, context: Tensor, residual: Tensor, constant: Tensor | None = None) -> Tensor:
        """Projection, residual and normalisation of contexts that yet lack a `constant` (D,)."""
        bias: Tensor = self.dense.bias
        if constant is not None:
            bias = bias + self.dense.weight @ constant
        # As rows: ONNX Runtime adds a bias within a product of two dimensions only.
        projected = fn.linear(context.flatten(0, -2), self.dense.weight, bias).view_as(residual)
        output: Tensor = self.LayerNorm(self.out_dropout(projected, residual))
        return output

    def _split_heads(self, x: Tensor) -> Tensor:
        """(..., D) to (..., H, E)."""
        return x.unflatten(-1, (self.config.n_heads, -1))

    def _by_head(self, x: Tensor) -> Tensor:
        """(B, D) to (H, B, E)."""
        return self._split_heads(x).transpose(0, 1)


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
