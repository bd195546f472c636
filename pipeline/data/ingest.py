"""Ingest: log files into the Delta table `interactions`, bad rows into `quarantine`.

No step adds what is there already, and which files were read is noted (in `log_files`) after
their rows are in: a run killed at any moment is completed by the next.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import date
from functools import partial
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from pipeline import schema
from pipeline.config.sections import LogSettings
from pipeline.data.ingest_sql import (
    count_changes,
    find_kept,
    find_new,
    find_rewritten,
    not_kept,
    stage,
    stage_elsewhere,
)
from pipeline.data.quarantine_sql import due_by, find_bad, quarantined_by_reason, release
from pipeline.data.source_files import SourceFile, SourceFiles
from pipeline.dates import run_end
from pipeline.errors import InputError
from pipeline.logs.log_files import LogFile
from pipeline.logs.log_rows import check_log_files
from pipeline.logs.validation import IdTypes, check_keep
from pipeline.results import Ingested
from pipeline.schema import INTERACTIONS, ITEM_ID, LOG_FILES, QUARANTINE, USER_ID
from pipeline.storage.conditional_writes import until_committed
from pipeline.storage.leftovers import scratch_folder
from pipeline.storage.locations import RunLocations
from pipeline.storage.scratch_db import scalar, scratch_database
from pipeline.warehouse.tables import (
    append,
    create_table,
    dataset_of,
    delete,
    notes_since,
    open_table,
    replace,
    replace_where,
    table_id,
    widen,
)

if TYPE_CHECKING:
    from deltalake import DeltaTable


def ingest(
    files: Sequence[LogFile],
    logs: LogSettings,
    locations: RunLocations,
    time_zone: str,
    force: bool = False,
) -> Ingested:
    """Ingest the log files not yet known into the warehouse.

    Rows quarantined as after an earlier run date are released once the run date has come. A file
    is read again when it has changed, is to be read otherwise (by other columns, in another unit of
    time), or the tables have lost its rows. Its rows then replace those that the tables have of it;
    an event that another file has too stays.

    Args:
        files: Every log file there is.
        logs: Their columns, and `logs.path` for messages.
        locations: The run's tables and scratch space.
        time_zone: The calendar that the run date belongs to.
        force: Read the known files again too.

    Raises:
        InputError: the log's path is missing, has no log file or an unreadable one, or
            no good row was ever found. Only in the last case is anything written: bad rows.
        SchemaError: a column is missing or has a type that cannot be used.
        ConflictError: other runs wrote to the tables each time that it was tried.
    """
    zoned = logs.with_zone(time_zone)
    return until_committed(partial(_ingest, files, zoned, locations, time_zone, force))


def _ingest(
    files: Sequence[LogFile],
    logs: LogSettings,
    locations: RunLocations,
    time_zone: str,
    force: bool,
) -> Ingested:
    run_date, table = locations.run_date, locations.warehouse.table
    # Opened once: everything is decided from these versions and committed on top of them.
    stored, quarantine, log_files = (
        open_table(table(name)) for name in (INTERACTIONS, QUARANTINE, LOG_FILES)
    )
    holding = {INTERACTIONS: stored, QUARANTINE: quarantine}
    sources = SourceFiles(files, logs, log_files, holding)
    unread = [source for source in sources.files if force or not source.is_known]
    types = _id_types(unread, stored, logs)
    end = run_end(run_date, time_zone)
    with scratch_folder(locations) as folder, scratch_database(folder) as db:
        rows, filtered = stage(unread, types, logs, end, db)
        if not rows and stored is None:
            raise InputError(
                "the log is empty", logs.path, found=f"{len(files)} files without rows"
            )
        columns = schema.interactions_schema(types.user, types.item)
        if stored:
            widen(stored, columns)
        stale = find_kept(stored, columns, db)
        if scalar(db, "SELECT count(*) FROM gone"):
            others = [] if force else [source for source in sources.files if source.may_repeat]
            stage_elsewhere(others, types, logs, end, db)
        quarantine = quarantine or create_table(table(QUARANTINE), schema.QUARANTINE_SCHEMA)
        # A copy, as DuckDB 2.0 cannot filter Arrow's strings.
        db.register("quarantine_table", dataset_of(quarantine))
        db.register("columns_of_quarantine", schema.QUARANTINE_SCHEMA.empty_table())
        db.execute(
            f"""CREATE TABLE {QUARANTINE} AS
            FROM columns_of_quarantine UNION ALL BY NAME FROM quarantine_table"""
        )

        mended, n_bad = find_bad(run_date, db)
        is_due = due_by(end)
        released, n_unfit = release(is_due, db)
        mended += n_unfit
        good, n_new = find_new(db)
        bad = f"FROM {QUARANTINE} UNION ALL BY NAME FROM bad" if mended else "FROM bad"
        if mended or n_bad:
            (replace if mended else append)(quarantine, _rows(bad, schema.QUARANTINE_SCHEMA, db))
        if not n_new and not scalar(db, "SELECT count(*) FROM (FROM kept LIMIT 1)"):
            # Not noted as read either: under the right settings the same files may be good.
            raise InputError(
                "no good row",
                logs.path,
                found=f"bad ones only; {table(QUARANTINE)} keeps them with the reasons"
                if rows > filtered
                else f"{rows:,} rows that logs.keep leaves out",
                remedy="Check the columns, logs.timestamp_unit and logs.keep, or the run date.",
            )
        unfinished = (
            _unfinished(stored, sources.recorded_version, run_date) if unread else Counter()
        )
        added, withdrawn = count_changes(db)
        interactions = stored or create_table(table(INTERACTIONS), columns)
        note = {"run_date": str(run_date), "files": len(unread)}
        note |= {"added": added, "withdrawn": withdrawn}
        if stale:
            names = find_rewritten(interactions, db)
            rewritten = _rows("FROM rewritten", columns, db)
            replace_where(interactions, "source_file", names, rewritten, note)
        elif n_new:
            append(interactions, _rows("FROM new", columns, db), note)
        if released:
            delete(quarantine, is_due)
        holding |= {INTERACTIONS: interactions, QUARANTINE: quarantine}
        sources.write_entries(table(LOG_FILES), log_files, not_kept(db))
        by_reason = quarantined_by_reason(db)

    return Ingested(
        table_id(interactions),
        interactions.version(),
        len(unread),
        rows,
        added + unfinished["added"],
        good - n_new - unfinished["added"],
        sum(by_reason.values()),
        withdrawn + unfinished["withdrawn"],
        by_reason,
        filtered,
    )


def _unfinished(
    interactions: "DeltaTable | None", recorded_version: int | None, run_date: date
) -> Counter[str]:
    """What earlier ingests of the run date changed that were ended before they noted the files."""
    counts: Counter[str] = Counter()
    if interactions is not None:
        for note in notes_since(interactions, recorded_version):
            if note["files"] and note["run_date"] == str(run_date):
                counts.update({name: note[name] for name in ("added", "withdrawn")})
    return counts


def _id_types(
    unread: Sequence[SourceFile], stored: "DeltaTable | None", logs: LogSettings
) -> IdTypes:
    found: dict[str, IdTypes] = {}
    if stored is not None:
        columns = dataset_of(stored).schema
        found[stored.table_uri] = IdTypes(columns.field(USER_ID).type, columns.field(ITEM_ID).type)
    types = check_log_files([source.file for source in unread], logs, found)
    check_keep(logs, types)
    return types


def _rows(query: str, columns: pa.Schema, db: duckdb.DuckDBPyConnection) -> pa.RecordBatchReader:
    query = f"SELECT * REPLACE (nullif(event_type, '') AS event_type) FROM ({query})"
    ordered = f"SELECT {', '.join(columns.names)} FROM ({query}) ORDER BY source_file, source_row"
    return db.sql(ordered).to_arrow_reader().cast(columns)
