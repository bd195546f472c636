"""The items of a run: the append-only vocabulary, and how often and when each was seen."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import naming
from pipeline.schema import ITEM_ID, ITEM_INDEX, TIME, vocabulary_schema
from pipeline.warehouse.tables import append, open_or_create_table, read_rows, table_id

_NEVER = np.iinfo(np.int64).min  # earlier than every time


@dataclass(frozen=True)
class Vocabulary:
    """All items that have an index.

    Attributes:
        ids: (V-1,), that of index 1 first.
        table_id: Identifies the Delta table; one created anew has another.
    """

    ids: pa.Array
    table_id: str


def extend_vocabulary(
    table_uri: str, item: pa.DataType, events: str, db: duckdb.DuckDBPyConnection
) -> Vocabulary:
    """Give the items that have no index yet the next ones, in the order of their first events.

    Args:
        table_uri: The Delta table `vocabulary`.
        item: The type of the item ids.
        events: A table of items and what orders them by their first events, `first_event`.
        db: The database of `events`.

    Raises:
        ConflictError: another run wrote to the vocabulary meanwhile.
    """
    columns = vocabulary_schema(item)
    indexed = pa.schema([columns.field(ITEM_INDEX), columns.field(ITEM_ID)])
    vocabulary = open_or_create_table(table_uri, indexed)
    known = read_rows(vocabulary, indexed.names).cast(indexed).sort_by(ITEM_INDEX)
    db.register("known", known)
    added = db.sql(
        f"""SELECT {len(known)} + row_number() OVER (ORDER BY first_event) AS {ITEM_INDEX},
               {ITEM_ID}
        FROM {events} ANTI JOIN known USING ({ITEM_ID}) ORDER BY {ITEM_INDEX}"""
    ).to_arrow_table()
    added = added.cast(indexed)
    if len(added):
        append(vocabulary, added.to_reader())
    ids = pa.concat_tables([known, added])[ITEM_ID].combine_chunks()
    return Vocabulary(ids, table_id(vocabulary))


@dataclass(frozen=True)
class ItemCounts:
    """How often each item was seen, and when last.

    Attributes:
        popularity: (V-1,) int64, events.
        last_seen: (V-1,) int64, the last one's time in microseconds; see `write` for none.
    """

    popularity: NDArray[np.int64]
    last_seen: NDArray[np.int64]

    @classmethod
    def of_seen(cls, seen: pa.Table, ids: pa.Array) -> Self:
        """The counts of all items, given those of the items that were seen.

        Args:
            seen: The columns `item_id`, `popularity` and `last_seen`.
            ids: Of all items.
        """
        counts = cls.nothing(len(ids))
        place = pc.index_in(seen[ITEM_ID].combine_chunks(), value_set=ids).to_numpy()
        counts.popularity[place] = seen["popularity"].to_numpy()
        counts.last_seen[place] = seen["last_seen"].cast(TIME).cast(pa.int64()).to_numpy()
        return counts

    @classmethod
    def nothing(cls, n_items: int) -> Self:
        """The counts of items of which none was seen."""
        return cls(np.zeros(n_items, np.int64), np.full(n_items, _NEVER))

    @classmethod
    def read(cls, source: pa.NativeFile, n_items: int) -> Self:
        """The counts in an earlier `items.parquet`; the items that it lacks were not seen."""
        there = pq.read_table(source, columns=["popularity", "last_seen"])
        counts = cls.nothing(n_items)
        counts.popularity[: len(there)] = there["popularity"].to_numpy()
        times = there["last_seen"].cast(pa.int64()).fill_null(int(_NEVER))
        counts.last_seen[: len(there)] = times.to_numpy()
        return counts

    def add(self, index: NDArray[np.int32], times: NDArray[np.int64]) -> None:
        """Count events in: item indices and microseconds, (N,)."""
        self.popularity[:] += np.bincount(index - 1, minlength=len(self.popularity))
        self.see(index, times)

    def see(self, index: NDArray[np.int32], times: NDArray[np.int64]) -> None:
        """Take the times of events into account that are counted already."""
        np.maximum.at(self.last_seen, index - 1, times)

    def take_away(self, index: NDArray[np.int32]) -> None:
        """Take events out of the counts, but not out of the times of the last ones."""
        self.popularity[:] -= np.bincount(index - 1, minlength=len(self.popularity))

    def are_last(self, index: NDArray[np.int32], times: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which events, (N,), are of the time at which their item was last seen."""
        last: NDArray[np.bool_] = times == self.last_seen[index - 1]
        return last

    def forget_last(self, items: NDArray[np.bool_]) -> None:
        """Count some items, (V-1,), as never seen, until `see`."""
        self.last_seen[items] = _NEVER

    def write(self, path: Path, ids: pa.Array) -> None:
        """Write `items.parquet`; items that were never seen have null for `last_seen`."""
        never = self.popularity == 0
        last_seen = pa.array(self.last_seen, pa.int64(), mask=never).cast(TIME)
        index = pa.array(np.arange(1, len(ids) + 1))
        columns = [index, ids, pa.array(self.popularity), last_seen]
        table = pa.table(columns, vocabulary_schema(ids.type))
        with naming(path):
            pq.write_table(table, path, compression="zstd")
