"""`fearec embeddings`: the embeddings of a run date's items and users, as tables."""

from collections.abc import Iterator
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa

from pipeline.config.settings import Settings
from pipeline.progress import work_progress
from pipeline.related.item_vectors import item_vectors, trained_items
from pipeline.related.running_top import Floats
from pipeline.results import Embedded
from pipeline.runner.failures import storage_failures
from pipeline.runner.prepared_runs import PreparedRun, ServedRun, served_run
from pipeline.schema import ITEM_EMBEDDINGS, ITEM_ID, USER_EMBEDDINGS, USER_ID, embeddings_schema
from pipeline.scoring.output_rows import RunColumns
from pipeline.scoring.user_encoder import UserEncoder
from pipeline.warehouse.partitions import write_partition

_ITEMS = 2**14  # rows per batch


def write_embeddings(
    settings: Settings, *, run_date: date | None = None, model_version: str | None = None
) -> Embedded:
    """Replace a run date's rows of the tables `item_embeddings` and `user_embeddings`.

    Args:
        settings: Whose warehouse; `score.provider`, `score.batch_size` and `score.threads` are
            used.
        run_date: Default the newest that a model serves.
        model_version: Default the one that serves the run date.

    Raises:
        InputError: there is no such model, or there are no histories to embed.
        BusyError: another run works on the run date.
        PublishError: a table has other columns or could not be written; it is as it was.
        FearecError: the model or the histories cannot be used.
    """
    with storage_failures(settings):
        run = served_run(settings, run_date, model_version)
        vectors = item_vectors(run.bundle)
        encoder = UserEncoder.load(run.bundle, vectors.shape[1], settings.score)
        columns = RunColumns(run.bundle.model_version, run.locations.run_date, datetime.now(UTC))
        when = columns.run_date, columns.generated_at
        warehouse = run.locations.warehouse
        with run.prepared() as prepared:
            of_items = embeddings_schema(ITEM_ID, run.item_ids.type)
            rows = _item_rows(run, vectors, of_items, columns)
            item_table, n_items = write_partition(
                warehouse, ITEM_EMBEDDINGS, of_items, rows, *when, prepared.scratch
            )
            of_users = embeddings_schema(USER_ID, prepared.user_type)
            rows = _user_rows(prepared, encoder, of_users, columns)
            user_table, n_users = write_partition(
                warehouse, USER_EMBEDDINGS, of_users, rows, *when, prepared.scratch
            )
    return Embedded(
        item_table,
        user_table,
        columns.model_version,
        columns.run_date,
        vectors.shape[1],
        n_items,
        len(run.items) - n_items,
        n_users,
        prepared.n_users - n_users,
    )


def _item_rows(
    run: ServedRun, vectors: Floats, schema: pa.Schema, columns: RunColumns
) -> Iterator[pa.RecordBatch]:
    items, ids = trained_items(run.items), run.item_ids
    for begin in range(0, len(items), _ITEMS):
        part = items[begin : begin + _ITEMS]
        yield _rows(ids.take(pa.array(part - 1)), vectors[part], schema, columns)


def _user_rows(
    prepared: PreparedRun, encoder: UserEncoder, schema: pa.Schema, columns: RunColumns
) -> Iterator[pa.RecordBatch]:
    with work_progress("embedding", "users") as progress:
        for part in encoder.parts(prepared.histories):
            yield _rows(part.histories.user_id, part.embedding, schema, columns)
            progress(part.n_done, prepared.n_users)


def _rows(ids: pa.Array, vectors: Floats, schema: pa.Schema, columns: RunColumns) -> pa.RecordBatch:
    ends = np.arange(len(ids) + 1, dtype=np.int32) * vectors.shape[1]
    lists = pa.ListArray.from_arrays(pa.array(ends), pa.array(vectors.ravel()))
    return pa.record_batch([ids, lists, *columns.columns(len(ids))], schema=schema)
