"""Stage: the interactions up to a run date as one sequence per user, and the vocabulary."""

import logging
import shutil
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC
from functools import partial
from pathlib import Path
from typing import Any

import duckdb

from pipeline.config.engine_section import LOCAL, EngineSettings
from pipeline.config.sections import PrepareSettings
from pipeline.data.event_rows import ORDINAL, EventRows
from pipeline.data.event_types import EventTypes
from pipeline.data.history_sort import HistorySort
from pipeline.data.incremental import NotIncrementalError, mergeable, update_prepared
from pipeline.data.item_counts import ItemCounts, Vocabulary, extend_vocabulary
from pipeline.data.k_core import Counts, filter_events
from pipeline.data.sequence_files import Totals
from pipeline.dates import days_before, run_end
from pipeline.errors import InputError, naming
from pipeline.results import Ingested, Prepared
from pipeline.schema import (
    EVENT_TYPE,
    EVENT_TYPES_FILE,
    INTERACTIONS,
    ITEM_ID,
    ITEMS_FILE,
    SEQUENCES,
    TIMESTAMP,
    USER_ID,
    VOCABULARY,
)
from pipeline.storage.atomic_files import fsync
from pipeline.storage.conditional_writes import until_committed
from pipeline.storage.leftovers import scratch_folder
from pipeline.storage.locations import RunLocations
from pipeline.storage.prepared_folder import prepared_files, prepared_hash
from pipeline.storage.scratch_db import scratch_database
from pipeline.warehouse.tables import open_table, table_id

logger = logging.getLogger(__name__)


def prepare(
    ingested: Ingested,
    limits: PrepareSettings,
    locations: RunLocations,
    time_zone: str,
    earlier: Prepared | None = None,
    *,
    event_types: bool = False,
    engine: EngineSettings = LOCAL,
) -> Prepared:
    """Write every user's history up to the end of the run date, and the items with an index.

    The vocabulary is append-only: an item keeps its index for ever; new ones follow in the
    order of their first events.

    Args:
        ingested: The version of `interactions` to read.
        limits: Which events to use.
        locations: The run's tables and folders.
        time_zone: The calendar that the run date belongs to.
        earlier: What was prepared before, perhaps, in which only what changed is to be merged. It
            changes nothing about the result.
        event_types: Whether to write the types of the events too.
        engine: Where events are sorted, if not only what changed is merged. It changes nothing
            about the result.

    Raises:
        InputError: there is no interaction up to the run date, or k-core filtering leaves none.
        ConfigError: Ray is not installed, no cluster answers, or it has no room for a worker.
        ConflictError: other runs wrote to the vocabulary each time that it was tried.
    """
    given = ingested, limits, locations, time_zone, earlier, event_types, engine
    return until_committed(partial(_prepare, *given))


def _prepare(
    ingested: Ingested,
    limits: PrepareSettings,
    locations: RunLocations,
    time_zone: str,
    earlier: Prepared | None,
    event_types: bool,
    engine: EngineSettings,
) -> Prepared:
    version = ingested.interactions_version
    uri = locations.warehouse.table(INTERACTIONS)
    table = open_table(uri, version)
    if table is None:
        raise InputError("no such table", uri, remedy="Run `fearec ingest` first.")
    end = run_end(locations.run_date, time_zone).astimezone(UTC)
    rows = EventRows(table, end, days_before(locations.run_date, limits.history_days, time_zone))
    if rows.is_empty:
        raise InputError(
            f"no interaction up to {locations.run_date}",
            uri,
            remedy="Check the run date, and prepare.history_days where it is set.",
        )

    folder, warehouse = locations.prepared, locations.warehouse
    unfinished = folder.with_name(".prepared")
    with naming(uri), scratch_folder(locations) as scratch:
        try:
            base = mergeable(earlier, rows, limits)
            _make_empty(unfinished)
            with scratch_database(scratch, locations.resources) as db:
                vocabulary, totals = update_prepared(
                    base, rows, warehouse, unfinished, db, event_types=event_types
                )
            left_out = Counts(0, 0, 0)
        except NotIncrementalError as reason:
            logger.info("preparing from the beginning: %s", reason)
            _make_empty(unfinished)
            with _connection(engine), scratch_database(scratch, locations.resources) as db:
                vocabulary, totals, left_out = _write_all(
                    rows, limits, locations, unfinished, db, event_types, engine
                )
    for path in (*prepared_files(unfinished), unfinished / SEQUENCES):
        fsync(path)
    fsync(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    fsync(folder.parent)
    return Prepared(
        folder,
        prepared_hash(folder),
        version,
        vocabulary.table_id,
        totals.users,
        len(vocabulary.ids) + 1,
        totals.events,
        first_event=totals.first,
        last_event=totals.last,
        left_out_users=left_out.users,
        left_out_items=left_out.items,
        left_out_interactions=left_out.interactions,
        interactions_id=table_id(table),
        end=rows.end,
        has_all=limits == PrepareSettings(),
    )


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _write_all(
    rows: EventRows,
    limits: PrepareSettings,
    locations: RunLocations,
    folder: Path,
    db: duckdb.DuckDBPyConnection,
    event_types: bool,
    engine: EngineSettings,
) -> tuple[Vocabulary, Totals, Counts]:
    """Write a prepared folder from all events; also counts what k-core filtering left out."""
    ids = [USER_ID, ITEM_ID]
    db.register("rows", rows.read(ids))
    left_out = filter_events("rows", limits, db)
    # Reading costs most where ids are texts, so what is not needed is left out.
    needed = [*(ids if left_out else [ITEM_ID]), TIMESTAMP, ORDINAL]
    db.register("rows", rows.read(needed))
    # One number, as DuckDB finds the least row of several columns four times slower.
    db.execute(
        f"""CREATE TABLE seen AS
        SELECT {ITEM_ID}, count(*) AS popularity, max({TIMESTAMP}) AS last_seen,
               min((epoch_us({TIMESTAMP})::HUGEINT << 64) + {ORDINAL}) AS first_event
        FROM events GROUP BY {ITEM_ID}"""
    )
    uri = locations.warehouse.table(VOCABULARY)
    vocabulary = extend_vocabulary(uri, rows.type_of(ITEM_ID), "seen", db)
    counts = ItemCounts.of_seen(db.sql("FROM seen").to_arrow_table(), vocabulary.ids)
    counts.write(folder / ITEMS_FILE, vocabulary.ids)
    names = None
    if event_types:
        types = _event_types(rows, ids if left_out else [], db)
        types.write(folder / EVENT_TYPES_FILE)
        names = types.names
    sort = HistorySort(vocabulary.ids, names, limited=left_out is not None)
    if engine.kind == "local":
        totals = sort.write(rows, folder, db)
    else:
        from pipeline.data.ray_sort import sort_on_ray

        totals = sort_on_ray(rows, sort, folder, db, locations.resources, engine)
    return vocabulary, totals, left_out or Counts(0, 0, 0)


def _event_types(rows: EventRows, ids: list[str], db: duckdb.DuckDBPyConnection) -> EventTypes:
    """The types of the view `events`, which needs these ids."""
    db.register("rows", rows.read([*ids, EVENT_TYPE]))
    query = f"SELECT {EVENT_TYPE}, count(*) AS n_events FROM events GROUP BY {EVENT_TYPE}"
    return EventTypes.of(db.sql(query).to_arrow_table())


def _connection(engine: EngineSettings) -> AbstractContextManager[Any]:
    """A connection to the cluster, if one is to be used: its lack shows before minutes of work."""
    if engine.kind == "local":
        return nullcontext()
    from pipeline.engines.ray_cluster import connected

    return connected(engine)
