"""Scoring with caps and promotions gives the lists of a plain loop over all items."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.bundles.bundle import Bundle
from pipeline.config.score_section import ScoreSettings
from pipeline.errors import BundleError, ConfigError
from pipeline.scoring import list_scorer
from tests.helpers.scoring_cases import (
    brute_force,
    events,
    random_histories,
    rows,
    run,
    write_log,
)

ITEMS = [f"item{index}" for index in range(1, 41)]
HISTORIES = {**random_histories(40, seed=5), "nobody": ["item77"]}
Values = dict[str, Any]


def attributes(seed: int) -> pa.Table:
    """Categories, of which one has a third of the items, prices, and nulls in both."""
    random = np.random.default_rng(seed)
    category = [None if x > 6 else "ABCDEEE"[x] for x in random.integers(0, 8, len(ITEMS))]
    price = [None if x > 90 else int(x) for x in random.integers(1, 100, len(ITEMS))]
    return pa.table({"item_id": ITEMS, "category": category, "price": price})


def by_hand(
    bundle: Bundle, history: list[str], table: pa.Table, given: Values
) -> list[tuple[str, float]]:
    """One user's list."""
    known = {row["item_id"]: row for row in table.to_pylist()}
    top_k = given["top_k"]

    def fulfils(item: str, below: int | None) -> bool:
        price = known[item]["price"]
        return below is None or (price is not None and price < below)

    allowed = {item for item in ITEMS if fulfils(item, given["below"])}
    ranked = brute_force(bundle, history, 40, given["exclude_seen"], allowed)
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
    for item, score in ranked:
        free = [place for place in range(top_k) if place not in places]
        if free and fits(item):
            places[free[0]] = item, score
    return [places[place] for place in sorted(places)]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("log") / "events.parquet", events(HISTORIES))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_rules_together_give_the_lists_of_a_plain_loop(
    tiny_bundle: Bundle, log: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
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
    }
    run(
        log,
        tiny_bundle,
        folder / "out",
        items_table=str(folder / "items.parquet"),
        top_k=top_k,
        exclude_seen=rules["exclude_seen"],
        where=None if rules["below"] is None else f"price < {rules['below']}",
        max_per=rules["max_per"],
        promotion=[
            {"where": f"price < {below}", "slots": each} for below, each in rules["promotions"]
        ],
    )
    found = rows(folder / "out")
    for user, history in HISTORIES.items():
        expected = by_hand(tiny_bundle, history, table, rules)
        mine = found.get(user, [])
        assert [item for item, _ in mine] == [item for item, _ in expected], user
        np.testing.assert_allclose(
            [score for _, score in mine], [score for _, score in expected], atol=1e-5
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
        usual = "popular" if row["user_id"] == "nobody" else "model"
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

    def counted(self: Any, histories: Any, users: Any, count: int, progress: Any) -> Any:
        asked.append(count)
        return lists(self, histories, users, count, progress)

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
    ],
)
def test_rules_that_cannot_be_are_one_clear_line(
    tiny_bundle: Bundle, log: Path, items_table: str, tmp_path: Path, changes: Values, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        run(log, tiny_bundle, tmp_path / "out", items_table=items_table, **changes)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_settings_of_earlier_versions_stay_as_they_were() -> None:
    assert not {"max_per", "promotion", "where"} & ScoreSettings().result_settings().keys()
    changed = ScoreSettings(max_per={"category": 2}, promotion=[{"where": "true", "slots": [1]}])
    assert changed.result_settings()["max_per"] == {"category": 2}
    assert changed.result_settings()["promotion"] == [{"where": "true", "slots": [1]}]
