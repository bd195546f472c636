"""Item indices and scores to rows of the recommendations table, in the long or list layout."""

from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.rules.lists import Items, Lists
from pipeline.schema import (
    BECAUSE,
    ITEM_ID,
    PAD,
    SCORE,
    SOURCE,
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
        promoted: (N, K) bool, whether an item is in a slot of a promotion.
        popular: (N,) bool, whether a user got popular items because no item of theirs is known.
        wanted: (N,) int64, each user's K: how many items were asked for, at most the arrays' K.
        because: (N, K) int64, the item of the user's history that stands for each item, PAD for
            none; None where that is not asked for.
    """

    user_id: pa.Array
    item_index: NDArray[np.int64]
    score: NDArray[np.float32]
    promoted: NDArray[np.bool_]
    popular: NDArray[np.bool_]
    wanted: NDArray[np.int64]
    because: Items | None = None

    @classmethod
    def of_nothing(
        cls, user_id: pa.Array, wanted: NDArray[np.int64], popular: NDArray[np.bool_]
    ) -> "Ranked":
        """PAD for everybody."""
        shape = len(user_id), int(wanted.max(initial=1))
        return cls(
            user_id,
            np.full(shape, PAD, np.int64),
            np.full(shape, -np.inf, np.float32),
            np.zeros(shape, bool),
            popular,
            wanted,
        )

    @classmethod
    def of_nobody(cls, user_type: pa.DataType, *, because: bool) -> "Ranked":
        """The result for no users, with ids of a type, and perhaps with `because`."""
        nobody = pa.array([], user_type)
        nothing = cls.of_nothing(nobody, np.zeros(0, np.int64), np.zeros(0, np.bool_))
        return replace(nothing, because=nothing.item_index) if because else nothing

    def put(self, users: NDArray[np.intp], lists: "Lists | Ranked") -> None:
        """Put the lists of some users, perhaps shorter ones, in their rows."""
        places = slice(lists.item_index.shape[1])
        self.item_index[users, places] = lists.item_index
        self.score[users, places] = lists.score
        self.promoted[users, places] = lists.promoted


@dataclass(frozen=True)
class RunColumns:
    """The columns that are equal in every row of a run."""

    model_version: str
    run_date: date
    generated_at: datetime

    def columns(self, rows: int) -> list[pa.Array]:
        """The columns model_version, run_date and generated_at, of so many rows."""
        return [
            pa.repeat(pa.scalar(self.model_version, pa.string()), rows),
            pa.repeat(pa.scalar(self.run_date, pa.date32()), rows),
            pa.repeat(pa.scalar(self.generated_at, TIME), rows),
        ]


@dataclass(frozen=True)
class RowFormat:
    """The conversion of ranked items to rows.

    Attributes:
        layout: `long` for one row per user and rank, `list` for one row per user.
        item_ids: (V-1,) the ids of items 1..V-1, or more where others may be recommended.
        run_columns: The columns that are equal in every row.
        sources: In the list layout, whether each entry of a list has its own source.
        is_new: (V,) bool, or more, which items are new ones; None for none.
    """

    layout: Literal["long", "list"]
    item_ids: pa.Array
    run_columns: RunColumns
    sources: bool = False
    is_new: NDArray[np.bool_] | None = None

    def rows(self, ranked: Ranked) -> pa.Table:
        """The rows, with the columns of either layout in `schema`."""
        return (self._long if self.layout == "long" else self._lists)(ranked)

    def _long(self, ranked: Ranked) -> pa.Table:
        present = ranked.item_index != PAD
        user, rank = np.nonzero(present)
        entries = self._entries(ranked, present)
        because = entries.pop(BECAUSE, None)
        columns = [
            ranked.user_id.take(pa.array(user)),
            pa.array(rank.astype(np.int32) + 1),
            *entries.values(),
            *self.run_columns.columns(len(user)),
            *([] if because is None else [because]),
        ]
        schema = recommendations_schema(
            ranked.user_id.type, self.item_ids.type, because=because is not None
        )
        return pa.table(columns, schema=schema)

    def _lists(self, ranked: Ranked) -> pa.Table:
        present = ranked.item_index != PAD
        ends = np.cumsum(present.sum(axis=1), dtype=np.int32)
        values = self._entries(ranked, present)
        if not self.sources:
            del values[SOURCE]
        entries = pa.StructArray.from_arrays(list(values.values()), names=list(values))
        columns = [
            ranked.user_id,
            pa.ListArray.from_arrays(pa.array(np.concatenate([[0], ends])).cast("int32"), entries),
            _source(ranked.popular, *np.zeros((2, len(present)), bool)),
            *self.run_columns.columns(len(present)),
        ]
        schema = recommendation_lists_schema(
            ranked.user_id.type,
            self.item_ids.type,
            sources=self.sources,
            because=BECAUSE in values,
        )
        return pa.table(columns, schema=schema)

    def _entries(self, ranked: Ranked, present: NDArray[np.bool_]) -> dict[str, pa.Array]:
        """The columns of listed items, one list after another: `because` only if it is there."""
        popular = np.repeat(ranked.popular, present.sum(axis=1))
        values = {
            ITEM_ID: self._ids(ranked.item_index[present]),
            SCORE: pa.array(ranked.score[present]),
            SOURCE: _source(
                popular, ranked.promoted[present], self._new(ranked.item_index[present])
            ),
        }
        if ranked.because is not None:
            values[BECAUSE] = self._ids(ranked.because[present])
        return values

    def _new(self, items: Items) -> NDArray[np.bool_]:
        return np.zeros(len(items), bool) if self.is_new is None else self.is_new[items]

    def _ids(self, items: Items) -> pa.Array:
        """The ids of items, null for PAD."""
        return self.item_ids.take(pa.array(items - 1, mask=items == PAD))


def _source(
    popular: NDArray[np.bool_], promoted: NDArray[np.bool_], new: NDArray[np.bool_]
) -> pa.Array:
    by_model = pc.if_else(pa.array(promoted), "promoted", "model")
    by_model = pc.if_else(pa.array(new), "new", by_model)
    return pc.if_else(pa.array(popular), "popular", by_model)
