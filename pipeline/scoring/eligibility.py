"""The items that may be recommended at all, and the most popular of them."""

from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model.errors import ConfigError
from pipeline.config.score_section import ScoreSettings
from pipeline.dates import RunDay
from pipeline.logs.id_lists import id_list_hash
from pipeline.logs.items_table import items_table_hash
from pipeline.results import RuleCounts
from pipeline.rules.attributes import Attributes, item_attributes
from pipeline.rules.list_rules import ListRules, list_rules
from pipeline.rules.new_items import new_items
from pipeline.rules.offsets import item_offsets
from pipeline.rules.segment_rules import SegmentRules, segment_rules
from pipeline.schema import ITEM_ID, ITEM_INDEX, PAD
from pipeline.scoring.item_rules import WHERE, left_out_items
from pipeline.scoring.user_list_reader import user_list_hash


@dataclass(frozen=True)
class Eligibility:
    """The items that may be recommended to any user.

    Attributes:
        item_bias: (V,) float32, what is added to an eligible item's scores, -inf where an item is
            not eligible.
        popular: int64, the eligible items' indices, most popular first.
        popular_score: float64, the `popularity_shares` of popular items.
        n_unknown: The number of ids in the allow and deny files that the bundle does not know.
        lists: The rules on whole lists.
        rules: What the rules over the items table did; None without such rules.
        other_ids: (M,) the ids of new items that the bundle does not know, which have the indices V
            to V+M-1; not all of them may be recommended.
        segments: What is other for the users of each segment, in the order of the settings.
    """

    item_bias: NDArray[np.float32]
    popular: NDArray[np.int64]
    popular_score: NDArray[np.float64]
    n_unknown: int
    lists: ListRules
    rules: RuleCounts | None = None
    other_ids: pa.Array | None = None
    segments: tuple[SegmentRules, ...] = ()

    def of_segment(self, number: int) -> "Eligibility":
        """What the users of a segment may get: its number from 1, or 0 for those of none."""
        if number == 0:
            return self
        rules, n_items = self.segments[number - 1], len(self.item_bias)
        listed = self.is_new & rules.chosen
        listed[:n_items] |= self.eligible & rules.chosen[:n_items]
        kept = rules.chosen[self.popular]
        return replace(
            self,
            item_bias=np.where(listed[:n_items], self.item_bias, -np.inf).astype(np.float32),
            popular=self.popular[kept],
            popular_score=self.popular_score[kept],
            lists=self.lists.within(listed, rules.promotions, rules.new_places),
        )

    def by_segment(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """What users of no segment may get, and those of each.

        Returns:
            `eligible`, with false for items that the bundle does not know, and `is_new`: both are
            (S+1, V+M).
        """
        shape = len(self.segments) + 1, len(self.is_new)
        eligible, is_new = np.zeros(shape, bool), np.zeros(shape, bool)
        for number in range(len(eligible)):
            own = self.of_segment(number)
            eligible[number, : len(self.item_bias)], is_new[number] = own.eligible, own.is_new
        return eligible, is_new

    @property
    def eligible(self) -> NDArray[np.bool_]:
        """(V,) which items may be recommended in any place."""
        return self.item_bias > -np.inf

    @property
    def is_new(self) -> NDArray[np.bool_]:
        """(V+M,) which items may be recommended in the places of new items alone."""
        n_others = 0 if self.other_ids is None else len(self.other_ids)
        is_new = np.zeros(len(self.item_bias) + n_others, bool)
        if self.lists.new is not None:
            is_new[self.lists.new.items] = True
        return is_new

    def with_others(self, items: pa.Table) -> pa.Table:
        """The bundle's items, V-1 rows, and those that it does not know: their indices and ids.

        The ids are of the bundle's type, or int64 where one of the others does not fit it.
        """
        known = items.select([ITEM_INDEX, ITEM_ID])
        if self.other_ids is None:
            return known
        index = pa.array(len(self.item_bias) + np.arange(len(self.other_ids)))
        others = [index.cast(known.schema.field(ITEM_INDEX).type), self.other_ids]
        new = pa.table(others, names=known.column_names)
        return pa.concat_tables([known, new], promote_options="permissive")


def eligible_items(
    items: pa.Table,
    settings: ScoreSettings,
    retired_before: datetime | None = None,
    attributes: Attributes | None = None,
    run_day: RunDay | None = None,
    recent: NDArray[np.int64] | None = None,
) -> Eligibility:
    """The items that were trained on, are not retired, and are let through by all that is set.

    That is the allow file, the deny file and the condition `score.where`.

    Args:
        items: The bundle's items, V-1 rows in index order from 1.
        settings: `allow`, `deny`, `accept_unknown_deny`, `where`, `max_per`, `promotion`,
            `segment`, `offset`, `freshness`, `new_items` and `top_k` are used.
        retired_before: Items that were last seen before this instant are retired; None for none.
        attributes: What is known of the items; by default the bundle's own columns.
        run_day: The run date, from which `freshness` and `new_items` count ages.
        recent: (V-1,) the recent events with each item, by which items are popular; by default all
            of the training.

    Raises:
        ConfigError: `top_k` exceeds the number of items, no item is eligible, none of the denied
            ones is known, or the condition, `offset`, `freshness` or `new_items` cannot be used
            with these attributes.
        InputError: a file of ids cannot be read.
        SchemaError: its ids are of another kind than the bundle's.
    """
    if settings.top_k > len(items):
        raise ConfigError(
            "more recommendations requested than there are items",
            "score.top_k",
            expected=f"at most {len(items)}",
            found=str(settings.top_k),
        )
    if settings.needs_attributes and attributes is None:
        attributes = item_attributes(items, None)
    popularity = items["popularity"].to_numpy()
    new = new_items(settings, attributes, run_day)
    left_out = left_out_items(items, settings, retired_before, attributes, new)
    eligible = left_out.eligible[: len(items)]
    rules = None
    if settings.where is not None and attributes is not None:
        n_filtered = left_out.alone(WHERE)
        rules = RuleCounts(n_filtered, attributes.n_unknown, attributes.n_missing)
    if not eligible.any():
        raise ConfigError(
            "no item is left to recommend",
            settings.allow or settings.deny or ("score.where" if rules else "items.parquet"),
            expected="at least one item that the model was trained on",
            remedy="Check that the allow and deny files hold ids of this bundle's items"
            + (", score.where" if rules else "")
            + (", and score.retire_after_days." if retired_before else "."),
        )
    item_bias = np.full(len(items) + 1, -np.inf, np.float32)
    item_bias[PAD + 1 :][eligible] = 0
    if attributes is not None:
        item_bias[PAD + 1 :] += item_offsets(settings, attributes.table, run_day)
    share = np.append(0.0, popularity_shares(popularity, recent))
    best = np.argsort(-share[PAD + 1 :], kind="stable")  # ties: the smaller index first
    best = best[eligible[best]] + 1
    lists = list_rules(settings, attributes, item_bias, share, left_out.new, run_day)
    segments = segment_rules(settings, attributes, item_bias, share, left_out.new)
    return Eligibility(
        item_bias,
        best,
        share[best],
        left_out.n_unknown,
        lists,
        rules,
        None if new is None else new.others[ITEM_ID].combine_chunks(),
        segments,
    )


def popularity_shares(
    popularity: NDArray[np.int64], recent: NDArray[np.int64] | None
) -> NDArray[np.float64]:
    """Each item's share of all recent events, or of all events where no recent ones are given.

    Where recent events are given but there are none, all count. Otherwise each item has a fraction
    of one recent event more, its share of all events: what is equally popular of late is ordered
    by it, and so are items without recent events.

    Args:
        popularity: (V-1,) the events with each item.
        recent: (V-1,) the recent ones.
    """
    counts, total = popularity.astype(np.float64), popularity.sum()
    if recent is not None and recent.any():
        counts, total = recent + counts / (total + 1), recent.sum()
    shares: NDArray[np.float64] = counts / total  # float32 would lose the fractions
    return shares


def item_files(settings: ScoreSettings, items_table: str | None) -> list[str]:
    """The paths of all that decides which items are eligible: files of ids, the items table."""
    needed = items_table if settings.needs_attributes else None
    return [path for path in (settings.allow, settings.deny, needed) if path is not None]


def item_file_hashes(settings: ScoreSettings, items_table: str | None) -> dict[str, str]:
    """The hashes of the content of `item_files` and of what is listed per user, by path.

    Raises:
        InputError: one is missing or cannot be read.
    """
    hashes = {path: id_list_hash(path) for path in (settings.allow, settings.deny) if path}
    if settings.needs_attributes and items_table is not None:
        hashes[items_table] = items_table_hash(items_table)
    return hashes | {path: user_list_hash(path) for path in settings.user_lists}
