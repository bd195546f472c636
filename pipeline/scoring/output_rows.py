"""Item indices and scores to rows of the recommendations table, in either layout."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.schema import (
    ITEM_ID,
    PAD,
    SCORE,
    TIME,
    recommendation_lists_schema,
    recommendations_schema,
)


@dataclass(frozen=True)
class Ranked:
    """The best items of N users.

    Attributes:
        user_id: (N,) ids.
        item_index: (N, K) int64, best first; PAD where fewer than K items are eligible.
        score: (N, K) float32.
        popular: (N,) whether they are popular items, for want of a history.
    """

    user_id: pa.Array
    item_index: NDArray[np.int64]
    score: NDArray[np.float32]
    popular: NDArray[np.bool_]


@dataclass(frozen=True)
class RunColumns:
    """What every row of a run says alike."""

    model_version: str
    run_date: date
    generated_at: datetime

    def columns(self, rows: int) -> list[pa.Array]:
        """model_version, run_date and generated_at, so many times."""
        return [
            pa.repeat(pa.scalar(self.model_version, pa.string()), rows),
            pa.repeat(pa.scalar(self.run_date, pa.date32()), rows),
            pa.repeat(pa.scalar(self.generated_at, TIME), rows),
        ]


@dataclass(frozen=True)
class RowFormat:
    """How ranked items become rows: `long`, one a user and rank, or `list`, one a user."""

    name: Literal["long", "list"]
    item_ids: pa.Array  # (V-1,) of items 1..V-1
    stamp: RunColumns

    def rows(self, ranked: Ranked) -> pa.Table:
        """The table's rows, as `schema` has them for either layout."""
        there = ranked.item_index != PAD
        item_id = self.item_ids.take(pa.array(ranked.item_index[there] - 1))
        score = pa.array(ranked.score[there])
        return (self._long if self.name == "long" else self._lists)(ranked, there, item_id, score)

    def _long(
        self, ranked: Ranked, there: NDArray[np.bool_], item_id: pa.Array, score: pa.Array
    ) -> pa.Table:
        user, rank = np.nonzero(there)
        columns = [
            ranked.user_id.take(pa.array(user)),
            pa.array(rank.astype(np.int32) + 1),
            item_id,
            score,
            _source(ranked.popular[user]),
            *self.stamp.columns(len(user)),
        ]
        return pa.table(columns, schema=recommendations_schema(ranked.user_id.type, item_id.type))

    def _lists(
        self, ranked: Ranked, there: NDArray[np.bool_], item_id: pa.Array, score: pa.Array
    ) -> pa.Table:
        ends = np.cumsum(there.sum(axis=1), dtype=np.int32)
        entries = pa.StructArray.from_arrays([item_id, score], names=[ITEM_ID, SCORE])
        columns = [
            ranked.user_id,
            pa.ListArray.from_arrays(pa.array(np.concatenate([[0], ends])).cast("int32"), entries),
            _source(ranked.popular),
            *self.stamp.columns(len(there)),
        ]
        return pa.table(
            columns, schema=recommendation_lists_schema(ranked.user_id.type, item_id.type)
        )


def _source(popular: NDArray[np.bool_]) -> pa.Array:
    return pc.if_else(pa.array(popular), "popular", "model")
