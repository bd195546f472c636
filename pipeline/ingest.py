"""Ingest: log files into the Delta table `interactions`, bad rows into `quarantine`.

No step adds what is there already, and which files were read is noted (in `log_files`) after
their rows are in: a run killed at any moment is completed by the next.
"""

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from pipeline import schema
from pipeline.errors import InputError
from pipeline.logs import LogFile, check_log_files, list_log_files, log_rows
from pipeline.row_rules import AFTER_RUN_DATE, IdTypes, common_types, reason_sql, run_end
from pipeline.schema import ITEM_ID, RUN_DATE, TIMESTAMP, USER_ID
from pipeline.scratch import number, scratch_database
from pipeline.settings import Settings
from pipeline.warehouse import append, open_or_create_table, open_table, table_uri

if TYPE_CHECKING:
    from deltalake import DeltaTable

INTERACTIONS = "interactions"
QUARANTINE = "quarantine"
LOG_FILES = "log_files"

# Of fixed width, so that as text, too, earlier is less.
_TIME_FORMAT = "%Y-%m-%d %H:%M:%S.%f"
_SOURCE = "source_file, source_row, source_stamp"
_EVENT = f"{USER_ID}, {ITEM_ID}, {TIMESTAMP}"


@dataclass(frozen=True)
class IngestResult:
    """What one ingest did.

    Attributes:
        interactions_version: Version of the `interactions` table afterwards.
        files: Log files read; those already known are not.
        rows: Rows read from them.
        added: Rows new in `interactions`, those released from quarantine among them.
        duplicates: Good rows not added because they are there already.
        quarantined: Rows new in `quarantine`.
    """

    interactions_version: int
    files: int
    rows: int
    added: int
    duplicates: int
    quarantined: int


def ingest(settings: Settings, run_date: date) -> IngestResult:
    """Bring the log files not yet known into the warehouse.

    Rows quarantined as after an earlier run date are released once the run date has come.

    Raises:
        InputError: the log's path is missing, has no Parquet file or an unreadable one, or
            no good row was ever found. Only in the last case is anything written: bad rows.
        SchemaError: a column is missing or has a type that cannot be used.
    """
    files = list_log_files(settings.logs.path)
    stored = open_table(settings, INTERACTIONS)
    unread = _unread(files, settings) if stored else files
    types = _id_types(unread, stored, settings)
    settings.work_dir.mkdir(parents=True, exist_ok=True)
    with (
        TemporaryDirectory(prefix="ingest-", dir=settings.work_dir) as folder,
        scratch_database(Path(folder)) as db,
    ):
        rows = _stage(unread, types, settings, run_date, db)
        if not rows and stored is None:
            raise InputError(
                "the log is empty", settings.logs.path, found=f"{len(files)} files without rows"
            )
        columns = schema.interactions(types.user, types.item)
        interactions = open_or_create_table(settings, INTERACTIONS, columns)
        quarantine = open_or_create_table(settings, QUARANTINE, schema.QUARANTINE)
        log_files = open_or_create_table(settings, LOG_FILES, schema.LOG_FILES)
        db.register(INTERACTIONS, interactions.to_pyarrow_dataset())
        # A copy, as DuckDB 2.0 cannot filter Arrow's strings.
        db.register("quarantine_table", quarantine.to_pyarrow_dataset())
        db.execute(f"CREATE TABLE {QUARANTINE} AS FROM quarantine_table")

        quarantined = _find_bad(run_date, db)
        released = _release(settings, run_date, db)
        good, added = _find_new(db)
        _append("bad", quarantine, schema.QUARANTINE, db)
        _append("new", interactions, columns, db)
        if unread:
            read = _sources(unread).select(schema.LOG_FILES.names)
            append(log_files, read.to_reader())
        if released:
            quarantine.delete(f"reason = '{AFTER_RUN_DATE}' AND {_due(settings, run_date)}")

    if not interactions.to_pyarrow_dataset().count_rows():
        raise InputError(
            "no good row",
            settings.logs.path,
            found=f"bad ones only; {table_uri(settings, QUARANTINE)} keeps them with the reasons",
            remedy="Check the columns and logs.timestamp_unit, or the run date.",
        )
    return IngestResult(interactions.version(), len(unread), rows, added, good - added, quarantined)


def _unread(files: list[LogFile], settings: Settings) -> list[LogFile]:
    table = open_table(settings, LOG_FILES)
    if table is None:
        return files
    read = table.to_pyarrow_dataset().to_table()
    known = set(zip(*(read[name].to_pylist() for name in read.column_names), strict=True))
    return [file for file in files if (file.name, file.stamp) not in known]


def _id_types(unread: list[LogFile], stored: "DeltaTable | None", settings: Settings) -> IdTypes:
    found: dict[str, IdTypes] = {}
    if stored is not None:
        columns = stored.to_pyarrow_dataset().schema
        found[stored.table_uri] = IdTypes(columns.field(USER_ID).type, columns.field(ITEM_ID).type)
    if unread:
        found |= {unread[0].path: check_log_files(unread, settings.logs)}
    return common_types(found)


def _stage(
    files: list[LogFile],
    types: IdTypes,
    settings: Settings,
    run_date: date,
    db: duckdb.DuckDBPyConnection,
) -> int:
    """Read the files into `staged`, judged row by row; returns the number of rows."""
    db.register("files", _sources(files))
    with log_rows(files, settings.logs, types) as rows:
        db.register("rows", rows)
        db.execute(
            f"""CREATE TABLE staged AS
            SELECT {_EVENT}, source_file, "row" AS source_row, source_stamp,
                   {reason_sql(run_date, settings.time_zone)} AS reason
            FROM rows JOIN files USING (file)"""
        )
    return number(db, "SELECT count(*) FROM staged")


def _sources(files: list[LogFile]) -> pa.Table:
    return pa.table(
        {
            "file": pa.array(range(len(files)), pa.int32()),
            "source_file": pa.array([file.name for file in files], pa.string()),
            "source_stamp": pa.array([file.stamp for file in files], pa.string()),
        }
    )


def _find_bad(run_date: date, db: duckdb.DuckDBPyConnection) -> int:
    """Bad rows not yet in quarantine into `bad`, as text; returns their number."""
    db.execute(
        f"""CREATE TABLE bad AS
        SELECT CAST({USER_ID} AS VARCHAR) AS {USER_ID}, CAST({ITEM_ID} AS VARCHAR) AS {ITEM_ID},
               strftime({TIMESTAMP} AT TIME ZONE 'UTC', '{_TIME_FORMAT}') AS {TIMESTAMP},
               reason, {_SOURCE}, DATE '{run_date}' AS {RUN_DATE}
        FROM staged ANTI JOIN {QUARANTINE} USING ({_SOURCE})
        WHERE staged.reason IS NOT NULL"""
    )
    return number(db, "SELECT count(*) FROM bad")


def _release(settings: Settings, run_date: date, db: duckdb.DuckDBPyConnection) -> int:
    """Quarantined rows whose day has come back into `staged`, as good; returns their number."""
    before = number(db, "SELECT count(*) FROM staged")
    db.execute(
        f"""INSERT INTO staged
        SELECT {USER_ID}, {ITEM_ID}, {TIMESTAMP} || '+00', {_SOURCE}, NULL
        FROM {QUARANTINE} WHERE reason = '{AFTER_RUN_DATE}' AND {_due(settings, run_date)}"""
    )
    return number(db, "SELECT count(*) FROM staged") - before


def _find_new(db: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    """Good rows not yet in `interactions` into `new`, once each; returns good and new counts."""
    # Constants, so that Delta's statistics spare the files of other days.
    first, last, good = db.execute(
        f"""SELECT CAST(min({TIMESTAMP}) AS VARCHAR), CAST(max({TIMESTAMP}) AS VARCHAR), count(*)
        FROM staged WHERE reason IS NULL"""
    ).fetchall()[0]
    db.execute(
        f"""CREATE TABLE new AS
        SELECT {_EVENT}, {_SOURCE}
        FROM staged ANTI JOIN (
            SELECT {_EVENT} FROM {INTERACTIONS}
            WHERE {TIMESTAMP} BETWEEN TIMESTAMPTZ '{first}' AND TIMESTAMPTZ '{last}'
        ) USING ({_EVENT})
        WHERE reason IS NULL
        QUALIFY row_number() OVER (PARTITION BY {_EVENT} ORDER BY source_file, source_row) = 1"""
        if good
        else f"CREATE TABLE new AS SELECT {_EVENT}, {_SOURCE} FROM staged WHERE false"
    )
    return good, number(db, "SELECT count(*) FROM new")


def _append(
    name: str, table: "DeltaTable", columns: pa.Schema, db: duckdb.DuckDBPyConnection
) -> None:
    # An append of nothing would still be a new version.
    if number(db, f"SELECT count(*) FROM {name}"):
        ordered = db.sql(
            f"SELECT {', '.join(columns.names)} FROM {name} ORDER BY source_file, source_row"
        )
        append(table, ordered.to_arrow_reader().cast(columns))


def _due(settings: Settings, run_date: date) -> str:
    end = run_end(run_date, settings.time_zone)
    return f"{TIMESTAMP} < '{end:{_TIME_FORMAT}}'"
