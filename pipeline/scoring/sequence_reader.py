"""Sequences, one row per user, to histories: a stream of Arrow batches in the order of the rows."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import ConfigError, InputError, SchemaError, UnreadableFileError
from pipeline.logs.conversion import (
    ID_TYPES,
    TIME_TYPES,
    is_time_type,
    normalise_timestamps,
    plain_id_type,
    plain_ids,
)
from pipeline.logs.log_content import read_batches, readable
from pipeline.logs.log_files import LogFile
from pipeline.logs.validation import AFTER_RUN_DATE, IdTypes, check_not_twice
from pipeline.schema import ITEM_ID, ITEM_IDS, PAD, TIMESTAMPS, USER_ID
from pipeline.scoring.history_source import FileHistories, OpenedHistories
from pipeline.scoring.user_histories import UserHistories, any_per_user, not_before
from pipeline.storage.scratch_db import scalar

_COLUMNS = (USER_ID, ITEM_IDS, TIMESTAMPS)
_BATCH_ROWS = 2**15
_LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
    pa.types.is_fixed_size_list,
)


def check_sequence_columns(
    columns: pa.Schema, where: str, *, times_needed_for: str | None
) -> IdTypes:
    """Check the columns of a file of sequences; return the id types.

    Args:
        columns: The file's Arrow schema.
        where: The file, for the error.
        times_needed_for: The setting of `[score]` that takes timestamps; None for none.

    Raises:
        SchemaError: a column is missing or has a type that cannot be used.
        ConfigError: the timestamps are needed and missing.
    """
    expected = (
        f"{USER_ID}: {ID_TYPES}, {ITEM_IDS}: lists of such, and if there are {TIMESTAMPS}: lists of"
        f" {TIME_TYPES}"
    )
    for name in _COLUMNS:
        check_not_twice(columns, name, where)
    kinds = dict(zip(columns.names, columns.types, strict=True))
    items, times = _element_type(kinds, ITEM_IDS), _element_type(kinds, TIMESTAMPS)
    user = plain_id_type(kinds[USER_ID]) if USER_ID in kinds else None
    item = None if items is None else plain_id_type(items)
    are_times = TIMESTAMPS not in kinds or (times is not None and is_time_type(times))
    if user is None or item is None or not are_times:
        found = ", ".join(f"{name}: {kind}" for name, kind in kinds.items())
        raise SchemaError("not usable as sequences", where, expected=expected, found=found)
    if times_needed_for and TIMESTAMPS not in kinds:
        raise ConfigError(
            f"{times_needed_for} needs the time of each event",
            where,
            expected=f"a column {TIMESTAMPS}: lists as long as {ITEM_IDS}",
            remedy="Score interaction logs instead, or leave the setting out.",
        )
    return IdTypes(user, item)


@dataclass(frozen=True)
class SequenceHistories(FileHistories):
    """A `HistorySource` over sequences; users come in the order of the rows.

    All files are read twice: first the checks, so that nothing is written if a file is bad, then
    the histories. `dropped` is complete after the second reading.
    """

    def popularity_since(self, items: pa.Table, since: datetime) -> NDArray[np.int64]:
        """See `HistorySource`."""
        ids = items[ITEM_ID].combine_chunks()
        counts = np.zeros(len(ids) + 1, np.int64)
        for file in self.files:
            of_file = np.zeros_like(counts)
            try:
                for batch in self._batches(file):
                    _check_lengths(batch, file.path)
                    of_file += self._count_since(
                        batch.filter(batch[USER_ID].is_valid()), ids, since
                    )
            except UnreadableFileError:
                if not self.skip_bad_files:
                    raise
                self.dropped.skipped_files.add(file.path)
            else:
                counts += of_file
        return counts[PAD + 1 :]

    def _count_since(
        self, batch: pa.RecordBatch, ids: pa.Array, since: datetime
    ) -> NDArray[np.int64]:
        """(V,) the events of one batch with each item, PAD for unknown ones."""
        times = batch[TIMESTAMPS].flatten()
        recent = not_before(times, since) & ~not_before(times, self.user_filter.end)
        index = _index_of(batch[ITEM_IDS].flatten(), ids)
        return np.bincount(index[recent], minlength=len(ids) + 1)

    @property
    def user_column(self) -> str:
        """See `FileHistories`."""
        return USER_ID

    def _open(self, base: duckdb.DuckDBPyConnection, items: pa.Table) -> OpenedHistories:
        good = self._check_files(base)
        users = self._count_users(base)
        ids = items[ITEM_ID].combine_chunks()
        batches = (batch for file in good for batch in self._batches(file))
        return OpenedHistories(users, (self._encode(batch, ids) for batch in batches))

    def _check_files(self, base: duckdb.DuckDBPyConnection) -> list[LogFile]:
        """Read everything once, and make the table `rows` of all user ids; the readable files."""
        base.register("batch", pa.schema([(USER_ID, self.types.user)]).empty_table())
        base.execute("CREATE TABLE rows AS FROM batch")
        good: list[LogFile] = []
        for file in self.files:
            base.begin()
            try:
                for batch in self._batches(file):
                    _check_lengths(batch, file.path)
                    base.register("batch", pa.table({USER_ID: batch[USER_ID]}))
                    base.execute("INSERT INTO rows FROM batch")
            except UnreadableFileError:
                if not self.skip_bad_files:
                    raise
                self.dropped.skipped_files.add(file.path)
                base.rollback()
            else:
                base.commit()
                good.append(file)
        return good

    def _count_users(self, base: duckdb.DuckDBPyConnection) -> int | None:
        """The number of users to score; None where only the active ones are scored."""
        base.execute(
            f"CREATE TABLE users AS SELECT {USER_ID}, count(*) AS n FROM rows GROUP BY ALL"
        )
        users = scalar(base, f"SELECT count({USER_ID}) FROM users")
        if not users:
            rows = scalar(base, "SELECT count(*) FROM rows")
            raise InputError(
                "no usable row in the sequences",
                self.where,
                found=f"{rows} with null {USER_ID}" if rows else "no rows at all",
            )
        repeated = base.execute(
            f"""SELECT {USER_ID}, n FROM users WHERE n > 1 AND {USER_ID} IS NOT NULL
            ORDER BY 1 LIMIT 1"""
        ).fetchone()
        if repeated is not None:
            raise InputError(
                "a user has more than one row in the sequences",
                f"{self.where}, {USER_ID} {repeated[0]!r}",
                expected="one row per user",
                found=str(repeated[1]),
            )
        if self.user_filter.users is not None:
            base.register("listed_users", pa.table({USER_ID: self.user_filter.users}))
            join = f"FROM listed_users {{}} JOIN users USING ({USER_ID})"
            self.dropped.absent_users = scalar(base, "SELECT count(*) " + join.format("ANTI"))
            self.user_filter.check_present(self.dropped.absent_users, self.where)
            users = scalar(base, "SELECT count(*) " + join.format("SEMI"))
        return None if self.user_filter.active_within_days else users

    def _encode(self, batch: pa.RecordBatch, ids: pa.Array) -> UserHistories:
        """One batch's item indices, without events that are unknown, null or too late."""
        user_id = batch[USER_ID]
        self.dropped.by_reason["null user_id"] += user_id.null_count
        keep = user_id.is_valid()
        if self.user_filter.users is not None:
            keep = pc.and_(keep, pc.is_in(user_id, value_set=self.user_filter.users))
        batch = batch.filter(keep)
        user_id = user_id.filter(keep)
        listed = batch[ITEM_IDS].flatten()
        items = _index_of(listed, ids)
        offsets = _offsets(batch[ITEM_IDS])
        active = np.ones(len(user_id), np.bool_)
        late = np.zeros(len(items), np.bool_)
        seen: NDArray[np.bool_] | None = None
        if TIMESTAMPS in batch.schema.names:
            times = batch[TIMESTAMPS].flatten()
            late = not_before(times, self.user_filter.end)
            if self.user_filter.active_since is not None:
                recent = not_before(times, self.user_filter.active_since) & ~late
                active = any_per_user(recent, offsets)
            if self.seen is not None and self.seen.since is not None:
                # What may have been seen of late, without a time, counts as seen.
                unknown = times.is_null().to_numpy(zero_copy_only=False)
                seen = not_before(times, self.seen.since) | unknown
        null = ~late & listed.is_null().to_numpy(zero_copy_only=False)
        self.dropped.by_reason[AFTER_RUN_DATE] += int(late.sum())
        self.dropped.by_reason["null item_id"] += int(null.sum())
        self.dropped.unknown_items += int(((items == PAD) & ~late & ~null).sum())
        items[late] = PAD
        return UserHistories(user_id, items, offsets, seen).without_pad().filter(active)

    def _batches(self, file: LogFile) -> Iterator[pa.RecordBatch]:
        """The rows of a file, with ids as in `types` and times in UTC; null lists are empty.

        Raises:
            UnreadableFileError: the file cannot be read.
            SchemaError: an id is not a whole number or does not fit.
        """
        unit, zone = self.logs.timestamp_unit, self.logs.time_zone or "UTC"
        convert: dict[str, Callable[[pa.Array], pa.Array]] = {
            USER_ID: lambda ids: plain_ids(ids, self.types.user, file.path),
            ITEM_IDS: lambda ids: plain_ids(ids, self.types.item, file.path),
            TIMESTAMPS: lambda times: normalise_timestamps(times, unit, zone),
        }
        with readable(file):
            for batch in read_batches(file, _COLUMNS, _BATCH_ROWS):
                names = batch.schema.names
                columns = {name: _converted(batch[name], convert[name]) for name in names}
                yield pa.RecordBatch.from_pydict(columns)


def _converted(column: pa.Array, convert: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """A column converted; of lists of any kind the elements, with null lists as empty ones."""
    if not _is_list(column.type):
        return convert(column)
    return pa.LargeListArray.from_arrays(_offsets(column), convert(column.flatten()))


def _offsets(lists: pa.Array) -> NDArray[np.int64]:
    """The positions where each list begins in the flattened lists, and the end; null is empty."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _index_of(listed: pa.Array, ids: pa.Array) -> NDArray[np.int64]:
    """The indices of listed ids, PAD for those that are not known."""
    index = pc.fill_null(pc.add(pc.index_in(listed, value_set=ids), 1), PAD)
    items: NDArray[np.int64] = index.to_numpy(zero_copy_only=False).astype(np.int64)
    return items


def _check_lengths(batch: pa.RecordBatch, where: str) -> None:
    if TIMESTAMPS not in batch.schema.names:
        return
    items, times = (np.diff(_offsets(batch[name])) for name in (ITEM_IDS, TIMESTAMPS))
    different = np.flatnonzero(items != times)
    if len(different):
        row = int(different[0])
        raise InputError(
            f"{TIMESTAMPS} and {ITEM_IDS} differ in length",
            f"{where}, {USER_ID} {batch[USER_ID][row].as_py()!r}",
            expected=str(items[row]),
            found=str(times[row]),
        )


def _element_type(kinds: Mapping[str, pa.DataType], name: str) -> pa.DataType | None:
    """The type of a list column's elements; None where the column is missing or of another type."""
    kind = kinds.get(name)
    return kind.value_type if kind is not None and _is_list(kind) else None


def _is_list(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in _LISTS)
