"""Where an item stands for a user is where a plain loop over all items has it."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.bundles.bundle import Bundle
from pipeline.config.score_section import ScoreSettings
from pipeline.results import PairCounts
from pipeline.rules.attributes import Attributes
from pipeline.scoring.eligibility import eligible_items
from pipeline.scoring.placement import Placement, place_item
from pipeline.scoring.scorer import open_scorer
from pipeline.scoring.user_histories import UserHistories
from pipeline.scoring.user_lists import UserItems, UserLists
from tests.helpers.scoring_cases import brute_force

ITEMS = [f"item{index}" for index in range(1, 41)]
Row = dict[str, Any]


def standing(ranked: list[tuple[str, float]], known: dict[str, Row], given: ScoreSettings) -> Row:
    """What becomes of every item, as its turn comes."""
    places: dict[int, str] = {}
    found: Row = {}

    def full_groups(item: str) -> tuple[int, ...]:
        return tuple(
            number
            for number, (column, most) in enumerate(given.max_per.items(), start=1)
            if known[item][column] is not None
            and [known[each][column] for each in places.values()].count(known[item][column]) >= most
        )

    for number, promotion in enumerate(given.promotion, start=1):
        left = [slot - 1 for slot in promotion.slots]
        below = int(promotion.where.split()[-1])
        for item, _ in ranked:
            price = known[item]["price"]
            fits = price is not None and price < below and item not in places.values()
            if left and fits and not full_groups(item):
                places[left.pop(0)] = item
                found[item] = number
    for item, _ in ranked:
        free = [place for place in range(given.top_k) if place not in places]
        if not free:
            break
        if item not in places.values():
            found[item] = full_groups(item) or None
            if not found[item]:
                places[free[0]] = item
    listed = [places[place] for place in sorted(places)]
    return {"listed": listed, **found}


def of_one_user(items: set[str]) -> UserItems:
    index = sorted(ITEMS.index(item) + 1 for item in items)
    offsets = np.array([0, len(index)])
    return UserItems(pa.array(["u"]), offsets, np.array(index, np.int32), PairCounts())


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_item_stands_where_a_plain_loop_has_it(
    tiny_bundle: Bundle, data: st.DataObject
) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 99), label="seed"))
    category = [None if x > 3 else "ABC"[x - 1] for x in random.integers(1, 5, len(ITEMS))]
    maker = [int(x) for x in random.integers(0, 6, len(ITEMS))]
    price = [None if x > 90 else int(x) for x in random.integers(1, 100, len(ITEMS))]
    items = tiny_bundle.items()
    table = items.select(["item_id", "popularity", "last_seen"])
    for name, values in (("category", category), ("maker", maker), ("price", price)):
        table = table.append_column(name, pa.array(values))
    top_k = data.draw(st.integers(1, 9), label="top_k")
    slots = data.draw(st.permutations(range(1, top_k + 1)), label="slots")
    border = data.draw(st.integers(0, min(2, top_k)), label="border")
    promised = [slots[:border], slots[border : border + 2]]
    score = ScoreSettings(
        provider="cpu",
        top_k=top_k,
        exclude_seen=data.draw(st.booleans(), label="exclude_seen"),
        max_per=data.draw(
            st.dictionaries(st.sampled_from(["category", "maker"]), st.integers(1, 2)), label="caps"
        ),
        promotion=[
            {"where": f"price < {below}", "slots": each}
            for below, each in zip((20, 60), promised, strict=True)
            if each
        ],
    )
    history = data.draw(st.lists(st.sampled_from(ITEMS), max_size=8), label="history")
    attributes = Attributes(table, table.slice(0, 0), 0)
    own = data.draw(st.none() | st.sets(st.sampled_from(ITEMS), min_size=1), label="candidates")
    scorer = open_scorer(
        tiny_bundle,
        score,
        eligible_items(items, score, None, attributes),
        None,
        0,
        UserLists(candidates=None if own is None else of_one_user(own)),
    )
    user = UserHistories(
        pa.array(["u"]),
        np.array([ITEMS.index(item) + 1 for item in history], np.int64),
        np.array([0, len(history)]),
    )
    ranked = brute_force(tiny_bundle, history, 40, score.exclude_seen, own)
    expected = standing(ranked, {row["item_id"]: row for row in table.to_pylist()}, score)
    listed, order = expected.pop("listed"), [item for item, _ in ranked]
    by_rank = [item for item in listed if not isinstance(expected.get(item), int)]
    asked = data.draw(st.lists(st.sampled_from(ITEMS), min_size=1, max_size=6), label="asked")
    for item in asked:
        found = place_item(scorer, user, ITEMS.index(item) + 1)
        became = expected.get(item)
        assert found == Placement(
            rank=order.index(item) + 1 if item in order else None,
            n_ranked=len(order),
            score=pytest.approx(dict(ranked)[item], abs=1e-5) if item in order else None,
            popular=not history,
            place=listed.index(item) + 1 if item in listed else None,
            promotion=became if isinstance(became, int) else None,
            caps=became if isinstance(became, tuple) else (),
            n_by_rank=len(by_rank),
            last_score=pytest.approx(dict(ranked)[by_rank[-1]], abs=1e-5) if by_rank else None,
        )
