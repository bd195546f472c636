"""Training samples over flat histories: windows, same-target partners, negatives.

A sample is the flat position of its target item; the sequence is the window of items before it,
so no prefix is ever stored. Everything is vectorised over a batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from model.config import FEARecConfig


class TrainingBatch(NamedTuple):
    """What `model.training.losses.training_loss` takes."""

    item_seq: Tensor  # int64 (B, L)
    item_seq_len: Tensor  # int64 (B,)
    item_id: Tensor  # int64 (B,)
    neg_item_id: Tensor | None  # int64 (B, sample_num)
    same_target_seq: Tensor | None  # int64 (B, L)
    same_target_len: Tensor | None  # int64 (B,)


@dataclass(frozen=True)
class EventHistories:
    """Every user's items, oldest first, one user after the other (CSR).

    Attributes:
        items: int32 (N,), item indices.
        offsets: int64 (U + 1,), where each user's items begin.
    """

    items: Tensor
    offsets: Tensor

    @property
    def position_dtype(self) -> torch.dtype:
        """The smallest that can number every item."""
        return torch.int32 if len(self.items) < 2**31 else torch.int64

    def starts(self, positions: Tensor) -> Tensor:
        """Where the user of the item before each position begins.

        So a position may be a user's end: the window before it is the whole user's.
        """
        users = torch.searchsorted(self.offsets, positions.long() - 1, right=True) - 1
        return self.offsets[users]

    def windows(self, positions: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """The items before each position: item_seq int64 (B, L) and item_seq_len int64 (B,)."""
        positions = positions.long()
        begin = torch.maximum(self.starts(positions), positions - length)
        at = begin[:, None] + torch.arange(length)
        inside = at < positions[:, None]
        items = self.items[at.clamp_(max=len(self.items) - 1)].long()
        return items.where(inside, 0), positions - begin

    def seen(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Every item before each position, as pairs: row of `positions`, item index."""
        begin = self.starts(positions)
        rows, before = expand_ranges(begin, positions - begin)
        return rows, self.items[before].long()


def expand_ranges(begins: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Every position of B ranges, one range after the other: the range's number, the position."""
    rows = torch.repeat_interleave(torch.arange(len(begins)), lengths)
    shift = torch.repeat_interleave(begins - lengths.cumsum(0) + lengths, lengths)
    return rows, shift + torch.arange(len(rows))


class TrainingSet(Dataset[TrainingBatch]):
    """The samples of a training run; indexed by a tensor of sample numbers, it gives a batch.

    Memory an interaction: 4 bytes of item, 4 of sample order, 4 of shuffling, and 8 more for BPR.

    Args:
        histories: All items, of which `positions` are targets.
        positions: (S,) integer, flat positions of the targets, none a user's first.
        config: Says which of the batch's parts are needed.
    """

    def __init__(self, histories: EventHistories, positions: Tensor, config: FEARecConfig) -> None:
        self.histories = histories
        self.config = config
        self.positions = positions.to(histories.position_dtype)
        self._partners: SameTarget | None = None
        self._negatives: Negatives | None = None
        if config.needs_same_target:
            order, self._partners = SameTarget.build(
                histories, positions, config.MAX_ITEM_LIST_LENGTH
            )
            self.positions = self.positions[order]
        if config.loss_type == "BPR":
            self._negatives = Negatives.build(histories, config.n_items)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, samples: Tensor) -> TrainingBatch:
        length = self.config.MAX_ITEM_LIST_LENGTH
        positions = self.positions[samples]
        item_seq, item_seq_len = self.histories.windows(positions, length)
        item_id = self.histories.items[positions].long()
        negatives = same_target_seq = same_target_len = None
        if self._negatives:
            negatives = self._negatives.sample(self.histories, positions, self.config.sample_num)
        if self._partners:
            partners = self.positions[self._partners.sample(samples, item_id)]
            same_target_seq, same_target_len = self.histories.windows(partners, length)
        return TrainingBatch(
            item_seq, item_seq_len, item_id, negatives, same_target_seq, same_target_len
        )


@dataclass(frozen=True)
class SameTarget:
    """Draws, for each sample, another of the same target and, where one exists, another sequence.

    Samples are numbered in the order of (target, sequence), so those of one target are a range,
    and those of one target and sequence a range inside it.

    Attributes:
        target_starts: int64 (V + 1,), the first sample of each target.
        repeat_starts: int64 (G,), first samples of the ranges of more than one equal sequence.
        repeat_ends: int64 (G,), the samples after them.
    """

    target_starts: Tensor
    repeat_starts: Tensor
    repeat_ends: Tensor

    @classmethod
    def build(
        cls, histories: EventHistories, positions: Tensor, length: int
    ) -> tuple[Tensor, "SameTarget"]:
        """In O(S log S); gives the order that samples must be put into as well."""
        items = histories.items.numpy()
        targets = items[positions.numpy()]
        prints = window_fingerprints(histories, positions, length)
        order = np.lexsort((prints, targets))
        targets, prints = targets[order], prints[order]
        new = np.ones(len(order) + 1, dtype=bool)
        new[1:-1] = (targets[1:] != targets[:-1]) | (prints[1:] != prints[:-1])
        starts = np.flatnonzero(new)
        repeated = np.diff(starts) > 1
        counts = np.bincount(targets, minlength=int(items.max(initial=0)) + 1)
        return torch.from_numpy(order), cls(
            torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])),
            torch.from_numpy(starts[:-1][repeated]),
            torch.from_numpy(starts[1:][repeated]),
        )

    def sample(self, samples: Tensor, item_id: Tensor) -> Tensor:
        """Sample numbers int64 (B,), uniform over the target's other sequences."""
        samples = samples.long()
        begin, end = self.target_starts[item_id], self.target_starts[item_id + 1]
        own_begin, own_end = samples, samples + 1
        if len(self.repeat_starts):
            group = torch.searchsorted(self.repeat_starts, samples, right=True) - 1
            group.clamp_(min=0)
            inside = (self.repeat_starts[group] <= samples) & (samples < self.repeat_ends[group])
            own_begin = torch.where(inside, self.repeat_starts[group], own_begin)
            own_end = torch.where(inside, self.repeat_ends[group], own_end)
        others = end - begin - (own_end - own_begin)
        drawn = begin + (torch.rand(len(samples), dtype=torch.float64) * others).long()
        drawn += torch.where(drawn >= own_begin, own_end - own_begin, 0)
        return torch.where(others > 0, drawn, samples)


@dataclass(frozen=True)
class Negatives:
    """Draws items uniformly from those a user never met, exactly and without rejection.

    Attributes:
        gaps: int64 (M,), for each user's distinct items s_0 < s_1 < ...: ``s_j - 1 - j``, the
            number of unmet items below s_j, plus ``user * V``; sorted.
        offsets: int64 (U + 1,), where each user's distinct items begin in `gaps`.
    """

    gaps: Tensor
    offsets: Tensor
    n_items: int

    @classmethod
    def build(cls, histories: EventHistories, n_items: int) -> "Negatives":
        """In O(N log N)."""
        offsets = histories.offsets.numpy()
        users = np.repeat(np.arange(len(offsets) - 1, dtype=np.int64), np.diff(offsets))
        keys = np.unique(users * n_items + histories.items.numpy())
        users = keys // n_items
        begins = np.searchsorted(users, np.arange(len(offsets)))
        keys -= 1 + np.arange(len(keys)) - begins[users]
        return cls(torch.from_numpy(keys), torch.from_numpy(begins), n_items)

    def sample(self, histories: EventHistories, positions: Tensor, count: int) -> Tensor:
        """Item indices int64 (B, count); any real item for a user who met them all."""
        positions = positions.long()
        users = torch.searchsorted(histories.offsets, positions, right=True) - 1
        begin, end = self.offsets[users], self.offsets[users + 1]
        unmet = (self.n_items - 1 - (end - begin))[:, None]
        draw = torch.rand(len(positions), count, dtype=torch.float64)
        nth = (draw * unmet).long()
        below = torch.searchsorted(self.gaps, users[:, None] * self.n_items + nth, right=True)
        chosen = 1 + nth + below - begin[:, None]
        return torch.where(unmet > 0, chosen, 1 + (draw * (self.n_items - 1)).long())


class ShuffledBatches(Sampler[Tensor]):
    """Batches of sample numbers, shuffled anew each epoch, the same for the same seed and epoch.

    Among several processes each takes its share of every batch.
    """

    def __init__(self, n_samples: int, batch_size: int, seed: int) -> None:
        self.n_samples = n_samples
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.n_samples // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        kind = torch.int32 if self.n_samples < 2**31 else torch.int64
        order = torch.randperm(self.n_samples, generator=generator, dtype=kind)
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        for batch in order.split(self.batch_size):
            # Too few for every process: some share one, as the mean of nothing is NaN.
            yield batch[min(rank, len(batch) - 1) :: world]


def window_fingerprints(
    histories: EventHistories, positions: Tensor, length: int
) -> npt.NDArray[np.uint64]:
    """A 64-bit fingerprint of each position's window, equal for equal windows (rolling hash).

    Args:
        histories: N items.
        positions: int64 (S,).
        length: L.

    Returns:
        uint64 (S,).
    """
    items = histories.items.numpy()
    codes = np.random.default_rng(0).integers(
        1, 2**63, size=int(items.max(initial=0)) + 1, dtype=np.uint64
    )
    base = np.uint64(0x9E3779B97F4A7C15)  # odd, so it has an inverse modulo 2**64
    inverse = np.uint64(pow(int(base), -1, 2**64))
    powers = np.full(len(items) + 1, base, dtype=np.uint64)
    powers[0] = 1
    np.multiply.accumulate(powers, out=powers)
    prefix = np.zeros(len(items) + 1, dtype=np.uint64)
    np.cumsum(codes[items] * powers[:-1], out=prefix[1:])
    ends = positions.numpy()
    begins = np.maximum(histories.starts(positions).numpy(), ends - length)
    powers.fill(inverse)
    powers[0] = 1
    np.multiply.accumulate(powers, out=powers)
    fingerprints: npt.NDArray[np.uint64] = (prefix[ends] - prefix[begins]) * powers[begins]
    return fingerprints
