"""SQL of ingest: joins of the rows just read with those of the warehouse, in a scratch database.

Its tables: `files` read, `staged` rows of them, `quarantine`; then `kept`, `bad` and `new`.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from datetime import datetime
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from pipeline.config.sections import LogSettings
from pipeline.data.source_files import SourceFile
from pipeline.logs.log_rows import log_rows
from pipeline.logs.validation import (
    AFTER_RUN_DATE,
    EARLIEST,
    FILTERED,
    IdTypes,
    keep_applied,
    reason_sql,
)
from pipeline.progress import work_progress
from pipeline.schema import (
    EVENT_TYPE,
    INTERACTIONS,
    ITEM_ID,
    TIMESTAMP,
    USER_ID,
    VALUE,
)
from pipeline.storage.scratch_db import scalar
from pipeline.warehouse.tables import dataset_of

if TYPE_CHECKING:
    from deltalake import DeltaTable

SOURCE = "source_file, source_row, source_stamp"
# What events are told apart by. Inside the scratch database none is '', so that joins find it.
EVENT = f"{USER_ID}, {ITEM_ID}, {TIMESTAMP}, {EVENT_TYPE}"
WITHOUT_NULL = f"coalesce({EVENT_TYPE}, '') AS {EVENT_TYPE}"


def stage(
    files: Sequence[SourceFile],
    types: IdTypes,
    logs: LogSettings,
    end: datetime,
    db: duckdb.DuckDBPyConnection,
) -> tuple[int, int]:
    """Read the files into the table `staged`, each row with the reason why it is bad, or NULL.

    Args:
        files: To read.
        types: Their id types.
        logs: Their columns.
        end: Of the run date.
        db: The scratch database.

    Returns:
        The number of rows, and of those that `logs.keep` leaves out of `staged`.
    """
    db.register("files_listed", _table_of(files))
    db.execute("CREATE TABLE files AS FROM files_listed")
    rows = _read(files, types, logs, end, "CREATE TABLE staged AS {}", db)
    return rows, rows - scalar(db, "SELECT count(*) FROM staged")


def stage_elsewhere(
    files: Sequence[SourceFile],
    types: IdTypes,
    logs: LogSettings,
    end: datetime,
    db: duckdb.DuckDBPyConnection,
) -> None:
    """Add to `staged` the good rows of other files, as of `stage`, that hold an event of `gone`."""
    query = f"INSERT INTO staged FROM ({{}}) SEMI JOIN gone USING ({EVENT}) WHERE reason IS NULL"
    _read(files, types, logs, end, query, db)


def _read(
    files: Sequence[SourceFile],
    types: IdTypes,
    logs: LogSettings,
    end: datetime,
    query: str,
    db: duckdb.DuckDBPyConnection,
) -> int:
    """Run a query over the rows that are not filtered; return the number of all rows."""
    counts = [0]

    def counted(rows: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        for batch in rows:
            counts.append(len(batch))
            yield batch

    db.register("files_read", _table_of(files))
    with (
        work_progress("reading logs") if files else nullcontext(lambda *_: None) as progress,
        keep_applied(logs, db),
        log_rows([source.file for source in files], logs, types, (EARLIEST, end), progress) as rows,
    ):
        db.register("rows", pa.RecordBatchReader.from_batches(rows.schema, counted(rows)))
        db.execute(
            query.format(
                f"""SELECT * REPLACE ({WITHOUT_NULL}) FROM (
                    SELECT {EVENT}, {VALUE}, source_file, "row" AS source_row, source_stamp,
                           raw_timestamp, raw_value, {reason_sql(end, logs.keep)} AS reason
                    FROM rows JOIN files_read USING (file)
                ) WHERE reason IS DISTINCT FROM '{FILTERED}'"""
            )
        )
    return sum(counts)


def _table_of(files: Sequence[SourceFile]) -> pa.Table:
    return pa.table(
        {
            "file": pa.array(range(len(files)), pa.int32()),
            "source_file": pa.array([source.name for source in files], pa.string()),
            "source_stamp": pa.array([source.stamp for source in files], pa.string()),
            "is_known": pa.array([source.is_known for source in files], pa.bool_()),
        }
    )


def find_kept(
    interactions: "DeltaTable | None", columns: pa.Schema, db: duckdb.DuckDBPyConnection
) -> list[str]:
    """Find the files whose rows in `interactions` are not what they hold now.

    Makes the view `kept`, the rows of `interactions` that stay; the tables `before`, the rows that
    it has of `files`; `stale`, the names of the files whose rows go; and `gone`, events of those
    rows that no file just read has.

    Returns:
        The names in `stale`.
    """
    there = dataset_of(interactions) if interactions else columns.empty_table()
    db.register(INTERACTIONS, there)
    db.register("rows_before", _rows_before(there, db))
    db.execute(
        f"""CREATE TABLE before AS
        SELECT {EVENT}, {VALUE}, {SOURCE}
        FROM (SELECT * REPLACE ({WITHOUT_NULL}) FROM rows_before)"""
    )
    # A row that is where it was stays as it is, with the stamp that it was read under.
    row = (*EVENT.split(", "), VALUE, "source_file", "source_row")
    db.execute(
        f"""CREATE TABLE stale AS
        SELECT DISTINCT source_file FROM (
            SELECT before.* FROM before JOIN files USING (source_file)
            WHERE before.source_stamp <> files.source_stamp
        ) AS before ANTI JOIN (
            FROM staged WHERE reason IS NULL OR reason = '{AFTER_RUN_DATE}'
        ) AS staged ON {same_in("staged", *row)}"""
    )
    stale = [name for (name,) in db.execute("FROM stale ORDER BY 1").fetchall()]
    but = " ANTI JOIN stale USING (source_file)" if stale else ""
    stored = f"SELECT * REPLACE ({WITHOUT_NULL}) FROM {INTERACTIONS}"
    db.execute(f"CREATE VIEW kept AS {stored}{but}")
    db.execute("CREATE VIEW replaced AS FROM before SEMI JOIN stale USING (source_file)")
    db.execute(
        f"""CREATE TABLE gone AS SELECT {EVENT} FROM replaced
        ANTI JOIN (FROM staged WHERE reason IS NULL) USING ({EVENT})"""
    )
    return stale


def _rows_before(
    there: ds.Dataset | pa.Table, db: duckdb.DuckDBPyConnection
) -> pa.Table | pa.RecordBatchReader:
    """The rows of `files` that are there."""
    first, last = db.execute("SELECT min(source_file), max(source_file) FROM files").fetchall()[0]
    if first is None or isinstance(there, pa.Table):
        return there.schema.empty_table()
    source = ds.field("source_file")
    # Constants, so that Delta's statistics spare the files that hold other logs.
    near = (source >= first) & (source <= last)
    db.register("near", there.scanner(["source_file"], filter=near).to_reader())
    found = db.execute("SELECT DISTINCT source_file FROM near SEMI JOIN files USING (source_file)")
    names = [name for (name,) in found.fetchall()]
    if not names:
        return there.schema.empty_table()
    return there.scanner(filter=near & source.isin(names)).to_reader()


def find_rewritten(interactions: "DeltaTable", db: duckdb.DuckDBPyConnection) -> list[str]:
    """Make the view `rewritten`: all rows to be of the files that have a row in `stale` or `new`.

    Returns:
        The names of these files.
    """
    found = db.execute("SELECT source_file FROM stale UNION SELECT source_file FROM new ORDER BY 1")
    names = [name for (name,) in found.fetchall()]
    of_them = ds.field("source_file").isin(names)
    db.register("rows_of_them", dataset_of(interactions).scanner(filter=of_them).to_reader())
    db.execute(
        f"""CREATE VIEW rewritten AS
        SELECT {EVENT}, {VALUE}, {SOURCE} FROM rows_of_them ANTI JOIN stale USING (source_file)
        UNION ALL FROM new"""
    )
    return names


def not_kept(db: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """For each file just read how many of its rows `interactions` does not have under its name."""
    counts = db.execute(
        """SELECT source_file, coalesce(n_staged, 0) - coalesce(n_kept, 0)
        FROM files
        LEFT JOIN (
            SELECT source_file, count(*) AS n_staged FROM staged GROUP BY 1
        ) USING (source_file)
        LEFT JOIN (
            SELECT source_file, count(*) AS n_kept FROM (
                SELECT source_file FROM new
                UNION ALL
                SELECT source_file FROM before ANTI JOIN stale USING (source_file)
            ) GROUP BY 1
        ) USING (source_file)"""
    )
    return dict(counts.fetchall())


def count_changes(db: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    """The events that are new in `interactions`, and those that go."""
    added = scalar(db, f"SELECT count(*) FROM new ANTI JOIN replaced USING ({EVENT})")
    withdrawn = scalar(db, f"SELECT count(*) FROM replaced ANTI JOIN new USING ({EVENT})")
    return added, withdrawn


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
        SELECT {EVENT}, {VALUE}, {SOURCE}
        FROM staged ANTI JOIN (
            SELECT {EVENT} FROM kept
            WHERE {TIMESTAMP} BETWEEN TIMESTAMPTZ '{first}' AND TIMESTAMPTZ '{last}'
        ) USING ({EVENT})
        WHERE reason IS NULL
        QUALIFY row_number() OVER (PARTITION BY {EVENT} ORDER BY source_file, source_row) = 1"""
        if good
        else f"CREATE TABLE new AS SELECT {EVENT}, {VALUE}, {SOURCE} FROM staged WHERE false"
    )
    return good, scalar(db, "SELECT count(*) FROM new")


def same_in(other: str, *names: str) -> str:
    """The condition that rows of `before` and of another table are equal in some columns."""
    return " AND ".join(f"before.{name} IS NOT DISTINCT FROM {other}.{name}" for name in names)
