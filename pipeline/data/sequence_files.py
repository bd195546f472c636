"""Events in the order of users and times, written as a history per user into its bucket's file."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.event_rows import ORDINAL
from pipeline.errors import naming
from pipeline.schema import (
    EVENT_TYPE_INDEX,
    ITEM_INDEX,
    SEQUENCES,
    TIMESTAMP,
    TIMESTAMPS,
    USER_ID,
    prepared_schema,
)
from pipeline.storage.prepared_folder import BUCKET_SQL, BUCKETS, sequence_files

_NO_FIRST, _NO_LAST = datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)
_BATCH_EVENTS = 1 << 20  # from which on a record batch of a file is complete


@dataclass
class Totals:
    """Counts of histories, and the times of their first and last events."""

    users: int = 0
    events: int = 0
    first: datetime = _NO_FIRST
    last: datetime = _NO_LAST

    def add(self, histories: pa.RecordBatch) -> None:
        """Count histories in."""
        times = histories[TIMESTAMPS].flatten()
        span = pc.min_max(times).as_py()
        self.users += len(histories)
        self.events += len(times)
        self.first = min(self.first, span["min"].astimezone(UTC))
        self.last = max(self.last, span["max"].astimezone(UTC))


@dataclass
class BucketFile:
    """The file of one bucket while it is written; its bytes depend on the histories alone.

    Attributes:
        path: Where.
        columns: See `prepared_schema`.
        totals: Of everything written, where histories of all buckets are counted.
    """

    path: Path
    columns: pa.Schema
    totals: Totals
    _waiting: list[pa.RecordBatch] = field(default_factory=list)
    _n_waiting: int = 0  # events

    def __enter__(self) -> Self:
        with naming(self.path):
            self._writer = pa.ipc.new_file(str(self.path), self.columns)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if kind is None and self._waiting:
            self._write(self._waiting)
        with naming(self.path):
            self._writer.close()

    def add(self, histories: pa.RecordBatch) -> None:
        """Add histories of users who follow those before.

        Args:
            histories: At least one.
        """
        ends = np.cumsum(histories[ITEM_INDEX].value_lengths().to_numpy(), dtype=np.int64)
        begin, done = 0, 0
        while self._n_waiting + ends[-1] - done >= _BATCH_EVENTS:
            end = int(np.searchsorted(ends, done + _BATCH_EVENTS - self._n_waiting)) + 1
            self._write([*self._waiting, histories.slice(begin, end - begin)])
            self._waiting, self._n_waiting = [], 0
            begin, done = end, ends[end - 1]
        if begin < len(histories):
            self._waiting.append(histories.slice(begin))
            self._n_waiting += int(ends[-1] - done)

    def _write(self, parts: list[pa.RecordBatch]) -> None:
        # Copied, as a slice is written with values of histories outside of it.
        histories = pa.concat_batches(parts)
        with naming(self.path):
            self._writer.write_batch(histories)
        self.totals.add(histories)


@contextmanager
def bucket_files(folder: Path, columns: pa.Schema, totals: Totals) -> Iterator[list[BucketFile]]:
    """The files of all buckets of a prepared folder; `sequences/` is made in it."""
    (folder / SEQUENCES).mkdir()
    with ExitStack() as stack:
        yield [
            stack.enter_context(BucketFile(path, columns, totals))
            for path in sequence_files(folder)
        ]


def write_histories(folder: Path, user: pa.DataType, events: pa.RecordBatchReader) -> Totals:
    """Write the history of every user.

    Args:
        folder: The prepared folder; `sequences/` is made in it.
        user: The type of the user ids in it.
        events: Ordered by user and time; those of one user and time in any order. The types are
            written where they have the column `event_type_index`.
    """
    has_types = EVENT_TYPE_INDEX in events.schema.names
    columns, totals = prepared_schema(user, event_types=has_types), Totals()
    with (
        # Of one thread: it gives the rows back in their order.
        duckdb.connect(config={"threads": 1}) as hashes,
        bucket_files(folder, columns, totals) as files,
    ):
        for histories in _histories(events, columns):
            hashes.register("histories", histories.select([USER_ID]))
            digits = hashes.sql(f"SELECT {BUCKET_SQL} AS bucket FROM histories").to_arrow_table()
            bucket = pc.index_in(digits["bucket"], value_set=pa.array(list(BUCKETS))).to_numpy()
            by_bucket = histories.take(pa.array(np.argsort(bucket, kind="stable")))
            begin = 0
            for file, n_users in zip(files, np.bincount(bucket, minlength=len(files)), strict=True):
                if n_users:
                    file.add(by_bucket.slice(begin, n_users))
                begin += n_users
    return totals


def _histories(events: pa.RecordBatchReader, columns: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Events ordered by user, as one row per user."""
    rest = events.schema.empty_table()
    for batch in events:
        rest = pa.concat_tables([rest, pa.table(batch)]).combine_chunks()
        user = rest[USER_ID].combine_chunks()
        changes = pc.not_equal(user[1:], user[:-1]).to_numpy(zero_copy_only=False)
        starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
        # The last user's events may go on in the next batch.
        if len(starts) > 1:
            yield _lists(rest, starts, columns)
        rest = rest.slice(starts[-1])
    if len(rest):
        yield _lists(rest, np.array([0, len(rest)]), columns)


def _lists(events: pa.Table, bounds: np.ndarray, columns: pa.Schema) -> pa.RecordBatch:
    offsets = pa.array(bounds, pa.int32())
    events = events.slice(0, int(bounds[-1])).combine_chunks()
    times = events[TIMESTAMP].combine_chunks()
    names = columns.names[2:]
    ordered = _in_order(events, times, bounds, names)
    lists = [
        pa.ListArray.from_arrays(offsets, values).cast(kind)
        for values, kind in zip([times, *map(pa.array, ordered)], columns.types[1:], strict=True)
    ]
    user = events[USER_ID].combine_chunks().take(offsets[:-1]).cast(columns.field(USER_ID).type)
    return pa.record_batch([user, *lists], columns)


def _in_order(
    events: pa.Table, times: pa.Array, bounds: np.ndarray, names: list[str]
) -> list[np.ndarray]:
    """Some columns of numbers, those of one user and time in the order of the log files."""
    columns = [events[name].to_numpy() for name in names]
    same = pc.equal(times[1:], times[:-1]).to_numpy(zero_copy_only=False)
    same[bounds[1:-1] - 1] = False  # of two users
    if not same.any():
        return columns
    tied = np.concatenate([same, [False]])
    first = tied & ~np.concatenate([[False], same])
    tied[1:] |= same
    place = np.flatnonzero(tied)
    group = np.cumsum(first)[place]
    order = np.lexsort((events[ORDINAL].to_numpy()[place], group))
    columns = [column.copy() for column in columns]
    for column in columns:
        column[place] = column[place[order]]
    return columns
