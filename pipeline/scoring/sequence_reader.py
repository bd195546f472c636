"""Sequences, one row a user, to histories: a stream of Arrow batches, in the order they come."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.errors import ConfigError
from pipeline.config.sections import LogSettings
from pipeline.errors import InputError, SchemaError
from pipeline.logs.log_files import LogFile, unreadable
from pipeline.logs.validation import (
    AFTER_RUN_DATE,
    ID_TYPES,
    IdTypes,
    is_time_type,
    normalise_timestamps,
    plain_id_type,
)
from pipeline.schema import ITEM_ID, ITEM_IDS, PAD, TIME, USER_ID
from pipeline.scoring.user_histories import DroppedRows, UserFilter, UserHistories
from pipeline.storage.scratch_db import scalar

TIMESTAMPS = "timestamps"

_ROWS_A_BATCH = 2**15


def check_sequence_columns(columns: pa.Schema, where: str, *, times_needed: bool) -> IdTypes:
    """Check the columns of one file of sequences.

    Args:
        columns: The file's Arrow schema.
        where: The file, for the error.
        times_needed: Only active users are asked for.

    Raises:
        SchemaError: a column is missing or has a type that cannot be used.
        ConfigError: the times that are needed are not there.
    """
    expected = (
        f"{USER_ID}: {ID_TYPES}, {ITEM_IDS}: lists of such, and if there are {TIMESTAMPS}: lists"
    )
    kinds = dict(zip(columns.names, columns.types, strict=True))
    lists, times = _listed(kinds, ITEM_IDS), _listed(kinds, TIMESTAMPS)
    user = plain_id_type(kinds.get(USER_ID, pa.null()))
    item = plain_id_type(lists)
    if user is None or item is None or not (TIMESTAMPS not in kinds or is_time_type(times)):
        found = ", ".join(f"{name}: {kind}" for name, kind in kinds.items())
        raise SchemaError("not usable as sequences", where, expected=expected, found=found)
    if times_needed and TIMESTAMPS not in kinds:
        raise ConfigError(
            "active_within_days needs the time of each event",
            where,
            expected=f"a column {TIMESTAMPS}: lists as long as {ITEM_IDS}",
            remedy="Score interaction logs instead, or leave the setting out.",
        )
    return IdTypes(user, item)


def sequence_histories(
    base: duckdb.DuckDBPyConnection,
    files: Sequence[LogFile],
    logs: LogSettings,
    types: IdTypes,
    items: pa.Table,
    wanted: UserFilter,
    tally: DroppedRows,
    *,
    where: str,
    skip_bad_files: bool,
) -> tuple[int | None, Iterator[UserHistories]]:
    """Read everything once, count the users, where that tells, and begin to read their histories.

    What is wrong with a file is so found out before anything is written.

    Args:
        base: An empty scratch database.
        files: Checked files.
        logs: The unit of timestamps that are numbers.
        types: Of the ids.
        items: The bundle's vocabulary.
        wanted: Whose histories, until when.
        tally: Is filled in while the histories are read.
        where: The sequences, for the error.
        skip_bad_files: Do without files that turn out to be unreadable.

    Raises:
        InputError: a file cannot be read, a user has two rows or as many times as items not, or
            there are no rows, or none of a wanted user.
    """
    base.register("batch", pa.schema([(USER_ID, types.user)]).empty_table())
    base.execute("CREATE TABLE rows AS FROM batch")
    good: list[LogFile] = []
    for file in files:
        base.begin()
        try:
            for batch in _batches(file):
                _refuse_other_lengths(batch, file.path)
                base.register("batch", pa.table({USER_ID: batch[USER_ID].cast(types.user)}))
                base.execute("INSERT INTO rows FROM batch")
        except (OSError, pa.ArrowException) as error:
            if not skip_bad_files:
                raise unreadable(file, error) from None
            tally.skipped_files.add(file.path)
            base.rollback()
        else:
            base.commit()
            good.append(file)
    users = _count_users(base, wanted, tally, where)
    ids = items[ITEM_ID].combine_chunks()
    batches = (batch for file in good for batch in _batches(file))
    return users, (_known(batch, types, logs, ids, wanted, tally) for batch in batches)


def _batches(file: LogFile) -> Iterator[pa.RecordBatch]:
    columns = (USER_ID, ITEM_IDS, TIMESTAMPS)
    with (
        file.filesystem.open_input_file(file.path) as source,
        pq.ParquetFile(source, pre_buffer=True) as parquet,
    ):
        present = [name for name in columns if name in parquet.schema_arrow.names]
        for batch in parquet.iter_batches(_ROWS_A_BATCH, columns=present):
            batch.validate(full=True)  # text may be no UTF-8
            yield batch


def _count_users(
    base: duckdb.DuckDBPyConnection, wanted: UserFilter, tally: DroppedRows, where: str
) -> int | None:
    base.execute(f"CREATE TABLE users AS SELECT {USER_ID}, count(*) AS n FROM rows GROUP BY ALL")
    users = scalar(base, f"SELECT count({USER_ID}) FROM users")
    if not users:
        rows = scalar(base, "SELECT count(*) FROM rows")
        raise InputError(
            "no usable row in the sequences",
            where,
            found=f"{rows} with null {USER_ID}" if rows else "no rows at all",
        )
    repeated = base.execute(
        f"SELECT {USER_ID}, n FROM users WHERE n > 1 AND {USER_ID} IS NOT NULL ORDER BY 1 LIMIT 1"
    ).fetchone()
    if repeated is not None:
        raise InputError(
            "a user has more than one row in the sequences",
            f"{where}, {USER_ID} {repeated[0]!r}",
            expected="one row a user",
            found=str(repeated[1]),
        )
    if wanted.users is not None:
        base.register("wanted_users", pa.table({USER_ID: wanted.users}))
        join = f"FROM wanted_users {{}} JOIN users USING ({USER_ID})"
        tally.absent_users = scalar(base, "SELECT count(*) " + join.format("ANTI"))
        wanted.refuse_absent(tally.absent_users, where)
        users = scalar(base, "SELECT count(*) " + join.format("SEMI"))
    return None if wanted.active_within_days else users


def _known(
    batch: pa.RecordBatch,
    types: IdTypes,
    logs: LogSettings,
    ids: pa.Array,
    wanted: UserFilter,
    tally: DroppedRows,
) -> UserHistories:
    """Item indices of one batch; what is unknown, null or too late is counted and left out."""
    user_id = batch[USER_ID].cast(types.user)
    tally.dropped["null user_id"] += user_id.null_count
    keep = user_id.is_valid()
    if wanted.users is not None:
        keep = pc.and_(keep, pc.is_in(user_id, value_set=wanted.users))
    batch = batch.filter(keep)
    user_id = user_id.filter(keep)
    listed = batch[ITEM_IDS].flatten().cast(types.item)
    index = pc.fill_null(pc.add(pc.index_in(listed, value_set=ids), 1), PAD)
    items = index.to_numpy(zero_copy_only=False).astype(np.int64)
    offsets = _offsets(batch[ITEM_IDS])
    active = np.ones(len(user_id), np.bool_)
    late = np.zeros(len(items), np.bool_)
    if TIMESTAMPS in batch.schema.names:
        times = normalise_timestamps(batch[TIMESTAMPS].flatten(), logs.timestamp_unit)
        late = _from(times, wanted.end)
        if wanted.active_since is not None:
            recent = _from(times, wanted.active_since) & ~late
            active = np.diff(np.concatenate([[0], np.cumsum(recent)])[offsets]) > 0
    null = ~late & listed.is_null().to_numpy(zero_copy_only=False)
    tally.dropped[AFTER_RUN_DATE] += int(late.sum())
    tally.dropped["null item_id"] += int(null.sum())
    tally.unknown_items += int(((items == PAD) & ~late & ~null).sum())
    items[late] = PAD
    return UserHistories.of_known(user_id, items, offsets).filter(active)


def _offsets(lists: pa.Array) -> NDArray[np.int64]:
    """Where each list begins once flattened, and the end; a null list is an empty one."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _refuse_other_lengths(batch: pa.RecordBatch, where: str) -> None:
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


def _from(times: pa.Array, instant: datetime) -> NDArray[np.bool_]:
    """Which times are that instant or later; a null is not."""
    later = pc.fill_null(pc.greater_equal(times, pa.scalar(instant, TIME)), False)
    found: NDArray[np.bool_] = later.to_numpy(zero_copy_only=False)
    return found


def _listed(kinds: Mapping[str, pa.DataType], name: str) -> pa.DataType:
    """What a column's lists hold; null if there is no such column or it holds no lists."""
    kind = kinds.get(name)
    if kind is None or not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return pa.null()
    return kind.value_type
