"""Training samples over flat histories, with same-target partners, negatives and shuffled batches.

A sample is the flat position of its target item; its sequence is the window of items before it,
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
from model.training.histories import EventHistories
from model.training.sampled_softmax import ItemSampler, SampledItems


class TrainingBatch(NamedTuple):
    """The arguments of `training_loss` for one batch."""

    item_seq: Tensor  # int64 (B, L)
    item_seq_len: Tensor  # int64 (B,)
    item_id: Tensor  # int64 (B,)
    neg_item_id: Tensor | None  # int64 (B, sample_num)
    same_target_seq: Tensor | None  # int64 (B, L)
    same_target_len: Tensor | None  # int64 (B,)
    weight: Tensor | None  # float32 (B,)
    sampled: SampledItems | None


class TrainingSet(Dataset[TrainingBatch]):
    """The samples of a training run; a tensor of sample numbers indexes one batch.

    Memory per interaction: 4 bytes for the item, 4 for the order of the samples, 4 for shuffling,
    8 more for BPR, 4 more for weights, and 9 more where not every event is an input.

    Args:
        histories: All items; `positions` are the targets among them.
        positions: (S,) integer, flat positions of the targets, each with an input before it.
        config: Decides which parts of a batch are needed.
        item_dropout: The share of items that is left out of sequences at random.
        weights: float32 (S,), of the targets in the loss of the next item; None for equal ones.
    """

    def __init__(
        self,
        histories: EventHistories,
        positions: Tensor,
        config: FEARecConfig,
        item_dropout: float = 0.0,
        weights: Tensor | None = None,
    ) -> None:
        self.histories = histories
        self.config = config
        self.item_dropout = item_dropout
        self.positions = positions.to(histories.position_dtype)
        self.weights = weights
        self._partners: SameTarget | None = None
        self._negatives: Negatives | None = None
        self._sampler: ItemSampler | None = None
        if config.needs_same_target:
            order, self._partners = SameTarget.build(
                histories, positions, config.MAX_ITEM_LIST_LENGTH
            )
            self.positions = self.positions[order]
            self.weights = None if weights is None else weights[order]
        if config.loss_type == "BPR":
            self._negatives = Negatives.build(histories, config.n_items)
        if config.ce_samples:
            targets = histories.items[self.positions]
            self._sampler = ItemSampler.build(targets, config.n_items, config.ce_samples)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, samples: Tensor) -> TrainingBatch:
        positions = self.positions[samples]
        item_seq, item_seq_len = self._sequences(positions)
        item_id = self.histories.items[positions].long()
        negatives = same_target_seq = same_target_len = None
        if self._negatives:
            negatives = self._negatives.sample(self.histories, positions, self.config.sample_num)
        if self._partners:
            partners = self.positions[self._partners.sample(samples, item_id)]
            same_target_seq, same_target_len = self._sequences(partners)
        weight = None if self.weights is None else self.weights[samples]
        sampled = self._sampler.sample() if self._sampler else None
        return TrainingBatch(
            item_seq,
            item_seq_len,
            item_id,
            negatives,
            same_target_seq,
            same_target_len,
            weight,
            sampled,
        )

    def _sequences(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        sequences = self.histories.windows(positions, self.config.MAX_ITEM_LIST_LENGTH)
        return drop_items(*sequences, self.item_dropout) if self.item_dropout else sequences


@dataclass(frozen=True)
class SameTarget:
    """Draws for each sample one with the same target and, where one exists, another sequence.

    Samples are numbered in the order of (target, sequence), so those with the same target form a
    range, and those with the same target and sequence a range within it.

    Attributes:
        target_starts: int64 (V + 1,), the first sample of each target.
        repeat_starts: int64 (G,), the first samples of the ranges of two or more equal sequences.
        repeat_ends: int64 (G,), the samples after these ranges.
    """

    target_starts: Tensor
    repeat_starts: Tensor
    repeat_ends: Tensor

    @classmethod
    def build(
        cls, histories: EventHistories, positions: Tensor, length: int
    ) -> tuple[Tensor, "SameTarget"]:
        """Build it in O(S log S); returns also the order into which samples must be put."""
        items = histories.items.numpy()
        targets = items[positions.numpy()]
        hashes = window_hashes(histories, positions, length)
        order = np.lexsort((hashes, targets))
        targets, hashes = targets[order], hashes[order]
        new = np.ones(len(order) + 1, dtype=bool)
        new[1:-1] = (targets[1:] != targets[:-1]) | (hashes[1:] != hashes[:-1])
        starts = np.flatnonzero(new)
        repeated = np.diff(starts) > 1
        counts = np.bincount(targets, minlength=int(items.max(initial=0)) + 1)
        return torch.from_numpy(order), cls(
            torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])),
            torch.from_numpy(starts[:-1][repeated]),
            torch.from_numpy(starts[1:][repeated]),
        )

    def sample(self, samples: Tensor, item_id: Tensor) -> Tensor:
        """Sample numbers int64 (B,), uniform over the other sequences of each target item."""
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
        offsets: int64 (U + 1,), the first entry of each user in `gaps`; the last entry is M.
        n_items: V.
    """

    gaps: Tensor
    offsets: Tensor
    n_items: int

    @classmethod
    def build(cls, histories: EventHistories, n_items: int) -> "Negatives":
        """Build it in O(N log N)."""
        offsets = histories.offsets.numpy()
        users = np.repeat(np.arange(len(offsets) - 1, dtype=np.int64), np.diff(offsets))
        keys = np.unique(users * n_items + histories.items.numpy())
        users = keys // n_items
        begins = np.searchsorted(users, np.arange(len(offsets)))
        keys -= 1 + np.arange(len(keys)) - begins[users]
        return cls(torch.from_numpy(keys), torch.from_numpy(begins), n_items)

    def sample(self, histories: EventHistories, positions: Tensor, count: int) -> Tensor:
        """Item indices int64 (B, count); any real items for a user who met all of them."""
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
    """Batches of sample numbers in a random order that follows from the seed and the epoch.

    With several processes, each takes its share of every batch.
    """

    def __init__(self, n_samples: int, batch_size: int, seed: int) -> None:
        self.n_samples = n_samples
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls this before each one."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.n_samples // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        dtype = torch.int32 if self.n_samples < 2**31 else torch.int64
        order = torch.randperm(self.n_samples, generator=generator, dtype=dtype)
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        for batch in order.split(self.batch_size):
            # A batch smaller than the number of processes: some share a sample, as the mean of
            # an empty batch is NaN.
            yield batch[min(rank, len(batch) - 1) :: world]


def drop_items(item_seq: Tensor, item_seq_len: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Leave items out of sequences at random; the others move together, and one always stays.

    Args:
        item_seq: int64 (B, L), oldest first, right-padded with 0.
        item_seq_len: int64 (B,), at least 1.
        share: The probability of each item to be left out.

    Returns:
        The sequences int64 (B, L), and their lengths int64 (B,).
    """
    left_out = torch.rand(item_seq.shape) < share
    survivor = (torch.rand(item_seq_len.shape) * item_seq_len).long()
    left_out.scatter_(1, survivor[:, None], value=False)
    left_out |= item_seq == 0
    order = left_out.to(torch.int8).argsort(dim=1, stable=True)
    return item_seq.masked_fill(left_out, 0).gather(1, order), (~left_out).sum(1)


def window_hashes(
    histories: EventHistories, positions: Tensor, length: int
) -> npt.NDArray[np.uint64]:
    """A 64-bit rolling hash of each position's window, equal for equal windows.

    Args:
        histories: N items.
        positions: int64 (S,).
        length: L.

    Returns:
        uint64 (S,).
    """
    inputs, begins, ends = (tensor.numpy() for tensor in histories.window_ends(positions, length))
    item_hashes = np.random.default_rng(0).integers(
        1, 2**63, size=int(inputs.max(initial=0)) + 1, dtype=np.uint64
    )
    base = np.uint64(0x9E3779B97F4A7C15)  # odd, so it has an inverse modulo 2**64
    inverse = np.uint64(pow(int(base), -1, 2**64))
    powers = np.full(len(inputs) + 1, base, dtype=np.uint64)
    powers[0] = 1
    np.multiply.accumulate(powers, out=powers)
    prefix = np.zeros(len(inputs) + 1, dtype=np.uint64)
    np.cumsum(item_hashes[inputs] * powers[:-1], out=prefix[1:])
    powers.fill(inverse)
    powers[0] = 1
    np.multiply.accumulate(powers, out=powers)
    hashes: npt.NDArray[np.uint64] = (prefix[ends] - prefix[begins]) * powers[begins]
    return hashes
