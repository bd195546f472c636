"""The champion beside a run's own model: on the same users and held-out events of tonight.

Both are measured with weights that never saw these events. The champion's are its
`held_out.safetensors`, from before its refit, which is fair for this reason: they were trained on
an earlier run date, without what was held out then. Under leave-one-out a user's last item of
tonight either was that user's last item then, and held out, or did not exist yet; of a time split,
tonight's test begins no earlier than the test of then. What those weights started from was held to
the same rule. So it takes the same rule of the split and the same filter of users and items, as
another one lets other events be the last, and a champion that knows nothing after the run date.
`obstacle` says where this is not so; such a champion is not measured, because it would look better
than it is. (A user whose last event was withdrawn since then is the exception that remains: the
champion may have learned from the event before.)

The champion may have been made of other hyper-parameters: its network is built by those in its own
`bundle.json`. It may know fewer items, or know them by other indices: items are matched by their
ids, and what it does not know is left out of its histories, cannot be in its lists, and is missed
in the test, as it would be if it served tonight.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from model.config import FEARecConfig
from model.training.weights import load_network
from pipeline.bundles.bundle import HELD_OUT_WEIGHTS, Bundle
from pipeline.bundles.description import BUNDLE_INPUTS
from pipeline.config.sections import EvaluateSettings, PrepareSettings
from pipeline.data.held_out import HeldOut
from pipeline.data.prepared import are_of_types, read_vocabulary
from pipeline.data.splits import Split
from pipeline.errors import SchemaError
from pipeline.evaluation.baselines import Popularity
from pipeline.evaluation.bundle_indices import in_bundle_indices
from pipeline.evaluation.evaluator import RankerGroup, RankingProtocol
from pipeline.evaluation.protocol import rule_of
from pipeline.evaluation.rankers import ByScores, NetworkScorer
from pipeline.logs.id_lists import check_same_kind
from pipeline.results import Prepared
from pipeline.results.evaluated import headline_metric
from pipeline.schema import ITEM_ID
from pipeline.storage.prepared_folder import event_type_names

CHAMPION = "champion"


def obstacle(
    champion: Bundle, held_out: HeldOut, prepared: Prepared, limits: PrepareSettings
) -> str | None:
    """Why a champion cannot be measured fairly beside a run's own model; None where it can.

    Args:
        champion: Of an earlier run date.
        held_out: The events of tonight to rank.
        prepared: Tonight's data.
        limits: Tonight's filter of users and items.
    """
    description = champion.description
    settings = description.settings
    if HELD_OUT_WEIGHTS not in description.files:
        return "its bundle lacks the weights from before its refit"
    if rule_of(settings) != held_out.rule:
        return "it was trained under another split, so it may have learned what is held out now"
    if _given(settings.get("prepare", {})) != _given(limits.model_dump(mode="json")):
        return "it was trained on other users and items (`[prepare]` has changed)"
    if description.data.last_event > prepared.last_event:
        until = f"{description.data.last_event:%Y-%m-%d %H:%M} UTC"
        return f"it was trained on events up to {until}, after the last one of this run"
    types = description.input_types
    names = event_type_names(prepared.folder)
    if types and (names is None or not set(types) & set(names.to_pylist())):
        return f"it sees events of the types {', '.join(types)}, and this run has none of these"
    ids, mine = champion.items()[ITEM_ID].type, read_vocabulary(prepared.folder).type
    try:
        check_same_kind(mine, str(prepared.folder), ids, str(champion.path))
    except SchemaError:
        return f"its item ids are of another type ({ids} instead of {mine})"
    return None


def champion_group(
    champion: Bundle, split: Split, prepared: Prepared, ranking: RankingProtocol
) -> RankerGroup:
    """The champion as a ranker, with the run's events in its own indices.

    Args:
        champion: One without an `obstacle`.
        split: Of the run's events, in the run's indices.
        prepared: The run's vocabulary.
        ranking: That of the run's own model.
    """
    config = FEARecConfig(**champion.description.hyper_parameters)
    network = load_network(config, champion.path / HELD_OUT_WEIGHTS)
    items = in_bundle_indices(split.histories.items, prepared, champion)
    histories = replace(split.histories, items=items, is_input=inputs_of(champion, prepared))
    own = replace(split, histories=histories)
    own = own.without((items >= config.n_items) & ~own.in_test)
    return RankerGroup(
        {CHAMPION: ByScores(NetworkScorer(network))},
        own,
        Popularity.learn(own.before(own.valid_from), config.n_items),
        replace(ranking, n_items=config.n_items, length=config.MAX_ITEM_LIST_LENGTH),
    )


def inputs_of(champion: Bundle, prepared: Prepared) -> Tensor | None:
    """Which of a run's events a bundle's model sees, bool (N,); None for all.

    Raises:
        ConfigError: it sees events of some types, and the run's have none of these.
    """
    types = champion.description.input_types
    return are_of_types(prepared.folder, types, BUNDLE_INPUTS) if types else None


def headline_then(champion: Bundle, evaluation: EvaluateSettings) -> float | None:
    """The headline metric that a champion without an `obstacle` had on its own run date.

    Args:
        champion: Whose `bundle.json` has its metrics.
        evaluation: The protocol of tonight.

    Returns:
        The metric; None where it was measured under another protocol.
    """
    description = champion.description
    before = description.settings.get("evaluate", {})
    mask_seen = before.get("mask_seen", evaluation.mask_seen)
    if (tuple(mask_seen) if isinstance(mask_seen, list) else mask_seen) != evaluation.mask_seen:
        return None
    found = description.metrics.get("model", {}).get(headline_metric(evaluation.topk))
    return found if isinstance(found, float) else None


def _given(limits: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in limits.items() if value is not None}
