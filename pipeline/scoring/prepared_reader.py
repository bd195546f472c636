"""The histories that a run prepared, as item indices; nothing is checked again.

The run's own bundle has the very vocabulary that `prepare` wrote them for. An earlier bundle knows
fewer items, or has them in another order.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.bundles.description import BUNDLE_INPUTS
from pipeline.config.seen_rule import SeenEvents
from pipeline.logs.chosen_types import chosen_types
from pipeline.logs.validation import IdTypes
from pipeline.schema import (
    EVENT_TYPE_INDEX,
    ITEM_ID,
    ITEM_INDEX,
    ITEMS_FILE,
    PAD,
    TIMESTAMPS,
    USER_ID,
)
from pipeline.scoring.history_source import OpenedHistories
from pipeline.scoring.user_histories import (
    DroppedRows,
    Integers,
    UserHistories,
    any_per_user,
    not_before,
)
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
        inputs: Types of the events that the model sees; empty for all events.
        dropped: See `HistorySource`; `prepare` has left out what is to be left out.
    """

    folder: Path
    active_since: datetime | None
    seen: SeenEvents | None = None
    inputs: tuple[str, ...] = ()
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
            is_recent = not_before(batch[TIMESTAMPS].flatten(), since)
            recent = batch[ITEM_INDEX].flatten().to_numpy()[is_recent]
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
            ConfigError: types of events count as seen or are the model's inputs, and the folder
                has none of them.
        """
        types = _ChosenTypes(self._seen_types(), self._input_types())
        since = self.active_since or (self.seen and self.seen.since)
        columns = [USER_ID, ITEM_INDEX] + ([TIMESTAMPS] if since else [])
        columns += [] if types.seen is None and types.inputs is None else [EVENT_TYPE_INDEX]
        users = None if self.active_since else count_users(self.folder)
        batches = read_sequences(self.folder, columns, _BATCH_ROWS)
        index_of = self._index_of(items)
        yield OpenedHistories(users, (self._histories(each, index_of, types) for each in batches))

    def _seen_types(self) -> Integers | None:
        """The indices of the types of events that count as seen; None for all."""
        if self.seen is None or not self.seen.event_types:
            return None
        names, wanted = event_type_names(self.folder), self.seen.event_types
        types = chosen_types(wanted, names, "score.exclude_seen", self.where)
        found = [] if names is None else names.to_pylist()
        self.dropped.absent_types.update(set(wanted) - set(found))
        return types

    def _input_types(self) -> Integers | None:
        """The indices of the types of events that the model sees; None for all."""
        if not self.inputs:
            return None
        names = event_type_names(self.folder)
        return chosen_types(self.inputs, names, BUNDLE_INPUTS, self.where)

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
        self, batch: pa.RecordBatch, index_of: Integers | None, types: "_ChosenTypes"
    ) -> UserHistories:
        lists = batch[ITEM_INDEX]
        lengths = lists.value_lengths().to_numpy()
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        items = lists.flatten().to_numpy().astype(np.int64)
        masks = self._are_seen(batch, types.seen), _are_of(types.inputs, batch)
        if index_of is None:
            histories = UserHistories(batch[USER_ID], items, offsets, *masks)
        else:
            encoded = UserHistories(batch[USER_ID], index_of[items], offsets, *masks)
            histories = encoded.without_pad()
        self.dropped.unknown_items += len(items) - len(histories.items)
        if self.active_since is None:
            return histories
        recent = not_before(batch[TIMESTAMPS].flatten(), self.active_since)
        return histories.filter(any_per_user(recent, offsets))

    def _are_seen(self, batch: pa.RecordBatch, types: Integers | None) -> NDArray[np.bool_] | None:
        """Which events count as seen, bool (events,); None for all."""
        of_type = _are_of(types, batch)
        if self.seen is None or self.seen.since is None:
            return of_type
        recent = not_before(batch[TIMESTAMPS].flatten(), self.seen.since)
        return recent if of_type is None else recent & of_type


class _ChosenTypes(NamedTuple):
    """The indices of the types of events that count as seen, and of the inputs; None for all."""

    seen: Integers | None
    inputs: Integers | None


def _are_of(types: Integers | None, batch: pa.RecordBatch) -> NDArray[np.bool_] | None:
    """Which events are of some types, bool (events,); None for all."""
    if types is None:
        return None
    return np.isin(batch[EVENT_TYPE_INDEX].flatten().to_numpy(), types)
