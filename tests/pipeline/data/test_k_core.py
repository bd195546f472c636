"""k-core filtering: RecBole's rules and notation, and what it does to a night."""

import math
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from pipeline.config.count_range import CountRange, parse_intervals
from pipeline.config.sections import PrepareSettings
from pipeline.config.settings import Settings, load_settings
from pipeline.data.k_core import Counts, filter_events
from pipeline.errors import ConfigError, InputError
from pipeline.results import Prepared
from pipeline.schema import ITEMS_FILE
from tests.helpers.examples import few_and_many
from tests.helpers.ingest_cases import NOON, TODAY, settings_in, write_log
from tests.helpers.prepared_folders import sequences
from tests.helpers.stages import ingest, prepare

Pair = tuple[Any, Any]


def reference(pairs: list[Pair], allowed: tuple[Callable[[int], bool], ...]) -> list[Pair]:
    """RecBole's `_filter_by_inter_num`: who is outside goes, all at once, until nobody is."""
    while True:
        counts = [Counter(pair[side] for pair in pairs) for side in (0, 1)]
        left = [
            pair
            for pair in pairs
            if all(allowed[side](counts[side][pair[side]]) for side in (0, 1))
        ]
        if left == pairs:
            return pairs
        pairs = left


def core(pairs: list[Pair], user: str | None, item: str | None) -> tuple[list[Pair], Counts]:
    """The pairs that are left, in their order, by DuckDB."""
    table = pa.table(
        {
            "user_id": [pair[0] for pair in pairs],
            "item_id": [pair[1] for pair in pairs],
            "row": range(len(pairs)),
        }
    )
    limits = PrepareSettings(user_inter_num_interval=user, item_inter_num_interval=item)
    with duckdb.connect() as db:
        db.register("everything", table)
        left_out = filter_events("everything", limits, db) or Counts(0, 0, 0)
        found = db.execute('SELECT user_id, item_id FROM events ORDER BY "row"').fetchall()
    return found, left_out


BOUND = st.integers(0, 6)
SPAN = st.tuples(st.sampled_from("[("), BOUND, BOUND | st.just(math.inf), st.sampled_from(")]"))
PAIRS = st.lists(st.tuples(st.integers(0, 7), st.sampled_from("abcdef")), min_size=1, max_size=60)


def written(span: tuple[str, int, float, str]) -> str:
    opening, low, high, closing = span
    return f"{opening}{low},{high}{closing}"


def holds(span: tuple[str, int, float, str], number: int) -> bool:
    opening, low, high, closing = span
    above = number >= low if opening == "[" else number > low
    return above and (number <= high if closing == "]" else number < high)


def has_a_count(span: tuple[str, int, float, str]) -> bool:
    return any(holds(span, number) for number in range(1, 10))


def check_it_is_recboles_filter(pairs: list[Pair], users: Any, items: Any):
    def allowed(spans: Any) -> Callable[[int], bool]:
        return lambda n: spans is None or any(holds(span, n) for span in spans)

    expected = reference(pairs, (allowed(users), allowed(items)))
    intervals = [spans and ";".join(map(written, spans)) for spans in (users, items)]
    if not expected:
        with pytest.raises(InputError, match="no interaction is left") as caught:
            core(pairs, *intervals)
        assert all(interval in caught.value.what for interval in intervals if interval)
        return
    found, left_out = core(pairs, *intervals)
    assert found == expected
    gone = [len({pair[side] for pair in pairs} - {pair[side] for pair in found}) for side in (0, 1)]
    assert left_out == Counts(*gone, len(pairs) - len(found))


test_it_is_recboles_filter, test_it_is_recboles_filter_often = few_and_many(
    check_it_is_recboles_filter,
    30,
    200,
    PAIRS,
    *[st.none() | st.lists(SPAN.filter(has_a_count), min_size=1, max_size=2)] * 2,
)


def test_one_that_goes_takes_others_along():
    # Item d is met once; without it user 3 has one event, so item c has one, and so on.
    pairs = [(1, "a"), (1, "b"), (2, "a"), (2, "b"), (2, "c"), (3, "c"), (3, "d")]
    found, left_out = core(pairs, "[2,inf)", "[2,inf)")
    assert found == [(1, "a"), (1, "b"), (2, "a"), (2, "b")]
    assert left_out == Counts(users=1, items=2, interactions=3)


def test_users_and_items_go_at_the_same_time():
    # User 1 and item a are met too often. Users first would keep (2, a), too; items first (1, b).
    pairs = [(1, "a"), (1, "a"), (1, "b"), (2, "a"), (3, "b")]
    assert core(pairs, "[1,2]", "[1,2]")[0] == [(3, "b")]
    assert core(pairs, "[1,2]", None)[0] == [(2, "a"), (3, "b")]
    assert core(pairs, None, "[1,2]")[0] == [(1, "b"), (3, "b")]


@pytest.mark.parametrize(
    ("text", "intervals"),
    [
        ("[5,inf)", (CountRange(5, None),)),
        ("(3,100]", (CountRange(4, 100),)),
        (" ( 0 , 1 ] ; [3.0,4) ", (CountRange(1, 1), CountRange(3, 3))),
        ("[-inf,2.5)", (CountRange(0, 2),)),
        ("(-1,inf]", (CountRange(0, None),)),
    ],
)
def test_notation(text: str, intervals: tuple[CountRange, ...]):
    assert parse_intervals(text) == intervals


@pytest.mark.parametrize(
    "text",
    [
        '""',
        "5",
        "5.5",
        "[5]",
        "[5,]",
        "[a,b]",
        "[5,inf",
        "5,inf)",
        "[1,2,3]",
        "[nan,5]",
        "[1,2];",
        "{1,2}",
    ],
)
def test_what_is_no_interval(text: str):
    with pytest.raises(ConfigError, match=r"prepare\.user_inter_num_interval") as caught:
        load_settings(None, [f"prepare.user_inter_num_interval={text}"])
    assert "is not an interval such as [5,inf)" in str(caught.value)


@pytest.mark.parametrize("text", ["[5,4]", "(3,4)", "[0,0]", "(5,5]", "[inf,inf)", "[-5,-1]"])
def test_intervals_that_hold_no_count(text: str):
    with pytest.raises(ConfigError, match="no number of interactions is within"):
        load_settings(None, [f'prepare.item_inter_num_interval="{text}"'])


@pytest.mark.parametrize("given_as", ["[5,10]", '"[5,10]"', "[5,inf]", "[5,inf)"])
def test_intervals_need_no_quotes(given_as: str):
    loaded = load_settings(None, [f"prepare.user_inter_num_interval={given_as}"])
    assert loaded.prepare.user_inter_num_interval is not None
    (interval,) = parse_intervals(loaded.prepare.user_inter_num_interval)
    assert interval == CountRange(5, 10 if "10" in given_as else None)


def test_the_environment_and_the_default(monkeypatch: pytest.MonkeyPatch):
    assert Settings().prepare == PrepareSettings(
        user_inter_num_interval=None, item_inter_num_interval=None
    )
    monkeypatch.setenv("FEAREC_PREPARE__ITEM_INTER_NUM_INTERVAL", "[5,inf)")
    assert load_settings().prepare.item_inter_num_interval == "[5,inf)"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


def limited(settings: Settings, **intervals: str) -> Settings:
    return settings.model_copy(update={"prepare": PrepareSettings(**intervals)})


def night(settings: Settings, pairs: list[Pair], run_date: date) -> Prepared:
    """The pairs as the run date's log, a second apart, and the night up to prepare."""
    start = datetime.combine(run_date, NOON.time(), UTC)
    rows = [(*pair, start + timedelta(seconds=second)) for second, pair in enumerate(pairs)]
    write_log(settings, f"{run_date}.parquet", rows, None, None)
    return prepare(settings, run_date, ingest(settings, run_date))


def popularity(prepared: Prepared) -> dict[Any, int]:
    items = pq.read_table(prepared.folder / ITEMS_FILE).to_pylist()
    assert [item["item_index"] for item in items] == list(range(1, len(items) + 1))
    return {item["item_id"]: item["popularity"] for item in items}


@pytest.mark.parametrize("ids", [int, str], ids=["integers", "strings"])
def test_a_night_without_rare_users_and_items(settings: Settings, ids: type):
    pairs = [(9, 8), (1, 5), (2, 5), (1, 6), (2, 6), (1, 7)]
    strict = limited(settings, user_inter_num_interval="[2,inf)", item_inter_num_interval="[2,inf)")
    prepared = night(strict, [(ids(user), ids(item)) for user, item in pairs], TODAY)
    rows = sequences(prepared.folder).to_pylist()
    assert [(row["user_id"], row["item_ids"]) for row in rows] == [
        (ids(1), [ids(5), ids(6)]),
        (ids(2), [ids(5), ids(6)]),
    ]
    # What is left out gets no index.
    assert popularity(prepared) == {ids(5): 2, ids(6): 2}
    assert (prepared.n_users, prepared.n_items, prepared.n_interactions) == (2, 3, 4)
    assert prepared.left_out_users == 1
    assert prepared.left_out_items == 2
    assert prepared.left_out_interactions == 2
    assert prepared.first_event == NOON + timedelta(seconds=1)
    assert prepared.last_event == NOON + timedelta(seconds=4)


def test_an_item_left_out_later_keeps_its_index(settings: Settings):
    first = night(settings, [(1, "a"), (1, "b"), (2, "c")], TODAY)
    assert popularity(first) == {"a": 1, "b": 1, "c": 1}
    assert (first.left_out_users, first.left_out_items, first.left_out_interactions) == (0, 0, 0)
    strict = limited(settings, item_inter_num_interval="[2,inf)")
    second = night(strict, [(2, "b"), (2, "d"), (3, "b")], TODAY + timedelta(days=1))
    assert popularity(second) == {"a": 0, "b": 3, "c": 0}
    assert (second.left_out_users, second.left_out_items, second.left_out_interactions) == (0, 3, 3)
    # Rare no more: at the end.
    third = night(strict, [(4, "d"), (4, "c")], TODAY + timedelta(days=2))
    assert popularity(third) == {"a": 0, "b": 3, "c": 2, "d": 2}


def test_an_interval_that_leaves_nothing_is_named(settings: Settings):
    strict = limited(settings, user_inter_num_interval="[5,inf)")
    with pytest.raises(InputError) as caught:
        night(strict, [(1, "a"), (2, "a")], TODAY)
    assert caught.value.exit_code == 2
    assert str(caught.value) == (
        'no interaction is left by prepare.user_inter_num_interval = "[5,inf)"; '
        "found 2 interactions of 2 users and 1 items before. Widen the interval."
    )
    with pytest.raises(InputError, match="no interaction up to 2026-06-09"):
        prepare(strict, TODAY - timedelta(days=1), ingest(strict, TODAY))
