"""Prepare: the interactions up to a run date as one sequence a user, and the vocabulary."""

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import schema
from pipeline.config.settings import Settings
from pipeline.data.ingest import IngestResult
from pipeline.data.ingest_sql import INTERACTIONS
from pipeline.data.k_core import filter_events
from pipeline.dates import run_end
from pipeline.errors import InputError
from pipeline.schema import ITEM_ID, ITEM_INDEX, TIMESTAMP, USER_ID
from pipeline.storage.scratch_db import scalar, scratch_database
from pipeline.warehouse.tables import (
    append,
    dataset_of,
    open_or_create_table,
    open_table,
    table_id,
    table_uri,
)

VOCABULARY = "vocabulary"
SEQUENCES_FILE = "sequences.parquet"
ITEMS_FILE = "items.parquet"

_ROWS_A_BATCH = 1_000_000


@dataclass(frozen=True)
class Prepared:
    """What one night trains on and scores from.

    Attributes:
        folder: Holds `SEQUENCES_FILE` and `ITEMS_FILE`.
        fingerprint: sha256 of what is in these two files.
        interactions_version: Version of the `interactions` table it was made from.
        vocabulary_id: Which `vocabulary` table the indices are of; one made anew has another.
        n_users: Users with an event up to the run date.
        n_items: Size of the vocabulary, PAD counted (V).
        n_interactions: Events up to the run date.
        first_event: Time of the first of them.
        last_event: Time of the last of them.
        left_out_users: Users of whom k-core filtering kept no event; the counts and times above
            are of what it kept.
        left_out_items: Items likewise. One that has an index keeps it.
        left_out_interactions: Events it did not keep.
    """

    folder: Path
    fingerprint: str
    interactions_version: int
    vocabulary_id: str
    n_users: int
    n_items: int
    n_interactions: int
    first_event: datetime
    last_event: datetime
    left_out_users: int = 0
    left_out_items: int = 0
    left_out_interactions: int = 0


def prepare(settings: Settings, run_date: date, ingested: IngestResult) -> Prepared:
    """Write every user's history up to the end of the run date, and the items with an index.

    The vocabulary is append-only: an item keeps its index for ever; new ones follow in the
    order of their first events.

    Raises:
        InputError: there is no interaction up to the run date, or k-core filtering leaves none.
    """
    version = ingested.interactions_version
    table = open_table(settings, INTERACTIONS, version)
    uri = table_uri(settings, INTERACTIONS)
    if table is None:
        raise InputError("no such table", uri, remedy="Run `fearec ingest` first.")
    interactions = dataset_of(table)
    item_type = interactions.schema.field(ITEM_ID).type

    folder = settings.work_dir / f"run_date={run_date}" / "prepared"
    unfinished = folder.with_name(".prepared")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    with (
        TemporaryDirectory(prefix="prepare-", dir=settings.work_dir) as scratch,
        scratch_database(Path(scratch)) as db,
    ):
        db.register(INTERACTIONS, interactions)
        end = run_end(run_date, settings.time_zone)
        db.execute(
            f"""CREATE TEMP VIEW up_to_run_date AS SELECT * FROM {INTERACTIONS}
            WHERE {TIMESTAMP} < TIMESTAMPTZ '{end.isoformat(sep=" ")}'"""
        )
        if not scalar(db, "SELECT count(*) FROM up_to_run_date"):
            raise InputError(f"no interaction up to {run_date}", uri, remedy="Check the run date.")
        left_out = filter_events("up_to_run_date", settings.prepare, db)
        span = db.sql(
            f"""SELECT count(*) AS events, min({TIMESTAMP}) AS first, max({TIMESTAMP}) AS last
            FROM events"""
        )
        totals = span.to_arrow_table().to_pylist()[0]
        n_items, vocabulary_id = _write_items(unfinished / ITEMS_FILE, settings, item_type, db)
        columns = schema.sequences(interactions.schema.field(USER_ID).type, item_type)
        n_users = _write_sequences(unfinished / SEQUENCES_FILE, columns, db)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    return Prepared(
        folder,
        _fingerprint(folder),
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


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in (SEQUENCES_FILE, ITEMS_FILE):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _write_items(
    path: Path, settings: Settings, item: pa.DataType, db: duckdb.DuckDBPyConnection
) -> tuple[int, str]:
    """Give new items an index, write all that have one; returns their number and table's id."""
    columns = schema.vocabulary(item)
    indexed = pa.schema([columns.field(ITEM_INDEX), columns.field(ITEM_ID)])
    vocabulary = open_or_create_table(settings, VOCABULARY, indexed)
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
    return len(table), table_id(vocabulary)


def _write_sequences(path: Path, columns: pa.Schema, db: duckdb.DuckDBPyConnection) -> int:
    """Write every user's history; returns the number of users."""
    # One sort that spills, cut into users as it streams: DuckDB's ordered lists are nine times
    # slower and must all fit in memory.
    events = db.sql(
        f"""SELECT {USER_ID}, {ITEM_ID}, {TIMESTAMP} FROM events
        ORDER BY {USER_ID}, {TIMESTAMP}, source_file, source_row"""
    )
    users = 0
    with pq.ParquetWriter(path, columns, compression="zstd") as writer:
        for histories in _histories(events.to_arrow_reader(_ROWS_A_BATCH), columns):
            writer.write_batch(histories)
            users += len(histories)
    return users


def _histories(events: pa.RecordBatchReader, columns: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Events ordered by user, as one row a user."""
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
    item, time = (
        pa.ListArray.from_arrays(offsets, events[name].slice(0, end).combine_chunks())
        for name in (ITEM_ID, TIMESTAMP)
    )
    user = events[USER_ID].take(offsets[:-1]).combine_chunks()
    return pa.record_batch([user, item.cast(columns[1].type), time.cast(columns[2].type)], columns)
