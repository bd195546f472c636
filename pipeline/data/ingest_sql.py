"""SQL of ingest: joins of the rows just read with those of the warehouse, in a scratch database.

Its tables: `files` read, `staged` rows of them, `quarantine`; then `kept`, `bad` and `new`.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from datetime import date, datetime
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from pipeline.config.sections import LogSettings
from pipeline.data.source_files import SourceFile
from pipeline.logs.log_rows import log_rows
from pipeline.logs.validation import AFTER_RUN_DATE, EARLIEST, IdTypes, reason_sql
from pipeline.progress import work_progress
from pipeline.schema import INTERACTIONS, ITEM_ID, QUARANTINE, RUN_DATE, TIMESTAMP, USER_ID
from pipeline.storage.scratch_db import scalar
from pipeline.warehouse.tables import dataset_of

if TYPE_CHECKING:
    from deltalake import DeltaTable

# Fixed width, so that text order is time order.
_TIME_FORMAT = "%Y-%m-%d %H:%M:%S.%f"
_SOURCE = "source_file, source_row, source_stamp"
_EVENT = f"{USER_ID}, {ITEM_ID}, {TIMESTAMP}"


def stage(
    files: Sequence[SourceFile],
    types: IdTypes,
    logs: LogSettings,
    end: datetime,
    db: duckdb.DuckDBPyConnection,
) -> int:
    """Read the files into the table `staged`, each row with the reason why it is bad, or NULL.

    Args:
        files: To read.
        types: Their id types.
        logs: Their columns.
        end: Of the run date.
        db: The scratch database.

    Returns:
        The number of rows.
    """
    db.register("files_listed", _table_of(files))
    db.execute("CREATE TABLE files AS FROM files_listed")
    _read(files, types, logs, end, "CREATE TABLE staged AS {}", db)
    return scalar(db, "SELECT count(*) FROM staged")


def stage_elsewhere(
    files: Sequence[SourceFile],
    types: IdTypes,
    logs: LogSettings,
    end: datetime,
    db: duckdb.DuckDBPyConnection,
) -> None:
    """Add to `staged` the good rows of other files, as of `stage`, that hold an event of `gone`."""
    query = f"INSERT INTO staged FROM ({{}}) SEMI JOIN gone USING ({_EVENT}) WHERE reason IS NULL"
    _read(files, types, logs, end, query, db)


def _read(
    files: Sequence[SourceFile],
    types: IdTypes,
    logs: LogSettings,
    end: datetime,
    query: str,
    db: duckdb.DuckDBPyConnection,
) -> None:
    db.register("files_read", _table_of(files))
    with (
        work_progress("reading logs") if files else nullcontext(lambda *_: None) as progress,
        log_rows([source.file for source in files], logs, types, (EARLIEST, end), progress) as rows,
    ):
        db.register("rows", rows)
        db.execute(
            query.format(
                f"""SELECT {_EVENT}, source_file, "row" AS source_row, source_stamp, raw_timestamp,
                       {reason_sql(end)} AS reason
                FROM rows JOIN files_read USING (file)"""
            )
        )


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
    db.execute(f"CREATE TABLE before AS SELECT {_EVENT}, {_SOURCE} FROM rows_before")
    # A row that is where it was stays as it is, with the stamp that it was read under.
    db.execute(
        f"""CREATE TABLE stale AS
        SELECT DISTINCT source_file FROM (
            SELECT before.* FROM before JOIN files USING (source_file)
            WHERE before.source_stamp <> files.source_stamp
        ) ANTI JOIN (
            FROM staged WHERE reason IS NULL OR reason = '{AFTER_RUN_DATE}'
        ) USING ({_EVENT}, source_file, source_row)"""
    )
    stale = [name for (name,) in db.execute("FROM stale ORDER BY 1").fetchall()]
    but = " ANTI JOIN stale USING (source_file)" if stale else ""
    db.execute(f"CREATE VIEW kept AS FROM {INTERACTIONS}{but}")
    db.execute("CREATE VIEW replaced AS FROM before SEMI JOIN stale USING (source_file)")
    db.execute(
        f"""CREATE TABLE gone AS SELECT {_EVENT} FROM replaced
        ANTI JOIN (FROM staged WHERE reason IS NULL) USING ({_EVENT})"""
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
        SELECT {_EVENT}, {_SOURCE} FROM rows_of_them ANTI JOIN stale USING (source_file)
        UNION ALL FROM new"""
    )
    return names


def find_bad(run_date: date, db: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    """Make the table `bad`: bad rows not yet in quarantine, as text.

    The quarantine's rows of files read again are deleted first, but for those that the files have
    still.

    Returns:
        The number of quarantined rows deleted, and of rows in `bad`.
    """
    db.execute(
        f"""CREATE TABLE judged AS
        SELECT CAST({USER_ID} AS VARCHAR) AS {USER_ID}, CAST({ITEM_ID} AS VARCHAR) AS {ITEM_ID},
               strftime({TIMESTAMP} AT TIME ZONE 'UTC', '{_TIME_FORMAT}') AS {TIMESTAMP},
               reason, {_SOURCE}, DATE '{run_date}' AS {RUN_DATE}, raw_timestamp
        FROM staged WHERE reason IS NOT NULL"""
    )
    names = ("source_file", "source_row", USER_ID, ITEM_ID, TIMESTAMP, "reason")
    same = " AND ".join(f"before.{name} IS NOT DISTINCT FROM judged.{name}" for name in names)
    gone = scalar(
        db,
        f"""DELETE FROM {QUARANTINE} AS before
        WHERE source_file IN (SELECT source_file FROM files)
        AND NOT EXISTS (FROM judged WHERE {same})""",
    )
    db.execute(f"CREATE TABLE bad AS FROM judged ANTI JOIN {QUARANTINE} AS before ON {same}")
    return gone, scalar(db, "SELECT count(*) FROM bad")


def quarantined_by_reason(db: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """How many rows of the files just read are new in quarantine.

    Those are among them that an ingest put there which did not end.
    """
    counts = db.execute(
        f"""SELECT reason, count(*) FROM (
            SELECT reason FROM bad
            UNION ALL
            SELECT reason FROM {QUARANTINE} SEMI JOIN (FROM files WHERE NOT is_known)
            USING (source_file, source_stamp)
        ) GROUP BY reason ORDER BY reason"""
    )
    return dict(counts.fetchall())


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
    added = scalar(db, f"SELECT count(*) FROM new ANTI JOIN replaced USING ({_EVENT})")
    withdrawn = scalar(db, f"SELECT count(*) FROM replaced ANTI JOIN new USING ({_EVENT})")
    return added, withdrawn


def release(is_due: str, db: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    """Put quarantined rows that are due back into `staged`, as good.

    Those whose ids do not have the warehouse's type stay in quarantine, for that reason.

    Returns:
        The number of rows put back, and of those that stay.
    """
    kinds = dict(db.execute("SELECT column_name, column_type FROM (DESCRIBE staged)").fetchall())
    user, item = (f"TRY_CAST({name} AS {kinds[name]})" for name in (USER_ID, ITEM_ID))
    stay = scalar(
        db,
        f"""UPDATE {QUARANTINE} SET reason = 'ids of another type than in {INTERACTIONS}'
        WHERE {is_due} AND ({user} IS NULL OR {item} IS NULL)""",
    )
    before = scalar(db, "SELECT count(*) FROM staged")
    db.execute(
        f"""INSERT INTO staged BY NAME
        SELECT {user} AS {USER_ID}, {item} AS {ITEM_ID},
               CAST({TIMESTAMP} || '+00' AS TIMESTAMPTZ) AS {TIMESTAMP}, {_SOURCE}
        FROM {QUARANTINE} WHERE {is_due}"""
    )
    return scalar(db, "SELECT count(*) FROM staged") - before, stay


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
