"""Ingest: log files into the Delta table `interactions`, bad rows into `quarantine`.

No step adds what is there already, and which files were read is noted (in `log_files`) after
their rows are in: a run killed at any moment is completed by the next. Many files are read in
batches, each of which is committed on its own.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from pipeline import schema
from pipeline.config.sections import LogSettings
from pipeline.data.ingest_batches import Batch, in_batches, summed, with_unfinished, work_of
from pipeline.data.ingest_sql import (
    count_changes,
    count_duplicates,
    counts_of_files,
    find_kept,
    find_new,
    find_rewritten,
    interaction_rows,
)
from pipeline.data.quarantine_sql import (
    due_by,
    find_bad,
    load_quarantine,
    quarantined_by_reason,
    release,
    write_bad,
)
from pipeline.data.source_files import IngestTables, SourceFiles
from pipeline.data.staging import stage, stage_elsewhere
from pipeline.dates import run_end
from pipeline.errors import InputError, naming
from pipeline.logs.log_content import read_footers
from pipeline.logs.log_files import LogFile
from pipeline.logs.log_rows import check_log_files
from pipeline.logs.validation import IdTypes, check_keep, common_types
from pipeline.progress import work_progress
from pipeline.results import Ingested
from pipeline.schema import INTERACTIONS, LOG_FILES, QUARANTINE
from pipeline.storage.conditional_writes import until_committed
from pipeline.storage.leftovers import scratch_folder
from pipeline.storage.locations import RunLocations
from pipeline.storage.scratch_db import scalar, scratch_database
from pipeline.warehouse.log_table import left_table
from pipeline.warehouse.tables import (
    append,
    create_table,
    delete,
    notes_since,
    replace_where,
    table_id,
    widen,
)


def ingest(
    files: Sequence[LogFile],
    logs: LogSettings,
    locations: RunLocations,
    time_zone: str,
    force: bool = False,
    is_recorded: Callable[[Ingested], bool] = lambda _: True,
) -> Ingested:
    """Ingest the log files not yet known into the warehouse.

    Rows quarantined as after an earlier run date are released once the run date has come. A file
    is read again when it has changed, is to be read otherwise (by other columns, in another unit of
    time), or the tables have lost its rows. Its rows then replace those that the tables have of it;
    an event that another file has too stays. Of a Delta table of logs the files that it no longer
    has are withdrawn.

    Args:
        files: Every log file there is.
        logs: Their columns, and `logs.path` for messages.
        locations: The run's tables and scratch space.
        time_zone: The calendar that the run date belongs to.
        force: Read the known files again too.
        is_recorded: Whether an earlier result of the run date was recorded, or else lost by a kill.

    Returns:
        What changed, also in the batches of an ingest of the run date that was killed, and in one
        whose result is not recorded where it left nothing to do. An event that goes from one file
        to one of a later batch counts as withdrawn, then as added; or, where it is after an earlier
        run date, as quarantined until its day.

    Raises:
        InputError: the log's path is missing, has no log file or an unreadable one, or
            no good row was ever found. Only in the last case is anything written: bad rows.
        SchemaError: a column is missing or has a type that cannot be used.
        ConflictError: other runs wrote to the tables each time that it was tried.
    """
    zoned = logs.with_zone(time_zone)
    tables, sources = until_committed(partial(_open, files, zoned, locations))
    unread = [source for source in sources.files if force or not source.is_known]
    pending = [source.file for source in sorted(unread, key=lambda source: source.name)]
    types, batches = _planned(pending, zoned, tables)
    check_keep(zoned, types)
    work = _Work(files, zoned, locations, time_zone, force, types)
    work.done += [
        result
        for result, has_ended in tables.noted_results(locations.run_date)
        if not (has_ended and (pending or is_recorded(result)))
    ]
    what = f"ingesting {len(pending):,} files"
    with work_progress(what, "rows") if pending else nullcontext(lambda *_: None) as progress:
        for batch in batches:
            work.done.append(until_committed(partial(work.ingest, batch, progress)))
    return summed(work.done)


def _planned(
    files: Sequence[LogFile], logs: LogSettings, tables: IngestTables
) -> tuple[IdTypes, list[Batch]]:
    """The id types and the batches of files; their footers, which hold much, are let go."""
    footers = read_footers(files)
    return check_log_files(footers, logs, tables.id_types), in_batches(footers)


def _open(
    files: Sequence[LogFile], logs: LogSettings, locations: RunLocations
) -> tuple[IngestTables, SourceFiles]:
    """The tables and the files, once those are forgotten that a table of logs no longer has.

    They are read again if they return.
    """
    tables = IngestTables.of(locations)
    sources = tables.sources(files, logs)
    if names := left_table(logs.path, files, sources.entries):
        sources.forget(locations.warehouse.table(LOG_FILES), names, stamp="left the table")
        tables = IngestTables.of(locations)
        sources = tables.sources(files, logs)
    return tables, sources


def withdraw(
    files: Sequence[LogFile], logs: LogSettings, locations: RunLocations, time_zone: str
) -> Ingested:
    """Take the rows of forgotten files out of the tables; an event that another file has too stays.

    Args:
        files: As of `ingest`; of known ones the events are looked for that others are to have.
        logs: As of `ingest`.
        locations: As of `ingest`.
        time_zone: As of `ingest`.

    Raises:
        ConflictError: other runs wrote to the tables each time that it was tried.
    """
    zoned = logs.with_zone(time_zone)
    types, (batch,) = _planned([], zoned, IngestTables.of(locations))
    work = _Work(files, zoned, locations, time_zone, False, types)
    return until_committed(partial(work.ingest, batch, lambda *_: None))


@dataclass
class _Work:
    """An ingest: what it was given, and what came of its batches so far."""

    files: Sequence[LogFile]
    logs: LogSettings
    locations: RunLocations
    time_zone: str
    force: bool
    types: IdTypes
    done: list[Ingested] = field(default_factory=list)

    def ingest(self, batch: Batch, progress: Callable[[int, int], None]) -> Ingested:
        """Ingest one batch.

        Raises:
            InputError: no good row was found, in the last batch.
            ConflictError: another run wrote to a table meanwhile; what is committed stays.
        """
        run_date, table = self.locations.run_date, self.locations.warehouse.table
        tables = IngestTables.of(self.locations)
        stored, quarantine = tables.interactions, tables.quarantine
        sources, wanted = tables.sources(self.files, self.logs), frozenset(batch.files)
        unread = [
            source
            for source in sources.files
            if source.file in wanted and (self.force or not source.is_known)
        ]
        unread.sort(key=lambda source: source.name)
        read = {source.name for source in unread}
        # Not before the last batch, so that what other files have in the end is known.
        forgotten = {
            entry["source_file"]: entry
            for entry in (sources.to_withdraw if batch.is_last else [])
            if entry["source_file"] not in read
        }
        types = common_types({**tables.id_types, self.logs.path: self.types})
        end = run_end(run_date, self.time_zone)
        resources = self.locations.resources
        with (
            naming(table(INTERACTIONS)),  # whose rows the scratch database reads
            scratch_folder(self.locations) as folder,
            scratch_database(folder, resources) as db,
        ):
            rows, filtered = stage(
                unread,
                forgotten,
                types,
                self.logs,
                end,
                db,
                batch.counted(progress),
            )
            if not batch.total and stored is None:
                found = f"{len(self.files)} files without rows"
                raise InputError("the log is empty", self.logs.path, found=found)
            columns = schema.interactions_schema(types.user, types.item)
            if stored:
                widen(stored, columns)
            stale = find_kept(stored, columns, db)
            if scalar(db, "SELECT count(*) FROM gone"):
                others = [each for each in sources.files if each.may_repeat]
                others = [each for each in others if each.name not in read]
                stage_elsewhere(others, types, self.logs, end, db)
            quarantine = quarantine or create_table(table(QUARANTINE), schema.QUARANTINE_SCHEMA)
            load_quarantine(quarantine, end, db)
            find_bad(run_date, db)
            # Not before the last batch: of a file in a later one, the rows that it has now count.
            released = release(end, db) if batch.is_last else 0
            n_new = find_new(db)
            write_bad(quarantine, db)
            has_good = n_new or scalar(db, "SELECT count(*) FROM (FROM kept LIMIT 1)")
            if batch.is_last and not has_good and not forgotten:
                # Not noted as read either: under the right settings the same files may be good.
                raise InputError(
                    "no good row",
                    self.logs.path,
                    found=f"bad ones only; {table(QUARANTINE)} keeps them with the reasons"
                    if rows > filtered
                    else f"{rows:,} rows that logs.keep leaves out",
                    remedy="Check the columns, logs.timestamp_unit and logs.keep, or the run date.",
                )
            added, withdrawn = count_changes(n_new, db)
            by_reason = quarantined_by_reason(db)
            interactions = stored or create_table(table(INTERACTIONS), columns)
            work = work_of(unread, forgotten)
            result = with_unfinished(
                Ingested(
                    table_id(interactions),
                    interactions.version(),
                    len(unread),
                    rows,
                    added,
                    count_duplicates(db),
                    sum(by_reason.values()),
                    withdrawn,
                    by_reason,
                    filtered,
                ),
                work,
                notes_since(interactions, sources.recorded_version) if work else [],
                run_date,
            )
            note: dict[str, Any] = {"run_date": str(run_date)}
            noted = note | {"work": work, "result": asdict(result)}
            if stale:
                names = find_rewritten(interactions, db)
                with interaction_rows("rewritten", columns, db) as rewritten:
                    replace_where(interactions, "source_file", names, rewritten, noted)
            elif n_new:
                with interaction_rows("new", columns, db) as appended:
                    append(interactions, appended, noted)
            if released:
                delete(quarantine, due_by(end))
            result = replace(result, interactions_version=interactions.version())
            holding = {INTERACTIONS: interactions, QUARANTINE: quarantine}
            so_far = asdict(summed([*self.done, result]))
            note |= {"done": so_far, "ended": batch.is_last}
            sources.write_entries(
                table(LOG_FILES),
                holding,
                {name: counts for name, counts in counts_of_files(db).items() if name in read},
                run_date,
                forgotten.values(),
                note if batch.files else None,
            )
        return result
