"""SQL of ingest: bad rows, and those in quarantine that have been good since their day came."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from pipeline.data.staging import EVENT, SOURCE, WITHOUT_NULL, add_sources, names_there, same_in
from pipeline.errors import naming
from pipeline.logs.validation import AFTER_RUN_DATE
from pipeline.schema import (
    EVENT_TYPE,
    INTERACTIONS,
    ITEM_ID,
    QUARANTINE,
    QUARANTINE_SCHEMA,
    RUN_DATE,
    TIMESTAMP,
    USER_ID,
    VALUE,
)
from pipeline.storage.scratch_db import scalar, streamed
from pipeline.warehouse.commits import place_of
from pipeline.warehouse.tables import append, dataset_of, replace_where

if TYPE_CHECKING:
    from deltalake import DeltaTable

# Fixed width, so that text order is time order.
_TIME_FORMAT = "%Y-%m-%d %H:%M:%S.%f"


def due_by(end: datetime) -> str:
    """The SQL condition on a quarantined row: it was too late once, and no longer is at `end`."""
    return f"reason = '{AFTER_RUN_DATE}' AND {TIMESTAMP} < '{_text(end)}'"


def _text(time: datetime) -> str:
    return f"{time:{_TIME_FORMAT}}"


def load_quarantine(table: "DeltaTable", end: datetime, db: duckdb.DuckDBPyConnection) -> None:
    """Copy the quarantine's rows of `files`, and of files with a row due by `end`."""
    rows, name = dataset_of(table), ds.field("source_file")
    is_due = (ds.field("reason") == AFTER_RUN_DATE) & (ds.field(TIMESTAMP) < _text(end))
    with naming(place_of(table)):
        db.register("due", rows.scanner(["source_file"], filter=is_due).to_reader())
        names = {due for (due,) in db.execute("SELECT DISTINCT source_file FROM due").fetchall()}
        names |= set(names_there(rows, db))
        of_them = name.isin(pa.array(sorted(names), pa.string()))
        db.register("of_them", rows.scanner(filter=of_them).to_reader())
        db.register("columns_of_quarantine", QUARANTINE_SCHEMA.empty_table())
        db.execute(
            f"""CREATE TABLE {QUARANTINE} AS
            FROM columns_of_quarantine UNION ALL BY NAME FROM of_them"""
        )
    db.execute("CREATE TABLE mended (source_file VARCHAR)")


def find_bad(run_date: date, db: duckdb.DuckDBPyConnection) -> None:
    """Make the table `bad`: bad rows not yet in quarantine, as text.

    The quarantine's rows of files read again are deleted first, but for those that the files have
    still; `mended` names these files.
    """
    db.execute(
        f"""CREATE TABLE judged AS
        SELECT CAST({USER_ID} AS VARCHAR) AS {USER_ID}, CAST({ITEM_ID} AS VARCHAR) AS {ITEM_ID},
               strftime({TIMESTAMP} AT TIME ZONE 'UTC', '{_TIME_FORMAT}') AS {TIMESTAMP},
               reason, {SOURCE}, DATE '{run_date}' AS {RUN_DATE}, raw_timestamp,
               nullif({EVENT_TYPE}, '') AS {EVENT_TYPE},
               coalesce(raw_value, CAST({VALUE} AS VARCHAR)) AS {VALUE}
        FROM staged JOIN sources USING (file) WHERE reason IS NOT NULL"""
    )
    row = ("source_file", "source_row", *EVENT.split(", "), VALUE, "reason")
    same = f"""{same_in("judged", *row)} AND (
        before.raw_timestamp IS NULL OR {same_in("judged", "raw_timestamp")}
    )"""  # null in rows of version 0.1
    gone = f"""FROM {QUARANTINE} AS before
        WHERE source_file IN (SELECT source_file FROM files)
        AND NOT EXISTS (FROM judged WHERE {same})"""
    db.execute(f"INSERT INTO mended SELECT source_file {gone}")
    db.execute(f"DELETE {gone}")
    db.execute(f"CREATE TABLE bad AS FROM judged ANTI JOIN {QUARANTINE} AS before ON {same}")


def release(end: datetime, db: duckdb.DuckDBPyConnection) -> int:
    """Put quarantined rows that are due by `end` back into `staged`, as good.

    Those whose ids do not have the warehouse's type stay in quarantine, for that reason.

    Returns:
        The number of rows put back.
    """
    is_due = due_by(end)
    kinds = dict(db.execute("SELECT column_name, column_type FROM (DESCRIBE staged)").fetchall())
    user, item = (f"TRY_CAST({name} AS {kinds[name]})" for name in (USER_ID, ITEM_ID))
    stay = f"{is_due} AND ({user} IS NULL OR {item} IS NULL)"
    db.execute(f"INSERT INTO mended SELECT source_file FROM {QUARANTINE} WHERE {stay}")
    db.execute(
        f"""UPDATE {QUARANTINE} SET reason = 'ids of another type than in {INTERACTIONS}'
        WHERE {stay}"""
    )
    add_sources(f"FROM {QUARANTINE} WHERE {is_due}", db)
    before = scalar(db, "SELECT count(*) FROM staged")
    db.execute(
        f"""INSERT INTO staged BY NAME
        SELECT {user} AS {USER_ID}, {item} AS {ITEM_ID},
               CAST({TIMESTAMP} || '+00' AS TIMESTAMPTZ) AS {TIMESTAMP}, file, source_row,
               {WITHOUT_NULL}, CAST({VALUE} AS DOUBLE) AS {VALUE}
        FROM {QUARANTINE} JOIN sources USING (source_file, source_stamp) WHERE {is_due}"""
    )
    return scalar(db, "SELECT count(*) FROM staged") - before


def write_bad(table: "DeltaTable", db: duckdb.DuckDBPyConnection) -> None:
    """Add `bad` to the quarantine; all rows of the files in `mended` are replaced.

    Raises:
        ConflictError: another run wrote to the table meanwhile; nothing was changed.
    """
    if scalar(db, "SELECT count(*) FROM mended"):
        db.execute("INSERT INTO mended SELECT source_file FROM bad")
        found = db.execute("SELECT DISTINCT source_file FROM mended ORDER BY 1").fetchall()
        of_them = f"FROM {QUARANTINE} SEMI JOIN mended USING (source_file)"
        with _rows(f"({of_them}) UNION ALL BY NAME FROM bad", db) as rows:
            replace_where(table, "source_file", [name for (name,) in found], rows)
    elif scalar(db, "SELECT count(*) FROM bad"):
        with _rows("FROM bad", db) as rows:
            append(table, rows)


@contextmanager
def _rows(query: str, db: duckdb.DuckDBPyConnection) -> Iterator[pa.RecordBatchReader]:
    columns = ", ".join(QUARANTINE_SCHEMA.names)
    ordered = f"SELECT {columns} FROM ({query}) ORDER BY source_file, source_row"
    with streamed(db, ordered) as rows:
        yield rows.cast(QUARANTINE_SCHEMA)


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
