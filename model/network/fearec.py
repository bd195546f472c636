"""The FEARec network (Du et al., SIGIR 2023)."""

from typing import cast

import torch
from torch import Tensor, nn

from model.config import FEARecConfig
from model.kernels.dropout import Dropout
from model.network.attention import FEABlock
from model.network.padding import padding_index

MASKED = -10000.0  # the reference's constant, added to the scores of masked positions


class Encoder(nn.Module):
    """The blocks, held under the reference's parameter names."""

    def __init__(self, config: FEARecConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(FEABlock(config, i) for i in range(config.n_layers))

    @property
    def blocks(self) -> list[FEABlock]:
        """The blocks, first to last."""
        return cast("list[FEABlock]", list(self.layer))


class FEARec(nn.Module):
    """Encodes a user's item sequence into one vector; an item's score is its product with it.

    The last block computes each sequence's last position only. `model.reference.ReferenceFEARec`
    computes the same by FFT at every position, as RecBole does; both agree to rounding.

    Args:
        config: Architecture; kept as attribute `config`.
    """

    causal: Tensor
    repeated: Tensor

    def __init__(self, config: FEARecConfig) -> None:
        super().__init__()
        self.config = config
        self.item_embedding = nn.Embedding(config.n_items, config.hidden_size, padding_idx=0)
        self.position_embedding = nn.Embedding(config.MAX_ITEM_LIST_LENGTH, config.hidden_size)
        self.item_encoder = Encoder(config)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)
        length = config.MAX_ITEM_LIST_LENGTH
        causal = torch.full((length, length), MASKED).triu(1)
        self.register_buffer("causal", causal, persistent=False)
        if config.padding != "zero":
            repeated = padding_index(config.padding, length)
            self.register_buffer("repeated", repeated, persistent=False)
        self.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        # PAD's row too, as in the reference: its logit is one of the V of the cross-entropy.
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def forward(self, item_seq: Tensor, item_seq_len: Tensor, views: int = 1) -> Tensor:
        """Encode sequences.

        Args:
            item_seq: int64 (B, L), oldest first, right-padded with 0, whatever the configured
                `padding`. L is always `MAX_ITEM_LIST_LENGTH`: padding takes part in the
                transforms.
            item_seq_len: int64 (B,), at least 1.
            views: Number of equal groups in B; in training with ``delays="batch"`` each group
                shares its delays.

        Returns:
            float32 (B, D).
        """
        hidden = self.embed(item_seq, item_seq_len)
        *blocks, final = self.item_encoder.blocks
        last = item_seq_len - 1
        reach = self._reach(item_seq_len)
        if blocks:
            mask = self.attention_mask(item_seq_len, reach, hidden.dtype)
        for block in blocks:
            hidden = block(hidden, mask, views)
        last_mask = self.causal[last, :reach].unsqueeze(1).to(hidden.dtype)
        return final.last_row(hidden, last_mask, last, views)

    def embed(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """The first block's input: (B, L) and (B,) to (B, L, D) (paper, Eq. 5)."""
        if self.config.padding != "zero":
            item_seq = item_seq.gather(1, self.repeated[item_seq_len])
        hidden = self.item_embedding(item_seq) + self._positions(item_seq_len)
        embedded: Tensor = self.LayerNorm(hidden)
        kind = embedded.device.type
        if torch.is_autocast_enabled(kind):  # cast once here, not at every product
            embedded = embedded.to(torch.get_autocast_dtype(kind))
        dropped: Tensor = self.dropout(embedded)
        return dropped

    def _positions(self, item_seq_len: Tensor) -> Tensor:
        """The position embeddings of each step: (L, D) or, counted from the end, (B, L, D).

        Counted from the end, the last item has position L - 1 whatever the length, as where
        sequences are padded on the left: the transforms are circular, so this is the same.
        """
        if self.config.position_origin == "start":
            return self.position_embedding.weight
        length = self.config.MAX_ITEM_LIST_LENGTH
        steps = torch.arange(length, device=item_seq_len.device)
        positions: Tensor = self.position_embedding((steps - item_seq_len[:, None]) % length)
        return positions

    def attention_mask(self, item_seq_len: Tensor, reach: int, dtype: torch.dtype) -> Tensor:
        """(B, L, reach): 0 for real items no later than the row's, `MASKED` elsewhere.

        Real items come first, so a padding row sees what the last item's row sees.
        """
        steps = torch.arange(len(self.causal), device=item_seq_len.device)
        seen = torch.minimum(steps, item_seq_len[:, None] - 1)
        return self.causal[:, :reach].to(dtype)[seen]

    def _reach(self, item_seq_len: Tensor) -> int:
        """T, the steps that attention covers: the length of the batch's longest sequence.

        In training, batches are mixed and T is nearly always L, and reading it would wait for the
        device; there it is L.
        """
        length = self.config.MAX_ITEM_LIST_LENGTH
        if self.training:
            return length
        reach = cast(int, item_seq_len.max().item())
        torch._check(reach >= 1)
        torch._check(reach <= length)
        return reach
