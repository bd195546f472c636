"""Merging events into the prepared histories of one bucket, and taking others out of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.schema import (
    EVENT_TYPE_INDEX,
    ITEM_INDEX,
    TIMESTAMP,
    TIMESTAMPS,
    USER_ID,
    prepared_schema,
)

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Events:
    """Events of one bucket, ordered by user, time and place in the log files.

    Attributes:
        users: (K,) the user ids.
        times: (K,) int64, microseconds.
        items: (K,) int32, item indices.
        types: (K,) int32, the indices of the types of events; None where they are not prepared.
    """

    users: pa.Array
    times: Integers
    items: NDArray[np.int32]
    types: NDArray[np.int32] | None = None

    @classmethod
    def of(cls, rows: pa.Table) -> Self:
        """Those of a table with user ids, times and item indices, and perhaps types of events."""
        rows = rows.combine_chunks()
        times = rows[TIMESTAMP].cast(pa.int64()).to_numpy()
        users = rows[USER_ID].combine_chunks() if len(rows) else pa.array([], rows[USER_ID].type)
        has_types = EVENT_TYPE_INDEX in rows.column_names
        types = rows[EVENT_TYPE_INDEX].to_numpy() if has_types else None
        return cls(users, times, rows[ITEM_INDEX].to_numpy(), types)

    def __len__(self) -> int:
        return len(self.times)

    def cut(self, users: pa.Array) -> Iterator["Events"]:
        """The events before the first of some users, in order, from each on, and from the last."""
        there, first = (each.to_numpy(zero_copy_only=False) for each in (self.users, users))
        bounds = [0, *np.searchsorted(there, first), len(self)]
        for begin, end in pairwise(bounds):
            yield Events(
                self.users.slice(begin, end - begin),
                self.times[begin:end],
                self.items[begin:end],
                None if self.types is None else self.types[begin:end],
            )


@dataclass(frozen=True)
class BucketHistories:
    """The histories of a bucket, or a part of it: N events of U users.

    Attributes:
        users: (U,) the user ids, in order.
        offsets: (U+1,) int64, where each user's events begin.
        times: (N,) int64, microseconds.
        items: (N,) int32, item indices.
        types: (N,) int32, the indices of the types of events; None where they are not prepared.
    """

    users: pa.Array
    offsets: Integers
    times: Integers
    items: NDArray[np.int32]
    types: NDArray[np.int32] | None = None

    @classmethod
    def of(cls, batch: pa.RecordBatch, moved: NDArray[np.int32] | None = None) -> Self:
        """Those of a record batch, not copied.

        Args:
            batch: Columns of `prepared_schema`.
            moved: The new index of each type of event; None where they stay.
        """
        lengths = batch[ITEM_INDEX].value_lengths().to_numpy()
        types = None
        if EVENT_TYPE_INDEX in batch.schema.names:
            types = batch[EVENT_TYPE_INDEX].flatten().to_numpy()
            types = types if moved is None else moved[types]
        return cls(
            batch[USER_ID],
            np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
            batch[TIMESTAMPS].flatten().cast(pa.int64()).to_numpy(),
            batch[ITEM_INDEX].flatten().to_numpy(),
            types,
        )

    def span(self, events: Events) -> tuple[Integers, Integers]:
        """Between which positions a history has the events of each event's user and time, (K,).

        Users who have no history get the position where theirs would be, twice.
        """
        row, is_known = self._rows(events.users)
        begin = self.offsets[row]
        end = np.where(is_known, self.offsets[np.minimum(row + 1, len(self.users))], begin)
        first = _search(self.times, begin, end, events.times, np.less)
        return first, _search(self.times, first, end, events.times, np.less_equal)

    def merged(self, added: Events, gone: NDArray[np.bool_] | None) -> Self:
        """The histories with some events more, others less.

        Args:
            added: What is new. Of a user and a time, the histories have no event that stays.
            gone: Which events go, (N,); None where all stay.
        """
        row, is_known = self._rows(added.users)
        position, _ = self.span(added)
        counts, users = np.diff(self.offsets), self.users
        if gone is not None:
            counts = counts - np.diff(np.concatenate([[0], np.cumsum(gone)])[self.offsets])
        if not is_known.all():
            changes = pc.not_equal(added.users[1:], added.users[:-1]).to_numpy(zero_copy_only=False)
            is_first = np.concatenate([[True], changes]) & ~is_known
            before = row[is_first]  # the rows that the new users come before
            place = np.insert(np.arange(len(users)), before, len(users) + np.arange(len(before)))
            new = added.users.filter(pa.array(is_first))
            users = pa.concat_arrays([users, new]).take(pa.array(place))
            counts = np.insert(counts, before, 0)
            row = np.where(
                is_known,
                row + np.searchsorted(before, row, side="right"),
                row + np.cumsum(is_first) - 1,
            )
        counts = counts + np.bincount(row, minlength=len(counts))
        n_stay = len(self.times)
        if gone is not None:
            position = position - np.concatenate([[0], np.cumsum(gone)])[position]
            n_stay -= int(np.count_nonzero(gone))
        place = position + np.arange(len(added))
        is_old = np.ones(n_stay + len(added), bool)
        is_old[place] = False

        def together(old: np.ndarray, new: np.ndarray) -> np.ndarray:
            return _interleaved(old if gone is None else old[~gone], new, place, is_old)

        types = self.types
        if types is not None and added.types is not None:
            types = together(types, added.types)
        if not counts.all():
            users, counts = users.filter(pa.array(counts > 0)), counts[counts > 0]
        return type(self)(
            users,
            np.concatenate([[0], np.cumsum(counts)]),
            together(self.times, added.times),
            together(self.items, added.items),
            types,
        )

    def rows(self) -> pa.RecordBatch:
        """As a prepared folder has them."""
        columns = prepared_schema(self.users.type, event_types=self.types is not None)
        offsets = pa.array(self.offsets, pa.int32())
        flat = [self.times, self.items] + ([] if self.types is None else [self.types])
        lists = [
            pa.ListArray.from_arrays(offsets, pa.array(values).cast(kind.value_type)).cast(kind)
            for values, kind in zip(flat, columns.types[1:], strict=True)
        ]
        return pa.record_batch([self.users, *lists], columns)

    def _rows(self, users: pa.Array) -> tuple[Integers, NDArray[np.bool_]]:
        """The row of each user, or the one that a new user comes before; and who is known."""
        found = pc.index_in(users, value_set=self.users)
        is_known = found.is_valid().to_numpy(zero_copy_only=False)
        row = found.fill_null(0).to_numpy().astype(np.int64)
        if not is_known.all():
            new = users.filter(pa.array(~is_known)).to_numpy(zero_copy_only=False)
            row[~is_known] = np.searchsorted(self.users.to_numpy(zero_copy_only=False), new)
        return row, is_known


def _search(
    times: Integers, begin: Integers, end: Integers, wanted: Integers, is_before: np.ufunc
) -> Integers:
    """By bisection, the first position of each range whose time is not before that wanted."""
    begin, end = begin.copy(), end.copy()
    while (is_open := begin < end).any():
        middle = (begin + end) // 2
        is_later = is_open.copy()
        is_later[is_open] = is_before(times[middle[is_open]], wanted[is_open])
        begin = np.where(is_later, middle + 1, begin)
        end = np.where(is_open & ~is_later, middle, end)
    return begin


def _interleaved(
    old: np.ndarray, new: np.ndarray, place: Integers, is_old: NDArray[np.bool_]
) -> np.ndarray:
    values = np.empty(len(is_old), old.dtype)
    values[is_old] = old
    values[place] = new
    return values


def parts(
    file: pa.ipc.RecordBatchFileReader, *events: Events, moved: NDArray[np.int32] | None = None
) -> Iterator[tuple[BucketHistories, tuple[Events, ...]]]:
    """The histories in a bucket's file, batch by batch, each with the events for it.

    Args:
        file: The file.
        events: Of the bucket; the users that it does not have come between those that it has.
        moved: See `BucketHistories.of`.
    """
    batches = [file.get_batch(number) for number in range(file.num_record_batches)]
    batches = batches or [pa.RecordBatch.from_pylist([], file.schema)]
    first = pa.concat_arrays([batch[USER_ID].slice(0, 1) for batch in batches]).slice(1)
    parts_of_each = zip(*(each.cut(first) for each in events), strict=True)
    histories = (BucketHistories.of(batch, moved) for batch in batches)
    yield from zip(histories, parts_of_each, strict=True)
