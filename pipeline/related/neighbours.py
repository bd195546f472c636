"""The related items of some items, by whatever measure, and their rows in the table."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa

from pipeline.related.running_top import Floats, Integers, RunningTop
from pipeline.schema import PAD, related_items_schema
from pipeline.scoring.output_rows import RunColumns

_PART = 2**12  # items


@dataclass(frozen=True)
class Neighbours:
    """The related items of some items.

    Attributes:
        item_index: (M,) items in ascending order.
        related_index: (M, N) their related items, best first; PAD where there are fewer.
        score: (M, N), -inf where there are fewer.
    """

    item_index: Integers
    related_index: Integers
    score: Floats

    @classmethod
    def of(cls, top: RunningTop, item_index: Integers, items: Integers) -> Self:
        """The neighbours that a search has found.

        Args:
            top: The search, with a row per item.
            item_index: (M,) the items.
            items: What the search's indices mean.
        """
        found, score = top.best()
        return cls(item_index, np.where(found < 0, PAD, items[found]), score)

    def parts(self) -> Iterator[Self]:
        """The same, of fewer items at a time."""
        for begin in range(0, len(self.item_index), _PART):
            part = slice(begin, begin + _PART)
            yield type(self)(self.item_index[part], self.related_index[part], self.score[part])

    def rows(self, item_ids: pa.Array, source: str, run_columns: RunColumns) -> pa.RecordBatch:
        """The rows of the table `related_items`.

        Args:
            item_ids: (V-1,) the ids of items 1..V-1.
            source: What the neighbours are by.
            run_columns: The columns that are equal in every row.
        """
        present = self.related_index != PAD
        item, rank = np.nonzero(present)
        columns = [
            item_ids.take(pa.array(self.item_index[item] - 1)),
            pa.array(rank.astype(np.int32) + 1),
            item_ids.take(pa.array(self.related_index[present] - 1)),
            pa.array(self.score[present]),
            pa.repeat(pa.scalar(source), len(item)),
            *run_columns.columns(len(item)),
        ]
        return pa.record_batch(columns, schema=related_items_schema(item_ids.type))
