"""Stage: the interactions up to a run date as one sequence per user, and the vocabulary."""

import shutil
from functools import partial
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import schema
from pipeline.config.sections import PrepareSettings
from pipeline.data.event_rows import ORDINAL, EventRows
from pipeline.data.k_core import filter_events
from pipeline.data.sequence_files import write_histories
from pipeline.dates import run_end
from pipeline.errors import InputError
from pipeline.results import Ingested, Prepared
from pipeline.schema import (
    INTERACTIONS,
    ITEM_ID,
    ITEM_INDEX,
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
from pipeline.storage.prepared_folder import prepared_hash, sequence_files
from pipeline.storage.scratch_db import scratch_database
from pipeline.warehouse.tables import (
    append,
    dataset_of,
    open_or_create_table,
    open_table,
    table_id,
)

_BATCH_ROWS = 1_000_000


def prepare(
    ingested: Ingested, limits: PrepareSettings, locations: RunLocations, time_zone: str
) -> Prepared:
    """Write every user's history up to the end of the run date, and the items with an index.

    The vocabulary is append-only: an item keeps its index for ever; new ones follow in the
    order of their first events.

    Args:
        ingested: The version of `interactions` to read.
        limits: k-core filtering.
        locations: The run's tables and folders.
        time_zone: The calendar that the run date belongs to.

    Raises:
        InputError: there is no interaction up to the run date, or k-core filtering leaves none.
        ConflictError: other runs wrote to the vocabulary each time that it was tried.
    """
    return until_committed(partial(_prepare, ingested, limits, locations, time_zone))


def _prepare(
    ingested: Ingested, limits: PrepareSettings, locations: RunLocations, time_zone: str
) -> Prepared:
    version = ingested.interactions_version
    uri = locations.warehouse.table(INTERACTIONS)
    table = open_table(uri, version)
    if table is None:
        raise InputError("no such table", uri, remedy="Run `fearec ingest` first.")
    end = run_end(locations.run_date, time_zone)
    rows = EventRows(table, end)
    if rows.is_empty:
        raise InputError(
            f"no interaction up to {locations.run_date}", uri, remedy="Check the run date."
        )

    folder = locations.prepared
    unfinished = folder.with_name(".prepared")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    with scratch_folder(locations) as scratch, scratch_database(scratch) as db:
        db.register("rows", rows.read())
        left_out = filter_events("rows", limits, db)
        db.register("rows", rows.read())
        items, vocabulary_id = _write_items(
            unfinished / ITEMS_FILE,
            locations.warehouse.table(VOCABULARY),
            rows.type_of(ITEM_ID),
            db,
        )
        db.register("rows", rows.read(items))
        # One sort that spills, cut into users as it streams: DuckDB's ordered lists are nine times
        # slower and must all fit in memory. A third key would double its time.
        ordered = db.sql(
            f"""SELECT {USER_ID}, {ITEM_INDEX}, {TIMESTAMP}, {ORDINAL}
            FROM events ORDER BY {USER_ID}, {TIMESTAMP}"""
        )
        totals = write_histories(unfinished, ordered.to_arrow_reader(_BATCH_ROWS))
    for path in (*sequence_files(unfinished), unfinished / SEQUENCES, unfinished / ITEMS_FILE):
        fsync(path)
    fsync(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    fsync(folder.parent)
    return Prepared(
        folder,
        prepared_hash(folder),
        version,
        vocabulary_id,
        totals.users,
        len(items) + 1,
        totals.events,
        first_event=totals.first,
        last_event=totals.last,
        left_out_users=left_out.users,
        left_out_items=left_out.items,
        left_out_interactions=left_out.interactions,
    )


def _write_items(
    path: Path, table_uri: str, item: pa.DataType, db: duckdb.DuckDBPyConnection
) -> tuple[pa.Array, str]:
    """Give new items an index and write all that have one.

    Returns:
        The ids of these, that of index 1 first, and the id of the vocabulary's table.
    """
    columns = schema.vocabulary_schema(item)
    indexed = pa.schema([columns.field(ITEM_INDEX), columns.field(ITEM_ID)])
    vocabulary = open_or_create_table(table_uri, indexed)
    db.register("known", dataset_of(vocabulary))
    db.execute(
        f"""CREATE TABLE seen AS
        SELECT {ITEM_ID}, count(*) AS popularity, max({TIMESTAMP}) AS last_seen,
               min((epoch_us({TIMESTAMP})::HUGEINT << 64) + {ORDINAL}) AS first_event
        FROM events GROUP BY {ITEM_ID}"""
    )
    db.execute(
        f"""CREATE TABLE added AS
        SELECT (SELECT count(*) FROM known) + row_number() OVER (ORDER BY first_event)
               AS {ITEM_INDEX}, {ITEM_ID}
        FROM seen ANTI JOIN known USING ({ITEM_ID})"""
    )
    added = db.sql(f"SELECT * FROM added ORDER BY {ITEM_INDEX}").to_arrow_table().cast(indexed)
    items = db.sql(
        f"""SELECT {ITEM_INDEX}, {ITEM_ID}, coalesce(popularity, 0) AS popularity, last_seen
        FROM (FROM known UNION ALL BY NAME FROM added) LEFT JOIN seen USING ({ITEM_ID})
        ORDER BY {ITEM_INDEX}"""
    )
    table = items.to_arrow_table().cast(columns)
    pq.write_table(table, path, compression="zstd")
    if len(added):
        append(vocabulary, added.to_reader())
    return table[ITEM_ID].combine_chunks(), table_id(vocabulary)
