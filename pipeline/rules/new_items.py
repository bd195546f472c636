"""Items without events that were created of late: which there are, and how they are ranked."""

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.config.score_section import ScoreSettings
from pipeline.dates import RunDay, days_before
from pipeline.errors import ConfigError
from pipeline.logs.conversion import plain_ids, widest_id_type
from pipeline.logs.id_tables import check_ids_once
from pipeline.rules.attributes import Attributes
from pipeline.rules.lists import Items
from pipeline.rules.offsets import created_at, item_offsets
from pipeline.rules.promoted import Floats, Promoted
from pipeline.rules.similar_items import SimilarItems, similar_items
from pipeline.schema import ITEM_ID, PAD, TIME


@dataclass(frozen=True)
class NewItems:
    """Items that were created of late and have no events, as far as the model knows.

    Attributes:
        table: What is known of them, with the columns of `Attributes.table`: of those that the
            bundle knows without having been trained on them, then of the others.
        index: (N,) int64, ascending: the bundle's index, or from V on for the others.
        others: What is known of all others, which have the indices V to V+M-1.

    The ids of both are of the bundle's type, or int64 where one of the others does not fit it.
    """

    table: pa.Table
    index: Items
    others: pa.Table

    def filter(self, keep: NDArray[np.bool_]) -> "NewItems":
        """Only some of them, (N,); `others` stays."""
        return replace(self, table=self.table.filter(pa.array(keep)), index=self.index[keep])


@dataclass(frozen=True)
class PromotedNew(Promoted):
    """New items in places of their own; their embeddings are the means of similar items'.

    Attributes:
        similar: The items that they are similar to.
    """

    similar: SimilarItems

    def within(self, listed: NDArray[np.bool_]) -> Self:
        """See `Promoted`."""
        group = self.similar.group[listed[self.items]]
        return replace(super().within(listed), similar=replace(self.similar, group=group))

    def embeddings(self, table: Floats) -> Floats:
        """The (G, D) embeddings of the groups of similar items, of an item table (V, D)."""
        return self.similar.means(table)

    def scores(self, users: Floats, embeddings: Floats) -> Floats:
        """See `Promoted`; items that are similar to the same ones have equal scores."""
        return super().scores(users, embeddings)[:, self.similar.group]


def new_items(
    settings: ScoreSettings, attributes: Attributes | None, run_day: RunDay | None
) -> NewItems | None:
    """The items that `score.new_items` is about; None without that setting.

    Args:
        settings: `new_items` is used.
        attributes: What is known of the bundle's items and of others; not needed without it.
        run_day: The run date; likewise.

    Raises:
        ConfigError: there is no items table, no `items.similar_by`, or no column of times.
        SchemaError: an id of such an item is of another kind than the bundle's.
    """
    if settings.new_items is None:
        return None
    assert attributes is not None
    assert run_day is not None
    if not attributes.similar_by:
        raise ConfigError(
            "nothing says which items new ones are similar to",
            "score.new_items",
            expected="columns of the items table in items.similar_by",
            remedy='Set items.similar_by = ["category"], for instance.',
        )
    n_known = len(attributes.table)
    untrained = pc.equal(attributes.table["popularity"], 0)
    known = attributes.table.filter(untrained)
    index = np.flatnonzero(untrained.to_numpy()) + PAD + 1
    since = days_before(run_day.run_date, settings.new_items.within_days, run_day.time_zone)
    is_new, others_are_new = (
        _between(created_at(rows, run_day.time_zone, "score.new_items"), since, run_day.end)
        for rows in (known, attributes.others)
    )
    others = _with_ids(
        attributes.others.filter(pa.array(others_are_new)),
        known.schema.field(ITEM_ID).type,
        str(attributes.path),
    )
    new = [known.filter(pa.array(is_new)), others]
    return NewItems(
        pa.concat_tables(new, promote_options="permissive"),
        np.concatenate([index[is_new], np.arange(len(others)) + n_known + PAD + 1]),
        others,
    )


def promoted_new(
    new: NewItems,
    settings: ScoreSettings,
    attributes: Attributes,
    popularity: NDArray[np.float64],
    run_day: RunDay | None,
) -> tuple[PromotedNew, int]:
    """New items with their places, ranked by the trained items that they are similar to.

    Args:
        new: Those that may be recommended.
        settings: `new_items`, `promotion`, `top_k`, `offset` and `freshness` are used.
        attributes: What is known of the bundle's items.
        popularity: (V,), the scores of users without history.
        run_day: The run date.

    Returns:
        Those that are similar to some item, and how many are not.

    Raises:
        ConfigError: a column of `items.similar_by` cannot be used.
    """
    trained = pc.greater(attributes.table["popularity"], 0)
    index = np.flatnonzero(trained.to_numpy()) + PAD + 1
    similar, known = similar_items(
        attributes.table.filter(trained), index, new.table, attributes.similar_by
    )
    n_new = len(new.table)
    new = new.filter(known)
    promoted = PromotedNew(
        settings.new_item_places,
        new.index,
        item_offsets(settings, new.table, run_day),
        similar.means(popularity)[similar.group],
        similar,
    )
    return promoted, n_new - len(new.table)


def _with_ids(rows: pa.Table, kind: pa.DataType, path: str) -> pa.Table:
    """Rows of the items table with ids of a type, or of a wider one where they do not fit it."""
    ids = plain_ids(rows[ITEM_ID].combine_chunks(), widest_id_type(kind), path)
    check_ids_once(ids, ITEM_ID, path)  # again, as 7 and 7.0 of a CSV file are one number
    with suppress(pa.ArrowInvalid):
        ids = ids.cast(kind)
    return rows.set_column(rows.schema.get_field_index(ITEM_ID), ITEM_ID, ids)


def _between(times: pa.Array, since: object, end: object) -> NDArray[np.bool_]:
    first, after = (pa.scalar(instant, TIME) for instant in (since, end))
    inside = pc.and_(pc.greater_equal(times, first), pc.less(times, after)).fill_null(False)
    mask: NDArray[np.bool_] = inside.to_numpy(zero_copy_only=False)
    return mask
