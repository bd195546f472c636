"""Ingest: log files into the Delta table `interactions`, bad rows into `quarantine`.

No step adds what is there already, and which files were read is noted (in `log_files`) after
their rows are in: a run killed at any moment is completed by the next.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from pipeline import schema
from pipeline.config.sections import LogSettings
from pipeline.data.ingest_sql import (
    due_by,
    find_bad,
    find_kept,
    find_new,
    release,
    source_stamp,
    sources,
    stage,
)
from pipeline.dates import run_end
from pipeline.errors import InputError
from pipeline.logs.log_files import LogFile, check_log_files
from pipeline.logs.validation import IdTypes, common_types, reason_sql
from pipeline.results import Ingested
from pipeline.schema import INTERACTIONS, ITEM_ID, LOG_FILES, QUARANTINE, USER_ID
from pipeline.storage.leftovers import scratch_folder
from pipeline.storage.locations import RunLocations
from pipeline.storage.scratch_db import scalar, scratch_database
from pipeline.warehouse.tables import (
    append,
    dataset_of,
    open_or_create_table,
    open_table,
    replace,
    table_id,
)

if TYPE_CHECKING:
    from deltalake import DeltaTable


def ingest(
    files: Sequence[LogFile], logs: LogSettings, locations: RunLocations, time_zone: str
) -> Ingested:
    """Ingest the log files not yet known into the warehouse.

    Rows quarantined as after an earlier run date are released once the run date has come. A file
    is read again when it has changed, or is to be read otherwise: by other columns, in another
    unit of time. In the latter case the new rows replace its old ones, in both tables.

    Args:
        files: Every log file there is.
        logs: Their columns, and `logs.path` for messages.
        locations: The run's tables and scratch space.
        time_zone: The calendar that the run date belongs to.

    Raises:
        InputError: the log's path is missing, has no Parquet file or an unreadable one, or
            no good row was ever found. Only in the last case is anything written: bad rows.
        SchemaError: a column is missing or has a type that cannot be used.
    """
    run_date, table = locations.run_date, locations.warehouse.table
    stored = open_table(table(INTERACTIONS))
    unread = _unread(files, open_table(table(LOG_FILES)), logs) if stored else list(files)
    types = _id_types(unread, stored, logs)
    with scratch_folder(locations) as folder, scratch_database(folder) as db:
        rows = stage(unread, types, logs, reason_sql(run_date, time_zone), db)
        if not rows and stored is None:
            raise InputError(
                "the log is empty", logs.path, found=f"{len(files)} files without rows"
            )
        columns = schema.interactions_schema(types.user, types.item)
        if stored:
            stored = open_or_create_table(table(INTERACTIONS), columns)
        withdrawn = find_kept(stored, columns, unread, db)
        quarantine = open_or_create_table(table(QUARANTINE), schema.QUARANTINE_SCHEMA)
        # A copy, as DuckDB 2.0 cannot filter Arrow's strings.
        db.register("quarantine_table", dataset_of(quarantine))
        db.execute(f"CREATE TABLE {QUARANTINE} AS FROM quarantine_table")

        mended, quarantined = find_bad(run_date, db)
        is_due = due_by(run_end(run_date, time_zone))
        released = release(is_due, db)
        good, added = find_new(db)
        bad = f"FROM {QUARANTINE} UNION ALL BY NAME FROM bad" if mended else "FROM bad"
        if mended or quarantined:
            (replace if mended else append)(quarantine, _rows(bad, schema.QUARANTINE_SCHEMA, db))
        if not added and not scalar(db, "SELECT count(*) FROM (FROM kept LIMIT 1)"):
            # Not noted as read either: under the right settings the same files may be good.
            raise InputError(
                "no good row",
                logs.path,
                found=f"bad ones only; {table(QUARANTINE)} keeps them with the reasons",
                remedy="Check the columns and logs.timestamp_unit, or the run date.",
            )
        interactions = stored or open_or_create_table(table(INTERACTIONS), columns)
        if withdrawn:
            replace(interactions, _rows("FROM kept UNION ALL BY NAME FROM new", columns, db))
        elif added:
            append(interactions, _rows("FROM new", columns, db))
        if unread:
            log_files = open_or_create_table(table(LOG_FILES), schema.LOG_FILES_SCHEMA)
            read = sources(unread, logs).select(schema.LOG_FILES_SCHEMA.names)
            append(log_files, read.to_reader())
        if released:
            quarantine.delete(is_due)

    return Ingested(
        table_id(interactions),
        interactions.version(),
        len(unread),
        rows,
        added,
        good - added,
        quarantined,
        withdrawn,
    )


def _unread(
    files: Sequence[LogFile], log_files: "DeltaTable | None", logs: LogSettings
) -> list[LogFile]:
    if log_files is None:
        return list(files)
    read = dataset_of(log_files).to_table()
    known = set(zip(*(read[name].to_pylist() for name in read.column_names), strict=True))
    return [file for file in files if (file.name, source_stamp(file, logs)) not in known]


def _id_types(unread: list[LogFile], stored: "DeltaTable | None", logs: LogSettings) -> IdTypes:
    found: dict[str, IdTypes] = {}
    if stored is not None:
        columns = dataset_of(stored).schema
        found[stored.table_uri] = IdTypes(columns.field(USER_ID).type, columns.field(ITEM_ID).type)
    if unread:
        found |= {unread[0].path: check_log_files(unread, logs)}
    return common_types(found)


def _rows(query: str, columns: pa.Schema, db: duckdb.DuckDBPyConnection) -> pa.RecordBatchReader:
    ordered = f"SELECT {', '.join(columns.names)} FROM ({query}) ORDER BY source_file, source_row"
    return db.sql(ordered).to_arrow_reader().cast(columns)
