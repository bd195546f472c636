"""The limits of the gate, on the metrics of a run's own model, the challenger.

**Which end of the interval decides.** Let d be the challenger's NDCG@10 less the champion's, with
its 95% interval from resampling users in pairs. Neither end alone will do. With the upper end (held
if it is below -tolerance, so that the loss is proven to be too large) a model that is worse by
twice the tolerance passes too often where users are few: with 2,000 users, whose differences have
a standard deviation of .3, in one night of seven. With the lower end (held if it is below
-tolerance, so that the loss is not proven to be small) nothing bad passes, but on the 400 users of
a small data set the interval reaches .015 to either side, and one equally good model of four is
held. So both ends have a say: the challenger is held if its whole interval is below 0, so that it
is worse and not just unlucky, and the interval begins below -tolerance, so that the loss may be too
large to bear.

- An identical model has d = 0 for every user and the interval 0 to 0: it is never held.
- A model worse by twice the tolerance t is held if d's upper end is below 0, which fails with a
  probability below 1% up to a standard error of 2 t / 4.3, as 2,000 users have it at standard
  deviations up to .41. Measured from night to night: .15.
- An equally good model on small data is held in at most 2.5% of nights: when all of its interval
  is below 0 by chance.
- With many users, where the interval is narrow, the tolerance alone decides.

**Spoilt events.** A day of shuffled item ids spoils what both models are measured on, so their
difference shows nothing; but their level falls, by half on the sample, where it differs by a tenth
from one good night to the next. So the challenger is held too if its whole interval is further than
``max_drop`` below what the champion had on its own run date. This limit is about the events and not
about the models: the champion, which has not learned from them, serves even if it fell likewise.

**Limits that the champion breaks too.** A held run serves the champion, and to serve what is no
better helps nobody. So a collapse of the lists holds a run only if the champion's lists have not
collapsed, and a baseline only if the champion is better than the challenger: for this reason, too,
identical models are never held. Where there is no champion, or none that can be compared, these
limits are absolute.

Nothing here depends on the order of users: metrics and differences come from sorted distinct
values (`pipeline.evaluation.metric_sums`). A comparison with NaN is false, so every metric is
looked at first, and a model with any that is not finite is held.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline.config.guard_sections import GateSettings
from pipeline.results import Evaluated, PairedDifference

_NAMES = {"popularity": "popularity", "co_occurrence": "co-occurrence"}


@dataclass(frozen=True)
class Finding:
    """What the gate found about one limit.

    Attributes:
        message: The figures beside the limit, in one sentence.
        holds: Whether it holds the run.
    """

    message: str
    holds: bool


def findings(evaluated: Evaluated, gate: GateSettings) -> list[Finding]:
    """What the challenger's metrics say against it, and how it compares with the champion.

    Args:
        evaluated: The challenger's metrics, the champion's and the baselines'.
        gate: The limits.
    """
    if not_finite := _not_finite(evaluated):
        return [Finding(not_finite, holds=True)]
    if not gate.enabled:
        return []
    return [
        *_beside_champion(evaluated, gate),
        *_fallen(evaluated, gate),
        *_above_baseline(evaluated, gate),
        *_collapsed(evaluated, gate),
    ]


def _not_finite(evaluated: Evaluated) -> str | None:
    if evaluated.n_not_finite:
        return (
            f"the model has scores that are not finite numbers, for {evaluated.n_not_finite:,} of "
            f"{evaluated.n_users:,} users"
        )
    names = [name for name, value in evaluated.model.items() if not math.isfinite(value)]
    if not all(map(math.isfinite, evaluated.headline_interval)):
        names.append(f"the interval of {evaluated.headline[0]}")
    for name, each in evaluated.differences.items():
        if not all(map(math.isfinite, (each.mean, each.low, each.high))):
            names.append(f"the difference from {name}")
    return f"not finite: {', '.join(names)}" if names else None


def _beside_champion(evaluated: Evaluated, gate: GateSettings) -> Iterator[Finding]:
    if evaluated.not_compared:
        message = f"the champion {evaluated.champion_version} is not compared: "
        yield Finding(message + evaluated.not_compared, holds=False)
    difference = evaluated.differences.get("champion")
    if difference is None:
        return
    holds = difference.high < 0 and difference.low < -gate.tolerance
    name = evaluated.headline[0]
    is_beside = "is below" if difference.mean < 0 else "is not below"
    message = (
        f"{name} {_figure(evaluated.model[name])} {is_beside} the champion's "
        f"{_figure(evaluated.champion[name])}: {_interval(difference)}, "
        + ("all of it below 0, and it begins below" if holds else "which may begin at")
        + f" -{_figure(gate.tolerance)} (gate.tolerance)"
    )
    yield Finding(message, holds)


def _fallen(evaluated: Evaluated, gate: GateSettings) -> Iterator[Finding]:
    then, (low, high) = evaluated.champion_then, evaluated.headline_interval
    if then is None or high >= (1 - gate.max_drop) * then:
        return
    name = evaluated.headline[0]
    message = (
        f"{name} {_figure(evaluated.model[name])} (95% interval {_figure(low)} to {_figure(high)}) "
        f"is more than {gate.max_drop:.0%} below the {_figure(then)} that the champion had on its "
        f"own run date (now {_figure(evaluated.champion[name])}): the events of this run are not "
        "like those before; look at the logs"
    )
    yield Finding(message, holds=True)


def _above_baseline(evaluated: Evaluated, gate: GateSettings) -> Iterator[Finding]:
    difference = evaluated.differences.get(gate.baseline)
    if difference is None or difference.mean >= gate.baseline_margin:
        return
    name = evaluated.headline[0]
    baseline = getattr(evaluated, gate.baseline)[name]
    margin = f" and a margin of {_figure(gate.baseline_margin)}" if gate.baseline_margin else ""
    message = (
        f"{name} {_figure(evaluated.model[name])} is below the floor, "
        f"{_NAMES[gate.baseline]}'s {_figure(baseline)}{margin}: {_interval(difference)}"
    )
    champion = evaluated.differences.get("champion")
    if difference.high >= gate.baseline_margin:
        yield Finding(f"{message}; it may be chance", holds=False)
    else:
        yield _unless(champion is not None and champion.mean >= 0, message)


def _collapsed(evaluated: Evaluated, gate: GateSettings) -> Iterator[Finding]:
    k = evaluated.headline_k
    if 2 * k > evaluated.n_items - 1 or not evaluated.n_served:
        return  # lists of half of the catalogue overlap whatever the model
    share, its_share = (
        _most_listed(evaluated, each) for each in (evaluated.model, evaluated.champion)
    )
    beside = f", with the champion of {its_share:.1%}" if evaluated.champion else ""
    if share > gate.max_most_listed:
        users = "users" if evaluated.n_served == evaluated.n_users else "users with a history"
        message = (
            f"the lists have collapsed: one item is in the top {k} of {share:.1%} of {users}"
            f"{beside}; at most {gate.max_most_listed:.1%} are allowed"
        )
        yield _unless(its_share > gate.max_most_listed, message)
    found, least = _coverage(evaluated, evaluated.model, evaluated.n_items, gate)
    if found < least:
        message = (
            f"the lists have collapsed: everybody's top {k} hold {found:,} items in all, at least "
            f"{least:,} are expected"
        )
        also = False
        if evaluated.champion:
            its, wanted = _coverage(evaluated, evaluated.champion, evaluated.champion_n_items, gate)
            also = its < wanted
        yield _unless(also, message)


def _most_listed(evaluated: Evaluated, metrics: Mapping[str, float]) -> float:
    """The share of the served users whose lists hold the same item, at least.

    The others, without a history, all have the same popular list, whatever the model: they do not
    count, though the item may be in that list, too.
    """
    share = metrics.get(f"MostListed@{evaluated.headline_k}", 0.0)
    others = evaluated.n_users - evaluated.n_served
    return max(0.0, (share * evaluated.n_users - others) / evaluated.n_served)


def _coverage(
    evaluated: Evaluated, metrics: Mapping[str, float], n_items: int, gate: GateSettings
) -> tuple[int, int]:
    """How many items are in lists, and in how many there have to be: of those that could be."""
    k, real = evaluated.headline_k, n_items - 1
    lists = min(evaluated.n_served + 1, evaluated.n_users)  # all without a history have the same
    reachable = min(real, lists * k)
    return round(metrics[f"Coverage@{k}"] * real), math.ceil(gate.min_coverage * reachable)


def _unless(no_better: bool, message: str) -> Finding:
    if no_better:
        return Finding(f"{message}; the champion is no better", holds=False)
    return Finding(message, holds=True)


def _interval(difference: PairedDifference) -> str:
    return (
        f"difference {_figure(difference.mean, sign=True)} "
        f"(95% interval {_figure(difference.low, sign=True)} to "
        f"{_figure(difference.high, sign=True)})"
    )


def _figure(value: float, *, sign: bool = False) -> str:
    """A share in four decimals at most, without a leading zero: .296."""
    text = f"{abs(value):.4f}".rstrip("0").rstrip(".")
    text = text.removeprefix("0") or "0"
    if text == "0":
        return text
    return f"{'-' if value < 0 else '+' if sign else ''}{text}"
