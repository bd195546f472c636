"""Which items each rule of `[score]` leaves out for everybody."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.config.score_section import ScoreSettings
from pipeline.errors import ConfigError
from pipeline.logs.id_lists import as_known, read_ids
from pipeline.rules.attributes import Attributes
from pipeline.rules.conditions import rows_that
from pipeline.rules.new_items import NewItems
from pipeline.schema import ITEM_ID, TIME

UNTRAINED = "untrained"
RETIRED = "score.retire_after_days"
ALLOW = "score.allow"
DENY = "score.deny"
WHERE = "score.where"


@dataclass(frozen=True)
class LeftOutItems:
    """The items that may not be recommended, by the rule that leaves them out.

    Attributes:
        by_rule: (V-1+M,) masks in index order from 1, by the name of the rule; M is the number of
            `NewItems.others`.
        n_unknown: The number of ids in the allow and deny files that the bundle does not know, nor
            are they of new items.
        new: The new items that files and condition let through.
    """

    by_rule: Mapping[str, NDArray[np.bool_]]
    n_unknown: int
    new: NewItems | None = None

    @property
    def eligible(self) -> NDArray[np.bool_]:
        """(V-1+M,) which items no rule leaves out."""
        return ~np.logical_or.reduce(list(self.by_rule.values()))

    def alone(self, rule: str) -> int:
        """The number of items that a rule leaves out and no other does."""
        others = [mask for name, mask in self.by_rule.items() if name != rule]
        return int(np.count_nonzero(self.by_rule[rule] & ~np.logical_or.reduce(others)))

    def rules_of(self, item: int) -> list[str]:
        """The rules that leave out the item of an index."""
        return [name for name, mask in self.by_rule.items() if mask[item - 1]]


def left_out_items(
    items: pa.Table,
    settings: ScoreSettings,
    retired_before: datetime | None = None,
    attributes: Attributes | None = None,
    new: NewItems | None = None,
) -> LeftOutItems:
    """The items that were not trained on, are retired, or are left out by a file or a condition.

    Args:
        items: The bundle's items, V-1 rows in index order from 1.
        settings: `allow`, `deny`, `accept_unknown_deny` and `where` are used.
        retired_before: Items that were last seen before this instant are retired; None for none.
        attributes: What is known of the items; needed where `where` is set.
        new: The new items.

    Raises:
        ConfigError: none of the denied items is known, or the condition cannot be used.
        InputError: a file of ids cannot be read.
        SchemaError: its ids are of another kind than the bundle's.
    """
    n_others = 0 if new is None else len(new.others)
    left_out = {UNTRAINED: np.append(items["popularity"].to_numpy() == 0, np.ones(n_others, bool))}
    if retired_before is not None:
        seen = pc.greater_equal(items["last_seen"], pa.scalar(retired_before, TIME))
        left_out[RETIRED] = np.append(~seen.fill_null(False).to_numpy(), np.zeros(n_others, bool))
    n_unknown = 0
    ids = items[ITEM_ID].combine_chunks()
    others = None if new is None else new.others[ITEM_ID].combine_chunks()
    every = ids if others is None else pa.concat_arrays([ids.cast(others.type), others])
    chosen: dict[str, NDArray[np.bool_]] = {}
    for rule, path in ((ALLOW, settings.allow), (DENY, settings.deny)):
        if path is None:
            continue
        known = as_known(read_ids(path, ITEM_ID, ids.type, "the bundle"), every)
        n_unknown += known.null_count
        if rule == DENY and not settings.accept_unknown_deny:
            _check_deny_file(known, path)
        listed = pc.is_in(every, value_set=known.drop_null()).to_numpy(zero_copy_only=False)
        chosen[rule] = listed == (rule == ALLOW)
    if settings.where is not None:
        assert attributes is not None
        chosen[WHERE] = rows_that(settings.where, attributes.table, WHERE)
        if new is not None:
            of_others = rows_that(settings.where, new.others, WHERE)
            chosen[WHERE] = np.append(chosen[WHERE], of_others)
    if new is not None:
        for mask in chosen.values():
            new = new.filter(mask[new.index - 1])
    left_out |= {rule: ~mask for rule, mask in chosen.items()}
    return LeftOutItems(left_out, n_unknown, new)


def _check_deny_file(known: pa.Array, path: str) -> None:
    """Check that some denied id is known: otherwise it is another catalogue's list, or misread."""
    if len(known) and known.null_count == len(known):
        raise ConfigError(
            "none of the ids in the deny file is an item of this model",
            path,
            found=f"{len(known)} other ids",
            remedy="Check the file, or set score.accept_unknown_deny = true.",
        )
