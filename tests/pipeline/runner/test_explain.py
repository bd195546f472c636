"""`fearec recommend USER --explain ITEM`: every reason, on a warehouse made by hand."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from typer.testing import CliRunner

from flows.cli.main import app
from pipeline.bundles.bundle import Bundle
from pipeline.config.export_section import ExportSettings
from pipeline.config.score_section import ScoreSettings
from pipeline.config.settings import load_settings
from pipeline.dates import RunDay, days_before
from pipeline.publishing.publish import publish
from pipeline.results import Prepared
from pipeline.runner.cache import read_record, write_record
from pipeline.runner.explain import explain
from pipeline.runner.scoring_checks import check_scoring
from pipeline.schema import interactions_schema
from pipeline.scoring.prepared_reader import PreparedHistories
from pipeline.scoring.run import score_histories
from pipeline.storage.locations import RunLocations, Warehouse
from pipeline.storage.prepared_folder import prepared_hash
from tests.helpers.prepared_folders import NOON
from tests.helpers.served_warehouse import VERSION, serve, settings_of

DAY = date(2026, 11, 2)
ITEMS = [f"i{number}" for number in range(1, 11)]
POPULARITY = [20, 19, 18, 17, 16, 15, 14, 13, 12, 0]
HISTORIES = [["i1", "i2", "i1"], ["i3"], ["other"], ["i4"]]
TYPES = ["view", "purchase", None]
NEW: dict[str, list[Any]] = {
    "item_id": ["n1", "n2"], "maker": ["i1", "m"], "price": [5, 5], "title": ["n1", "n2"],
}  # fmt: skip
RULES: dict[str, Any] = {
    "top_k": 3,
    "where": "price < 50",
    "max_per": {"maker": 1},
    "promotion": [{"where": "item_id = 'i9'", "slots": [2]}],
}


@pytest.fixture
def night(
    tmp_path: Path, make_bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Scores and publishes the lists of a run date by these settings."""
    monkeypatch.chdir(tmp_path)
    bundle = serve(
        tmp_path, make_bundle, HISTORIES,
        run_date=DAY, item_ids=ITEMS, popularity=POPULARITY, prepared_items=[*ITEMS, "other"],
        kinds=[TYPES[: len(history)] for history in HISTORIES],
    )  # fmt: skip
    makers = ["m" if item in ("i5", "i6", "i7") else item for item in ITEMS]
    prices = [99 if item == "i8" else 5 for item in ITEMS]
    columns = {"item_id": ITEMS, "maker": makers, "price": prices, "title": ITEMS}
    columns = {name: [*values, *NEW[name]] for name, values in columns.items()}
    table = pa.table(columns | {"created_at": [None] * len(ITEMS) + [NOON] * 2})
    pq.write_table(table, tmp_path / "items.parquet")
    (tmp_path / "deny.txt").write_text("i8\n")
    (tmp_path / "allow.txt").write_text("".join(f"{item}\n" for item in ITEMS if item != "i3"))
    warehouse = Warehouse(str(tmp_path / "warehouse"))
    rows = [
        {"user_id": user, "item_id": item, "timestamp": NOON - timedelta(hours=10 - place),
         "event_type": TYPES[place]}
        for user, history in enumerate(HISTORIES)
        for place, item in enumerate(history)
    ]  # fmt: skip
    later = {"user_id": 0, "item_id": "i2", "timestamp": datetime(2026, 12, 1, tzinfo=UTC)}
    events = pa.Table.from_pylist([*rows, later], interactions_schema(pa.int64(), pa.string()))
    write_deltalake(warehouse.table("interactions"), events)
    locations = RunLocations(warehouse, tmp_path / "work", DAY)
    retire(locations, "i7")

    def run(*, published: bool = True, **score: Any) -> None:
        settings = ScoreSettings(**{"provider": "cpu", **RULES, **score})
        scored = score_histories(
            PreparedHistories(
                locations.prepared,
                days_before(DAY, settings.active_within_days, "UTC"),
                settings.seen_on(RunDay(DAY, "UTC")),
            ),
            bundle,
            locations.parts,
            settings,
            run_date=DAY,
            resume_inputs={"prepared": prepared_hash(locations.prepared)},
            retired_before=days_before(DAY, settings.retire_after_days, "UTC"),
            items_table=str(tmp_path / "items.parquet"),
            similar_by=("maker",),
            overwrite=True,
        )
        if published:
            publish(scored, locations)

    return run


def retire(locations: RunLocations, item: str) -> None:
    """As if the item had no event in the last 90 days."""
    path = locations.prepared / "items.parquet"
    items = pq.read_table(path)
    rows = items.to_pylist()
    for row in rows:
        row["last_seen"] -= timedelta(days=90 * (row["item_id"] == item))
    pq.write_table(pa.Table.from_pylist(rows, items.schema), path)
    record = read_record(locations.record("prepare"), Prepared)
    assert record is not None
    result = replace(record.result, content_hash=prepared_hash(locations.prepared))
    write_record(locations.record("prepare"), replace(record, result=result))


def ask(user: int | str, item: str, *arguments: str) -> dict[str, Any]:
    """The answer as JSON; what is printed has the same texts."""
    given = ["recommend", str(user), "--explain", item, *settings_of(Path.cwd()), *arguments]
    given += ["--set", "items.path=items.parquet"]
    printed, as_json = (CliRunner().invoke(app, [*given, *more]) for more in ([], ["--json"]))
    assert (printed.exit_code, as_json.exit_code) == (0, 0), printed.stderr
    found = json.loads(as_json.stdout)
    lines = printed.stdout.splitlines()
    title = f" ({item})" if item in [*ITEMS, *NEW["item_id"]] else ""
    answer = "is in" if found["listed"] else "is not in"
    assert lines[0] == (
        f"Item {item}{title} {answer} the list of user {user} of {DAY}, by model {VERSION}:"
    )
    assert lines[1:] == [f"  {reason['text']}" for reason in found["reasons"]] + [
        f"  changed since then: {what}" for what in found["changed"]
    ]
    return found


def reason(user: int | str, item: str, *arguments: str) -> dict[str, Any]:
    """The only reason."""
    found = ask(user, item, *arguments)
    assert found["changed"] == []
    (only,) = found["reasons"]
    return only


def published(user: int) -> list[dict[str, Any]]:
    rows = DeltaTable("warehouse/recommendations").to_pyarrow_table().to_pylist()
    return sorted(
        (row for row in rows if row["user_id"] == user), key=lambda row: row.get("rank", 0)
    )


def test_only_what_counts_as_seen_is_a_reason(night: Callable[..., None]) -> None:
    night(exclude_seen=["purchase", "30 days"])
    text = "the user has seen it, last on 2026-11-01 03:00:00 UTC, an event of type purchase"
    assert reason(0, "i2")["text"] == f"{text} (score.exclude_seen = purchase, 30 days)"
    assert reason(0, "i1")["name"] in ("listed", "outranked")
    night(exclude_seen="1 days")
    assert reason(0, "i2")["name"] in ("listed", "outranked")


def test_what_the_user_has_seen_says_when_and_by_what(night: Callable[..., None]) -> None:
    night()
    seen = "the user has seen it, last on 2026-11-01"
    assert reason(0, "i1")["text"] == f"{seen} 04:00:00 UTC (score.exclude_seen = true)"
    by_type = f"{seen} 03:00:00 UTC, an event of type purchase (score.exclude_seen = true)"
    assert reason(0, "i2")["text"] == by_type
    assert reason(0, "i2")["details"]["event_type"] == "purchase"
    night(exclude_seen="30 days")
    assert reason(0, "i1")["text"].endswith("04:00:00 UTC (score.exclude_seen = 30 days)")
    night(exclude_seen="1 day")
    assert reason(0, "i1")["name"] in ("listed", "outranked")


def test_what_rules_leave_out_names_each_of_them(night: Callable[..., None]) -> None:
    night(deny="deny.txt", allow="allow.txt")
    names = [(each["name"], each["text"]) for each in ask(0, "i8")["reasons"]]
    assert names == [
        ("filtered", "score.deny: deny.txt lists it"),
        ("filtered", "score.where is not true for it: price < 50"),
    ]
    assert reason(0, "i3")["text"] == "score.allow: allow.txt does not list it"
    first = ask(1, "i3")["reasons"]
    assert [each["name"] for each in first] == ["filtered", "seen"]
    Path("deny.txt").write_text("i9\n")
    assert ask(0, "i7")["changed"] == ["deny.txt"]


def test_retired_items_and_inactive_users(night: Callable[..., None]) -> None:
    night(retire_after_days=30)
    assert reason(0, "i7")["text"] == (
        "retired: no event with it since 2026-10-04 00:00:00 UTC (score.retire_after_days = 30)"
    )
    listed = published(0)[0]["item_id"]
    night(published=False, active_within_days=1)
    found = ask(0, listed)
    assert [each["text"] for each in found["reasons"]] == [
        "the user has no event since 2026-11-02 00:00:00 UTC (score.active_within_days = 1), and so"
        " no list"
    ]
    assert found["changed"] == ["the list of the table, which has the item"]


def test_the_unknown(night: Callable[..., None]) -> None:
    night()
    unknown = f"the item is unknown to model {VERSION}: it learnt from no event with it"
    assert reason(0, "elsewhere")["text"] == unknown
    assert reason(0, "other")["text"] == unknown
    assert reason(0, "i10")["text"] == (
        f"model {VERSION} knows the item, but was not trained on any event with it"
    )
    assert reason(77, "i1")["text"] == (
        "the user is unknown: no event up to this run date is theirs"
    )
    bad = CliRunner().invoke(app, ["recommend", "u", "--explain", "i1", *settings_of(Path.cwd())])
    assert bad.exit_code == 2
    assert bad.stderr.startswith("error: user_id: no such user; expected a number (int64)")


@pytest.mark.parametrize("layout", ["long", "list"])
def test_every_place_and_rank_is_that_of_the_list(night: Callable[..., None], layout: str) -> None:
    night(layout=layout)
    settings = load_settings(None, [*settings_of(Path.cwd())[1::2], "items.path=items.parquet"])
    for user in (0, 2) if layout == "long" else (3,):
        listed = [
            entry
            for row in published(user)
            for entry in (row["recommendations"] if layout == "list" else [row])
        ]
        assert len(listed) == 3
        place_of = {row["item_id"]: place for place, row in enumerate(listed, start=1)}
        ranks = {}
        for item in sorted({*ITEMS[:7], "i9"} - set(HISTORIES[user])):
            answer = explain(settings, str(user), item)
            ((found,), changed) = map(list, (answer.reasons, answer.changed))
            assert changed == []
            details = found.details
            ranks[details["rank"]] = details["score"]
            by = "by popularity" if user == 2 else "by the model"
            assert f"rank {details['rank']} of {details['n_ranked']} {by} among" in found.text
            assert (found.name == "listed") == (item in place_of)
            if item in place_of:
                by = "promotion 1 (item_id = 'i9')" if item == "i9" else by.removeprefix("by ")
                assert found.text.startswith(f"at place {place_of[item]} by {by}: rank")
            elif found.name == "capped":
                assert item in ("i5", "i6", "i7")
                assert found.text.startswith(
                    "capped: the list has 1 items whose maker is m before it (score.max_per); rank"
                )
            else:
                last = [row["score"] for row in listed if row["item_id"] != "i9"][-1]
                text = f"; the last of the 2 items listed by rank has {last:.4f}"
                assert found.text.startswith("outranked: rank")
                assert found.text.endswith(text)
        assert sorted(ranks) == list(range(1, len(ranks) + 1))
        assert [ranks[rank] for rank in sorted(ranks)] == sorted(ranks.values(), reverse=True)


def test_a_new_item_is_listed_or_others_are(night: Callable[..., None]) -> None:
    night(new_items={"share": 0.3, "within_days": 14}, max_per={})
    (listed,) = (row["item_id"] for row in published(0) if row["source"] == "new")
    (other,) = {"n1", "n2"} - {listed}
    by = ["--set", 'items.similar_by=["maker"]']
    assert reason(0, listed, *by) == {
        "name": "listed",
        "text": "at place 3 as a new item (score.new_items)",
        "details": {"place": 3},
    }
    assert reason(0, other, *by)["name"] == "outranked"


def test_a_new_item_that_a_cap_keeps_out_is_capped(night: Callable[..., None]) -> None:
    new = {"share": 0.6, "within_days": 14}
    night(new_items=new, promotion=[{"where": "item_id = 'i6'", "slots": [2]}])
    by = ["--set", 'items.similar_by=["maker"]']
    assert [row["item_id"] for row in published(0) if row["source"] == "new"] == ["n1"]
    found = reason(0, "n2", *by)
    assert found["name"] == "capped"
    assert (
        found["text"] == "capped: the list has 1 items whose maker is m before it (score.max_per)"
    )
    assert (found["details"]["column"], found["details"]["value"]) == ("maker", "m")


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ({"where": "item_id <> 'n1'"}, "score.where is not true for it: item_id <> 'n1'"),
        ({"deny": "deny.txt"}, "score.deny: deny.txt lists it"),
        ({"allow": "allow.txt"}, "score.allow: allow.txt does not list it"),
    ],
)
def test_a_new_item_that_a_rule_leaves_out_is_filtered(
    rule: dict[str, str], text: str, night: Callable[..., None]
) -> None:
    Path("deny.txt").write_text("n1\n")
    night(new_items={"share": 0.3, "within_days": 14}, **rule)
    unknown, filtered = ask(0, "n1", "--set", 'items.similar_by=["maker"]')["reasons"]
    assert unknown["name"] == "unknown"
    assert unknown["text"] == (
        f"model {VERSION} was not trained on any event with it; only score.new_items can list it"
    )
    assert (filtered["name"], filtered["text"]) == ("filtered", text)


def test_a_new_item_that_the_users_segment_excludes_is_filtered(night: Callable[..., None]) -> None:
    segment = {"name": "few", "users": "./few.txt", "where": "item_id <> 'n1'"}
    Path("few.txt").write_text("0\n")
    night(new_items={"share": 0.3, "within_days": 14}, segment=[segment])
    (found,) = ask(0, "n1", "--set", 'items.similar_by=["maker"]')["reasons"]
    assert (found["name"], found["details"]) == ("filtered", {"rule": "score.segment"})


def test_a_new_item_without_a_similar_one_says_so(night: Callable[..., None]) -> None:
    items = pq.read_table("items.parquet")
    makers = [maker if item != "n1" else "?" for item, maker in zip(
        items["item_id"].to_pylist(), items["maker"].to_pylist(), strict=True
    )]  # fmt: skip
    pq.write_table(items.set_column(1, "maker", pa.array(makers)), "items.parquet")
    night(new_items={"share": 0.3, "within_days": 14})
    (unknown,) = ask(0, "n1", "--set", 'items.similar_by=["maker"]')["reasons"]
    assert unknown["text"].endswith(", and no item that it was trained on is similar to it")


def test_a_new_item_that_the_user_has_taken_is_seen(night: Callable[..., None]) -> None:
    items = pq.read_table("items.parquet")
    other = {"item_id": "other", "maker": "i1", "price": 5, "title": None, "created_at": NOON}
    pq.write_table(pa.Table.from_pylist([*items.to_pylist(), other], items.schema), "items.parquet")
    night(new_items={"share": 0.9, "within_days": 14}, max_per={}, promotion=[])
    assert [row["item_id"] for row in published(2)][:2] == ["n1", "n2"]
    assert reason(2, "other")["name"] == "seen"
    assert reason(2, "n2")["details"] == {"place": 2}
    assert reason(2, "n2", "--set", 'items.similar_by=["price"]')["details"] == {"place": 2}


def test_files_that_list_only_new_items_are_accepted_wherever_they_are_read(
    night: Callable[..., None],
) -> None:
    Path("deny.txt").write_text("n1\n")
    Path("exclude.csv").write_text("user_id,item_id\n0,n2\n")
    rules = {"new_items": {"share": 0.3, "within_days": 14}, "max_per": {}}
    night(**rules, deny="deny.txt", exclude="exclude.csv")
    assert "new" not in {row["source"] for row in published(0)}
    record = read_record(
        RunLocations(Warehouse("warehouse"), Path("work"), DAY).record("prepare"), Prepared
    )
    assert record is not None
    score = ScoreSettings(
        **{**RULES, **rules, "provider": "cpu", "deny": "deny.txt", "exclude": "exclude.csv"}
    )
    day = RunDay(DAY, "UTC")
    check_scoring(
        record.result, ExportSettings(), score, None, "items.parquet", ("maker",), run_day=day
    )
    given = [*settings_of(Path.cwd()), "--set", "score.deny=deny.txt"]
    assert CliRunner().invoke(app, ["related", *given]).exit_code == 0


def test_what_is_gone_is_one_clear_line(night: Callable[..., None]) -> None:
    night()
    given = ["recommend", "0", "--explain", "i1", *settings_of(Path.cwd())]
    shutil.rmtree(RunLocations(Warehouse("warehouse"), Path("work"), DAY).prepared)
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 2
    assert "no prepared histories of this run date" in done.stderr


def test_without_the_scored_parts_the_settings_are_unknown(night: Callable[..., None]) -> None:
    night()
    parts = RunLocations(Warehouse("warehouse"), Path("work"), DAY).parts
    shutil.rmtree(parts)
    done = CliRunner().invoke(app, ["recommend", "0", "--explain", "i1", *settings_of(Path.cwd())])
    assert done.exit_code == 2
    assert "settings that the lists of this run date were made by are not on this" in done.stderr
    assert "\n" not in done.stderr.strip()
