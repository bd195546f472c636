"""What `prepare` leaves behind, of histories written by hand."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import schema
from pipeline.results import Prepared
from pipeline.schema import ITEM_ID, ITEM_INDEX, ITEMS_FILE, SEQUENCES
from pipeline.storage.prepared_folder import read_sequences, sequence_files

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def write_histories(folder: Path, table: pa.Table, batch_rows: int | None = None) -> None:
    """All users into the first two buckets' files, to be read in this order."""
    (folder / SEQUENCES).mkdir(exist_ok=True)
    half = -(-len(table) // 2)
    for number, path in enumerate(sequence_files(folder)):
        part = table.slice(number * half, half)
        with pa.ipc.new_file(str(path), table.schema) as file:
            file.write_table(part, batch_rows)


def sequences(folder: Path) -> pa.Table:
    """Every history, with the item ids too, in the order of the user ids."""
    table = pa.Table.from_batches(
        list(read_sequences(folder, ["user_id", "timestamps", "item_index"]))
    )
    table = table.sort_by("user_id").combine_chunks()
    ids = pq.read_table(folder / ITEMS_FILE)[ITEM_ID].combine_chunks()
    index = table[ITEM_INDEX].combine_chunks()
    items = ids.take(pc.subtract(index.flatten(), 1))
    return table.append_column(schema.ITEM_IDS, pa.ListArray.from_arrays(index.offsets, items))


def write_prepared(
    folder: Path,
    histories: Sequence[Sequence[int | str]],
    times: Sequence[Sequence[datetime]] | None = None,
    items: Sequence[int | str] | None = None,
    kinds: Sequence[Sequence[str | None]] | None = None,
) -> Prepared:
    """Users 0, 1, ... with these item ids, oldest first; without times all are of one noon.

    With `kinds`, every event has a type, or None.
    """
    folder.mkdir(parents=True)
    times = times or [[NOON] * len(history) for history in histories]
    items = items or sorted({item for history in histories for item in history})
    kind = pa.array(items).type
    index = {item: place for place, item in enumerate(items, start=1)}
    columns = [
        list(range(len(histories))),
        times,
        [[index[item] for item in history] for history in histories],
    ]
    if kinds is not None:
        names = sorted({kind for row in kinds for kind in row if kind})
        place = {kind: number for number, kind in enumerate([None, *names])}
        columns.append([[place[kind] for kind in row] for row in kinds])
        counts = [sum(row.count(name) for row in kinds) for name in names]
        pq.write_table(
            pa.table([names, counts], schema.EVENT_TYPES_SCHEMA), folder / schema.EVENT_TYPES_FILE
        )
    given = schema.prepared_schema(pa.int64(), event_types=kinds is not None)
    arrays = [pa.array(each, kind) for each, kind in zip(columns, given.types, strict=True)]
    table = pa.table(arrays, given)
    write_histories(folder, table, 5)
    of_items = schema.vocabulary_schema(kind)
    vocabulary = pa.table(
        [range(1, len(items) + 1), items, [1] * len(items), [NOON] * len(items)],
        names=of_items.names,
    )
    pq.write_table(vocabulary.cast(of_items), folder / ITEMS_FILE)
    every = [time for row in times for time in row]
    values: dict[str, Any] = dict.fromkeys(Prepared.__dataclass_fields__, 0)
    values |= {
        "folder": folder,
        "content_hash": str(folder),
        "n_users": len(histories),
        "n_items": len(items) + 1,
        "n_interactions": len(every),
        "first_event": min(every),
        "last_event": max(every),
    }
    return Prepared(**values)
