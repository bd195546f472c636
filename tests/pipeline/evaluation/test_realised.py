"""The realised hit rate: what users took of lists published before, by brute force."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from hypothesis import given
from hypothesis import settings as tuned
from hypothesis import strategies as st

from pipeline.evaluation.realised import Taken, realised_hits
from pipeline.schema import interactions_schema
from pipeline.storage.locations import RunLocations, Warehouse
from pipeline.warehouse.lists import lists_before
from tests.helpers.scored_parts import ListOf, rows_of

DAY, NEXT = date(2026, 11, 20), date(2026, 11, 21)
START = datetime(2026, 11, 20, tzinfo=UTC)
POPULAR = ["c", "a", "d"]

events = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from("abcd"), st.integers(-2, 6)), max_size=12
)
lists = st.lists(
    st.lists(st.sampled_from("abcde"), unique=True, max_size=3), min_size=1, max_size=4
)


def brute_force(lists: list[list[str]], taken: list[tuple[int, str]]) -> dict[str, float]:
    by_user = {
        user: [item for who, item in taken if who == user]
        for user, items in enumerate(lists)
        if items and any(who == user for who, _ in taken)
    }
    if not by_user:
        return {}
    popular = POPULAR[: max(len(lists[user]) for user in by_user)]
    n_events = sum(map(len, by_user.values()))
    hits = {user: sum(item in lists[user] for item in items) for user, items in by_user.items()}
    shown = {user: sum(item in popular for item in items) for user, items in by_user.items()}
    return {
        "HR": sum(n > 0 for n in hits.values()) / len(by_user),
        "event_HR": sum(hits.values()) / n_events,
        "popularity_HR": sum(n > 0 for n in shown.values()) / len(by_user),
        "popularity_event_HR": sum(shown.values()) / n_events,
        "n_users": len(by_user),
        "n_events": n_events,
    }


@pytest.mark.parametrize("layout", ["long", "list"])
@given(events=events, lists=lists)
@tuned(max_examples=15)
def test_it_is_what_brute_force_finds(
    layout: str, events: list[tuple[int, str, int]], lists: list[list[str]]
) -> None:
    columns = interactions_schema(pa.int64(), pa.string())
    rows = [
        {
            "user_id": user,
            "item_id": item,
            "timestamp": START + timedelta(hours=hour),
            "event_type": str(hour),
        }
        for user, item, hour in events
    ]
    published = [
        ListOf(user, items, [0.5] * len(items), range(1, len(items) + 1))
        for user, items in enumerate(lists)
    ]
    with TemporaryDirectory() as name:
        given = RunLocations(Warehouse(f"{name}/warehouse"), Path(name) / "work", NEXT)
        interactions = given.warehouse.table("interactions")
        write_deltalake(interactions, pa.Table.from_pylist(rows, columns))
        uri = given.warehouse.table("recommendations")
        for day, some in ((DAY - timedelta(days=1), []), (DAY, published), (NEXT, [])):
            more = ListOf(9, ["a"], [0.5], [1])
            write_deltalake(
                uri, rows_of([*some, more], layout, day), mode="append", partition_by=["run_date"]
            )
        found = lists_before(given.warehouse, NEXT)
        assert found is not None
        assert found.run_date == DAY
        taken = Taken(0, START, START + timedelta(hours=5), ())
        popular = pa.chunked_array([POPULAR])
        result = realised_hits(found, taken, popular, given)
        bought = realised_hits(found, replace(taken, event_types=("1", "2")), popular, given)
    counted = [(user, item) for user, item, hour in events if 0 < hour < 5]
    assert result == pytest.approx(brute_force(lists, counted))
    counted = [(user, item) for user, item, hour in events if hour in (1, 2)]
    assert bought == pytest.approx(brute_force(lists, counted))


def test_there_are_none_before_the_first(tmp_path: Path) -> None:
    warehouse = Warehouse(str(tmp_path))
    assert lists_before(warehouse, NEXT) is None
    write_deltalake(
        warehouse.table("recommendations"),
        rows_of([ListOf(1, ["a"], [0.5], [1])], "long", NEXT),
        partition_by=["run_date"],
    )
    assert lists_before(warehouse, NEXT) is None
