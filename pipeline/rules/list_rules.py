"""The rules of `[score]` on whole lists, for one model's items: caps and promotions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config.rule_tables import PromotedSlots
from pipeline.config.score_section import ScoreSettings
from pipeline.errors import ConfigError
from pipeline.rules.attributes import Attributes
from pipeline.rules.conditions import items_that
from pipeline.rules.lists import Cap
from pipeline.rules.promoted import Promoted
from pipeline.schema import PAD


@dataclass(frozen=True)
class ListRules:
    """Caps and promotions, in the order of the settings.

    Attributes:
        caps: The caps.
        promotions: The promotions.
    """

    caps: tuple[Cap, ...]
    promotions: tuple[Promoted, ...]

    def __bool__(self) -> bool:
        return bool(self.caps or self.promotions)

    def within(
        self, eligible: NDArray[np.bool_], promotions: tuple[Promoted, ...] | None
    ) -> "ListRules":
        """The rules of some users.

        Args:
            eligible: (V,) the items that they may get.
            promotions: In place of these, of eligible items alone; None for these.
        """
        if promotions is None:
            promotions = tuple(each.within(eligible) for each in self.promotions)
        caps = tuple(Cap.over(each.group, each.most, eligible) for each in self.caps)
        return ListRules(caps, promotions)


def list_rules(
    settings: ScoreSettings,
    attributes: Attributes | None,
    item_bias: NDArray[np.float32],
    popularity: NDArray[np.float32],
) -> ListRules:
    """The rules of the settings.

    Args:
        settings: `max_per` and `promotion` are used.
        attributes: What is known of the items, as `needed_attributes` has it.
        item_bias: (V,), what is added to the scores; -inf where an item is not eligible.
        popularity: (V,), the scores of users without history.

    Raises:
        ConfigError: an expression cannot be used, or a column is absent or has lists as values.
    """
    if attributes is None:
        return ListRules((), ())
    eligible = item_bias > -np.inf
    caps = [
        Cap.over(_groups(attributes.table, column), most, eligible)
        for column, most in settings.max_per.items()
    ]
    promotions = promoted_items(
        settings.promotion, "score.promotion", attributes, item_bias, popularity
    )
    return ListRules(tuple(caps), promotions)


def promoted_items(
    promotions: Sequence[PromotedSlots],
    setting: str,
    attributes: Attributes | None,
    item_bias: NDArray[np.float32],
    popularity: NDArray[np.float32],
) -> tuple[Promoted, ...]:
    """The items of promotions.

    Args:
        promotions: The promotions of one setting.
        setting: Its name, for errors.
        attributes: As for `list_rules`; None only where there are no promotions.
        item_bias: As for `list_rules`.
        popularity: As for `list_rules`.

    Raises:
        ConfigError: an expression cannot be used.
    """
    if attributes is None:
        return ()
    found = []
    for number, promotion in enumerate(promotions, 1):
        chosen = np.append(False, items_that(promotion.where, attributes, f"{setting} {number}"))
        items = (chosen & (item_bias > -np.inf)).nonzero()[0]
        places = tuple(slot - 1 for slot in promotion.slots)
        found.append(Promoted(places, items, item_bias[items], popularity[items]))
    return tuple(found)


def _groups(table: pa.Table, column: str) -> NDArray[np.int64]:
    """(V,) the number of each item's value in a column; -1 for null and for PAD."""
    if column not in table.column_names:
        raise ConfigError(
            f"the items table has no column {column}",
            "score.max_per",
            expected=f"one of {', '.join(table.column_names)}",
        )
    values = table[column].combine_chunks()
    if pa.types.is_nested(values.type):
        raise ConfigError(
            f"a cap on {column}, whose values are no single ones",
            "score.max_per",
            expected="a column of texts, numbers, dates or booleans",
            found=str(values.type),
        )
    codes = values.dictionary_encode().indices.fill_null(-1)
    return np.concatenate([np.full(PAD + 1, -1), codes.to_numpy()]).astype(np.int64)
