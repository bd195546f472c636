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

from pipeline.config.seen_rule import SeenEvents
from pipeline.logs.validation import IdTypes
from pipeline.schema import (
    EVENT_TYPE_INDEX,
    ITEM_ID,
    ITEM_INDEX,
    ITEMS_FILE,
    PAD,
    TIME,
    TIMESTAMPS,
    USER_ID,
)
from pipeline.scoring.history_source import OpenedHistories, no_event_types, no_such_types
from pipeline.scoring.user_histories import DroppedRows, Integers, UserHistories
from pipeline.storage.prepared_folder import (
    count_users,
    event_type_names,
    id_types,
    read_sequences,
)

_BATCH_ROWS = 2**15


@dataclass(frozen=True)
class PreparedHistories:
    """A `HistorySource` over a prepared folder.

    Attributes:
        folder: The prepared folder.
        active_since: Only users with an event from this instant on; None for all users.
        seen: Which events count as seen; None for all.
        dropped: See `HistorySource`; `prepare` has left out what is to be left out.
    """

    folder: Path
    active_since: datetime | None
    seen: SeenEvents | None = None
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

    def popularity_since(self, items: pa.Table, since: datetime) -> NDArray[np.int64]:
        """See `HistorySource`."""
        index_of = self._index_of(items)
        counts = np.zeros(len(items) + 1, np.int64)
        for batch in read_sequences(self.folder, [ITEM_INDEX, TIMESTAMPS], _BATCH_ROWS):
            recent = batch[ITEM_INDEX].flatten().to_numpy()[_since(since, batch[TIMESTAMPS])]
            index = recent if index_of is None else index_of[recent]
            counts += np.bincount(index, minlength=len(counts))
        return counts[PAD + 1 :]

    def user_ids(self) -> Iterator[pa.Array]:
        """See `HistorySource`."""
        return (batch[USER_ID] for batch in read_sequences(self.folder, [USER_ID]))

    @contextmanager
    def open(self, items: pa.Table, scratch: Path) -> Iterator[OpenedHistories]:
        """See `HistorySource`.

        Raises:
            ConfigError: types of events count as seen, and the folder has none of them, or none.
        """
        types = self._seen_types()
        since = self.active_since or (self.seen and self.seen.since)
        columns = [USER_ID, ITEM_INDEX] + ([TIMESTAMPS] if since else [])
        columns += [] if types is None else [EVENT_TYPE_INDEX]
        users = None if self.active_since else count_users(self.folder)
        batches = read_sequences(self.folder, columns, _BATCH_ROWS)
        index_of = self._index_of(items)
        yield OpenedHistories(users, (self._histories(each, index_of, types) for each in batches))

    def _seen_types(self) -> Integers | None:
        """The indices of the types of events that count as seen; None for all."""
        if self.seen is None or not self.seen.event_types:
            return None
        names = event_type_names(self.folder)
        if names is None:
            raise no_event_types(self.where)
        wanted = pa.array(self.seen.event_types, names.type)
        index = pc.index_in(wanted, value_set=names)
        self.dropped.absent_types.update(wanted.filter(index.is_null()).to_pylist())
        if index.null_count == len(index):
            raise no_such_types(self.seen, self.where, names.to_pylist())
        return index.drop_null().to_numpy().astype(np.int64) + 1

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

    def _histories(
        self, batch: pa.RecordBatch, index_of: Integers | None, types: Integers | None
    ) -> UserHistories:
        lists = batch[ITEM_INDEX]
        lengths = lists.value_lengths().to_numpy()
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        items = lists.flatten().to_numpy().astype(np.int64)
        seen = self._are_seen(batch, types)
        if index_of is None:
            histories = UserHistories(batch[USER_ID], items, offsets, seen)
        else:
            histories = UserHistories.without_pad(batch[USER_ID], index_of[items], offsets, seen)
        self.dropped.unknown_items += len(items) - len(histories.items)
        if self.active_since is None:
            return histories
        return histories.filter(_any_since(self.active_since, batch[TIMESTAMPS], offsets))

    def _are_seen(self, batch: pa.RecordBatch, types: Integers | None) -> NDArray[np.bool_] | None:
        """Which events count as seen, bool (events,); None for all."""
        of_type = None
        if types is not None:
            of_type = np.isin(batch[EVENT_TYPE_INDEX].flatten().to_numpy(), types)
        if self.seen is None or self.seen.since is None:
            return of_type
        recent = _since(self.seen.since, batch[TIMESTAMPS])
        return recent if of_type is None else recent & of_type


def _any_since(instant: datetime, times: pa.Array, offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which users have an event at an instant or later, bool (N,)."""
    before = np.concatenate([[0], np.cumsum(_since(instant, times))])
    active: NDArray[np.bool_] = np.diff(before[offsets]) > 0
    return active


def _since(instant: datetime, times: pa.Array) -> NDArray[np.bool_]:
    """Which events are of an instant or later, bool (events,)."""
    recent = pc.greater_equal(times.flatten(), pa.scalar(instant, TIME))
    mask: NDArray[np.bool_] = recent.to_numpy(zero_copy_only=False)
    return mask
