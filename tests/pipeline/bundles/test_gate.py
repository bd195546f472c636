"""The gate: its decisions, its limits, and how sure they are of a difference between models."""

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bundles.gate import gate
from pipeline.bundles.gate_limits import findings
from pipeline.bundles.registry import RegisteredModel
from pipeline.config.guard_sections import GateSettings
from pipeline.errors import ConfigError, GateError
from pipeline.evaluation.metric_sums import MetricSums
from pipeline.evaluation.metrics import user_metrics
from pipeline.results import Check, Checked, Evaluated, Exported, Gated, PairedDifference
from pipeline.storage.locations import RunLocations, Warehouse

DAY, BEFORE = date(2026, 7, 2), date(2026, 7, 1)
V, K = 1001, 10
MISSED = K + 1  # as the rank of an item that is not in the list
USERS = 2_000
Ranks = np.ndarray[Any, np.dtype[np.int64]]


def evaluated(**ranks: Ranks) -> Evaluated:
    """What evaluate returns where the users' held-out items had these ranks, by recommender."""
    lists = torch.from_numpy(np.random.default_rng(0).integers(1, V, (len(ranks["model"]), K)))
    sums, first = {}, None
    for name, values in ranks.items():
        hits = torch.from_numpy(values)[:, None] == torch.arange(1, K + 1)
        metrics = user_metrics(hits, torch.ones(len(values), dtype=torch.int64), (K,))
        first = metrics[f"NDCG@{K}"] if first is None else first
        sums[name] = MetricSums((K,), V)
        sums[name].add(lists, metrics, first)
    means = {name: each.means(torch.ones(V, dtype=torch.int64)) for name, each in sums.items()}
    zeros = dict.fromkeys(means["model"], 0.0)
    return Evaluated(
        "as it was",
        len(lists),
        len(lists),
        means["model"],
        means.get("popularity", zeros),
        means.get("co_occurrence", zeros),
        champion=means.get("champion", {}),
        champion_version="before" if "champion" in ranks else None,
        differences={name: sums[name].difference(1000, 1) for name in ranks if name != "model"},
        headline_interval=sums["model"].headline_interval(1000, 1),
        n_items=V,
        champion_n_items=V if "champion" in ranks else 0,
    )  # fmt: skip


def ranked(users: int, seed: int) -> Ranks:
    """Ranks of a good model: NDCG@10 about .35, as one in two is not in the list."""
    ranks = np.random.default_rng(seed).geometric(0.25, users)
    return np.where(np.random.default_rng(seed + 1).random(users) < 0.45, MISSED, ranks)


def rival(ranks: Ranks, *, loss: float, retrained: float, seed: int) -> Ranks:
    """A model that ranks a share of the users anew, and whose NDCG@10 is lower by `loss`."""
    random = np.random.default_rng(seed)
    anew = random.random(len(ranks)) < retrained
    ranks = np.where(anew, ranked(len(ranks), seed + 17), ranks)
    gains = np.where(ranks <= K, 1 / np.log2(ranks + 1), 0)
    return np.where(random.random(len(ranks)) < loss / gains.mean(), MISSED, ranks)


def holds(found: Evaluated, **limits: Any) -> bool:
    return any(each.holds for each in findings(found, GateSettings(**limits)))


@given(
    st.lists(st.integers(1, MISSED), min_size=1, max_size=60),
    st.lists(st.integers(1, MISSED), min_size=1, max_size=60),
    st.sampled_from(["popularity", "co_occurrence", "none"]),
    st.sampled_from([0.0, 0.02, 1.0]),
    st.floats(0, 1),
)
def test_identical_models_are_never_held(
    ranks: list[int], popular: list[int], baseline: str, tolerance: float, limit: float
) -> None:
    """Whatever the limits, and also where both are below the baseline."""
    mine = np.array(ranks)
    found = evaluated(
        model=mine, champion=mine, popularity=np.resize(popular, len(mine)),
        co_occurrence=np.resize(popular[::-1], len(mine)),
    )  # fmt: skip
    assert found.differences["champion"] == PairedDifference(0, 0, 0)
    assert not holds(
        found, baseline=baseline, tolerance=tolerance, baseline_margin=limit,
        min_coverage=limit, max_most_listed=1 - limit,
    )  # fmt: skip


@pytest.mark.parametrize("retrained", [0.05, pytest.param(0.3, marks=pytest.mark.slow)])
def test_a_model_worse_by_twice_the_tolerance_is_held(retrained: float) -> None:
    tolerance = GateSettings().tolerance
    held, losses = 0, []
    for seed in range(100):
        champion = ranked(USERS, seed * 1000)
        worse = rival(champion, loss=2 * tolerance, retrained=retrained, seed=seed)
        found = evaluated(model=worse, champion=champion)
        losses.append(found.differences["champion"].mean)
        held += holds(found)
    assert np.mean(losses) == pytest.approx(-2 * tolerance, abs=0.003)
    assert held >= 99


@pytest.mark.parametrize("users", [100, 400])
def test_an_equally_good_model_is_seldom_held(users: int) -> None:
    held = 0
    for seed in range(80):
        champion = ranked(users, seed * 1000)
        found = evaluated(
            model=rival(champion, loss=0, retrained=0.2, seed=seed), champion=champion
        )
        held += holds(found)
    assert held <= 5  # 2.5% of them by chance


def test_a_loss_within_the_tolerance_is_borne_where_users_are_many() -> None:
    champion = ranked(100_000, 1)
    assert not holds(
        evaluated(model=rival(champion, loss=0.01, retrained=0.2, seed=1), champion=champion)
    )
    assert holds(
        evaluated(model=rival(champion, loss=0.025, retrained=0.2, seed=1), champion=champion)
    )


@given(st.lists(st.tuples(*[st.integers(1, MISSED)] * 3), min_size=1, max_size=50), st.randoms())
def test_the_order_of_users_does_not_matter(users: list[tuple[int, int, int]], random: Any) -> None:
    def of(rows: Sequence[tuple[int, int, int]]) -> tuple[Evaluated, list[Any]]:
        mine, other, popular = np.array(rows).T
        found = evaluated(model=mine, champion=other, popularity=popular)
        return found, findings(found, GateSettings())

    shuffled = list(users)
    random.shuffle(shuffled)
    (one, decided), (other, again) = of(users), of(shuffled)
    assert decided == again
    assert one.differences == other.differences


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["model", "interval", "difference", "low", "high"])
@pytest.mark.parametrize("enabled", [True, False])
def test_what_is_not_finite_is_held(value: float, place: str, enabled: bool) -> None:
    found = evaluated(model=ranked(50, 1), champion=ranked(50, 1), popularity=ranked(50, 1))
    if place == "model":
        broken = replace(found, model={**found.model, "MRR@10": value})
    elif place == "interval":
        broken = replace(found, headline_interval=(0.1, value))
    else:
        changed = replace(
            found.differences["champion"], **{place.replace("difference", "mean"): value}
        )
        broken = replace(found, differences={**found.differences, "champion": changed})
    (finding,) = findings(broken, GateSettings(enabled=enabled))
    assert finding.holds
    assert finding.message.startswith("not finite: ")
    unscored = replace(found, n_not_finite=7)
    (finding,) = findings(unscored, GateSettings(enabled=enabled))
    assert finding.holds
    assert "for 7 of 50 users" in finding.message


def test_the_reason_gives_the_figures() -> None:
    found = evaluated(model=ranked(50, 1), champion=ranked(50, 2))
    worse = replace(
        found,
        model=found.model | {"NDCG@10": 0.296},
        champion=found.champion | {"NDCG@10": 0.519},
        differences={"champion": PairedDifference(-0.223, -0.2449, -0.20102)},
    )
    (finding,) = findings(worse, GateSettings())
    assert finding.message == (
        "NDCG@10 .296 is below the champion's .519: difference -.223 "
        "(95% interval -.2449 to -.201), all of it below 0, and it begins below -.02 "
        "(gate.tolerance)"
    )
    assert finding.holds
    better = replace(worse, differences={"champion": PairedDifference(0.012, -0.0003, 0.03)})
    (finding,) = findings(better, GateSettings())
    assert "is not below" in finding.message
    assert "difference +.012 (95% interval -.0003 to +.03)" in finding.message
    assert not finding.holds


@pytest.mark.parametrize(
    ("low", "high", "held"),
    [(-0.03, -0.001, True), (-0.03, 0.0, False), (-0.02, -0.001, False), (-0.5, 0.4, False)],
)
def test_both_ends_of_the_interval_have_a_say(low: float, high: float, held: bool) -> None:
    found = evaluated(model=ranked(50, 1), champion=ranked(50, 2))
    mean = (low + high) / 2
    found = replace(found, differences={"champion": PairedDifference(mean, low, high)})
    assert holds(found) == held
    assert not holds(found, enabled=False)


def test_a_fall_from_what_the_champion_had_is_held() -> None:
    """As when logs are spoilt, where both models fall and their difference shows nothing."""
    spoilt = replace(
        evaluated(model=ranked(50, 1), champion=ranked(50, 1)),
        headline_interval=(0.25, 0.34),
        champion_then=0.519,
    )
    (finding,) = [each for each in findings(spoilt, GateSettings()) if each.holds]
    assert "(95% interval .25 to .34) is more than 25% below the .519" in finding.message
    assert not holds(spoilt, max_drop=1)
    assert not holds(spoilt, enabled=False)
    assert not holds(replace(spoilt, headline_interval=(0.25, 0.75 * 0.519)))
    assert not holds(replace(spoilt, champion_then=None))


BELOW = PairedDifference(-0.02, -0.03, -0.01)


@pytest.mark.parametrize("baseline", ["popularity", "co_occurrence"])
def test_a_model_below_a_baseline_is_held(baseline: str) -> None:
    found = evaluated(model=ranked(50, 1))
    found = replace(found, differences={baseline: BELOW})
    (finding,) = findings(found, GateSettings(baseline=baseline))
    assert finding.holds
    assert f"is below the floor, {baseline.replace('_', '-')}'s 0: difference" in finding.message
    assert not holds(found, baseline="none")
    unsure = replace(found, differences={baseline: PairedDifference(-0.02, -0.05, 0.01)})
    (finding,) = findings(unsure, GateSettings(baseline=baseline))
    assert not finding.holds
    assert finding.message.endswith("; it may be chance")
    assert holds(unsure, baseline=baseline, baseline_margin=0.011)
    # To serve a champion that is no better helps nobody.
    for mean, held in ((0.001, False), (-0.001, True)):
        beside = {baseline: BELOW, "champion": PairedDifference(mean, -0.01, 0.01)}
        assert holds(replace(found, champion=found.model, differences=beside), baseline=baseline) \
            == held  # fmt: skip


@pytest.mark.parametrize(
    ("model", "champion", "held"),
    [
        ({"MostListed@10": 0.96}, None, True),
        ({"MostListed@10": 0.94}, None, False),
        ({"MostListed@10": 0.96}, {"MostListed@10": 0.5}, True),
        ({"MostListed@10": 0.96}, {"MostListed@10": 0.99}, False),
        ({"Coverage@10": 0.003}, None, True),  # 3 of the 500 that 50 users could get, not 5
        ({"Coverage@10": 0.005}, None, False),
        ({"Coverage@10": 0.003}, {"Coverage@10": 0.2}, True),
        ({"Coverage@10": 0.003}, {"Coverage@10": 0.004}, False),
    ],
)
def test_collapsed_lists_are_held(
    model: dict[str, float], champion: dict[str, float] | None, held: bool
) -> None:
    ranks = ranked(50, 1)
    found = evaluated(model=ranks, **({"champion": ranks} if champion else {}))
    found = replace(
        found, model={**found.model, **model}, champion={**found.champion, **(champion or {})}
    )
    assert holds(found) == held
    assert any("have collapsed" in each.message for each in findings(found, GateSettings())) == (
        held or champion is not None
    )
    assert not holds(found, min_coverage=0, max_most_listed=1)
    assert not holds(replace(found, n_items=20))  # of which lists of 10 hold half


@pytest.mark.parametrize(
    ("model", "held"),
    [
        ({"MostListed@10": 0.976, "Coverage@10": 0.1}, False),  # of 30 users with a history 6
        ({"MostListed@10": 0.999, "Coverage@10": 0.1}, True),  # 29 of them
        ({"MostListed@10": 0.976, "Coverage@10": 0.002}, True),  # 2 items, of 310 possible ones
        ({"MostListed@10": 0.976, "Coverage@10": 0.004}, False),
    ],
)
def test_the_popular_list_of_users_without_a_history_is_no_collapse(
    model: dict[str, float], held: bool
) -> None:
    found = evaluated(model=ranked(1000, 1))
    found = replace(found, n_served=30, model={**found.model, **model})
    assert holds(found) == held
    assert not holds(replace(found, n_served=0))


def test_a_champion_that_cannot_be_compared_leaves_the_other_limits() -> None:
    found = replace(
        evaluated(model=ranked(50, 1), popularity=ranked(50, 1)),
        champion_version="before",
        not_compared="it was trained under another split",
    )
    (finding,) = findings(found, GateSettings())
    assert finding.message == (
        "the champion before is not compared: it was trained under another split"
    )
    assert not finding.holds
    assert holds(replace(found, differences={"popularity": BELOW}))


# From here on: decisions.

GOOD = evaluated(model=ranked(50, 1), champion=ranked(50, 1))
BAD = replace(GOOD, differences={"champion": PairedDifference(-0.2, -0.3, -0.1)})
HELD = Checked((Check("rows", "held", "no rows"),))


def decide(
    folder: Path,
    found: Evaluated | None = GOOD,
    *,
    checked: Checked | None = None,
    unfit: str | None = None,
    champion: str | None = "before",
    pinned: tuple[str, str] | None = None,
    force_publish: bool = False,
    **limits: Any,
) -> Gated:
    locations = RunLocations(Warehouse(str(folder)), folder / "work", DAY)
    models = locations.local_models
    exported = None
    if found is not None and unfit is None:
        exported = Exported(models / "mine", "mine", 0.0, 1, 0)
    registered = {
        name: RegisteredModel(run_date=day, model_version=version, path=version, decision=decision)
        for name, day, version, decision in (
            ("champion", BEFORE, champion, "promoted"),
            ("pinned", DAY, *(pinned or (None, None))),
        )
        if version
    }
    return gate(
        checked or Checked(), found, exported, unfit, GateSettings(**limits),
        registered.get("champion"), registered.get("pinned"), locations,
        force_publish=force_publish,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "decision", "serves"),
    [
        ({}, "promoted", "mine"),
        ({"champion": None}, "first", "mine"),
        ({"force_publish": True}, "promoted", "mine"),
        ({"found": BAD}, "held", "before"),
        ({"found": BAD, "tolerance": 0.5}, "promoted", "mine"),
        ({"found": BAD, "enabled": False}, "promoted", "mine"),
        ({"found": BAD, "force_publish": True}, "forced", "mine"),
        ({"found": None, "checked": HELD}, "held", "before"),
        ({"checked": HELD.overruled(), "force_publish": True}, "forced", "mine"),
        ({"unfit": "train: diverged"}, "held", "before"),
        ({"unfit": "train: diverged", "force_publish": True}, "held", "before"),
        ({"found": BAD, "pinned": ("mine", "forced")}, "forced", "mine"),
        ({"pinned": ("older", "rolled back")}, "rolled back", "older"),
    ],
)
def test_decisions(given: dict[str, Any], decision: str, serves: str, tmp_path: Path) -> None:
    gated = decide(tmp_path, **given)
    assert (gated.decision, gated.model_version) == (decision, serves)
    assert gated.bundle == tmp_path / "models" / serves
    assert gated.champion == given.get("champion", "before")
    has_none = "unfit" in given or given.get("found", GOOD) is None
    assert gated.candidate == (None if has_none else "mine")
    assert bool(gated.reasons) == (decision in ("held", "forced"))


def test_reasons_and_notes_are_told_apart(tmp_path: Path) -> None:
    held = decide(tmp_path, BAD, checked=HELD)
    assert held.reasons[0] == "no rows"
    assert "NDCG@10" in held.reasons[1]
    assert held.notes == ()
    promoted = decide(tmp_path)
    assert promoted.reasons == ()
    assert "is not below the champion's" in promoted.notes[0]


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ({"found": BAD}, "or publish in any case by --force-publish"),
        ({"found": None, "unfit": "train: diverged"}, "Mend the cause and run it again"),
    ],
)
def test_held_without_a_champion_there_is_nothing_to_serve(
    given: dict[str, Any], remedy: str, tmp_path: Path
) -> None:
    with pytest.raises(GateError, match=f"no champion.*{remedy}") as caught:
        decide(tmp_path, champion=None, **given)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("name", ["tolerance", "baseline_margin", "min_coverage"])
def test_limits_are_shares(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"gate\.{name}"):
        GateSettings(**{name: -0.1})
