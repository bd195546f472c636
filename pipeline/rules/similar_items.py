"""Which items are similar: those with equal values in the columns of `items.similar_by`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.rules.attributes import single_values

Integers = NDArray[np.int64]
Float = TypeVar("Float", np.float32, np.float64)


@dataclass(frozen=True)
class SimilarItems:
    """The items that each of N items is similar to; at least one for each.

    Attributes:
        group: (N,) int64, the group of items that each is similar to, from 0.
        items: int64, the indices of all groups' items, one group after another.
        offsets: (G+1,) int64, the positions in `items` where each group begins, and the end.
    """

    group: Integers
    items: Integers
    offsets: Integers

    def means(self, values: NDArray[Float]) -> NDArray[Float]:
        """Each group's mean over its items: (G, ...) of (V, ...), summed in float64."""
        mean = np.empty((len(self.offsets) - 1, *values.shape[1:]), values.dtype)
        for group, (begin, end) in enumerate(zip(self.offsets, self.offsets[1:], strict=False)):
            mean[group] = values[self.items[begin:end]].mean(axis=0, dtype=np.float64)
        return mean


def similar_items(
    items: pa.Table, index: Integers, others: pa.Table, columns: Sequence[str]
) -> tuple[SimilarItems, NDArray[np.bool_]]:
    """The items that others are similar to.

    They are those with equal values in all columns. Where there are none, the last column is left
    out, and so on down to the first one alone. A null is equal to nothing.

    Args:
        items: What is known of the items to be similar to.
        index: The indices of `items`.
        others: What is known of the others, N rows with the same columns.
        columns: The names of the columns, at least one.

    Returns:
        The similar items of those others that have some, and (N,) which these are.

    Raises:
        ConfigError: a column is absent, or has lists as values.
    """
    group = np.full(len(others), -1)
    joined, sizes = [np.zeros(0, np.int64)], [np.zeros(1, np.int64)]
    n_groups = 0
    for own, other in reversed(_keys(items, others, columns)):
        left = ((group < 0) & (other >= 0) & np.isin(other, own)).nonzero()[0]
        keys, place = np.unique(other[left], return_inverse=True)
        group[left] = n_groups + place
        n_groups += len(keys)
        position = np.searchsorted(keys, own)
        position[position == len(keys)] = 0
        members = (keys[position] == own).nonzero()[0] if len(keys) else np.zeros(0, np.int64)
        order = np.argsort(position[members], kind="stable")
        joined.append(index[members[order]])
        sizes.append(np.bincount(position[members], minlength=len(keys)))
    known = group >= 0
    offsets = np.cumsum(np.concatenate(sizes))
    return SimilarItems(group[known], np.concatenate(joined), offsets), known


def _keys(
    items: pa.Table, others: pa.Table, columns: Sequence[str]
) -> list[tuple[Integers, Integers]]:
    """Both tables' numbers of the values in the first column, in the first two, and so on.

    They are negative where a value is null.
    """
    keys = []
    key = np.zeros(len(items) + len(others), np.int64)
    for name in columns:
        own, other = _values(items, name), _values(others, name)  # ids may be wider here
        values = pa.concat_arrays([own.cast(other.type), other])
        code = values.dictionary_encode().indices.fill_null(-1).to_numpy().astype(np.int64)
        both = np.where((key < 0) | (code < 0), -1, key * (code.max(initial=0) + 1) + code)
        distinct, key = np.unique(both, return_inverse=True)
        key = key - np.count_nonzero(distinct < 0)
        keys.append((key[: len(items)], key[len(items) :]))
    return keys


def _values(table: pa.Table, name: str) -> pa.Array:
    values = single_values(table, name, "items.similar_by")
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
