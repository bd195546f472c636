"""Log files read into a scratch database, as the tables `sources` and `staged`.

`sources` numbers the files, each in one state; `staged` has their rows, with that number. The view
`files` are the sources that an ingest reads whole.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from datetime import datetime

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
from pipeline.schema import EVENT_TYPE, ITEM_ID, TIMESTAMP, USER_ID, VALUE
from pipeline.storage.scratch_db import scalar

# What events are told apart by. Inside the scratch database none is '', so that joins find it.
EVENT = f"{USER_ID}, {ITEM_ID}, {TIMESTAMP}, {EVENT_TYPE}"
WITHOUT_NULL = f"coalesce({EVENT_TYPE}, '') AS {EVENT_TYPE}"
SOURCE = "source_file, source_row, source_stamp"


def stage(
    files: Sequence[SourceFile],
    withdrawn: Iterable[str],
    types: IdTypes,
    logs: LogSettings,
    end: datetime,
    db: duckdb.DuckDBPyConnection,
    progress: Callable[[int, int], None],
) -> tuple[int, int]:
    """Read the files into the table `staged`, each row with the reason why it is bad, or NULL.

    Args:
        files: To read.
        withdrawn: The names of files in `files` that count as without rows.
        types: Their id types.
        logs: Their columns.
        end: Of the run date.
        db: The scratch database.
        progress: As of `log_rows`.

    Returns:
        The number of rows, and of those that `logs.keep` leaves out of `staged`.
    """
    db.register("listed", _table_of(files))
    db.execute("CREATE TABLE sources AS SELECT *, true AS is_read FROM listed")
    db.register("withdrawn", pa.table({"source_file": pa.array(list(withdrawn), pa.string())}))
    db.execute(
        f"""INSERT INTO sources
        SELECT {len(files)} + row_number() OVER () - 1, source_file, '', true, true
        FROM withdrawn"""  # no row has been read in this state
    )
    db.execute("CREATE VIEW files AS FROM sources WHERE is_read")
    rows = _read(files, types, logs, end, "CREATE TABLE staged AS {}", db, progress)
    return rows, rows - scalar(db, "SELECT count(*) FROM staged")


def stage_elsewhere(
    files: Sequence[SourceFile],
    types: IdTypes,
    logs: LogSettings,
    end: datetime,
    db: duckdb.DuckDBPyConnection,
) -> None:
    """Add to `staged` the rows of other files, as of `stage`, that hold an event of `gone`.

    They are good, those after the run date too: the events were in `interactions`.
    """
    first = scalar(db, "SELECT count(*) FROM sources")
    db.register("listed", _table_of(files, first))
    db.execute("INSERT INTO sources SELECT *, false AS is_read FROM listed")
    query = f"""INSERT INTO staged SELECT * REPLACE (NULL AS reason) FROM ({{}})
        SEMI JOIN gone USING ({EVENT}) WHERE reason IS NULL OR reason = '{AFTER_RUN_DATE}'"""
    with work_progress("reading logs") if files else nullcontext(lambda *_: None) as progress:
        _read(files, types, logs, end, query, db, progress, first)


def _read(
    files: Sequence[SourceFile],
    types: IdTypes,
    logs: LogSettings,
    end: datetime,
    query: str,
    db: duckdb.DuckDBPyConnection,
    progress: Callable[[int, int], None],
    first: int = 0,
) -> int:
    """Run a query over the rows that are not filtered; return the number of all rows."""
    counts = [0]

    def counted(rows: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        for batch in rows:
            counts.append(len(batch))
            yield batch

    read = [source.file for source in files]
    with (
        keep_applied(logs, db),
        log_rows(read, logs, types, (EARLIEST, end), progress) as rows,
    ):
        db.register("rows", pa.RecordBatchReader.from_batches(rows.schema, counted(rows)))
        db.execute(
            query.format(
                f"""SELECT * REPLACE ({WITHOUT_NULL}) FROM (
                    SELECT {EVENT}, {VALUE}, CAST(file + {first} AS INTEGER) AS file,
                           "row" AS source_row, raw_timestamp, raw_value,
                           {reason_sql(end, logs.keep)} AS reason
                    FROM rows
                ) WHERE reason IS DISTINCT FROM '{FILTERED}'"""
            )
        )
    return sum(counts)


def _table_of(files: Sequence[SourceFile], first: int = 0) -> pa.Table:
    return pa.table(
        {
            "file": pa.array(range(first, first + len(files)), pa.int32()),
            "source_file": pa.array([source.name for source in files], pa.string()),
            "source_stamp": pa.array([source.stamp for source in files], pa.string()),
            "is_known": pa.array([source.is_known for source in files], pa.bool_()),
        }
    )


def add_sources(query: str, db: duckdb.DuckDBPyConnection) -> None:
    """Number further files, each in one state, whose rows are not read but found in a table.

    Args:
        query: Its columns `source_file` and `source_stamp` name them; some may be known.
        db: The scratch database.
    """
    db.execute(
        f"""INSERT INTO sources
        SELECT (SELECT count(*) FROM sources) + row_number() OVER () - 1, *, false, false
        FROM (
            SELECT DISTINCT source_file, source_stamp FROM ({query})
            ANTI JOIN sources USING (source_file, source_stamp)
        )"""
    )


def names_there(rows: ds.Dataset, db: duckdb.DuckDBPyConnection) -> list[str]:
    """The names in `files` of which a table has rows.

    Args:
        rows: The table's, with the column `source_file`.
        db: The scratch database.
    """
    first, last = db.execute("SELECT min(source_file), max(source_file) FROM files").fetchall()[0]
    if first is None:
        return []
    source = ds.field("source_file")
    # Constants, so that Delta's statistics spare the files that hold other logs.
    near = (source >= first) & (source <= last)
    db.register("near", rows.scanner(["source_file"], filter=near).to_reader())
    found = db.execute("SELECT DISTINCT source_file FROM near SEMI JOIN files USING (source_file)")
    return [name for (name,) in found.fetchall()]


def same_in(other: str, *names: str) -> str:
    """The condition that rows of `before` and of another table are equal in some columns."""
    return " AND ".join(f"before.{name} IS NOT DISTINCT FROM {other}.{name}" for name in names)
