"""The text of the evaluation protocol, and the check of topk."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.config.event_types_section import EventTypeSettings
from pipeline.config.sections import EvaluateSettings
from pipeline.data.held_out import HeldOut
from pipeline.errors import ConfigError


def describe(
    evaluation: EvaluateSettings, held_out: HeldOut, seed: int, length: int, weights: str
) -> str:
    """The protocol as text, which stands beside every metric.

    Args:
        evaluation: The protocol.
        held_out: The events that are ranked.
        seed: Of the bootstrap.
        length: L, of the model.
        weights: Which weights were measured.
    """
    kinds = _of(held_out.targets)
    rule = f"leave-one-out (last item{kinds})"
    if held_out.window:
        rule = f"time split ({held_out.window}; every item{kinds or ' of the test'} is relevant)"
    parts = [
        rule,
        "full ranking",
        f"seen items {'masked' if evaluation.mask_seen else 'kept'}{_of(evaluation.seen_types)}",
        f"max length {length}",
        weights,
    ]
    if evaluation.bootstrap:
        parts.append(f"95% intervals from {evaluation.bootstrap} resamples of users, seed {seed}")
    return ", ".join(parts)


def _of(types: Sequence[str]) -> str:
    return f" of events of type {' or '.join(types)}" if types else ""


def check_topk(evaluate: EvaluateSettings, n_items: int) -> None:
    """Check that no list is longer than the catalogue.

    Args:
        evaluate: Holds every k.
        n_items: V, PAD included.

    Raises:
        ConfigError: a k is above V - 1.
    """
    if max(evaluate.topk) > n_items - 1:
        raise ConfigError(
            "a list cannot be longer than the catalogue",
            "evaluate.topk",
            expected=f"at most V-1 = {n_items - 1}",
            found=str(max(evaluate.topk)),
        )


def rule_of(settings: Mapping[str, Any]) -> tuple[str | int, ...]:
    """The rule of the split of the run that made a bundle, from its settings in `bundle.json`.

    Bundles from before there was a choice name none: only the default existed.
    """
    given = settings.get("evaluate", {})
    names = ("split", "test_days", "valid_days")
    evaluate = EvaluateSettings(**{name: given[name] for name in names if name in given})
    targets = EventTypeSettings(**settings.get("event_types", {})).targets
    return evaluate.held_out_for(targets)
