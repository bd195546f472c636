"""The rules of `[score]` that leave out items for everybody, for a run date and its model."""

import pyarrow as pa

from pipeline.config.settings import Settings
from pipeline.dates import days_before
from pipeline.errors import ConfigError
from pipeline.logs.id_lists import check_same_kind
from pipeline.related.running_top import Integers
from pipeline.rules.attributes import needed_attributes
from pipeline.runner.prepared_runs import ServedRun
from pipeline.schema import ITEMS_FILE
from pipeline.scoring.item_rules import LeftOutItems, left_out_items
from pipeline.scoring.prepared_reader import PreparedHistories


def left_out_on(run: ServedRun, settings: Settings) -> LeftOutItems:
    """The items that the settings leave out for everybody on a run date.

    When an item was last seen is known from the prepared histories of the run date, as it is for
    the lists; where they are not on this machine, from the events that the model was trained on.

    Args:
        run: The run date.
        settings: `allow`, `deny`, `where` and `retire_after_days` of `score`, and `items.path`.

    Raises:
        ConfigError: a rule cannot be used.
        InputError: a file of ids or the items table cannot be read.
        SchemaError: its ids are of another kind than the model's, or its columns cannot be used.
    """
    # The lists' run has judged the deny file, which may name new items alone.
    score = settings.score.model_copy(update={"accept_unknown_deny": True})
    items = _seen_by_then(run) if score.where or score.retire_after_days else run.items
    return left_out_items(
        items,
        score,
        days_before(run.locations.run_date, score.retire_after_days, settings.time_zone),
        needed_attributes(items, score, settings.items.path),
    )


def check_any_offered(offered: Integers, left_out: LeftOutItems, where: str) -> None:
    """Check that rules leave some of the items.

    Raises:
        ConfigError: they leave none; the error names the rules.
    """
    if len(offered):
        return
    rules = [name for name, mask in left_out.by_rule.items() if mask.any()]
    raise ConfigError(
        "no item is left: rules of [score] leave out all of them",
        where,
        found=", ".join(rules),
        remedy="Change the rules, or override them for this command, as in --set score.where=''.",
    )


def _seen_by_then(run: ServedRun) -> pa.Table:
    folder = run.locations.prepared
    if not (folder / ITEMS_FILE).exists():
        return run.items
    source = PreparedHistories(folder, None)
    kinds = source.types.item, source.where, run.item_ids.type, f"bundle {run.bundle.path}"
    check_same_kind(*kinds)
    return source.with_last_seen(run.items)
