"""Sequences, one row a user, to histories: a stream of Arrow batches, in the order they come."""

from collections.abc import Iterator, Sequence
from datetime import datetime

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.errors import ConfigError
from pipeline.errors import InputError, SchemaError
from pipeline.histories import Histories, Tally, Wanted
from pipeline.logs import LogFile, unreadable
from pipeline.row_rules import AFTER_RUN_DATE, IdTypes, normalise_timestamps
from pipeline.schema import ITEM_ID, ITEM_IDS, PAD, TIME, USER_ID, is_id_type
from pipeline.scratch import number
from pipeline.sections import LogSettings

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
    expected = "user_id: integers or strings, item_ids: lists of integers or strings"
    kinds = dict(zip(columns.names, columns.types, strict=True))
    user, lists = kinds.get(USER_ID), kinds.get(ITEM_IDS)
    item = lists.value_type if lists is not None and _is_list(lists) else None
    if user is None or item is None or not (is_id_type(user) and is_id_type(item)):
        found = ", ".join(f"{name}: {kind}" for name, kind in kinds.items())
        raise SchemaError("not usable as sequences", where, expected=expected, found=found)
    if times_needed and TIMESTAMPS not in kinds:
        raise ConfigError(
            "active_within_days needs the time of each event",
            where,
            expected=f"a column {TIMESTAMPS}: lists as long as {ITEM_IDS}",
            remedy="Score interaction logs instead, or leave the setting out.",
        )
    return IdTypes(_plain(user), _plain(item))


def sequence_histories(
    base: duckdb.DuckDBPyConnection,
    files: Sequence[LogFile],
    logs: LogSettings,
    types: IdTypes,
    items: pa.Table,
    wanted: Wanted,
    tally: Tally,
    *,
    where: str,
    skip_bad_files: bool,
) -> tuple[int | None, Iterator[Histories]]:
    """Count the users, where their rows tell, and begin to read their histories.

    Args:
        base: An empty scratch database.
        files: Checked files.
        logs: The unit of timestamps that are numbers.
        types: Of the ids.
        items: The bundle's vocabulary.
        wanted: Whose histories, until when.
        tally: Is filled in while the histories are read.
        where: The sequences, for the error.
        skip_bad_files: Leave a file at the point where it turns out to be unreadable.

    Raises:
        InputError: a user has two rows, or there are no rows; later: a file cannot be read.
    """
    everybody = _batches(files, [USER_ID], tally, skip_bad_files)
    users = _count_users(base, everybody, types, wanted, tally, where)
    rows = _batches(files, [USER_ID, ITEM_IDS, TIMESTAMPS], tally, skip_bad_files)
    ids = items[ITEM_ID].combine_chunks()
    return users, (_known(batch, types, logs, ids, wanted, tally) for batch in rows)


def _batches(
    files: Sequence[LogFile], columns: Sequence[str], tally: Tally, skip_bad_files: bool
) -> Iterator[pa.RecordBatch]:
    for file in files:
        try:
            with (
                file.filesystem.open_input_file(file.path) as source,
                pq.ParquetFile(source, pre_buffer=True) as parquet,
            ):
                present = [name for name in columns if name in parquet.schema_arrow.names]
                yield from parquet.iter_batches(_ROWS_A_BATCH, columns=present)
        except (OSError, pa.ArrowException) as error:
            if not skip_bad_files:
                raise unreadable(file, error) from None
            tally.skipped_files.add(file.path)


def _count_users(
    base: duckdb.DuckDBPyConnection,
    batches: Iterator[pa.RecordBatch],
    types: IdTypes,
    wanted: Wanted,
    tally: Tally,
    where: str,
) -> int | None:
    base.register("batch", pa.schema([(USER_ID, types.user)]).empty_table())
    base.execute("CREATE TABLE rows AS FROM batch")
    for batch in batches:
        base.register("batch", pa.table({USER_ID: batch[USER_ID].cast(types.user)}))
        base.execute("INSERT INTO rows FROM batch")
    base.execute(f"CREATE TABLE users AS SELECT {USER_ID}, count(*) AS n FROM rows GROUP BY ALL")
    if not number(base, "SELECT count(*) FROM users"):
        raise InputError("no rows in the sequences", where)
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
        tally.absent_users = number(base, "SELECT count(*) " + join.format("ANTI"))
        users = number(base, "SELECT count(*) " + join.format("SEMI"))
    else:
        users = number(base, f"SELECT count({USER_ID}) FROM users")
    return None if wanted.active_within_days else users


def _known(
    batch: pa.RecordBatch,
    types: IdTypes,
    logs: LogSettings,
    ids: pa.Array,
    wanted: Wanted,
    tally: Tally,
) -> Histories:
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
        _refuse_other_lengths(user_id, offsets, _offsets(batch[TIMESTAMPS]))
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
    return Histories.of_known(user_id, items, offsets).filter(active)


def _offsets(lists: pa.Array) -> NDArray[np.int64]:
    """Where each list begins once flattened, and the end; a null list is an empty one."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _refuse_other_lengths(
    user_id: pa.Array, items: NDArray[np.int64], times: NDArray[np.int64]
) -> None:
    different = np.flatnonzero(np.diff(items) != np.diff(times))
    if len(different):
        row = int(different[0])
        raise InputError(
            f"{TIMESTAMPS} and {ITEM_IDS} differ in length",
            f"{USER_ID} {user_id[row].as_py()!r}",
            expected=str(items[row + 1] - items[row]),
            found=str(times[row + 1] - times[row]),
        )


def _from(times: pa.Array, instant: datetime) -> NDArray[np.bool_]:
    """Which times are that instant or later; a null is not."""
    later = pc.fill_null(pc.greater_equal(times, pa.scalar(instant, TIME)), False)
    found: NDArray[np.bool_] = later.to_numpy(zero_copy_only=False)
    return found


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind if pa.types.is_integer(kind) else pa.string()
