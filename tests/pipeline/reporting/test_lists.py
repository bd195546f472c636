"""The summary of lists, against a count by hand in either layout."""

from collections import Counter
from datetime import date
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.reporting.lists import list_summaries, newest_dates
from pipeline.storage.resources import DEFAULT_RESOURCES
from tests.helpers.report_cases import DAYS, LISTS, Lists, case_in

ITEMS = st.sampled_from([f"item-{number}" for number in range(12)])
SCORES = st.floats(-5, 5, width=32)
MANY = st.dictionaries(
    st.integers(0, 30),
    st.lists(st.tuples(ITEMS, SCORES), min_size=1, max_size=6, unique_by=lambda entry: entry[0]),
    min_size=1,
    max_size=20,
)


@pytest.mark.parametrize("layout", ["long", "list"])
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lists=MANY)
def test_a_summary_is_that_of_a_count_by_hand(
    tmp_path_factory: pytest.TempPathFactory, layout: str, lists: Lists
) -> None:
    case = case_in(tmp_path_factory.mktemp("case"))
    # Items in the slots of promotions are listed like any others.
    first = {user: items[:1] for user, items in lists.items()}
    rest = {user: items[1:] for user, items in lists.items() if items[1:]}
    case.publish(DAYS[0], first, source="promoted", layout=layout)
    if rest:
        case.publish(DAYS[0], rest, layout=layout)
    case.publish(DAYS[0], {99: [("popular", 9.0)]}, source="popular", layout=layout)
    (found,) = list_summaries(case.warehouse, DAYS[:1], DEFAULT_RESOURCES)
    entries = [entry for items in lists.values() for entry in items]
    counts = Counter(item for item, _ in entries)
    assert (found.run_date, found.n_users, found.n_items) == (DAYS[0], len(lists), len(counts))
    ranked = sorted(counts, key=lambda item: (-counts[item], item))
    assert [item for item, _ in found.top] == ranked[:5]
    assert [share for _, share in found.top] == [counts[i] / len(lists) for i in ranked[:5]]
    held = 0
    for place, item in enumerate(ranked, start=1):  # fewer items than points: each has one
        held += counts[item]
        assert found.exposure[place - 1] == pytest.approx(
            (place / len(ranked), held / len(entries))
        )
    assert len(found.exposure) == len(ranked)
    starts, shares = zip(*found.scores, strict=True)
    scores = [score for _, score in entries]
    assert sum(shares) == pytest.approx(1)
    assert starts[0] == pytest.approx(min(scores))
    width = max(max(scores) - min(scores), 1e-9) / len(starts)
    near = 1e-6 * max(1.0, width)
    for start, share in found.scores[:-1]:
        low = sum(start + near <= score < start + width - near for score in scores)
        high = sum(start - near <= score < start + width + near for score in scores)
        assert low <= round(share * len(scores)) <= high


def test_the_newest_dates_are_those_up_to_a_run_date(tmp_path: Path) -> None:
    case = case_in(tmp_path)
    assert newest_dates(case.warehouse, DAYS[0], 2) == []
    assert list_summaries(case.warehouse, DAYS[:1], DEFAULT_RESOURCES) == []
    for day in (DAYS[2], DAYS[0], DAYS[3]):
        case.publish(day, LISTS)
    assert newest_dates(case.warehouse, DAYS[2], 2) == [DAYS[2], DAYS[0]]
    assert newest_dates(case.warehouse, DAYS[1], 2) == [DAYS[0]]
    assert newest_dates(case.warehouse, date(2020, 1, 1), 2) == []


def test_lists_without_a_model_have_no_summary(tmp_path: Path) -> None:
    case = case_in(tmp_path)
    case.publish(DAYS[0], LISTS, source="popular")
    case.publish(DAYS[1], LISTS)
    found = list_summaries(case.warehouse, [DAYS[1], DAYS[0]], DEFAULT_RESOURCES)
    assert [each.run_date for each in found] == [DAYS[1]]
