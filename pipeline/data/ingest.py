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
from pipeline.config.settings import Settings
from pipeline.data.ingest_sql import (
    INTERACTIONS,
    QUARANTINE,
    due,
    find_bad,
    find_kept,
    find_new,
    release,
    sources,
    stage,
    stamp,
)
from pipeline.errors import InputError
from pipeline.logs.log_files import LogFile, check_log_files, list_log_files
from pipeline.logs.validation import AFTER_RUN_DATE, IdTypes, common_types
from pipeline.schema import ITEM_ID, USER_ID
from pipeline.storage.scratch_db import scalar, scratch_database
from pipeline.warehouse.tables import (
    append,
    dataset_of,
    open_or_create_table,
    open_table,
    replace,
    table_id,
    table_uri,
)

if TYPE_CHECKING:
    from deltalake import DeltaTable

LOG_FILES = "log_files"


@dataclass(frozen=True)
class IngestResult:
    """What one ingest did.

    Attributes:
        interactions_id: Which `interactions` table it was: one made anew has another.
        interactions_version: Version of that table afterwards.
        files: Log files read; those already known are not.
        rows: Rows read from them.
        added: Rows new in `interactions`, those released from quarantine among them.
        duplicates: Good rows not added because they are there already.
        quarantined: Rows new in `quarantine`.
        withdrawn: Rows taken out of `interactions` because the same file was read once more,
            with other columns or another unit of time.
    """

    interactions_id: str
    interactions_version: int
    files: int
    rows: int
    added: int
    duplicates: int
    quarantined: int
    withdrawn: int


def ingest(settings: Settings, run_date: date) -> IngestResult:
    """Bring the log files not yet known into the warehouse.

    Rows quarantined as after an earlier run date are released once the run date has come. A file
    is read again when it has changed, or is to be read otherwise: by other columns, in another
    unit of time. In the latter case its rows give way to the new ones, in both tables.

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
        rows = stage(unread, types, settings, run_date, db)
        if not rows and stored is None:
            raise InputError(
                "the log is empty", settings.logs.path, found=f"{len(files)} files without rows"
            )
        columns = schema.interactions(types.user, types.item)
        if stored:
            stored = open_or_create_table(settings, INTERACTIONS, columns)
        withdrawn = find_kept(stored, columns, unread, db)
        quarantine = open_or_create_table(settings, QUARANTINE, schema.QUARANTINE)
        # A copy, as DuckDB 2.0 cannot filter Arrow's strings.
        db.register("quarantine_table", dataset_of(quarantine))
        db.execute(f"CREATE TABLE {QUARANTINE} AS FROM quarantine_table")

        mended, quarantined = find_bad(run_date, db)
        released = release(settings, run_date, db)
        good, added = find_new(db)
        bad = f"FROM {QUARANTINE} UNION ALL BY NAME FROM bad" if mended else "FROM bad"
        if mended or quarantined:
            (replace if mended else append)(quarantine, _rows(bad, schema.QUARANTINE, db))
        if not added and not scalar(db, "SELECT count(*) FROM (FROM kept LIMIT 1)"):
            # Not noted as read either: under the right settings the same files may be good.
            raise InputError(
                "no good row",
                settings.logs.path,
                found=f"bad ones only; {table_uri(settings, QUARANTINE)} keeps them with the "
                "reasons",
                remedy="Check the columns and logs.timestamp_unit, or the run date.",
            )
        interactions = stored or open_or_create_table(settings, INTERACTIONS, columns)
        if withdrawn:
            replace(interactions, _rows("FROM kept UNION ALL BY NAME FROM new", columns, db))
        elif added:
            append(interactions, _rows("FROM new", columns, db))
        if unread:
            log_files = open_or_create_table(settings, LOG_FILES, schema.LOG_FILES)
            read = sources(unread, settings.logs).select(schema.LOG_FILES.names)
            append(log_files, read.to_reader())
        if released:
            quarantine.delete(f"reason = '{AFTER_RUN_DATE}' AND {due(settings, run_date)}")

    return IngestResult(
        table_id(interactions),
        interactions.version(),
        len(unread),
        rows,
        added,
        good - added,
        quarantined,
        withdrawn,
    )


def _unread(files: list[LogFile], settings: Settings) -> list[LogFile]:
    table = open_table(settings, LOG_FILES)
    if table is None:
        return files
    read = dataset_of(table).to_table()
    known = set(zip(*(read[name].to_pylist() for name in read.column_names), strict=True))
    return [file for file in files if (file.name, stamp(file, settings.logs)) not in known]


def _id_types(unread: list[LogFile], stored: "DeltaTable | None", settings: Settings) -> IdTypes:
    found: dict[str, IdTypes] = {}
    if stored is not None:
        columns = dataset_of(stored).schema
        found[stored.table_uri] = IdTypes(columns.field(USER_ID).type, columns.field(ITEM_ID).type)
    if unread:
        found |= {unread[0].path: check_log_files(unread, settings.logs)}
    return common_types(found)


def _rows(query: str, columns: pa.Schema, db: duckdb.DuckDBPyConnection) -> pa.RecordBatchReader:
    ordered = f"SELECT {', '.join(columns.names)} FROM ({query}) ORDER BY source_file, source_row"
    return db.sql(ordered).to_arrow_reader().cast(columns)
