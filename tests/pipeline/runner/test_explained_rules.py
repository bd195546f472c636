"""`fearec recommend USER --explain ITEM`: the reasons `filtered` and `seen`, rule by rule."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from tests.pipeline.runner.test_explain import HISTORIES, ITEMS, ask, night, published, reason

__all__ = ["night"]  # a fixture

PLACED = ("listed", "capped", "outranked")


def pairs(name: str, *rows: tuple[int, str]) -> str:
    """A file of users and items."""
    lines = "".join(f"{user},{item}\n" for user, item in rows)
    Path(name).write_text("user_id,item_id\n" + lines)
    return name


@pytest.mark.parametrize(
    ("rules", "item", "rule"),
    [
        ({"deny": "deny.txt", "where": None}, "i8", "score.deny"),
        ({"allow": "allow.txt"}, "i3", "score.allow"),
        ({}, "i8", "score.where"),
        ({"retire_after_days": 30}, "i7", "score.retire_after_days"),
    ],
)
def test_an_item_that_a_rule_keeps_from_everybody_is_filtered_by_it(
    rules: dict[str, Any], item: str, rule: str, night: Callable[..., None]
) -> None:
    night(**rules)
    found = reason(0, item)
    assert (found["name"], found["details"]) == ("filtered", {"rule": rule})
    assert reason(2, item)["details"] == {"rule": rule}  # a user without a known item


def test_an_item_that_is_no_candidate_of_the_user_is_filtered(night: Callable[..., None]) -> None:
    file = pairs("candidates.csv", (0, "i3"), (0, "i4"), (1, "i6"), (2, "i4"))
    night(candidates=file)
    assert reason(0, "i6") == {
        "name": "filtered",
        "text": "score.candidates: candidates.csv does not list it for this user",
        "details": {"rule": "score.candidates"},
    }
    assert reason(1, "i4")["details"] == {"rule": "score.candidates"}
    assert reason(2, "i6")["details"] == {"rule": "score.candidates"}
    ranks = {item: reason(0, item)["details"] for item in ("i3", "i4")}
    assert {each["rank"] for each in ranks.values()} == {1, 2}
    assert {each["n_ranked"] for each in ranks.values()} == {2}
    assert {row["item_id"] for row in published(0)} == {"i3", "i4"}
    assert reason(2, "i4")["name"] == "listed"


def test_a_user_without_candidates_gets_no_item(night: Callable[..., None]) -> None:
    night(candidates=pairs("candidates.csv", (0, "i3")))
    for item in set(ITEMS[:7]) - set(HISTORIES[3]):
        assert reason(3, item)["details"] == {"rule": "score.candidates"}


def test_an_item_that_is_excluded_for_the_user_is_filtered(night: Callable[..., None]) -> None:
    night()
    listed = published(0)[0]["item_id"]
    night(exclude=pairs("exclude.csv", (0, listed), (2, "i1")))
    assert reason(0, listed) == {
        "name": "filtered",
        "text": "score.exclude: exclude.csv lists it for this user",
        "details": {"rule": "score.exclude"},
    }
    assert reason(2, "i1")["details"] == {"rule": "score.exclude"}
    assert reason(1, listed)["name"] in PLACED
    assert reason(2, "i3")["name"] in PLACED


def test_every_rule_that_keeps_an_item_from_a_user_is_a_reason(night: Callable[..., None]) -> None:
    night(
        candidates=pairs("candidates.csv", (0, "i3"), (0, "i4")),
        exclude=pairs("exclude.csv", (0, "i1"), (0, "i8"), (0, "i4")),
        deny="deny.txt",
    )
    by_rule = {"score.deny", "score.where", "score.candidates", "score.exclude"}
    reasons = ask(0, "i8")["reasons"]
    assert {each["name"] for each in reasons} == {"filtered"}
    assert {each["details"]["rule"] for each in reasons} == by_rule
    assert len(reasons) == 4
    assert [each["name"] for each in ask(0, "i1")["reasons"]] == ["seen", "filtered", "filtered"]
    assert reason(0, "i4")["details"] == {"rule": "score.exclude"}


def test_a_file_of_pairs_that_has_changed_since_is_said(night: Callable[..., None]) -> None:
    night(exclude=pairs("exclude.csv", (0, "i4"), (1, "i5")))
    pairs("exclude.csv", (1, "i5"))
    assert "exclude.csv" in ask(0, "i4")["changed"]


def test_an_item_that_the_condition_of_the_users_segment_leaves_out_is_filtered(
    night: Callable[..., None],
) -> None:
    Path("few.txt").write_text("0\n2\n")
    night(segment=[{"name": "few", "users": "./few.txt", "where": "item_id <> 'i4'"}])
    for user in (0, 2):
        assert reason(user, "i4") == {
            "name": "filtered",
            "text": "not true for it is where of the user's segment 'few': item_id <> 'i4'",
            "details": {"rule": "score.segment"},
        }
    assert reason(1, "i4")["name"] in PLACED


def test_a_seen_item_whose_events_were_withdrawn_has_no_time(night: Callable[..., None]) -> None:
    night()
    DeltaTable("warehouse/interactions").delete("user_id = 0")
    assert reason(0, "i1") == {
        "name": "seen",
        "text": "the user has seen it (score.exclude_seen = true)",
        "details": {},
    }
