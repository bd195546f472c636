"""The items that may be recommended at all, and the most popular of them."""

from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from model.errors import ConfigError
from pipeline.config.score_section import ScoreSettings
from pipeline.logs.id_lists import as_known, id_list_hash, read_ids
from pipeline.logs.items_table import items_table_hash
from pipeline.results import RuleCounts
from pipeline.rules.attributes import Attributes, item_attributes
from pipeline.rules.conditions import items_that
from pipeline.rules.list_rules import ListRules, list_rules
from pipeline.rules.segment_rules import SegmentRules, segment_rules
from pipeline.schema import ITEM_ID, PAD, TIME


@dataclass(frozen=True)
class Eligibility:
    """The items that may be recommended to any user.

    Attributes:
        item_bias: (V,) float32, 0 where an item is eligible, -inf where it is not.
        popular: int64, the eligible items' indices, most popular first.
        popular_score: float32, each popular item's share of all training interactions.
        n_unknown: The number of ids in the allow and deny files that the bundle does not know.
        lists: The rules on whole lists.
        rules: What the rules over the items table did; None without such rules.
        segments: What is other for the users of each segment, in the order of the settings.
    """

    item_bias: NDArray[np.float32]
    popular: NDArray[np.int64]
    popular_score: NDArray[np.float32]
    n_unknown: int
    lists: ListRules
    rules: RuleCounts | None = None
    segments: tuple[SegmentRules, ...] = ()

    def of_segment(self, number: int) -> "Eligibility":
        """What the users of a segment may get: its number from 1, or 0 for those of none."""
        if number == 0:
            return self
        rules = self.segments[number - 1]
        kept = rules.eligible[self.popular]
        return replace(
            self,
            item_bias=np.where(rules.eligible, self.item_bias, -np.inf).astype(np.float32),
            popular=self.popular[kept],
            popular_score=self.popular_score[kept],
            lists=self.lists.within(rules.eligible, rules.promotions),
        )


def eligible_items(
    items: pa.Table,
    settings: ScoreSettings,
    retired_before: datetime | None = None,
    attributes: Attributes | None = None,
) -> Eligibility:
    """The items that were trained on, are not retired, and are let through by all that is set.

    That is the allow file, the deny file and the condition `score.where`.

    Args:
        items: The bundle's items, V-1 rows in index order from 1.
        settings: `allow`, `deny`, `accept_unknown_deny`, `where`, `max_per`, `promotion`,
            `segment` and `top_k` are used.
        retired_before: Items that were last seen before this instant are retired; None for none.
        attributes: What is known of the items; by default the bundle's own columns.

    Raises:
        ConfigError: `top_k` exceeds the number of items, no item is eligible, none of the denied
            ones is known, or the condition cannot be used with these attributes.
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
    ids = items[ITEM_ID]
    popularity = items["popularity"].to_numpy()
    eligible = popularity > 0
    if retired_before is not None:
        seen = pc.greater_equal(items["last_seen"], pa.scalar(retired_before, TIME))
        eligible &= seen.fill_null(False).to_numpy()
    listed, n_unknown = _listed(ids, settings)
    eligible &= listed
    rules = None
    if settings.where is not None and attributes is not None:
        chosen = items_that(settings.where, attributes, "score.where")
        n_filtered = int(np.count_nonzero(eligible & ~chosen))
        rules = RuleCounts(n_filtered, attributes.n_unknown, attributes.n_missing)
        eligible &= chosen
    if not eligible.any():
        raise ConfigError(
            "no item is left to recommend",
            settings.allow or settings.deny or ("score.where" if rules else "items.parquet"),
            expected="at least one item that the model was trained on",
            remedy="Check that the allow and deny files hold ids of this bundle's items"
            + (", score.where" if rules else "")
            + (", and score.retire_after_days." if retired_before else "."),
        )
    item_bias = np.full(len(ids) + 1, -np.inf, np.float32)
    item_bias[PAD + 1 :][eligible] = 0
    best = np.argsort(-popularity, kind="stable")  # ties: the smaller index first
    best = best[eligible[best]] + 1
    share = np.append(np.float32(0), (popularity / popularity.sum()).astype(np.float32))
    lists = list_rules(settings, attributes, item_bias, share)
    segments = segment_rules(settings, attributes, item_bias, share)
    return Eligibility(item_bias, best, share[best], n_unknown, lists, rules, segments)


def _listed(ids: pa.ChunkedArray, settings: ScoreSettings) -> tuple[NDArray[np.bool_], int]:
    """Which items the allow and deny files let through, and how many of their ids are unknown."""
    listed, n_unknown = np.ones(len(ids), bool), 0
    for path, allowed in ((settings.allow, True), (settings.deny, False)):
        if path is None:
            continue
        known = as_known(read_ids(path, ITEM_ID, ids.type, "the bundle"), ids.combine_chunks())
        n_unknown += known.null_count
        if not allowed and not settings.accept_unknown_deny:
            _check_deny_file(known, path)
        listed &= pc.is_in(ids, value_set=known.drop_null()).to_numpy() == allowed
    return listed, n_unknown


def item_files(settings: ScoreSettings, items_table: str | None) -> list[str]:
    """The paths of all that decides which items are eligible: files of ids, the items table."""
    needed = items_table if settings.needs_attributes else None
    return [path for path in (settings.allow, settings.deny, needed) if path is not None]


def item_file_hashes(settings: ScoreSettings, items_table: str | None) -> dict[str, str]:
    """The hashes of the content of `item_files`, by path.

    Raises:
        InputError: one is missing or cannot be read.
    """
    hashes = {path: id_list_hash(path) for path in (settings.allow, settings.deny) if path}
    if settings.needs_attributes and items_table is not None:
        hashes[items_table] = items_table_hash(items_table)
    return hashes


def _check_deny_file(known: pa.Array, path: str) -> None:
    """Check that some denied id is known: otherwise it is another catalogue's list, or misread."""
    if len(known) and known.null_count == len(known):
        raise ConfigError(
            "none of the ids in the deny file is an item of this model",
            path,
            found=f"{len(known)} other ids",
            remedy="Check the file, or set score.accept_unknown_deny = true.",
        )
