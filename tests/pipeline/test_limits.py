"""The judgement of values: beside a limit, and beside what earlier runs recorded."""

import logging
from typing import Any

import pytest

from model.errors import ConfigError
from pipeline.config.guard_sections import CheckSettings
from pipeline.config.settings import Settings, load_settings
from pipeline.limits import Limits, log_failures
from pipeline.results import Check


def limits(earlier: list[float | None], **settings: Any) -> Limits:
    rows = [
        {"checks": [{"name": "users", "value": value}, {"name": "items", "value": 7.0}]}
        for value in earlier
    ]
    return Limits(CheckSettings(**settings), [{"checks": None}, *rows], "checks")


@pytest.mark.parametrize(("value", "outcome"), [(50.0, "passed"), (49.9, "held"), (0.0, "held")])
def test_a_fall_is_measured_by_the_median(value: float, outcome: str) -> None:
    judged = limits([1.0, 100.0, None, 120.0, 90.0, 100.0]).not_below_usual("users", value, "users")
    assert (judged.outcome, judged.value, judged.limit) == (outcome, value, 50.0)
    assert judged.message == f"users: {value:.3g} (usual 100, at least 50)"


@pytest.mark.parametrize(("value", "outcome"), [(100.3, "passed"), (100.31, "held")])
def test_a_rise_is_measured_by_the_median(value: float, outcome: str) -> None:
    given = limits([1.0, 100.0, 120.0], users={"limit": 0.3})
    assert given.not_above_usual("users", value, "users").outcome == outcome


@pytest.mark.parametrize("earlier", [[], [100.0, 100.0], [100.0, None, 100.0]])
def test_too_few_earlier_runs_pass_and_say_so(earlier: list[float | None]) -> None:
    judged = limits(earlier).not_below_usual("users", 0.0, "users")
    assert (judged.outcome, judged.limit) == ("passed", None)
    assert "too few earlier runs" in judged.message


def test_what_is_not_known_passes() -> None:
    assert limits([1.0, 1.0, 1.0]).not_above_usual("users", None, "users").outcome == "passed"


@pytest.mark.parametrize(("action", "outcome"), [("off", "passed"), ("warn", "warned")])
def test_a_check_can_be_off_or_warn(action: str, outcome: str) -> None:
    given = limits([9.0] * 3, users={"action": action})
    judged = given.not_below_usual("users", 1.0, "users")
    assert (judged.outcome, judged.value) == (outcome, 1.0)  # kept for later runs


def test_one_half_of_a_limit_can_be_set_everywhere(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fearec.toml"
    path.write_text('[checks]\nfreshness = {limit = 9}\nusers.action = "off"\n')
    monkeypatch.setenv("FEAREC_CHECKS__FRESHNESS__ACTION", "warn")
    settings = load_settings(path, ["checks.users.limit=0.7", "checks.items.action=off"])
    checks, default = settings.checks, Settings().checks
    assert (checks.freshness.limit, checks.freshness.action) == (9, "warn")
    assert (checks.users.limit, checks.users.action) == (0.7, "off")
    assert (checks.items.limit, checks.items.action) == (default.items.limit, "off")
    assert checks.coverage == default.coverage


@pytest.mark.parametrize(
    "given", ["freshness.limit=-1", "freshness.action=stop", "fresh.limit=1", "users=3"]
)
def test_a_wrong_limit_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="checks"):
        load_settings(None, [f"checks.{given}"])


def test_what_did_not_pass_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        log_failures([Check("users", "passed", "fine"), Check("items", "warned", "items: 3")])
    assert caplog.messages == ["warned: items: items: 3"]
