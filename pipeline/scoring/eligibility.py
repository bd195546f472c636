"""The items that may be recommended at all, and the most popular of them."""

from dataclasses import dataclass
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
from pipeline.rules.offsets import item_offsets
from pipeline.schema import PAD
from pipeline.scoring.item_rules import WHERE, left_out_items
from pipeline.scoring.user_list_reader import user_list_hash


@dataclass(frozen=True)
class Eligibility:
    """The items that may be recommended to any user.

    Attributes:
        item_bias: (V,) float32, what is added to an eligible item's scores, -inf where an item is
            not eligible.
        popular: int64, the eligible items' indices, most popular first.
        popular_score: float32, each popular item's share of all training interactions.
        n_unknown: The number of ids in the allow and deny files that the bundle does not know.
        lists: The rules on whole lists.
        rules: What the rules over the items table did; None without such rules.
    """

    item_bias: NDArray[np.float32]
    popular: NDArray[np.int64]
    popular_score: NDArray[np.float32]
    n_unknown: int
    lists: ListRules
    rules: RuleCounts | None = None

    @property
    def eligible(self) -> NDArray[np.bool_]:
        """(V,) which items may be recommended."""
        return self.item_bias > -np.inf


def eligible_items(
    items: pa.Table,
    settings: ScoreSettings,
    retired_before: datetime | None = None,
    attributes: Attributes | None = None,
    run_day: RunDay | None = None,
) -> Eligibility:
    """The items that were trained on, are not retired, and are let through by all that is set.

    That is the allow file, the deny file and the condition `score.where`.

    Args:
        items: The bundle's items, V-1 rows in index order from 1.
        settings: `allow`, `deny`, `accept_unknown_deny`, `where`, `max_per`, `promotion`,
            `offset`, `freshness` and `top_k` are used.
        retired_before: Items that were last seen before this instant are retired; None for none.
        attributes: What is known of the items; by default the bundle's own columns.
        run_day: The run date, from which `freshness` counts ages.

    Raises:
        ConfigError: `top_k` exceeds the number of items, no item is eligible, none of the denied
            ones is known, or the condition, `offset` or `freshness` cannot be used with these
            attributes.
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
    popularity = items["popularity"].to_numpy()
    left_out = left_out_items(items, settings, retired_before, attributes)
    eligible = left_out.eligible
    rules = None
    if settings.where is not None:
        known = attributes or item_attributes(items, None)
        rules = RuleCounts(left_out.alone(WHERE), known.n_unknown, known.n_missing)
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
    best = np.argsort(-popularity, kind="stable")  # ties: the smaller index first
    best = best[eligible[best]] + 1
    share = np.append(np.float32(0), (popularity / popularity.sum()).astype(np.float32))
    lists = list_rules(settings, attributes, item_bias, share)
    return Eligibility(item_bias, best, share[best], left_out.n_unknown, lists, rules)


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
