"""New items in places of their own: which they are, where they stand, and what is refused."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.bundles.bundle import Bundle
from pipeline.config.guard_sections import CheckSettings
from pipeline.config.score_section import ScoreSettings
from pipeline.dates import RunDay
from pipeline.errors import ConfigError, FearecError, ResumeError, SchemaError, TableCheckError
from pipeline.publishing.checks import Served, check_tables
from pipeline.results import NewItemCounts
from pipeline.scoring.prepared_reader import PreparedHistories
from pipeline.scoring.run import score_histories
from pipeline.storage.locations import RunLocations, Warehouse
from tests.helpers.prepared_folders import write_prepared
from tests.helpers.scoring_cases import START, Killed, events, kill_after, rows, run, write_log

DAY = date(2026, 11, 20)
QUOTA = {"share": 0.2, "within_days": 14}
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
Values = dict[str, Any]


def write_items(path: Path, more: list[Values], **columns: Any) -> str:
    """The bundle's items, all old and of categories by their number, and others."""
    known = [
        {"item_id": f"item{index}", "category": "ABCD"[index % 4], "created_at": LONG_AGO}
        for index in range(1, 41)
    ]
    kinds = {
        "item_id": pa.string(),
        "category": pa.string(),
        "created_at": pa.timestamp("us", tz="UTC"),
        **columns,
    }
    pq.write_table(pa.Table.from_pylist(known + more, pa.schema(list(kinds.items()))), path)
    return str(path)


def new(name: str, category: str | None = "A", days: int = 3) -> Values:
    created = datetime(2026, 11, 20, tzinfo=UTC) - timedelta(days=days - 1)
    return {"item_id": name, "category": category, "created_at": created}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    histories = {"a": ["item4", "item8"], "b": ["item4", "fresh"], "c": ["elsewhere"]}
    return write_log(tmp_path / "logs" / "events.parquet", events(histories))


@pytest.mark.parametrize(
    ("top_k", "share", "slots", "places"),
    [
        (10, 0.1, [], [10]),
        (10, 0.2, [], [5, 10]),
        (10, 0.25, [], [3, 6, 10]),
        (5, 0.01, [], [5]),
        (100, 0.07, [], [14, 28, 42, 57, 71, 85, 100]),
        (3, 1, [], [1, 2, 3]),
        (10, 0.2, [5, 10], [4, 9]),
        (4, 0.5, [3, 4], [1, 2]),
    ],
)
def test_places_are_spread_evenly_over_those_that_no_promotion_has(
    top_k: int, share: float, slots: list[int], places: list[int]
) -> None:
    promotion = [{"where": "true", "slots": slots}] if slots else []
    quota = {"share": share, "within_days": 1}
    settings = ScoreSettings(top_k=top_k, new_items=quota, promotion=promotion)
    assert [place + 1 for place in settings.new_item_places] == places


def test_new_items_are_marked_counted_and_not_recommended_to_who_has_taken_them(
    tiny_bundle: Bundle, log: Path, tmp_path: Path
) -> None:
    more = [
        new("fresh"),
        new("other"),
        new("old", days=15),
        new("edge", days=14),
        new("planned", days=0),
        new("timeless") | {"created_at": None},
        new("lonely", category="Z"),
        new("nameless", category=None),
    ]
    table = write_items(tmp_path / "items.parquet", more)
    options: Values = {"items_table": table, "similar_by": ("category",), "new_items": QUOTA}
    result = run(log, tiny_bundle, tmp_path / "out", top_k=10, **options)
    assert result.new_items == NewItemCounts(3, 2)
    places: dict[str, list[tuple[int, str]]] = {}
    for row in pq.read_table(tmp_path / "out").to_pylist():
        is_new = not row["item_id"].startswith("item")
        by_model = "new" if is_new else "model"
        assert row["source"] == ("popular" if row["user_id"] == "c" else by_model)
        if is_new:
            places.setdefault(row["user_id"], []).append((row["rank"], row["item_id"]))
    assert places == {
        "a": [(5, "fresh"), (10, "other")],
        "b": [(5, "other"), (10, "edge")],
        "c": [(5, "fresh"), (10, "other")],
    }
    everything = run(log, tiny_bundle, tmp_path / "seen", exclude_seen=False, **options)
    assert everything.n_rows == 15
    (item,) = {item for item, _ in rows(tmp_path / "seen")["b"]} - {f"item{i}" for i in range(41)}
    assert item == "fresh"


def test_conditions_and_files_of_ids_hold_for_new_items(
    tiny_bundle: Bundle, log: Path, tmp_path: Path
) -> None:
    more = [new("fresh"), new("other"), new("third", category="B")]
    table = write_items(tmp_path / "items.parquet", more)
    options: Values = {"items_table": table, "similar_by": ("category",), "new_items": QUOTA}

    def listed(**given: Any) -> set[str]:
        run(log, tiny_bundle, tmp_path / "out", overwrite=True, **options, **given)
        return {
            item
            for mine in rows(tmp_path / "out").values()
            for item, _ in mine
            if not item.startswith("item")
        }

    (tmp_path / "deny.txt").write_text("fresh\nitem3\n")
    (tmp_path / "allow.txt").write_text("third\n" + "\n".join(f"item{i}" for i in range(1, 30)))
    assert listed(where="category IN ('B', 'C')") == {"third"}
    assert "fresh" not in listed(deny=tmp_path / "deny.txt")
    assert listed(allow=tmp_path / "allow.txt") == {"third"}
    assert listed(where="category = 'C'") == set()


def test_a_csv_file_has_new_items_with_ids_of_the_bundles_type(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "numbers", item_ids=range(1, 6))
    (tmp_path / "items.csv").write_text(
        "item_id,category,created_at\n"
        + "\n".join(f"{item},A,2020-01-01" for item in range(1, 6))
        + "\n9,A,2026-11-20\nnine,A,2020-01-01\n"
    )
    log = write_log(tmp_path / "a.parquet", [("u", 2, LONG_AGO), ("v", 9, LONG_AGO)])
    options: Values = {
        "top_k": 2, "new_items": {"share": 0.5, "within_days": 1}, "similar_by": ("category",),
        "items_table": str(tmp_path / "items.csv"),
    }  # fmt: skip
    run(log, bundle, tmp_path / "out", **options)
    found = {user: [item for item, _ in mine] for user, mine in rows(tmp_path / "out").items()}
    assert found["u"][1] == 9
    assert found["v"] == [1, 2]
    options["new_items"] = {"share": 0.5, "within_days": 3650}
    with pytest.raises(SchemaError, match=r"items\.csv: .* found the text 'nine'"):
        run(log, bundle, tmp_path / "other", **options)
    items = Path(options["items_table"])
    items.write_text(items.read_text().replace("nine", "9.0"))
    with pytest.raises(SchemaError, match=r"repeated item ids.*such as 9"):
        run(log, bundle, tmp_path / "other", **options)


@pytest.mark.parametrize("kind", ["log", "sequences"])
def test_a_new_item_whose_id_is_too_wide_for_the_bundle_is_listed(
    make_bundle: Callable[..., Bundle], tmp_path: Path, kind: str
) -> None:
    bundle = make_bundle(tmp_path / "int32", item_ids=np.arange(1, 6, dtype=np.int32))
    wide = 2**33
    table = pa.table({
        "item_id": [*range(1, 6), 9, wide], "category": ["A"] * 7,
        "created_at": [LONG_AGO] * 5 + [START + timedelta(days=18)] * 2,
    })  # fmt: skip
    pq.write_table(table, tmp_path / "items.parquet")
    users, items = pa.array([1, 2], pa.int32()), pa.array([2, 3], pa.int32())
    columns: Values = {"item_id": items, "timestamp": [LONG_AGO] * 2}
    if kind == "sequences":
        one_each = pa.array([0, 1, 2], pa.int32())
        columns = {"item_ids": pa.ListArray.from_arrays(one_each, items)}
        columns["timestamps"] = [[LONG_AGO]] * 2
    pq.write_table(pa.table({"user_id": users, **columns}), tmp_path / "in.parquet")
    pq.write_table(pa.table({"item_id": [1, wide]}), tmp_path / "deny.parquet")
    options: Values = {
        "top_k": 3, "new_items": {"share": 0.1, "within_days": 7}, "where": "item_id <> 9",
        "similar_by": ("category", "item_id"), "items_table": str(tmp_path / "items.parquet"),
        "max_per": {"item_id": 1},
    }  # fmt: skip

    def last_places(name: str, **given: Any) -> tuple[set[int], pa.DataType]:
        result = run(tmp_path / "in.parquet", bundle, tmp_path / name, **options, **given)
        assert not result.unknown_listed
        found = pq.read_table(tmp_path / name)
        return {mine[2][0] for mine in rows(tmp_path / name).values()}, found["item_id"].type

    assert last_places("out") == ({wide}, pa.int64())
    assert last_places("popular", popular_within_days=900)[0] == {wide}
    assert last_places("denied", deny=str(tmp_path / "deny.parquet"))[0] <= {2, 3, 4, 5}


def test_what_is_similar_is_part_of_the_resume_key(
    tiny_bundle: Bundle, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_items(tmp_path / "items.parquet", [new("fresh")])
    options: Values = {"items_table": table, "similar_by": ("category",), "new_items": QUOTA}
    with monkeypatch.context() as patch:
        kill_after(patch, 0, when="finish")
        with pytest.raises(Killed):
            run(log, tiny_bundle, tmp_path / "out", **options)
    other = {**options, "similar_by": ("category", "item_id")}
    with pytest.raises(ResumeError):
        run(log, tiny_bundle, tmp_path / "out", **other, resume=True)
    assert run(log, tiny_bundle, tmp_path / "out", **options, resume=True).n_users == 3


def test_the_checks_before_publishing_know_new_items(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """Of an earlier model: the run's own events know an item that it does not."""
    histories = [["item4", "item8"], ["item4", "fresh"], ["fresh"], ["item1", "fresh", "item39"]]
    prepared = write_prepared(tmp_path / "prepared", histories)
    more = [new("fresh"), new("other"), new("third", category="B")]
    table = write_items(tmp_path / "items.parquet", more)
    settings = ScoreSettings(top_k=4, provider="cpu", new_items={"share": 0.5, "within_days": 14})
    served = Served(
        prepared, tiny_bundle.path, settings, None, None, table, ("category",), RunDay(DAY, "UTC")
    )
    locations = RunLocations(Warehouse(str(tmp_path / "warehouse")), tmp_path / "work", DAY)

    def scored(name: str, **given: Any) -> Any:
        return score_histories(
            PreparedHistories(prepared.folder, None),
            tiny_bundle,
            tmp_path / name,
            settings.model_copy(update=given),
            run_date=DAY,
            resume_inputs={},
            items_table=table,
            similar_by=("category",),
        )

    result = scored("out")
    check_tables(result, served, CheckSettings(), locations)
    found = {user: {item for item, _ in mine} for user, mine in rows(result.folder).items()}
    assert ["fresh" in found[user] for user in range(4)] == [True, False, False, False]
    with pytest.raises(TableCheckError, match=r"items that the model does not know: [1-9]"):
        check_tables(result, replace(served, items_table=without(table, "third")),
                     CheckSettings(), locations)  # fmt: skip
    repeated = scored("seen", exclude_seen=False)
    with pytest.raises(TableCheckError, match="items that their user has seen"):
        check_tables(repeated, served, CheckSettings(), locations)


def without(table: str, item: str) -> str:
    path = table.replace("items.parquet", "fewer.parquet")
    rows_left = pq.read_table(table)
    pq.write_table(rows_left.filter(pa.compute.not_equal(rows_left["item_id"], item)), path)
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"new_items": {"share": 0, "within_days": 3}}, "new_items.share.*greater than 0"),
        ({"new_items": {"share": 1.1, "within_days": 3}}, "new_items.share.*less than or equal"),
        ({"new_items": {"share": 0.1, "within_days": 0}}, "new_items.within_days.*greater than"),
        ({"new_items": {"share": 0.1}}, "new_items.within_days.*required"),
        ({"candidates": "a.csv"}, "score.new_items and score.candidates exclude each other"),
        (
            {"promotion": [{"where": "true", "slots": [1, 2, 3, 4, 5]}]},
            "new_items is for 1 places, but score.promotion leaves 0 of score.top_k = 5",
        ),
        ({"similar_by": ()}, "score.new_items: nothing says .* items.similar_by"),
        ({"similar_by": ("colour",)}, "items.similar_by: the items table has no column colour"),
        ({"similar_by": ("tags",)}, "items.similar_by: the column tags .* no single ones.*list"),
        ({"items_table": None}, "score.new_items: the items table has no column created_at"),
        ({"items_table": "text"}, "score.new_items: the column created_at holds no times"),
    ],
)
def test_what_cannot_be_is_one_clear_line(
    tiny_bundle: Bundle, log: Path, tmp_path: Path, changes: Values, message: str
) -> None:
    table = write_items(tmp_path / "items.parquet", [new("fresh")], tags=pa.list_(pa.string()))
    rows_there = pq.read_table(table)
    text = rows_there.set_column(2, "created_at", rows_there["created_at"].cast(pa.string()))
    pq.write_table(text, tmp_path / "text.parquet")
    given: Values = {
        "items_table": table, "similar_by": ("category",), "new_items": QUOTA, **changes,
    }  # fmt: skip
    if given["items_table"] == "text":
        given["items_table"] = str(tmp_path / "text.parquet")
    with pytest.raises(FearecError, match=message) as raised:
        run(log, tiny_bundle, tmp_path / "out", **given)
    assert isinstance(raised.value, ConfigError)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_new_items_reach_those_who_later_take_them(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    """Planted: embeddings lie around their category's, users keep to one category, also later.

    So the model that ranks by them is given. The new items that users take later are left out
    of it. Hit rates of three places for twelve new items: 1.00 by similar items, 0.99 by the
    category that a user has most of, 0.30 by the most popular category.
    """
    random = np.random.default_rng(11)
    n_categories, n_items, n_new, n_users = 4, 10, 3, 200
    centres = random.normal(size=(n_categories, 16))
    category = np.repeat(np.arange(n_categories), n_items)
    embedding = centres[category] + 0.7 * random.normal(size=(len(category), 16))
    names = [f"item{index}" for index in range(len(category))]
    table = np.vstack([np.zeros(16), embedding]).astype(np.float32)
    bundle = make_bundle(tmp_path / "planted", item_ids=names, embedding=table)
    items = [
        {"item_id": name, "category": int(kind), "created_at": LONG_AGO}
        for name, kind in zip(names, category, strict=True)
    ] + [
        {"item_id": f"new{kind}-{number}", "category": kind, "created_at": START}
        for kind in range(n_categories)
        for number in range(n_new)
    ]
    pq.write_table(pa.Table.from_pylist(items), tmp_path / "items.parquet")
    kinds = random.integers(0, n_categories, n_users)
    taken = {f"user{u}": f"new{kind}-{random.integers(n_new)}" for u, kind in enumerate(kinds)}
    histories = {}
    for user, kind in enumerate(kinds):
        strays = random.random(5) < 0.2
        of = np.where(strays, random.integers(0, n_categories, 5), kind)
        histories[f"user{user}"] = [
            f"item{x}" for x in of * n_items + random.integers(0, n_items, 5)
        ]
    run(
        write_log(tmp_path / "a.parquet", events(histories)), bundle, tmp_path / "out", top_k=10,
        items_table=str(tmp_path / "items.parquet"), similar_by=("category",),
        new_items={"share": 0.3, "within_days": 30},
    )  # fmt: skip
    by_model = {user: {item for item, _ in mine} for user, mine in rows(tmp_path / "out").items()}
    by_own = {
        user: Counter(int(item[4:]) // n_items for item in mine).most_common(1)[0][0]
        for user, mine in histories.items()
    }
    rates = {
        "similar items": np.mean([taken[user] in by_model[user] for user in taken]),
        "own category": np.mean([taken[user].startswith(f"new{by_own[user]}-") for user in taken]),
        "popular category": np.mean([taken[user].startswith("new0-") for user in taken]),
    }
    assert rates["similar items"] > 0.9
    assert rates["similar items"] > 2 * rates["popular category"]
    assert rates["similar items"] > rates["own category"] - 0.1
