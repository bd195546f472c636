"""The histories that a run prepared: item indices of the bundle's own vocabulary, read as they are.

Nothing is checked or encoded again: `prepare` wrote the file for the very vocabulary of the bundle.
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
from pipeline.schema import ITEM_IDS, ITEM_INDEX, SEQUENCES_FILE, TIME, TIMESTAMPS, USER_ID
from pipeline.scoring.history_source import OpenedHistories
from pipeline.scoring.user_histories import DroppedRows, UserHistories

_BATCH_ROWS = 2**15


@dataclass(frozen=True)
class PreparedHistories:
    """A `HistorySource` over a prepared folder.

    Attributes:
        folder: Holds `sequences.parquet`.
        active_since: Only users with an event from this instant on; None for all users.
        dropped: See `HistorySource`; `prepare` has left out what is to be left out.
    """

    folder: Path
    active_since: datetime | None
    dropped: DroppedRows = field(default_factory=DroppedRows)

    @property
    def where(self) -> str:
        """See `HistorySource`."""
        return str(self._path)

    @property
    def types(self) -> IdTypes:
        """See `HistorySource`."""
        columns = pq.read_schema(self._path)
        return IdTypes(columns.field(USER_ID).type, columns.field(ITEM_IDS).type.value_type)

    @contextmanager
    def open(self, items: pa.Table, scratch: Path) -> Iterator[OpenedHistories]:
        """See `HistorySource`."""
        columns = [USER_ID, ITEM_INDEX] + ([TIMESTAMPS] if self.active_since else [])
        with pq.ParquetFile(self._path, pre_buffer=True) as file:
            users = None if self.active_since else file.metadata.num_rows
            batches = file.iter_batches(_BATCH_ROWS, columns=columns)
            yield OpenedHistories(users, map(self._histories, batches))

    @property
    def _path(self) -> Path:
        return self.folder / SEQUENCES_FILE

    def _histories(self, batch: pa.RecordBatch) -> UserHistories:
        lists = batch[ITEM_INDEX]
        lengths = lists.value_lengths().to_numpy()
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        items = lists.flatten().to_numpy().astype(np.int64)
        histories = UserHistories(batch[USER_ID], items, offsets)
        if self.active_since is None:
            return histories
        return histories.filter(_any_since(self.active_since, batch[TIMESTAMPS], offsets))


def _any_since(instant: datetime, times: pa.Array, offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which users have an event at an instant or later, bool (N,)."""
    recent = pc.greater_equal(times.flatten(), pa.scalar(instant, TIME))
    before = np.concatenate([[0], np.cumsum(recent.to_numpy(zero_copy_only=False))])
    active: NDArray[np.bool_] = np.diff(before[offsets]) > 0
    return active
