"""SQL of ingest: joins of the rows just read with those of the warehouse, in a scratch database.

Its tables: `files` read, `staged` rows of them, `quarantine`; then `kept`, `bad` and `new`.
"""

import json
from datetime import date, datetime
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from pipeline.config.sections import LogSettings
from pipeline.logs.log_files import LogFile, log_rows
from pipeline.logs.validation import AFTER_RUN_DATE, IdTypes
from pipeline.schema import INTERACTIONS, ITEM_ID, QUARANTINE, RUN_DATE, TIMESTAMP, USER_ID
from pipeline.storage.scratch_db import scalar
from pipeline.warehouse.tables import dataset_of

if TYPE_CHECKING:
    from deltalake import DeltaTable

# Fixed width, so that text order is time order.
_TIME_FORMAT = "%Y-%m-%d %H:%M:%S.%f"
_SOURCE = "source_file, source_row, source_stamp"
_EVENT = f"{USER_ID}, {ITEM_ID}, {TIMESTAMP}"
# Of an earlier row joined to `files`: it comes from the same bytes, read by other settings.
_READ_OTHERWISE = """before.source_file = files.source_file
    AND before.source_stamp <> files.source_stamp
    AND starts_with(before.source_stamp, files.state || ' ')"""


def stage(
    files: list[LogFile],
    types: IdTypes,
    logs: LogSettings,
    reason: str,
    db: duckdb.DuckDBPyConnection,
) -> int:
    """Read the files into the table `staged`, each row with the reason why it is bad, or NULL.

    Args:
        files: To read.
        types: Their id types.
        logs: Their columns.
        reason: The row rules, as an SQL expression.
        db: The scratch database.

    Returns:
        The number of rows.
    """
    db.register("files_listed", sources(files, logs))
    db.execute("CREATE TABLE files AS FROM files_listed")
    with log_rows(files, logs, types) as rows:
        db.register("rows", rows)
        db.execute(
            f"""CREATE TABLE staged AS
            SELECT {_EVENT}, source_file, "row" AS source_row, source_stamp,
                   {reason} AS reason
            FROM rows JOIN files USING (file)"""
        )
    return scalar(db, "SELECT count(*) FROM staged")


def sources(files: list[LogFile], logs: LogSettings) -> pa.Table:
    """The files as a table: position, name, source stamp, and the stamp of the file alone."""
    return pa.table(
        {
            "file": pa.array(range(len(files)), pa.int32()),
            "source_file": pa.array([file.name for file in files], pa.string()),
            "source_stamp": pa.array([source_stamp(file, logs) for file in files], pa.string()),
            "state": pa.array([file.stamp for file in files], pa.string()),
        }
    )


def source_stamp(file: LogFile, logs: LogSettings) -> str:
    """The state of a file (size and time), and the settings it is read by."""
    reading = [logs.user_id, logs.item_id, logs.timestamp, logs.timestamp_unit]
    return f"{file.stamp} {json.dumps(reading)}"


def find_kept(
    stored: "DeltaTable | None",
    columns: pa.Schema,
    unread: list[LogFile],
    db: duckdb.DuckDBPyConnection,
) -> int:
    """Make the view `kept`: the rows of `interactions` that stay; returns the number of others."""
    there = dataset_of(stored) if stored else columns.empty_table()
    db.register(INTERACTIONS, there)
    db.execute(f"CREATE VIEW kept AS FROM {INTERACTIONS}")
    if stored is None or not unread:
        return 0
    names = [file.name for file in unread]
    source = ds.field("source_file")
    # Constants, so that Delta's statistics spare the files that hold other logs.
    near = (source >= min(names)) & (source <= max(names))
    sources = there.scanner(["source_file", "source_stamp"], filter=near).to_reader()
    db.register("before", sources)
    db.execute(
        f"""CREATE TABLE withdrawn AS
        SELECT before.source_file, before.source_stamp, count(*) AS n_rows
        FROM before JOIN files ON {_READ_OTHERWISE} GROUP BY ALL"""
    )
    rows = scalar(db, "SELECT coalesce(sum(n_rows), 0) FROM withdrawn")
    if rows:
        db.execute(
            f"""CREATE OR REPLACE VIEW kept AS
            FROM {INTERACTIONS} ANTI JOIN withdrawn USING (source_file, source_stamp)"""
        )
    return rows


def find_bad(run_date: date, db: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    """Make the table `bad`: bad rows not yet in quarantine, as text.

    The quarantine's rows of files read again are updated first: deleted where the same bytes are
    now read by other settings, given the file's new stamp where they are unchanged.

    Returns:
        The number of quarantined rows updated, and of rows in `bad`.
    """
    db.execute(
        f"""CREATE VIEW judged AS
        SELECT CAST({USER_ID} AS VARCHAR) AS {USER_ID}, CAST({ITEM_ID} AS VARCHAR) AS {ITEM_ID},
               strftime({TIMESTAMP} AT TIME ZONE 'UTC', '{_TIME_FORMAT}') AS {TIMESTAMP},
               reason, {_SOURCE}, DATE '{run_date}' AS {RUN_DATE}
        FROM staged WHERE reason IS NOT NULL"""
    )
    gone = scalar(db, f"DELETE FROM {QUARANTINE} AS before USING files WHERE {_READ_OTHERWISE}")
    same = " AND ".join(
        f"before.{name} IS NOT DISTINCT FROM judged.{name}"
        for name in ("source_file", "source_row", USER_ID, ITEM_ID, TIMESTAMP, "reason")
    )
    moved = scalar(
        db,
        f"""UPDATE {QUARANTINE} AS before SET source_stamp = judged.source_stamp FROM judged
        WHERE before.source_stamp <> judged.source_stamp AND {same}""",
    )
    db.execute(f"CREATE TABLE bad AS FROM judged ANTI JOIN {QUARANTINE} USING ({_SOURCE})")
    return gone + moved, scalar(db, "SELECT count(*) FROM bad")


def release(is_due: str, db: duckdb.DuckDBPyConnection) -> int:
    """Put quarantined rows that are due back into `staged`, as good; returns their number."""
    before = scalar(db, "SELECT count(*) FROM staged")
    db.execute(
        f"""INSERT INTO staged
        SELECT {USER_ID}, {ITEM_ID}, {TIMESTAMP} || '+00', {_SOURCE}, NULL
        FROM {QUARANTINE} WHERE {is_due}"""
    )
    return scalar(db, "SELECT count(*) FROM staged") - before


def find_new(db: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    """Make the table `new`: good rows not yet in `interactions`, once each.

    Returns:
        The number of good rows, and of new ones.
    """
    # Constants, so that Delta's statistics spare the files of other days.
    first, last, good = db.execute(
        f"""SELECT CAST(min({TIMESTAMP}) AS VARCHAR), CAST(max({TIMESTAMP}) AS VARCHAR), count(*)
        FROM staged WHERE reason IS NULL"""
    ).fetchall()[0]
    db.execute(
        f"""CREATE TABLE new AS
        SELECT {_EVENT}, {_SOURCE}
        FROM staged ANTI JOIN (
            SELECT {_EVENT} FROM kept
            WHERE {TIMESTAMP} BETWEEN TIMESTAMPTZ '{first}' AND TIMESTAMPTZ '{last}'
        ) USING ({_EVENT})
        WHERE reason IS NULL
        QUALIFY row_number() OVER (PARTITION BY {_EVENT} ORDER BY source_file, source_row) = 1"""
        if good
        else f"CREATE TABLE new AS SELECT {_EVENT}, {_SOURCE} FROM staged WHERE false"
    )
    return good, scalar(db, "SELECT count(*) FROM new")


def due_by(end: datetime) -> str:
    """The SQL condition on a quarantined row: it was too late once, and no longer is at `end`."""
    return f"reason = '{AFTER_RUN_DATE}' AND {TIMESTAMP} < '{end:{_TIME_FORMAT}}'"
