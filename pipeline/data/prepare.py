"""Stage: the interactions up to a run date as one sequence per user, and the vocabulary."""

import hashlib
import shutil
from collections.abc import Iterator
from datetime import UTC
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import schema
from pipeline.config.sections import PrepareSettings
from pipeline.data.k_core import filter_events
from pipeline.dates import run_end
from pipeline.errors import InputError
from pipeline.results import Ingested, Prepared
from pipeline.schema import (
    INTERACTIONS,
    ITEM_ID,
    ITEM_INDEX,
    ITEMS_FILE,
    SEQUENCES_FILE,
    TIMESTAMP,
    USER_ID,
    VOCABULARY,
)
from pipeline.storage.atomic_files import fsync
from pipeline.storage.conditional_writes import until_committed
from pipeline.storage.content_hash import content_hash
from pipeline.storage.leftovers import scratch_folder
from pipeline.storage.locations import RunLocations
from pipeline.storage.scratch_db import scalar, scratch_database
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
    interactions = dataset_of(table)
    item_type = interactions.schema.field(ITEM_ID).type

    folder, run_date = locations.prepared, locations.run_date
    unfinished = folder.with_name(".prepared")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    with scratch_folder(locations) as scratch, scratch_database(scratch, locations.resources) as db:
        db.register(INTERACTIONS, interactions)
        end = run_end(run_date, time_zone)
        db.execute(
            f"""CREATE TEMP VIEW up_to_run_date AS SELECT * FROM {INTERACTIONS}
            WHERE {TIMESTAMP} < TIMESTAMPTZ '{end.isoformat(sep=" ")}'"""
        )
        if not scalar(db, "SELECT count(*) FROM up_to_run_date"):
            raise InputError(f"no interaction up to {run_date}", uri, remedy="Check the run date.")
        left_out = filter_events("up_to_run_date", limits, db)
        span = db.sql(
            f"""SELECT count(*) AS events, min({TIMESTAMP}) AS first, max({TIMESTAMP}) AS last
            FROM events"""
        )
        totals = span.to_arrow_table().to_pylist()[0]
        n_items, vocabulary_id = _write_items(
            unfinished / ITEMS_FILE, locations.warehouse.table(VOCABULARY), item_type, db
        )
        columns = schema.prepared_schema(interactions.schema.field(USER_ID).type, item_type)
        n_users = _write_sequences(unfinished / SEQUENCES_FILE, columns, db)
    for name in (SEQUENCES_FILE, ITEMS_FILE, "."):
        fsync(unfinished / name)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    fsync(folder.parent)
    return Prepared(
        folder,
        prepared_hash(folder),
        version,
        vocabulary_id,
        n_users,
        n_items + 1,
        totals["events"],
        first_event=totals["first"].astimezone(UTC),
        last_event=totals["last"].astimezone(UTC),
        left_out_users=left_out.users,
        left_out_items=left_out.items,
        left_out_interactions=left_out.interactions,
    )


def prepared_hash(folder: Path) -> str:
    """The `Prepared.content_hash` of a folder.

    Raises:
        OSError: a file is missing or cannot be read.
    """
    hashes = (content_hash(folder / name) for name in (SEQUENCES_FILE, ITEMS_FILE))
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def _write_items(
    path: Path, table_uri: str, item: pa.DataType, db: duckdb.DuckDBPyConnection
) -> tuple[int, str]:
    """Give new items an index and write all that have one; makes the view `indexed`.

    Returns:
        Their number, and the id of the vocabulary's table.
    """
    columns = schema.vocabulary_schema(item)
    indexed = pa.schema([columns.field(ITEM_INDEX), columns.field(ITEM_ID)])
    vocabulary = open_or_create_table(table_uri, indexed)
    db.register("known", dataset_of(vocabulary))
    db.execute(
        f"""CREATE TABLE seen AS
        SELECT {ITEM_ID}, count(*) AS popularity, max({TIMESTAMP}) AS last_seen,
               min(row({TIMESTAMP}, source_file, source_row)) AS first_event
        FROM events GROUP BY {ITEM_ID}"""
    )
    db.execute(
        f"""CREATE TABLE added AS
        SELECT (SELECT count(*) FROM known) + row_number() OVER (ORDER BY first_event)
               AS {ITEM_INDEX}, {ITEM_ID}
        FROM seen ANTI JOIN known USING ({ITEM_ID})"""
    )
    db.execute("CREATE TEMP VIEW indexed AS FROM known UNION ALL BY NAME FROM added")
    added = db.sql(f"SELECT * FROM added ORDER BY {ITEM_INDEX}").to_arrow_table().cast(indexed)
    items = db.sql(
        f"""SELECT {ITEM_INDEX}, {ITEM_ID}, coalesce(popularity, 0) AS popularity, last_seen
        FROM indexed LEFT JOIN seen USING ({ITEM_ID})
        ORDER BY {ITEM_INDEX}"""
    )
    table = items.to_arrow_table().cast(columns)
    pq.write_table(table, path, compression="zstd")
    if len(added):
        append(vocabulary, added.to_reader())
    return len(table), table_id(vocabulary)


def _write_sequences(path: Path, columns: pa.Schema, db: duckdb.DuckDBPyConnection) -> int:
    """Write every user's history; returns the number of users."""
    # One sort that spills, cut into users as it streams: DuckDB's ordered lists are nine times
    # slower and must all fit in memory.
    events = db.sql(
        f"""SELECT {USER_ID}, {ITEM_ID}, {TIMESTAMP}, CAST({ITEM_INDEX} AS INTEGER) AS {ITEM_INDEX}
        FROM events JOIN indexed USING ({ITEM_ID})
        ORDER BY {USER_ID}, {TIMESTAMP}, source_file, source_row"""
    )
    users = 0
    with pq.ParquetWriter(path, columns, compression="zstd") as writer:
        for histories in _histories(events.to_arrow_reader(_BATCH_ROWS), columns):
            writer.write_batch(histories)
            users += len(histories)
    return users


def _histories(events: pa.RecordBatchReader, columns: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Events ordered by user, as one row per user."""
    rest = events.schema.empty_table()
    for batch in events:
        rest = pa.concat_tables([rest, pa.table(batch)]).combine_chunks()
        user = rest[USER_ID].combine_chunks()
        changes = pc.not_equal(user[1:], user[:-1]).to_numpy(zero_copy_only=False)
        starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
        # The last user's events may go on in the next batch.
        yield _lists(rest, starts, columns)
        rest = rest.slice(starts[-1])
    yield _lists(rest, np.array([0, len(rest)]), columns)


def _lists(events: pa.Table, bounds: np.ndarray, columns: pa.Schema) -> pa.RecordBatch:
    offsets = pa.array(bounds, pa.int32())
    end = int(bounds[-1])
    lists = (
        pa.ListArray.from_arrays(offsets, events[name].slice(0, end).combine_chunks())
        for name in (ITEM_ID, TIMESTAMP, ITEM_INDEX)
    )
    user = events[USER_ID].take(offsets[:-1]).combine_chunks()
    typed = [values.cast(kind) for values, kind in zip(lists, columns.types[1:], strict=True)]
    return pa.record_batch([user, *typed], columns)
