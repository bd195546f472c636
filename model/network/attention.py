"""FEARec's block: hybrid attention, then the feed-forward network.

Parameter names are the reference's, so that its weights load unchanged.
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

    Paper, Eq. 10-18. `forward` computes every position; `last_row` computes only the row of each
    sequence's last item, which is all that the last block needs.
    """

    basis: Tensor
    synthesis: Tensor
    constant: Tensor

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

        # ONNX Runtime computes products of width 0 wrongly, so an empty band has one zero column.
        basis = spectral.band_basis(self.band, length) if self.band else torch.zeros(length, 1)
        synthesis = spectral.correlation_basis(self.band, length)
        if 0 in self.band:
            # The constant bin adds the same value to every delay, which changes neither their order
            # nor their softmax; left out, it cannot round the differences away.
            synthesis[0] = 0.0
        for name, value in {
            "basis": basis,
            "synthesis": synthesis,
            "constant": basis.sum(0)[:, None],  # band coefficients of 1, by which biases transform
        }.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, hidden: Tensor, attention_mask: Tensor, views: int) -> Tensor:
        """Every position.

        Args:
            hidden: (B, L, D).
            attention_mask: (B, L, T), added to the attention scores; T is at least the longest
                sequence's length, as nothing after it is attended to.
            views: Number of equal groups in B; in training each group shares its delays.

        Returns:
            (B, L, D).
        """
        length, reach = self.config.MAX_ITEM_LIST_LENGTH, attention_mask.shape[-1]
        # Its bias is added in `_output`: the delays' weights sum to 1, so it passes unchanged.
        value = fn.linear(hidden, self.value_layer.weight)
        # One transform of the input; queries, keys and values are projections of it.
        band = self.basis.T @ hidden
        ratio = self.config.spatial_ratio if self.config.dual_domain else 0.0
        if self.band:
            # Eq. 18's share is applied to the K weights, the smallest factor of the product.
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
        """The first `reach` steps of a band-limited projection: (B, R, D) to (B, reach, N)."""
        projected = fn.linear(band, weight)
        if 0 in self.band:
            projected = projected + self.constant * bias
        return self.basis[:reach] @ projected

    def last_row(self, hidden: Tensor, attention_mask: Tensor, last: Tensor, views: int) -> Tensor:
        """The output row of each sequence's last item, at the cost of one row.

        No keys and values are computed: ``q . (W_k x) = (W_k.T q) . x``, so the key projection is
        applied to the one query, and the value projection to the one attended row.

        Args:
            hidden: (B, L, D).
            attention_mask: (B, 1, T), the row of the last item.
            last: int64 (B,), the last item's position.
            views: As in `forward`.

        Returns:
            (B, D).
        """
        length, reach = self.config.MAX_ITEM_LIST_LENGTH, attention_mask.shape[-1]
        band = self.basis.T @ hidden
        # The delays' weights sum to 1, so the projection can follow the weighted sum.
        at, weights = last[:, None], hidden.new_ones(hidden.shape[0], 1)
        if self.band:
            delays, weights = self._select(self.correlation(band), views)
            at = (at + delays) % length
        # Both rows by one matmul: indexing the last row has a slower backward pass.
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

    def correlation(self, band: Tensor) -> Tensor:
        """The correlation of every delay, up to a constant: band coefficients (B, R, D) to (B, L).

        The sum over channels of query times key is a bilinear form of the input,
        ``x.T (W_k.T W_q) x``: one product instead of two projections. Biases only change the
        constant bin, which is left out.
        """
        # Multiply the weight matrices in float64: float32 rounding here alone would double every
        # correlation's error.
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
        """Multi-head attention, added to a context (B, L, D) (paper, Eq. 16-18).

        Each head is a slice of the hidden axis, so its products need no transposed copies.

        Args:
            query: (B, L, D).
            key_value: (B, T, 2D), the values already multiplied by `spatial_ratio`.
            mask: (B, L, T).
            context: (B, L, D), already multiplied by ``1 - spatial_ratio``.
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
            row: (B, D), the query before its projection.
            source: (B, R, D), keys and values before their projections, as coefficients of `basis`.
            basis: (T, R), or None where the source is in the time domain, R = T.
            mask: (B, 1, T).

        Returns:
            (B, D).
        """
        # A bias is constant in time: only a band with the constant bin has it.
        biased = basis is None or 0 in self.band
        query = self._by_head(fn.linear(row, self.query_layer.weight))
        if biased:
            query = query + self._split_heads(self.query_layer.bias)[:, None, :]
        # (H, B, E) @ (H, E, D); the key's bias adds the same value to every score and is left out.
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
        """Projection of ``context + constant``, residual and LayerNorm; the constant is (D,)."""
        bias: Tensor = self.dense.bias
        if constant is not None:
            bias = bias + self.dense.weight @ constant
        # ONNX Runtime fuses a bias into two-dimensional products only.
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
