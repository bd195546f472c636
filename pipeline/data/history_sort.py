"""Sorting: the events of a table, or of some of its users, as a history per user."""

from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from pipeline.data.event_rows import ORDINAL, EventRows
from pipeline.data.sequence_files import Totals, write_histories
from pipeline.schema import EVENT_TYPE_INDEX, ITEM_ID, ITEM_INDEX, TIMESTAMP, USER_ID

_BATCH_ROWS = 1_000_000


@dataclass(frozen=True)
class HistorySort:
    """How events become histories; it pickles.

    Attributes:
        items: The ids of all items, that of index 1 first.
        event_types: The names of all types of events, likewise; None to leave the types out.
        limited: Whether limits leave events out, so that the view `events` needs items' ids.
    """

    items: pa.Array
    event_types: pa.Array | None
    limited: bool

    def write(self, rows: EventRows, folder: Path, db: duckdb.DuckDBPyConnection) -> Totals:
        """Write the histories of all events into `sequences/`, which is made in a folder.

        Args:
            rows: The events.
            folder: Where.
            db: A database with a view `events` of the rows of `rows`, which it registers anew.
        """
        kind = [] if self.event_types is None else [EVENT_TYPE_INDEX]
        sorted_columns = [USER_ID, ITEM_INDEX, TIMESTAMP, ORDINAL, *kind]
        # Reading costs most where ids are texts, so what is not needed is left out.
        needed = [*sorted_columns, ITEM_ID] if self.limited else sorted_columns
        db.register("rows", rows.read(needed, self.items, self.event_types))
        # One sort that spills, cut into users as it streams: DuckDB's ordered lists are nine times
        # slower and must all fit in memory. A third key would double its time.
        ordered = db.sql(
            f"SELECT {', '.join(sorted_columns)} FROM events ORDER BY {USER_ID}, {TIMESTAMP}"
        )
        events = ordered.to_arrow_reader(_BATCH_ROWS)
        return write_histories(folder, rows.type_of(USER_ID), events)
