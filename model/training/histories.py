"""Users' histories as one flat tensor, and windows of them."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class EventHistories:
    """Every user's items, oldest first, one user after the other (CSR).

    Attributes:
        items: int32 (N,), item indices.
        offsets: int64 (U + 1,), the position of each user's first item; the last entry is N.
        is_input: bool (N,), which of them the model sees in a window; None for all.
        is_seen: bool (N,), which of them make an item one that the user has seen; None for all.
    """

    items: Tensor
    offsets: Tensor
    is_input: Tensor | None = None
    is_seen: Tensor | None = None

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

    @cached_property
    def inputs(self) -> tuple[Tensor, Tensor]:
        """The M items that the model sees, int32, and how many precede each position, (N + 1,).

        The counts are of `position_dtype`, the smallest that holds them.
        """
        assert self.is_input is not None
        return self.items[self.is_input], count_before(self.is_input, self.position_dtype)

    def window_ends(self, positions: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Where the window of at most L inputs before each position lies.

        Returns:
            The items that the windows are of, int32, and in these the begins and ends, int64 (B,).
        """
        ends, begins = positions.long(), self.starts(positions)
        items = self.items
        if self.is_input is not None:
            items, before = self.inputs
            begins, ends = before[begins].long(), before[ends].long()
        return items, torch.maximum(begins, ends - length), ends

    def windows(self, positions: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """The last inputs before each position: item_seq int64 (B, L), item_seq_len int64 (B,)."""
        items, begins, ends = self.window_ends(positions, length)
        at = begins[:, None] + torch.arange(length)
        inside = at < ends[:, None]
        if not len(items):
            return torch.zeros_like(at), ends - begins
        found = items[at.clamp_(max=len(items) - 1)].long()
        return found.where(inside, 0), ends - begins

    def only(self, kept: Tensor, before: Tensor | None = None) -> "EventHistories":
        """The same users with some of their items, bool (N,), perhaps already counted."""
        before = count_before(kept, torch.int64) if before is None else before
        return EventHistories(
            self.items[kept],
            before[self.offsets],
            None if self.is_input is None else self.is_input[kept],
            None if self.is_seen is None else self.is_seen[kept],
        )

    def with_inputs(self, positions: Tensor) -> Tensor:
        """Which positions have an input of their user before them, bool (B,)."""
        _, begins, ends = self.window_ends(positions, 1)
        return begins < ends

    def seen(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """What is seen before each position, as pairs of a row of `positions` and an item index."""
        begin = self.starts(positions)
        rows, before = expand_ranges(begin, positions - begin)
        if self.is_seen is not None:
            counts = self.is_seen[before]
            rows, before = rows[counts], before[counts]
        return rows, self.items[before].long()


def count_before(chosen: Tensor, dtype: torch.dtype) -> Tensor:
    """How many chosen positions, bool (N,), precede each position, (N + 1,)."""
    before = torch.zeros(len(chosen) + 1, dtype=dtype)
    torch.cumsum(chosen, 0, dtype=dtype, out=before[1:])
    return before


def evenly_spaced(values: Tensor, count: int) -> Tensor:
    """So many of some values, at equal distances; all of them where there are no more."""
    if len(values) <= count:
        return values
    return values[torch.arange(count) * len(values) // count]


def expand_ranges(begins: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The positions of B ranges, one range after the other, each with its range's number."""
    rows = torch.repeat_interleave(torch.arange(len(begins)), lengths)
    shift = torch.repeat_interleave(begins - lengths.cumsum(0) + lengths, lengths)
    return rows, shift + torch.arange(len(rows))
