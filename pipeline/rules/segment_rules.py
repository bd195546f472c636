"""The rules of `[[score.segment]]` on items and lists, for one model's items."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.config.score_section import ScoreSettings
from pipeline.errors import ConfigError
from pipeline.rules.attributes import Attributes
from pipeline.rules.conditions import items_that
from pipeline.rules.list_rules import promoted_items
from pipeline.rules.promoted import Promoted


@dataclass(frozen=True)
class SegmentRules:
    """What may be recommended to the users of one segment.

    Attributes:
        top_k: K.
        eligible: (V,) bool, which items.
        promotions: Those of this segment alone; None where it has those of all users.
    """

    top_k: int
    eligible: NDArray[np.bool_]
    promotions: tuple[Promoted, ...] | None


def segment_rules(
    settings: ScoreSettings,
    attributes: Attributes | None,
    item_bias: NDArray[np.float32],
    popularity: NDArray[np.float32],
) -> tuple[SegmentRules, ...]:
    """The rules of each segment of the settings, in their order.

    Args:
        settings: `segment` and `top_k` are used.
        attributes: What is known of the items, as `needed_attributes` has it.
        item_bias: (V,), -inf where an item is eligible for nobody.
        popularity: (V,), the scores of users without history.

    Raises:
        ConfigError: an expression cannot be used, no item is left for a segment, or it asks for
            more than there are.
    """
    rules = []
    for segment in settings.segment:
        setting = f"score.segment {segment.name!r}"
        eligible = item_bias > -np.inf
        if segment.where is not None and attributes is not None:
            chosen = items_that(segment.where, attributes, f"{setting} where")
            eligible &= np.append(False, chosen)
            if not eligible.any():
                raise ConfigError(
                    "no item is left to recommend to the users of the segment",
                    f"{setting} where",
                    expected="at least one item that score.where and the files of ids leave",
                    found=repr(segment.where),
                )
        top_k = segment.top_k or settings.top_k
        if top_k > len(item_bias) - 1:
            raise ConfigError(
                "more recommendations requested than there are items",
                f"{setting} top_k",
                expected=f"at most {len(item_bias) - 1}",
                found=str(top_k),
            )
        promotions = None
        if segment.promotion is not None:
            bias = np.where(eligible, item_bias, -np.inf).astype(np.float32)
            promotions = promoted_items(
                segment.promotion, f"{setting} promotion", attributes, bias, popularity
            )
        rules.append(SegmentRules(top_k, eligible, promotions))
    return tuple(rules)
