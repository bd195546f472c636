"""Interaction logs to histories: cleaned, sorted and grouped by DuckDB, on disk where need be."""

from collections.abc import Iterator, Sequence

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.config.sections import LogSettings
from pipeline.errors import InputError
from pipeline.logs.log_files import LogFile, log_rows
from pipeline.logs.validation import IdTypes, reason_sql
from pipeline.schema import ITEM_ID, ITEM_INDEX, PAD, TIMESTAMP, USER_ID
from pipeline.scoring.user_histories import DroppedRows, UserFilter, UserHistories
from pipeline.storage.scratch_db import scalar

_ROWS_A_BATCH = 2**20


def log_histories(
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
) -> tuple[int, Iterator[UserHistories]]:
    """Count the users in the logs, and begin to read their histories, in order of their ids.

    Args:
        base: An empty scratch database; it must stay open while the histories are read.
        files: Checked files.
        logs: What their columns are called.
        types: Of their ids.
        items: The bundle's vocabulary.
        wanted: Whose histories, until when.
        tally: Is filled in.
        where: The logs, for the error.
        skip_bad_files: Do without files that turn out to be unreadable.

    Raises:
        InputError: a file cannot be read, or no file has a good row, or one of a wanted user.
    """
    files = list(files)
    while True:
        try:
            _judge(base, files, logs, types, wanted)
            break
        except InputError as error:  # of one file, whose footer was good
            if not skip_bad_files:
                raise
            files = [file for file in files if file.path != error.where]
            tally.skipped_files.add(error.where)
    _keep_good(base, wanted, tally, where)
    base.register("vocabulary", items.select([ITEM_INDEX, ITEM_ID]))
    users = _know(base, wanted, tally)
    reader = base.sql(
        f"SELECT {USER_ID}, {ITEM_INDEX} FROM known ORDER BY {USER_ID}, {TIMESTAMP}, place"
    ).to_arrow_reader(_ROWS_A_BATCH)
    return users, _grouped(reader)


def _judge(
    base: duckdb.DuckDBPyConnection,
    files: Sequence[LogFile],
    logs: LogSettings,
    types: IdTypes,
    wanted: UserFilter,
) -> None:
    """Make the table `judged`: all rows of wanted users, each with what is wrong with it."""
    only = ""
    if wanted.users is not None:
        base.register("wanted_users", pa.table({USER_ID: wanted.users}))
        only = f"WHERE {USER_ID} IN (FROM wanted_users)"
    with log_rows(files, logs, types) as rows:
        base.register("rows", rows)
        # One pass over the files; (file, row) as one number, by which equal times are ordered.
        base.execute(f"""CREATE TABLE judged AS
            SELECT {USER_ID}, {ITEM_ID}, {TIMESTAMP}, (file::BIGINT << 40) | row AS place,
                   {reason_sql(wanted.run_date, wanted.time_zone)} AS reason
            FROM rows {only}""")
    base.unregister("rows")


def _keep_good(
    base: duckdb.DuckDBPyConnection, wanted: UserFilter, tally: DroppedRows, where: str
) -> None:
    """Make the table `events`: the good rows, once each."""
    counted = base.execute("SELECT reason, count(*) FROM judged GROUP BY reason").fetchall()
    tally.dropped.update({reason: count for reason, count in counted if reason is not None})
    base.execute(f"""CREATE TABLE events AS
        SELECT {USER_ID}, {ITEM_ID}, {TIMESTAMP}, min(place) AS place
        FROM judged WHERE reason IS NULL GROUP BY ALL""")
    base.execute("DROP TABLE judged")
    good = dict(counted).get(None, 0)
    tally.duplicates = good - scalar(base, "SELECT count(*) FROM events")
    if wanted.users is not None:
        tally.absent_users = scalar(
            base, f"SELECT count(*) FROM wanted_users ANTI JOIN events USING ({USER_ID})"
        )
        wanted.refuse_absent(tally.absent_users, where)
    elif not good:
        raise InputError(
            "no usable row in the logs",
            where,
            found=", ".join(f"{count} with {why}" for why, count in tally.dropped.items())
            or "no rows at all",
        )


def _know(base: duckdb.DuckDBPyConnection, wanted: UserFilter, tally: DroppedRows) -> int:
    """Make the view `known`: the events of active users, with item indices; count the users."""
    active = ""
    if wanted.active_since is not None:
        active = f"""SEMI JOIN (
            SELECT {USER_ID} FROM events GROUP BY {USER_ID}
            HAVING max({TIMESTAMP}) >= TIMESTAMPTZ '{wanted.active_since}') USING ({USER_ID})"""
    base.execute(f"""CREATE VIEW known AS
        SELECT {USER_ID}, coalesce({ITEM_INDEX}, {PAD})::BIGINT AS {ITEM_INDEX}, {TIMESTAMP}, place
        FROM events LEFT JOIN vocabulary USING ({ITEM_ID}) {active}""")
    tally.unknown_items = scalar(base, f"SELECT count(*) FROM known WHERE {ITEM_INDEX} = {PAD}")
    return scalar(base, f"SELECT count(DISTINCT {USER_ID}) FROM known")


def _grouped(reader: pa.RecordBatchReader) -> Iterator[UserHistories]:
    """Rows sorted by user to histories; a user may span any number of batches."""
    rest = reader.schema.empty_table()
    for batch in reader:
        rows = pa.concat_tables([rest, pa.table(batch)])
        user_id, offsets = _runs(rows)
        whole = len(user_id) - 1  # the last user may go on in the next batch
        if whole > 0:
            items = rows[ITEM_INDEX].slice(0, offsets[whole]).to_numpy()
            yield UserHistories.of_known(user_id[:whole], items, offsets[: whole + 1])
            rows = rows.slice(offsets[whole])
        rest = rows
    if rest.num_rows:
        user_id, offsets = _runs(rest)
        yield UserHistories.of_known(user_id, rest[ITEM_INDEX].to_numpy(), offsets)


def _runs(rows: pa.Table) -> tuple[pa.Array, NDArray[np.int64]]:
    """The users in order, and where the rows of each begin, and the end."""
    runs = pc.run_end_encode(rows[USER_ID].combine_chunks(), run_end_type=pa.int64())
    return runs.values, np.concatenate([[0], runs.run_ends.to_numpy()])
