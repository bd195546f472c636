"""The rules of `[[score.segment]]` on items and lists, for one model's items."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.config.score_section import ScoreSettings
from pipeline.errors import ConfigError
from pipeline.rules.attributes import Attributes
from pipeline.rules.conditions import rows_that
from pipeline.rules.list_rules import promoted_items
from pipeline.rules.new_items import NewItems
from pipeline.rules.promoted import Promoted


@dataclass(frozen=True)
class SegmentRules:
    """What may be recommended to the users of one segment.

    Attributes:
        top_k: K.
        chosen: (V+M,) bool, for which items, also new ones, its `where` is true.
        promotions: Those of this segment alone; None where it has those of all users.
        new_places: The places from 0 of new items.
    """

    top_k: int
    chosen: NDArray[np.bool_]
    promotions: tuple[Promoted, ...] | None
    new_places: tuple[int, ...]


def segment_rules(
    settings: ScoreSettings,
    attributes: Attributes | None,
    item_bias: NDArray[np.float32],
    popularity: NDArray[np.float64],
    new: NewItems | None = None,
) -> tuple[SegmentRules, ...]:
    """The rules of each segment of the settings, in their order.

    Args:
        settings: `segment`, `top_k`, `promotion` and `new_items` are used.
        attributes: What is known of the items, as `needed_attributes` has it.
        item_bias: (V,), -inf where an item is eligible for nobody.
        popularity: (V,), the scores of users without history.
        new: The new items that may be recommended.

    Raises:
        ConfigError: an expression cannot be used, no item is left for a segment, or it asks for
            more than there are.
    """
    rules, n_items = [], len(item_bias)
    for number, segment in enumerate(settings.segment, 1):
        own, setting = settings.of_segment(number), f"score.segment {segment.name!r}"
        chosen = np.ones(n_items + (0 if new is None else len(new.others)), bool)
        bias = item_bias
        if segment.where is not None and attributes is not None:
            where = f"{setting} where"
            chosen[:n_items] = np.append(False, rows_that(segment.where, attributes.table, where))
            if new is not None:
                chosen[new.index] = rows_that(segment.where, new.table, where)
            bias = np.where(chosen[:n_items], item_bias, -np.inf).astype(np.float32)
            if not (bias > -np.inf).any():
                raise ConfigError(
                    "no item is left to recommend to the users of the segment",
                    where,
                    expected="at least one item that score.where and the files of ids leave",
                    found=repr(segment.where),
                )
        if own.top_k > n_items - 1:
            raise ConfigError(
                "more recommendations requested than there are items",
                f"{setting} top_k",
                expected=f"at most {n_items - 1}",
                found=str(own.top_k),
            )
        promotions = None
        if segment.promotion is not None:
            promotions = promoted_items(
                segment.promotion, f"{setting} promotion", attributes, bias, popularity
            )
        rules.append(SegmentRules(own.top_k, chosen, promotions, own.new_item_places))
    return tuple(rules)
