"""What is new in the prepared histories since an instant: counts per item and of lengths."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.schema import ITEM_INDEX, ITEMS_FILE, TIME, TIMESTAMPS
from pipeline.storage.prepared_folder import read_sequences

Counts = NDArray[np.int64]

_LONGEST = 4096  # histories of this length and longer ones are counted together
_BATCH_ROWS = 2**14
_GROUPS = 10  # of items or lengths, each with as many of the earlier events or users
_ENOUGH = 100  # events whose share says something
_ENOUGH_GROUPED = 1000  # events or users without which chance decides a distribution over groups


@dataclass(frozen=True)
class Increment:
    """The events after an instant, beside those up to it.

    Attributes:
        before: (V,) int64, events up to the instant per item index; PAD has none.
        new: (V,) int64, later events per item index.
        lengths_before: Users by the number of their events up to the instant, of those with any.
        lengths: Users by the number of all their events.
    """

    before: Counts
    new: Counts
    lengths_before: Counts
    lengths: Counts

    @property
    def n_new(self) -> int:
        """The number of new events."""
        return int(self.new.sum())

    @property
    def new_items(self) -> float:
        """New items, those with new events alone, as a share of all items with events."""
        n_items = int(np.count_nonzero(self.before + self.new))
        return int(np.count_nonzero(self.new[self._is_new])) / n_items

    @property
    def unknown_items(self) -> float | None:
        """The share of the new events that are on new items; None where they are few."""
        if self.n_new < _ENOUGH:
            return None
        return float(self.new[self._is_new].sum() / self.n_new)

    @property
    def popularity_drift(self) -> float | None:
        """PSI of the new events by groups of items, each with a tenth of the earlier events.

        Events on new items are left out. None where the others are few.
        """
        by_popularity = np.argsort(-self.before, kind="stable")
        before = self.before[by_popularity]
        new = np.where(before > 0, self.new[by_popularity], 0)
        return _grouped_psi(before, new)

    @property
    def length_drift(self) -> float | None:
        """PSI of the histories' lengths by groups, each with a tenth of the users before.

        None where users are few.
        """
        return _grouped_psi(self.lengths_before, self.lengths)

    @property
    def _is_new(self) -> NDArray[np.bool_]:
        return np.asarray(self.before == 0)


def read_increment(folder: Path, since: datetime) -> Increment:
    """Count the events of a prepared folder up to an instant and after it.

    Args:
        folder: Holds the histories and `items.parquet`.
        since: The last instant that is not new.
    """
    n_items = pq.read_metadata(folder / ITEMS_FILE).num_rows + 1
    before, new = np.zeros((2, n_items), np.int64)
    lengths_before, lengths = np.zeros((2, _LONGEST + 1), np.int64)
    bound = pa.scalar(since, TIME)
    for batch in read_sequences(folder, [ITEM_INDEX, TIMESTAMPS], _BATCH_ROWS):
        items = batch[ITEM_INDEX].flatten().to_numpy()
        is_new = pc.greater(batch[TIMESTAMPS].flatten(), bound).to_numpy(zero_copy_only=False)
        before += np.bincount(items[~is_new], minlength=n_items)
        new += np.bincount(items[is_new], minlength=n_items)
        ends = np.cumsum(batch[ITEM_INDEX].value_lengths().to_numpy(), dtype=np.int64)
        n_before = np.concatenate([[0], np.cumsum(~is_new)])[np.concatenate([[0], ends])]
        lengths += _histogram(np.diff(ends, prepend=0))
        lengths_before += _histogram(np.diff(n_before))
    lengths_before[0] = 0  # users who are new
    return Increment(before, new, lengths_before, lengths)


def population_stability_index(expected: Counts, found: Counts) -> float:
    """How far one distribution over groups is from another: from 0 for the same; .25 is a lot.

    Args:
        expected: Counts per group; groups without any are left out.
        found: Counts per group.
    """
    present = expected > 0
    # Half a count each: an empty group would make it infinite.
    before, now = expected[present] + 0.5, found[present] + 0.5
    before, now = before / before.sum(), now / now.sum()
    return float(((now - before) * np.log(now / before)).sum())


def _grouped_psi(before: Counts, now: Counts) -> float | None:
    """PSI over groups of neighbours that have a tenth each of what was before."""
    if min(before.sum(), now.sum()) < _ENOUGH_GROUPED:
        return None
    begin = np.cumsum(before) - before
    group = np.minimum(begin * _GROUPS // before.sum(), _GROUPS - 1)
    return population_stability_index(np.bincount(group, before), np.bincount(group, now))


def _histogram(lengths: Counts) -> Counts:
    counts: Counts = np.bincount(np.minimum(lengths, _LONGEST), minlength=_LONGEST + 1)
    return counts
