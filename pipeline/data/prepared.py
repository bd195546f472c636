"""Prepared sequences read as flat arrays."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from model.training.histories import EventHistories
from pipeline.logs.chosen_types import chosen_types
from pipeline.schema import EVENT_TYPE_INDEX, ITEM_ID, ITEM_INDEX, ITEMS_FILE, TIME, TIMESTAMPS
from pipeline.storage.prepared_folder import event_type_names, read_sequences


def read_vocabulary(folder: Path) -> pa.Array:
    """The item ids that `prepare` wrote into `folder`: that of index 1 first."""
    return pq.read_table(folder / ITEMS_FILE, columns=[ITEM_ID])[ITEM_ID].combine_chunks()


def read_histories(
    folder: Path, inputs: Sequence[str] = (), seen: Sequence[str] = ()
) -> EventHistories:
    """Read the histories that `prepare` wrote into `folder`: N items of U users, as indices.

    Args:
        folder: The prepared folder.
        inputs: Types of the events that the model sees; empty for all events.
        seen: Types of the events that make an item one that the user has seen; likewise.

    Raises:
        ConfigError: the events have no types, or none of these.
    """
    flat: list[npt.NDArray[np.int32]] = [np.zeros(0, np.int32)]
    counts: list[npt.NDArray[np.int64]] = [np.zeros(1, np.int64)]
    for lists in _column(folder, ITEM_INDEX):
        flat.append(lists.flatten().to_numpy())
        counts.append(lists.value_lengths().to_numpy().astype(np.int64))
    return EventHistories(
        torch.from_numpy(np.concatenate(flat)),
        torch.from_numpy(np.cumsum(np.concatenate(counts))),
        are_of_types(folder, inputs, "event_types.inputs") if inputs else None,
        are_of_types(folder, seen, "evaluate.mask_seen") if seen else None,
    )


def read_event_types(folder: Path) -> torch.Tensor:
    """The index of each event's type, (N,), of the smallest dtype that holds every index.

    It is of a folder whose events have types.
    """
    names = event_type_names(folder)
    kind = np.int32 if names is not None and len(names) >= 2**15 else np.int16
    flat = [np.zeros(0, kind)]
    flat += [lists.flatten().to_numpy().astype(kind) for lists in _column(folder, EVENT_TYPE_INDEX)]
    return torch.from_numpy(np.concatenate(flat))


def are_of_types(folder: Path, types: Sequence[str], needed_by: str) -> torch.Tensor:
    """Which events are of some types, bool (N,).

    Args:
        folder: The prepared folder.
        types: At least one.
        needed_by: The setting that names them, for errors.

    Raises:
        ConfigError: the events have no types, or none of these.
    """
    chosen = chosen_types(types, event_type_names(folder), needed_by, str(folder))
    index = read_event_types(folder)
    return torch.isin(index, torch.from_numpy(chosen).to(index.dtype))


def events_before(folder: Path, instants: Sequence[datetime]) -> torch.Tensor:
    """How many events each user has before each instant, int64 (I, U)."""
    counts = [np.zeros((len(instants), 0), np.int64)]
    bounds = [pa.scalar(instant, TIME) for instant in instants]
    for lists in _column(folder, TIMESTAMPS):
        times = lists.flatten()
        ends = np.cumsum(lists.value_lengths().to_numpy(zero_copy_only=False), dtype=np.int64)
        ends = np.concatenate([[0], ends])
        running = np.zeros((len(bounds), len(times) + 1), np.int64)
        for row, bound in zip(running, bounds, strict=True):
            np.cumsum(pc.less(times, bound).to_numpy(zero_copy_only=False), out=row[1:])
        counts.append(np.diff(running[:, ends]))
    return torch.from_numpy(np.concatenate(counts, axis=1))


def _column(folder: Path, name: str) -> Iterator[pa.Array]:
    for batch in read_sequences(folder, [name]):
        yield batch.column(0)
