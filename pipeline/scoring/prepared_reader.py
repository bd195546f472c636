"""The histories that a run prepared, as item indices; nothing is checked again.

The run's own bundle has the very vocabulary that `prepare` wrote them for. An earlier bundle knows
fewer items, or has them in another order.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.logs.validation import IdTypes
from pipeline.schema import (
    ITEM_ID,
    ITEM_INDEX,
    ITEMS_FILE,
    TIME,
    TIMESTAMPS,
    USER_ID,
)
from pipeline.scoring.history_source import OpenedHistories
from pipeline.scoring.user_histories import DroppedRows, Integers, UserHistories
from pipeline.storage.prepared_folder import count_users, id_types, read_sequences

_BATCH_ROWS = 2**15


@dataclass(frozen=True)
class PreparedHistories:
    """A `HistorySource` over a prepared folder.

    Attributes:
        folder: The prepared folder.
        active_since: Only users with an event from this instant on; None for all users.
        dropped: See `HistorySource`; `prepare` has left out what is to be left out.
    """

    folder: Path
    active_since: datetime | None
    dropped: DroppedRows = field(default_factory=DroppedRows)

    @property
    def where(self) -> str:
        """See `HistorySource`."""
        return str(self.folder)

    @property
    def types(self) -> IdTypes:
        """See `HistorySource`."""
        return IdTypes(*id_types(self.folder))

    def with_last_seen(self, items: pa.Table) -> pa.Table:
        """See `HistorySource`: by the events of the run, which may be later than the bundle's."""
        prepared = pq.read_table(self.folder / ITEMS_FILE, columns=[ITEM_ID, "last_seen"])
        place = pc.index_in(items[ITEM_ID].cast(prepared[ITEM_ID].type), prepared[ITEM_ID])
        last_seen = prepared["last_seen"].take(place)
        return items.set_column(items.schema.get_field_index("last_seen"), "last_seen", last_seen)

    def user_ids(self) -> Iterator[pa.Array]:
        """See `HistorySource`."""
        return (batch[USER_ID] for batch in read_sequences(self.folder, [USER_ID]))

    @contextmanager
    def open(self, items: pa.Table, scratch: Path) -> Iterator[OpenedHistories]:
        """See `HistorySource`."""
        columns = [USER_ID, ITEM_INDEX] + ([TIMESTAMPS] if self.active_since else [])
        users = None if self.active_since else count_users(self.folder)
        batches = read_sequences(self.folder, columns, _BATCH_ROWS)
        index_of = self._index_of(items)
        yield OpenedHistories(users, (self._histories(each, index_of) for each in batches))

    def _index_of(self, items: pa.Table) -> Integers | None:
        """A bundle's index of each prepared index, or PAD; None where all are equal."""
        prepared = pq.read_table(self.folder / ITEMS_FILE, columns=[ITEM_ID])[ITEM_ID]
        if pa.types.is_integer(prepared.type):
            prepared = prepared.cast(pa.int64())
        known = items[ITEM_ID].cast(prepared.type)
        if known.equals(prepared):
            return None
        index = pc.index_in(prepared, value_set=known)
        return np.concatenate([[0], pc.add(index, 1).fill_null(0).to_numpy()]).astype(np.int64)

    def _histories(self, batch: pa.RecordBatch, index_of: Integers | None) -> UserHistories:
        lists = batch[ITEM_INDEX]
        lengths = lists.value_lengths().to_numpy()
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        items = lists.flatten().to_numpy().astype(np.int64)
        if index_of is None:
            histories = UserHistories(batch[USER_ID], items, offsets)
        else:
            histories = UserHistories.without_pad(batch[USER_ID], index_of[items], offsets)
        self.dropped.unknown_items += len(items) - len(histories.items)
        if self.active_since is None:
            return histories
        return histories.filter(_any_since(self.active_since, batch[TIMESTAMPS], offsets))


def _any_since(instant: datetime, times: pa.Array, offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which users have an event at an instant or later, bool (N,)."""
    recent = pc.greater_equal(times.flatten(), pa.scalar(instant, TIME))
    before = np.concatenate([[0], np.cumsum(recent.to_numpy(zero_copy_only=False))])
    active: NDArray[np.bool_] = np.diff(before[offsets]) > 0
    return active
