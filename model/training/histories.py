"""Users' histories as one flat tensor, and windows of them."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class EventHistories:
    """Every user's items, oldest first, one user after the other (CSR).

    Attributes:
        items: int32 (N,), item indices.
        offsets: int64 (U + 1,), the position of each user's first item; the last entry is N.
    """

    items: Tensor
    offsets: Tensor

    @property
    def position_dtype(self) -> torch.dtype:
        """The smallest dtype that holds every position."""
        return torch.int32 if len(self.items) < 2**31 else torch.int64

    def starts(self, positions: Tensor) -> Tensor:
        """The first position of the user whose item comes just before each position.

        So a position may be a user's end: the window before it is the user's whole history.
        """
        users = torch.searchsorted(self.offsets, positions.long() - 1, right=True) - 1
        return self.offsets[users]

    def windows(self, positions: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """The last items before each position: item_seq int64 (B, L), item_seq_len int64 (B,)."""
        positions = positions.long()
        begin = torch.maximum(self.starts(positions), positions - length)
        at = begin[:, None] + torch.arange(length)
        inside = at < positions[:, None]
        items = self.items[at.clamp_(max=len(self.items) - 1)].long()
        return items.where(inside, 0), positions - begin

    def seen(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Every item before each position, as pairs of a row of `positions` and an item index."""
        begin = self.starts(positions)
        rows, before = expand_ranges(begin, positions - begin)
        return rows, self.items[before].long()


def expand_ranges(begins: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The positions of B ranges, one range after the other, each with its range's number."""
    rows = torch.repeat_interleave(torch.arange(len(begins)), lengths)
    shift = torch.repeat_interleave(begins - lengths.cumsum(0) + lengths, lengths)
    return rows, shift + torch.arange(len(rows))
