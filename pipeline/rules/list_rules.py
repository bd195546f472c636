"""The rules of `[score]` on whole lists, for one model's items: caps, promotions, new items."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config.rule_tables import PromotedSlots
from pipeline.config.score_section import ScoreSettings
from pipeline.dates import RunDay
from pipeline.results import NewItemCounts
from pipeline.rules.attributes import Attributes, single_values
from pipeline.rules.conditions import rows_that
from pipeline.rules.lists import Cap
from pipeline.rules.new_items import NewItems, PromotedNew, promoted_new
from pipeline.rules.promoted import Promoted
from pipeline.schema import PAD


@dataclass(frozen=True)
class ListRules:
    """Caps and promotions, in the order of the settings, and new items.

    Attributes:
        caps: The caps.
        promotions: The promotions.
        new: The new items, if they have places.
        n_without_similar: The number of new items that have no place, as no trained one is similar.
    """

    caps: tuple[Cap, ...]
    promotions: tuple[Promoted, ...]
    new: PromotedNew | None = None
    n_without_similar: int = 0

    @property
    def new_counts(self) -> NewItemCounts | None:
        """How many new items there are; None where they have no places."""
        if self.new is None:
            return None
        return NewItemCounts(len(self.new.items), self.n_without_similar)

    @property
    def promoted(self) -> tuple[Promoted, ...]:
        """All that has places of its own, in the order in which they are filled."""
        return self.promotions if self.new is None else (*self.promotions, self.new)

    def __bool__(self) -> bool:
        return bool(self.caps or self.promoted)

    def within(
        self,
        listed: NDArray[np.bool_],
        promotions: tuple[Promoted, ...] | None,
        new_places: tuple[int, ...],
    ) -> "ListRules":
        """The rules of some users.

        Args:
            listed: (V+M,) the items that they may get, also the new ones.
            promotions: In place of these, of such items alone; None for these.
            new_places: The places from 0 of new items.
        """
        if promotions is None:
            promotions = tuple(each.within(listed) for each in self.promotions)
        new = None
        if self.new is not None:
            new = replace(self.new.within(listed), places=new_places)
        caps = tuple(Cap.over(each.group, each.most, listed) for each in self.caps)
        return replace(self, caps=caps, promotions=promotions, new=new)


def list_rules(
    settings: ScoreSettings,
    attributes: Attributes | None,
    item_bias: NDArray[np.float32],
    popularity: NDArray[np.float64],
    new: NewItems | None = None,
    run_day: RunDay | None = None,
) -> ListRules:
    """The rules of the settings.

    Args:
        settings: `max_per`, `promotion`, and what `promoted_new` uses.
        attributes: What is known of the items, as `needed_attributes` has it.
        item_bias: (V,), what is added to the scores; -inf where an item is not eligible.
        popularity: (V,), the scores of users without history.
        new: The new items that may be recommended.
        run_day: The run date, for new items.

    Raises:
        ConfigError: an expression cannot be used, or a column is absent or has lists as values.
    """
    if attributes is None:
        return ListRules((), ())
    eligible = item_bias > -np.inf
    promoted, n_without = None, 0
    table, listed = attributes.table, eligible
    if new is not None:
        promoted, n_without = promoted_new(new, settings, attributes, popularity, run_day)
        table = pa.concat_tables([table, new.others], promote_options="permissive")
        listed = np.append(eligible, np.zeros(len(new.others), bool))
        listed[promoted.items] = True
    caps = [
        Cap.over(_groups(table, column), most, listed) for column, most in settings.max_per.items()
    ]
    promotions = promoted_items(
        settings.promotion, "score.promotion", attributes, item_bias, popularity
    )
    return ListRules(tuple(caps), promotions, promoted, n_without)


def promoted_items(
    promotions: Sequence[PromotedSlots],
    setting: str,
    attributes: Attributes | None,
    item_bias: NDArray[np.float32],
    popularity: NDArray[np.float64],
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
        where = rows_that(promotion.where, attributes.table, f"{setting} {number}")
        chosen = np.append(False, where)
        items = (chosen & (item_bias > -np.inf)).nonzero()[0]
        places = tuple(slot - 1 for slot in promotion.slots)
        found.append(Promoted(places, items, item_bias[items], popularity[items]))
    return tuple(found)


def _groups(table: pa.Table, column: str) -> NDArray[np.int64]:
    """(1 + rows,) the number of each item's value in a column; -1 for null and for PAD."""
    values = single_values(table, column, "score.max_per")
    codes = values.dictionary_encode().indices.fill_null(-1)
    return np.concatenate([np.full(PAD + 1, -1), codes.to_numpy()]).astype(np.int64)
