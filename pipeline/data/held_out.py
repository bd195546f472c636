"""Which events are held out from training; without torch, so that cache keys can be computed."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from pipeline.config.settings import Settings
from pipeline.dates import run_end


@dataclass(frozen=True)
class HeldOut:
    """The rule by which events are held out, and the instants of a time split.

    Attributes:
        rule: ``EvaluateSettings.held_out_for`` the targets.
        valid_from: The first instant of the validation, of a time split; None of leave-one-out.
        test_from: The first instant of the test, which ends with the run date.
        window: The time split in words; empty of leave-one-out.
        targets: Types of the events that are predicted; empty for all events.
    """

    rule: tuple[str | int, ...]
    valid_from: datetime | None = None
    test_from: datetime | None = None
    window: str = ""
    targets: tuple[str, ...] = ()


def held_out_events(settings: Settings, run_date: date) -> HeldOut:
    """What the settings hold out on a run date, the last day of a time split's test."""
    evaluate, time_zone, targets = (
        settings.evaluate,
        settings.time_zone,
        settings.event_types.targets,
    )
    if evaluate.split == "leave_one_out":
        return HeldOut(evaluate.held_out_for(targets), targets=targets)
    test = run_date - timedelta(days=evaluate.test_days - 1)
    valid = test - timedelta(days=evaluate.valid_days)
    return HeldOut(
        evaluate.held_out_for(targets),
        run_end(valid - timedelta(days=1), time_zone),
        run_end(test - timedelta(days=1), time_zone),
        f"test {test} to {run_date}, validation from {valid}, {time_zone}",
        targets,
    )
