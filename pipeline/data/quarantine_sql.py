"""SQL of ingest that has to do with quarantine, in the scratch database of `ingest_sql`."""

from datetime import date, datetime

import duckdb

from pipeline.data.ingest_sql import EVENT, SOURCE, WITHOUT_NULL, same_in
from pipeline.logs.validation import AFTER_RUN_DATE
from pipeline.schema import (
    EVENT_TYPE,
    INTERACTIONS,
    ITEM_ID,
    QUARANTINE,
    RUN_DATE,
    TIMESTAMP,
    USER_ID,
    VALUE,
)
from pipeline.storage.scratch_db import scalar

# Fixed width, so that text order is time order.
_TIME_FORMAT = "%Y-%m-%d %H:%M:%S.%f"


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
               reason, {SOURCE}, DATE '{run_date}' AS {RUN_DATE}, raw_timestamp,
               nullif({EVENT_TYPE}, '') AS {EVENT_TYPE},
               coalesce(raw_value, CAST({VALUE} AS VARCHAR)) AS {VALUE}
        FROM staged WHERE reason IS NOT NULL"""
    )
    same = same_in("judged", "source_file", "source_row", *EVENT.split(", "), VALUE, "reason")
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
               CAST({TIMESTAMP} || '+00' AS TIMESTAMPTZ) AS {TIMESTAMP}, {SOURCE},
               {WITHOUT_NULL}, CAST({VALUE} AS DOUBLE) AS {VALUE}
        FROM {QUARANTINE} WHERE {is_due}"""
    )
    return scalar(db, "SELECT count(*) FROM staged") - before, stay


def due_by(end: datetime) -> str:
    """The SQL condition on a quarantined row: it was too late once, and no longer is at `end`."""
    return f"reason = '{AFTER_RUN_DATE}' AND {TIMESTAMP} < '{end:{_TIME_FORMAT}}'"
