"""Prepared sequences as flat arrays, and the leave-one-out split of them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from model.sampling import Histories
from pipeline.prepare import ITEMS_FILE, SEQUENCES_FILE
from pipeline.schema import ITEM_ID, ITEM_IDS


@dataclass(frozen=True)
class Split:
    """Flat positions of target items, by what they are for.

    Every interaction is in exactly one of the three or is its user's first in training.

    Attributes:
        train: Targets of training: neither held out nor a user's first. As many as
            interactions, so of the smallest dtype.
        valid: int64, the last but one of users with at least three interactions.
        test: int64, the last of users with at least two.
    """

    train: torch.Tensor
    valid: torch.Tensor
    test: torch.Tensor


def read_histories(folder: Path) -> Histories:
    """Read what `prepare` wrote into `folder`: N items of U users, as indices."""
    items = pq.read_table(folder / ITEMS_FILE, columns=[ITEM_ID])[ITEM_ID].combine_chunks()
    flat: list[npt.NDArray[np.int32]] = [np.zeros(0, np.int32)]
    counts: list[npt.NDArray[np.int64]] = [np.zeros(1, np.int64)]
    for batch in pq.ParquetFile(folder / SEQUENCES_FILE).iter_batches(columns=[ITEM_IDS]):
        lists = batch.column(0)
        index = pc.add(pc.index_in(lists.flatten(), value_set=items), pa.scalar(1, pa.int32()))
        flat.append(index.to_numpy(zero_copy_only=False).astype(np.int32, copy=False))
        counts.append(lists.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64))
    return Histories(
        torch.from_numpy(np.concatenate(flat)),
        torch.from_numpy(np.cumsum(np.concatenate(counts))),
    )


def leave_one_out(histories: Histories) -> Split:
    """The last item of each user for the test, the one before for validation, as RecBole.

    Users with two interactions are tested but not validated on; users with one only train.
    """
    begins, ends = histories.offsets[:-1], histories.offsets[1:]
    counts = ends - begins
    test = ends[counts >= 2] - 1
    valid = ends[counts >= 3] - 2
    train = torch.ones(len(histories.items), dtype=torch.bool)
    train[torch.cat([begins[counts > 0], valid, test])] = False
    return Split(_positions(histories, train), valid, test)


def all_targets(histories: Histories) -> torch.Tensor:
    """Flat positions of every interaction but each user's first: what the refit trains on."""
    begins, ends = histories.offsets[:-1], histories.offsets[1:]
    every = torch.ones(len(histories.items), dtype=torch.bool)
    every[begins[ends > begins]] = False
    return _positions(histories, every)


def _positions(histories: Histories, chosen: torch.Tensor) -> torch.Tensor:
    return chosen.nonzero().squeeze(1).to(histories.position_dtype)
