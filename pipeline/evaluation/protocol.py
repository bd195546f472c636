"""How figures came about, in words; and what cannot be asked for."""

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

from pipeline.config.sections import EvaluateSettings
from pipeline.config.settings import Settings
from pipeline.errors import ConfigError


def describe(settings: Settings, run_date: date, length: int, weights: str) -> str:
    """The protocol, as it stands beside every figure.

    Args:
        settings: Of the evaluation.
        run_date: Ends the test of a time split.
        length: L, of the model.
        weights: Whose figures they are.
    """
    evaluate = settings.evaluate
    parts = [
        _split(settings, run_date),
        "full ranking",
        f"seen items {'masked' if evaluate.mask_seen else 'kept'}",
        f"max length {length}",
        weights,
    ]
    if evaluate.bootstrap:
        parts.append(
            f"95% intervals from {evaluate.bootstrap} resamples of users, "
            f"seed {settings.train.seed}"
        )
    return ", ".join(parts)


def refuse_large_k(evaluate: EvaluateSettings, n_items: int) -> None:
    """Refuse to ask for more items than there are.

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


def held_out_by(settings: Mapping[str, Any]) -> tuple[str | int, ...]:
    """`EvaluateSettings.held_out` of a bundle's own night, whose settings `bundle.json` holds.

    Bundles from before there was a choice name none: the default was all there was.
    """
    told = settings.get("evaluate", {})
    names = ("split", "test_days", "valid_days")
    return EvaluateSettings(**{name: told[name] for name in names if name in told}).held_out


def _split(settings: Settings, run_date: date) -> str:
    evaluate = settings.evaluate
    if evaluate.split == "leave_one_out":
        return "leave-one-out (last item)"
    test = run_date - timedelta(days=evaluate.test_days - 1)
    valid = test - timedelta(days=evaluate.valid_days)
    return (
        f"time split (test {test} to {run_date}, validation from {valid}, {settings.time_zone}; "
        "every item of the test is relevant)"
    )
