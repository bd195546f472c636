"""The report of a night."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.console.figures import print_metrics
from flows.console.night import headlines, recommendations_line
from pipeline.reporting.report import Report
from pipeline.results import (
    Check,
    Checked,
    Evaluated,
    Gated,
    Ingested,
    PairCounts,
    Published,
    RuleCounts,
    Scored,
)
from pipeline.runner.cache import RunResults, StageRecord
from pipeline.runner.nightly import FinishedRun
from pipeline.warehouse.lookup import Recommended
from tests.helpers.ingest_cases import TODAY


def test_items_in_places_of_their_own_are_marked() -> None:
    items = (("a", 3.0), ("b", 1.0), ("c", 2.0), ("d", 9.0), ("e", 0.5), ("f", 0.4))
    sources = ("model", "promoted", "model", "new", "model", "model")
    found = Recommended(7, TODAY, "v1", "model", items, sources)
    assert recommendations_line(found) == (
        "user 7 (model): a 3.00, b 1.00 promoted, c 2.00, d 9.00 new, e 0.50"
    )


def lines(
    quarantined: dict[str, int] | None = None,
    unknown_listed: int = 0,
    champion: dict[str, float] | None = None,
    gated: Gated | None = None,
    checks: tuple[Check, ...] = (),
    table_checks: tuple[Check, ...] = (),
    report: Report | None = None,
    filtered: int = 0,
    rules: RuleCounts | None = None,
    absent_types: tuple[str, ...] = (),
    candidates: PairCounts | None = None,
) -> list[str]:
    counts: dict[str, Any] = dict.fromkeys(Scored.__dataclass_fields__, 0)
    counts |= {"candidates": candidates, "exclude": None, "segments": (), "n_recent": None}
    of_scored = {"unknown_listed": unknown_listed, "rules": rules, "absent_types": absent_types}
    results: dict[str, Any] = {
        "ingest": Ingested("id", 1, 1, 9, 7, 1, 1, 0, quarantined or {}, filtered),
        "check": Checked(checks),
        "evaluate": Evaluated(
            "leave-one-out",
            4,
            3,
            {"NDCG@10": 0.3},
            {"NDCG@10": 0.1},
            {"NDCG@10": 0.05},
            champion=champion or {},
        ),
        "gate": gated or Gated("first", (), "v1", Path("bundle"), "v1", None),
        "score": Scored(**{**counts, **of_scored}),
        "publish": Published("table", "id", 1, 8, 4, table_checks),
    }
    records = [StageRecord(name, "", "", 0.0, result) for name, result in results.items()]
    return headlines(FinishedRun(TODAY, RunResults(*records), report))


def test_quarantined_rows_are_named_by_reason_where_there_are_any() -> None:
    one = "quarantined: 1,500 timestamp after the run date, 2 null user_id"
    assert one in lines({"timestamp after the run date": 1500, "null user_id": 2})
    assert not any("quarantined" in line for line in lines())


def test_filtered_rows_are_counted_where_there_are_any() -> None:
    assert "filtered: 1,500 rows that logs.keep leaves out" in lines(filtered=1500)
    assert not any("filtered" in line for line in lines())


@pytest.mark.parametrize(("unknown", "line"), [(3, "3 listed items unknown"), (0, None)])
def test_a_night_says_how_many_listed_items_are_unknown(unknown: int, line: str | None) -> None:
    printed = [text for text in lines(unknown_listed=unknown) if "unknown" in text]
    assert printed == ([f"allow and deny files: {line}"] if line else [])


def test_what_the_rules_on_items_did_is_counted_where_there_are_any() -> None:
    line = "items: 1,500 that score.where leaves out; of the items table 3 rows unknown, 0 missing"
    assert line in lines(rules=RuleCounts(1500, 3, 0))
    assert not any("score.where" in line for line in lines())


def test_types_that_no_event_has_are_named() -> None:
    line = "warning: no event is of the type 'gift' of score.exclude_seen"
    assert line in lines(absent_types=("gift",))
    assert not any("score.exclude_seen" in line for line in lines())


def test_what_of_the_items_listed_per_user_has_no_effect_is_counted() -> None:
    printed = lines(candidates=PairCounts(0, 0, 2, 0, 1500))
    assert "2 rows of score.candidates with an item unknown to the bundle" in printed
    assert "1,500 users without a candidate get no list" in printed
    assert sum("candidate" in line for line in printed) == 2
    assert not any("candidate" in line for line in lines())


def test_the_champion_stands_beside_the_model() -> None:
    assert "NDCG@10: model 0.3000, popularity 0.1000 (3.0 times)" in lines()
    beside = "NDCG@10: model 0.3000, champion 0.2500, popularity 0.1000 (3.0 times)"
    assert beside in lines(champion={"NDCG@10": 0.25})


def test_the_decision_comes_first_with_its_reasons() -> None:
    held = Gated("held", ("too low",), "v0", Path("bundle"), "v1", "v0", ("no other",))
    assert lines(gated=held)[:3] == [
        "decision: held; v0 serves",
        "reason: too low",
        "note: no other",
    ]


def test_the_report_is_named_last_where_there_is_one() -> None:
    assert lines(report=Report("a/report.html", "a/index.html"))[-1] == "report: a/report.html"
    assert not any(line.startswith("report") for line in lines())


def test_the_metrics_of_a_champion_have_a_column(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = ({"NDCG@10": value} for value in (0.3, 0.1, 0.05))
    evaluated = Evaluated("leave-one-out", 4, 3, *metrics)
    print_metrics(replace(evaluated, champion={"NDCG@10": 0.25}))
    heading, row = capsys.readouterr().out.strip().splitlines()[-3::2]
    assert heading.split() == ["model", "champion", "popularity", "co-occurrence"]
    assert row.split() == ["NDCG@10", "0.3000", "0.2500", "0.1000", "0.0500"]
    not_compared = replace(evaluated, champion_version="v0", not_compared="another split")
    print_metrics(not_compared)
    out = capsys.readouterr().out
    assert "the champion v0 is not compared: another split" in out
    assert "champion " not in out.splitlines()[-3]


def test_checks_that_did_not_pass_are_shown() -> None:
    data = (
        Check("users", "passed", "users: 9"),
        Check("new_events", "warned", "new events: 0"),
        Check("freshness", "overruled", "days: 150"),
    )
    table = (Check("overlap", "warned", "overlap: 0.1"),)
    shown = lines(checks=data, table_checks=table)
    assert [line for line in shown if line.startswith(("warning", "overruled"))] == [
        "warning: new events: 0",
        "overruled: days: 150",
        "warning: overlap: 0.1",
    ]
    assert not any("users: 9" in line for line in shown)
