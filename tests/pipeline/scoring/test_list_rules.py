"""Scoring with caps, promotions and offsets gives the lists of a plain loop over all items."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from pipeline.bundles.bundle import Bundle
from pipeline.config.score_section import ScoreSettings
from pipeline.dates import RunDay
from pipeline.errors import BundleError, ConfigError
from pipeline.scoring import list_scorer
from pipeline.scoring.resume_keys import resume_key
from tests.helpers.examples import few_and_many
from tests.helpers.scoring_cases import (
    brute_force,
    events,
    random_histories,
    rows,
    run,
    write_log,
)

ITEMS = [f"item{index}" for index in range(1, 41)]
HISTORIES = {
    **random_histories(40, seed=5),
    **{f"user{user:03}": [f"item{user}", f"new{user}", "new3", "item8"] for user in range(1, 6)},
    "nobody": ["item77"],
    "newcomer": ["new3"],
    "neighbour": ["new1", "new3", "new1"],
}
NEW = [f"new{index}" for index in range(1, 9)]  # which the bundle does not know
# Of 1, 2 or 4 items each: means of embeddings of whole numbers are exact.
WHOLE = {
    f"user{user:03}": [
        f"item{item}"
        for item in np.random.default_rng(user).integers(1, 41, 2 ** int(user % 3)).tolist()
    ]
    for user in range(40)
} | {"nobody": ["item77"]}
END = datetime(2026, 11, 21, tzinfo=UTC)  # of the run date
SINCE = END - timedelta(days=21)
FRESHNESS = {"weight": 2.0, "half_life_days": 7.0}
Values = dict[str, Any]


def attributes(seed: int) -> pa.Table:
    """Categories, of which one has a third of the items, and others; nulls in all of them."""
    random = np.random.default_rng(seed)
    ids = [*ITEMS[:20], *NEW, *ITEMS[20:]]
    category = [None if x > 6 else "ABCDEEE"[x] for x in random.integers(0, 8, len(ids))]
    brand = [None if x > 6 else int(x) for x in random.integers(0, 8, len(ids))]
    price = [None if x > 90 else int(x) for x in random.integers(1, 100, len(ids))]
    bonus = [None if x > 9 else int(x) / 4 for x in random.integers(-9, 13, len(ids))]
    days = [None if x > 5 else 7 * int(x) for x in random.integers(-1, 8, len(ids))]
    created = [None if x is None else END - timedelta(days=x) for x in days]
    times = pa.array(created, pa.timestamp("us", tz="UTC"))
    return pa.table(
        {
            "item_id": ids,
            "category": category,
            "brand": brand,
            "price": price,
            "bonus": bonus,
            "created_at": times,
        }
    )


def added_by_hand(row: Values, given: Values) -> float:
    """What the settings add to an item's scores."""
    offset = row["bonus"] if given["offset"] and row["bonus"] is not None else 0.0
    if not given["freshness"] or row["created_at"] is None:
        return offset
    age = max(0.0, (END - row["created_at"]) / timedelta(days=1))
    return offset + FRESHNESS["weight"] * 0.5 ** (age / FRESHNESS["half_life_days"])


def by_hand(
    bundle: Bundle, history: list[str], table: pa.Table, given: Values
) -> list[tuple[str, float]]:
    """One user's list."""
    known = {row["item_id"]: row for row in table.to_pylist()}
    top_k = given["top_k"]

    def fulfils(item: str, below: int | None) -> bool:
        price = known[item]["price"]
        return below is None or (price is not None and price < below)

    def may_get(item: str) -> bool:
        only = given.get("only")
        return fulfils(item, given["below"]) and (only is None or item in only)

    allowed = {item for item in ITEMS if may_get(item)}
    ranked = brute_force(bundle, history, 40, given["exclude_seen"], allowed)
    if any(item in ITEMS for item in history):  # others have the popular ones
        ranked = [(item, score + added_by_hand(known[item], given)) for item, score in ranked]
        ranked.sort(key=lambda pair: (-pair[1], int(pair[0].removeprefix("item"))))
    places: dict[int, tuple[str, float]] = {}

    def fits(item: str) -> bool:
        listed = [each for each, _ in places.values()]
        values = [known[each][column] for each in listed for column in given["max_per"]]
        return item not in listed and all(
            known[item][column] is None or values.count(known[item][column]) < most
            for column, most in given["max_per"].items()
        )

    for below, slots in given["promotions"]:
        left = [slot - 1 for slot in slots]
        for item, score in ranked:
            if left and fulfils(item, below) and fits(item):
                places[left.pop(0)] = item, score
    if given["share"]:
        count = ceil(Fraction(str(given["share"])) * top_k)
        slots = [slot for _, promised in given["promotions"] for slot in promised]
        free = [place for place in range(top_k) if place + 1 not in slots]
        left = [free[(stretch + 1) * len(free) // count - 1] for stretch in range(count)]
        for item, score in new_by_hand(bundle, history, table, given):
            if left and may_get(item) and fits(item):
                places[left.pop(0)] = item, score
    for item, score in ranked:
        free = [place for place in range(top_k) if place not in places]
        if free and fits(item):
            places[free[0]] = item, score
    return [places[place] for place in sorted(places)]


def new_by_hand(
    bundle: Bundle, history: list[str], table: pa.Table, given: Values
) -> list[tuple[str, float]]:
    """The new items in one user's order."""
    rows_of = table.to_pylist()
    popularity = {row["item_id"]: row["popularity"] for row in bundle.items().to_pylist()}
    embeddings = np.fromfile(bundle.item_table, np.float32).reshape(bundle.n_items, -1)
    known = [ITEMS.index(item) + 1 for item in history if item in ITEMS]
    found = []
    for row in rows_of:
        item, created = row["item_id"], row["created_at"]
        if popularity.get(item, 0) or created is None or not SINCE <= created < END:
            continue
        if given["exclude_seen"] and item in history:
            continue
        for depth in range(len(given["similar_by"]), 0, -1):
            wanted = [row[column] for column in given["similar_by"][:depth]]
            similar = [
                ITEMS.index(other["item_id"]) + 1
                for other in rows_of
                if popularity.get(other["item_id"], 0)
                and None not in wanted
                and [other[column] for column in given["similar_by"][:depth]] == wanted
            ]
            if similar:
                break
        else:
            continue
        if known:
            user = embeddings[known[-bundle.max_length :]].mean(0)
            mean = embeddings[similar].mean(0, dtype=np.float64).astype(np.float32)
            score = float(mean @ user) + added_by_hand(row, given)
        else:
            total = sum(popularity.values())
            score = sum(popularity[ITEMS[each - 1]] for each in similar) / len(similar) / total
        found.append((item, score))
    order = [*ITEMS, *NEW]
    return sorted(found, key=lambda pair: (-pair[1], order.index(pair[0])))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("log") / "events.parquet", events(HISTORIES))


@pytest.fixture(scope="module")
def whole_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("log") / "events.parquet", events(WHOLE))


@pytest.fixture(scope="module")
def whole_bundle(
    make_bundle: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """Embeddings of small whole numbers: many scores are equal, and all are exact."""
    embedding = np.random.default_rng(7).integers(-2, 3, (41, 3)).astype(np.float32)
    embedding[0] = 0
    popularity = [*(index // 4 for index in range(41, 3, -1)), 0, 0]
    folder = tmp_path_factory.mktemp("bundles") / "whole"
    return make_bundle(folder, popularity=popularity, embedding=embedding)


def check_any_rules_together_give_the_lists_of_a_plain_loop(
    tiny_bundle: Bundle, whole_bundle: Bundle, log: Path, whole_log: Path,
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject,
) -> None:  # fmt: skip
    is_whole = data.draw(st.booleans(), label="whole numbers")
    bundle, histories = (whole_bundle, WHOLE) if is_whole else (tiny_bundle, HISTORIES)
    folder = tmp_path_factory.mktemp("rules")
    table = attributes(data.draw(st.integers(0, 9), label="attributes"))
    pq.write_table(table, folder / "items.parquet")
    top_k = data.draw(st.integers(1, 12), label="top_k")
    slots = data.draw(st.permutations(range(1, top_k + 1)), label="slots")
    border = data.draw(st.integers(0, min(2, top_k)), label="border")
    second = data.draw(st.integers(0, min(2, top_k - border)), label="second")
    promised = [slots[:border], slots[border : border + second]]
    rules: Values = {
        "top_k": top_k,
        "exclude_seen": data.draw(st.booleans(), label="exclude_seen"),
        "below": data.draw(st.sampled_from([None, 30, 80]), label="below"),
        "max_per": data.draw(
            st.dictionaries(st.just("category"), st.integers(1, 3)), label="max_per"
        ),
        "promotions": [
            (data.draw(st.sampled_from([1, 10, 50]), label="promoted below"), each)
            for each in promised
            if each
        ],
        "offset": data.draw(st.booleans(), label="offset"),
        "freshness": data.draw(st.booleans(), label="freshness"),
        "similar_by": data.draw(
            st.sampled_from([("category",), ("category", "brand"), ("brand", "category")]),
            label="similar_by",
        ),
        "share": None,
    }
    # Means of whole numbers are not whole: what is equal by hand may not be so in floats.
    if not is_whole and top_k > len(slots[: border + second]) + top_k // 4:
        rules["share"] = data.draw(st.sampled_from([None, 0.01, 0.25]), label="share of new items")
    run(
        whole_log if is_whole else log,
        bundle,
        folder / "out",
        items_table=str(folder / "items.parquet"),
        top_k=top_k,
        exclude_seen=rules["exclude_seen"],
        where=None if rules["below"] is None else f"price < {rules['below']}",
        max_per=rules["max_per"],
        promotion=[
            {"where": f"price < {below}", "slots": each} for below, each in rules["promotions"]
        ],
        offset="bonus" if rules["offset"] else None,
        freshness=FRESHNESS if rules["freshness"] else None,
        new_items=rules["share"] and {"share": rules["share"], "within_days": 21},
        similar_by=rules["similar_by"],
    )
    found = rows(folder / "out")
    for user, history in histories.items():
        expected = by_hand(bundle, history, table, rules)
        mine = found.get(user, [])
        assert [item for item, _ in mine] == [item for item, _ in expected], user
        np.testing.assert_allclose(
            [score for _, score in mine], [score for _, score in expected], atol=1e-5
        )


test_any_rules_together_give_the_lists_of_a_plain_loop, test_many_rules_together = few_and_many(
    check_any_rules_together_give_the_lists_of_a_plain_loop, 8, 80, data=st.data()
)


@pytest.fixture
def items_table(tmp_path: Path) -> str:
    pq.write_table(attributes(0), tmp_path / "items.parquet")
    return str(tmp_path / "items.parquet")


def test_slots_are_marked_and_ranks_have_no_gaps(
    tiny_bundle: Bundle, log: Path, items_table: str, tmp_path: Path
) -> None:
    promotion = [{"where": "item_id IN ('item3', 'item30')", "slots": [2, 4]}]
    run(log, tiny_bundle, tmp_path / "out", items_table=items_table, promotion=promotion)
    for row in pq.read_table(tmp_path / "out").to_pylist():
        by_rule = row["item_id"] in ("item3", "item30") and row["rank"] in (2, 4)
        known = any(item in ITEMS for item in HISTORIES[row["user_id"]])
        usual = "model" if known else "popular"
        assert row["source"] == ("promoted" if by_rule and usual == "model" else usual)
    assert run(
        log, tiny_bundle, tmp_path / "list", items_table=items_table, promotion=promotion,
        layout="list",
    ).n_rows == len(HISTORIES)  # fmt: skip
    entries = [
        {**row, **entry, "rank": rank}
        for row in pq.read_table(tmp_path / "list").to_pylist()
        for rank, entry in enumerate(row.pop("recommendations"), start=1)
    ]
    same = ["user_id", "rank", "item_id", "score", "source"]
    assert pa.Table.from_pylist(
        entries, pq.read_schema(tmp_path / "out/part-00000.parquet")
    ).select(same) == pq.read_table(tmp_path / "out", columns=same)


def test_users_whose_candidates_do_not_suffice_get_more(
    tiny_bundle: Bundle, log: Path, items_table: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    asked: list[int] = []
    lists = list_scorer.ListScorer._lists

    def counted(self: Any, *given: Any) -> Any:
        asked.append(given[-2])
        return lists(self, *given)

    monkeypatch.setattr(list_scorer.ListScorer, "_lists", counted)
    done: list[int] = []
    run(
        log, tiny_bundle, tmp_path / "out", items_table=items_table, max_per={"category": 1},
        progress=lambda users, total: done.append(users),
    )  # fmt: skip
    assert asked[:2] == [8, 32]
    assert done[-1] == max(done) == len(HISTORIES)


def test_a_bundle_of_an_earlier_version_is_capped_but_cannot_promote(
    make_bundle: Callable[..., Bundle], log: Path, items_table: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    bundle = make_bundle(tmp_path / "old")
    graph = onnx.load(bundle.recommender, load_external_data=False)
    del graph.graph.output[2]
    bundle.recommender.write_bytes(graph.SerializeToString())
    run(log, bundle, tmp_path / "out", items_table=items_table, max_per={"category": 2})
    with pytest.raises(BundleError, match="before promotions"):
        run(
            log, bundle, tmp_path / "more", items_table=items_table,
            promotion=[{"where": "price < 9", "slots": [1]}],
        )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_per": {"colour": 2}}, "no column colour"),
        ({"max_per": {"category": 0}}, "max_per.category"),
        ({"promotion": [{"where": "price <", "slots": [1]}]}, "cannot be parsed"),
        ({"promotion": [{"where": "price < 9", "slots": []}]}, "at least 1 item"),
        ({"promotion": [{"where": "price < 9", "slots": [6]}]}, "slot 6 .* beyond .*top_k = 5"),
        ({"promotion": [{"where": "price < 9", "slots": [0]}]}, "greater than or equal to 1"),
        ({"promotion": [{"where": "price < 9", "slots": [2, 2]}]}, "slot 2 is promised twice"),
        (
            {"promotion": [{"where": "price < 9", "slots": [2]}] * 2},
            "slot 2 is promised twice",
        ),
        ({"promotion": [{"where": "colour = 'red'", "slots": [1]}]}, "promotion.*colour"),
        ({"offset": "colour"}, "score.offset: the items table has no column colour.*price"),
        ({"offset": "category"}, "score.offset: the column category holds no numbers.*string"),
        ({"offset": "weight"}, "score.offset: .* finite.*inf for item 'item2', and 2 more"),
        ({"freshness": {"weight": 1}}, "freshness.half_life_days"),
        ({"freshness": {"weight": 0, "half_life_days": 3}}, "freshness.weight"),
        (
            {"freshness": {"weight": 1e300, "half_life_days": 1}},
            "score.freshness: what is added to scores has to be finite",
        ),
        ({"freshness": FRESHNESS, "items_table": None}, "score.freshness: .* no column created_at"),
        ({"freshness": FRESHNESS, "items_table": "text"}, "freshness: .* holds no times.*string"),
    ],
)
def test_rules_that_cannot_be_are_one_clear_line(
    tiny_bundle: Bundle, log: Path, items_table: str, tmp_path: Path, changes: Values, message: str
) -> None:
    table = pq.read_table(items_table)
    table = table.append_column("weight", pa.array([1.0, np.inf, np.nan, 1e300] * 12))
    pq.write_table(table.slice(0, 4), items_table)
    text = table["created_at"].cast(pa.string())
    pq.write_table(
        table.set_column(table.column_names.index("created_at"), "created_at", text),
        tmp_path / "text.parquet",
    )
    given = {"items_table": items_table, **changes}
    if given["items_table"] == "text":
        given["items_table"] = str(tmp_path / "text.parquet")
    with pytest.raises(ConfigError, match=message) as raised:
        run(log, tiny_bundle, tmp_path / "out", **given)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_freshness_counts_to_the_end_of_the_run_date_in_its_time_zone(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    """A day created at midnight there is a whole day old in every zone; resuming knows the zone."""
    logs = write_log(tmp_path / "logs" / "a.parquet", events({"one": ["item1"]}))
    table = str(tmp_path / "items.parquet")
    pq.write_table(pa.table({"item_id": ["item2"], "created_at": [date(2026, 11, 20)]}), table)
    found = {}
    for zone in ("UTC", "America/New_York", "Asia/Tokyo"):
        options: Values = {"items_table": table, "time_zone": zone, "top_k": 38}
        freshness = {"weight": 8.0, "half_life_days": 1.0}
        run(logs, tiny_bundle, tmp_path / zone, **options)
        without = dict(rows(tmp_path / zone)["one"])
        run(logs, tiny_bundle, tmp_path / zone, overwrite=True, freshness=freshness, **options)
        found[zone] = dict(rows(tmp_path / zone)["one"])
        assert found[zone]["item2"] == pytest.approx(without["item2"] + 4)
        assert found[zone]["item3"] == without["item3"]


def test_a_resumed_run_goes_by_the_same_end_of_the_run_date(
    tiny_bundle: Bundle,
) -> None:
    def key(zone: str, **settings: Any) -> Values:
        day = RunDay(date(2026, 11, 20), zone)
        return resume_key(tiny_bundle, ScoreSettings(**settings), day, {}, {}).settings

    boosted = {"freshness": FRESHNESS}
    assert key("UTC", **boosted) != key("Asia/Tokyo", **boosted)
    assert key("UTC") == key("Asia/Tokyo")
