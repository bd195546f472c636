"""Forgetting log files: their rows leave the tables, and are not read again as they are."""

from collections.abc import Sequence
from functools import partial

import pyarrow as pa
import pyarrow.dataset as ds

from pipeline.config.sections import LogSettings
from pipeline.data.ingest import withdraw
from pipeline.data.source_files import Entry, IngestTables
from pipeline.errors import InputError
from pipeline.logs.log_files import LogFile, glob_regex, location_regex
from pipeline.results import Forgotten
from pipeline.schema import LOG_FILES
from pipeline.storage.conditional_writes import until_committed
from pipeline.storage.locations import RunLocations
from pipeline.warehouse.tables import count_rows


def forget(
    files: Sequence[LogFile],
    logs: LogSettings,
    locations: RunLocations,
    time_zone: str,
    pattern: str,
) -> Forgotten:
    """Withdraw the rows of known log files; an event that another file has too stays.

    A file that still lies in the logs is read again when it has changed since, or when an ingest is
    forced. Killed in between, the next ingest withdraws the rows.

    Args:
        files: Every log file there is.
        logs: Their columns.
        locations: The run's tables and scratch space.
        time_zone: The calendar that the run date belongs to.
        pattern: A path or glob of files, or of their names in the column `source_file`.

    Raises:
        InputError: it matches no known file.
        ConflictError: other runs wrote to the tables each time that it was tried.
    """
    names = until_committed(partial(_note, files, logs, locations, time_zone, pattern))
    tables = IngestTables.of(locations)
    of_them = ds.field("source_file").isin(pa.array(names, pa.string()))
    rows, quarantined = (
        0 if table is None else count_rows(table, of_them)
        for table in (tables.interactions, tables.quarantine)
    )
    withdrawn = withdraw(files, logs, locations, time_zone).withdrawn
    sources = IngestTables.of(locations).sources(files, logs.with_zone(time_zone))
    there = (source.file.path for source in sources.files if source.name in names)
    return Forgotten(tuple(names), rows, withdrawn, quarantined, tuple(sorted(there)))


def _note(
    files: Sequence[LogFile],
    logs: LogSettings,
    locations: RunLocations,
    time_zone: str,
    pattern: str,
) -> list[str]:
    """Note the files that match as forgotten; their names."""
    sources = IngestTables.of(locations).sources(files, logs.with_zone(time_zone))
    names = sorted(entry["source_file"] for entry in _matching(pattern, sources.entries))
    table = locations.warehouse.table(LOG_FILES)
    if not names:
        raise InputError(
            "no known log file matches",
            pattern,
            expected="a path or glob of files that were ingested",
            remedy=f"The columns source_file and location of {table} name them.",
        )
    sources.forget(table, names)
    return names


def _matching(pattern: str, entries: Sequence[Entry]) -> list[Entry]:
    name, location = glob_regex(pattern), location_regex(pattern)
    return [
        entry
        for entry in entries
        if name.fullmatch(entry["source_file"]) or location.fullmatch(entry["location"] or "")
    ]
