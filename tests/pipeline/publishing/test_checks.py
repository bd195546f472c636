"""The checks of the recommendations: only good ones pass, and nothing is written by others."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.bundles.bundle import Bundle
from pipeline.config.guard_sections import CheckSettings
from pipeline.config.score_section import ScoreSettings
from pipeline.dates import RunDay
from pipeline.errors import PublishError, TableCheckError
from pipeline.publishing import checks as checking
from pipeline.publishing.checks import Served, check_tables
from pipeline.publishing.publish import publish
from pipeline.results import Check, Scored
from pipeline.schema import RUN_DATE
from pipeline.scoring.prepared_reader import PreparedHistories
from pipeline.scoring.run import score_histories
from pipeline.storage.locations import RunLocations, Warehouse
from pipeline.warehouse.runs import append_run
from tests.helpers.prepared_folders import NOON, sequences, write_histories, write_prepared
from tests.helpers.scored_parts import ListOf, write_parts
from tests.helpers.scoring_cases import write_pairs

DAY, NEXT = date(2026, 11, 20), date(2026, 11, 21)
USERS, TOP_K = 30, 5
NOBODY, ALL_SEEN, FEW_LEFT = 7, 11, 12  # users of no known item, of every item, of all but two

Lists = list[ListOf]

# Of every third user nothing is listed; of the others some items.
PAIRS = [
    (user, f"item{item}")
    for user in range(USERS)
    for item in range(user % 3 * 5, 42, 4)
    if user % 3
]


@pytest.fixture(scope="module")
def served(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """Histories of the tiny bundle's 40 items, two of them never trained on, and one unknown."""
    items = [f"item{index}" for index in range(1, 42)]
    rng = np.random.default_rng(5)
    histories = [
        [items[index] for index in rng.integers(0, 38, rng.integers(2, 9))] for _ in range(USERS)
    ]
    histories[NOBODY] = ["item41"]
    histories[ALL_SEEN], histories[FEW_LEFT] = items[:38], items[:36]
    times = [[NOON] * len(each) for each in histories]
    times[3] = [NOON - timedelta(days=30)] * len(histories[3])
    prepared = write_prepared(
        tmp_path_factory.mktemp("prepared") / "prepared", histories, times, items
    )
    deny = prepared.folder / "deny.txt"
    deny.write_text("item1\nitem2\n")
    settings = ScoreSettings(top_k=TOP_K, provider="cpu", deny=str(deny))
    return Served(prepared, tiny_bundle.path, settings, None)


@pytest.fixture
def locations(tmp_path: Path) -> RunLocations:
    return RunLocations(Warehouse(str(tmp_path / "warehouse")), tmp_path / "work", DAY)


def score(served: Served, folder: Path, patch: pytest.MonkeyPatch) -> Scored:
    patch.setattr("pipeline.scoring.scorer.PART_USERS", 8)
    return score_histories(
        PreparedHistories(
            served.prepared.folder, served.active_since, served.score.seen_on(served.run_day)
        ),
        Bundle.load(served.bundle),
        folder,
        served.score,
        run_date=DAY,
        resume_inputs={},
    )


@pytest.fixture(scope="module")
def good(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Lists:
    """The lists that the tiny bundle really gives, without those of users who get none."""
    with pytest.MonkeyPatch.context() as patch:
        folder = Path(score(served, tmp_path_factory.mktemp("scored") / "parts", patch).folder)
    lists: dict[int, ListOf] = {}
    for row in pq.read_table(folder).to_pylist():
        each = lists.setdefault(row["user_id"], ListOf(row["user_id"], [], [], [], False))
        lists[row["user_id"]] = replace(
            each,
            items=[*each.items, row["item_id"]],
            scores=[*each.scores, row["score"]],
            ranks=[*each.ranks, row["rank"]],
            popular=row["source"] == "popular",
        )
    return list(lists.values())


def outcomes(checks: Sequence[Check]) -> dict[str, str]:
    return {check.name: check.outcome for check in checks if check.outcome != "passed"}


def values(checks: Sequence[Check]) -> dict[str, float | None]:
    return {check.name: check.value for check in checks}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"layout": "list"},
        {"exclude_seen": False},
        {"top_k": 38, "deny": None},
        {"allow": "few"},
        {"active_within_days": 3},
        {"exclude": PAIRS},
        {"exclude": PAIRS, "exclude_seen": False, "layout": "list"},
        {"candidates": PAIRS},
        {"candidates": PAIRS, "exclude": PAIRS[::3], "layout": "list", "deny": None},
        {"exclude_seen": "3 days"},
    ],
)
def test_what_scoring_writes_passes(
    change: dict[str, Any],
    served: Served,
    locations: RunLocations,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "allow" in change:
        change["allow"] = str(tmp_path / "few.txt")
        (tmp_path / "few.txt").write_text("item5\nitem6\nitem7\nitem39\n")
    for name in {"candidates", "exclude"} & change.keys():
        change[name] = write_pairs(tmp_path / f"{name}.parquet", change[name])
    settings = ScoreSettings(**(served.score.model_dump() | change))
    since = NOON - timedelta(days=3) if settings.active_within_days else None
    day = RunDay(NOON.date(), "UTC")
    given = replace(served, score=settings, active_since=since, run_day=day)
    scored = score(given, tmp_path / "parts", monkeypatch)
    found = check_tables(scored, given, CheckSettings(), locations)
    assert outcomes(found) == {}
    assert values(found)["fallback"] == scored.n_fallback / scored.n_users > 0
    assert values(found)["short_lists"] == scored.n_short / scored.n_users
    assert scored.n_users == (USERS - 1 if since else USERS)
    if settings.seen_rule:  # by the rule that all is seen, the lists are wrong
        with pytest.raises(TableCheckError, match="items that their user has seen"):
            check_tables(scored, replace(given, score=served.score), CheckSettings(), locations)


def changed(lists: Lists, place: int, **parts: Any) -> Lists:
    return [replace(each, **parts) if at == place else each for at, each in enumerate(lists)]


def without(lists: Lists, place: int) -> Lists:
    return lists[:place] + lists[place + 1 :]


def first_item(item: str | None) -> Callable[[Lists], Lists]:
    return lambda lists: changed(lists, 4, items=[item, *lists[4].items[1:]])


def first_score(score: float | None) -> Callable[[Lists], Lists]:
    return lambda lists: changed(lists, 4, scores=[score, *lists[4].scores[1:]])


def shortened(lists: Lists) -> Lists:
    each = lists[4]
    return changed(lists, 4, items=each.items[:4], scores=each.scores[:4], ranks=each.ranks[:4])


def lengthened(lists: Lists) -> Lists:
    unused = next(f"item{i}" for i in range(20, 39) if f"item{i}" not in lists[9].items)
    each = lists[9]
    return changed(
        lists, 9, items=[*each.items, unused], scores=[*each.scores, 0.0], ranks=[*each.ranks, 6]
    )


CORRUPTIONS: dict[str, tuple[Callable[[Lists], Lists], str]] = {
    "a user is missing": (lambda lists: without(lists, 4), "users_served"),
    "the last user is missing": (lambda lists: lists[:-1], "users_served"),
    "the first user is missing": (lambda lists: lists[1:], "users_served"),
    "a user is there twice": (lambda lists: [*lists, lists[3]], "users_served"),
    "a user has another's name": (lambda lists: changed(lists, 4, user=999), "users_served"),
    "a list is short": (shortened, "list_lengths"),
    "an item is repeated": (
        lambda lists: changed(lists, 4, items=[lists[4].items[1], *lists[4].items[1:]]),
        "repeated_items",
    ),
    "an item is unknown": (first_item("item999"), "known_items"),
    "an item is unknown to the model": (first_item("item41"), "known_items"),
    "an item is null": (first_item(None), "known_items"),
    "an item is denied": (first_item("item1"), "eligible_items"),
    "an item is untrained": (first_item("item39"), "eligible_items"),
    "a score is not a number": (first_score(float("nan")), "finite_scores"),
    "a score is infinite": (first_score(float("-inf")), "finite_scores"),
    "a score is null": (first_score(None), "finite_scores"),
}
LONG_ONLY: dict[str, tuple[Callable[[Lists], Lists], str]] = {
    "a rank is null": (lambda lists: changed(lists, 4, ranks=[None, 2, 3, 4, 5]), "ranks"),
    "a rank is repeated": (lambda lists: changed(lists, 4, ranks=[1, 2, 2, 4, 5]), "ranks"),
    "ranks begin with 0": (lambda lists: changed(lists, 4, ranks=[0, 1, 2, 3, 4]), "ranks"),
}


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        *(("long", name) for name in CORRUPTIONS | LONG_ONLY),
        *(("list", name) for name in CORRUPTIONS),
    ],
)
def test_each_corruption_is_found_and_nothing_is_written(
    layout: str, name: str, good: Lists, served: Served, locations: RunLocations, tmp_path: Path
) -> None:
    corrupt, check = (CORRUPTIONS | LONG_ONLY)[name]
    served = without_all_seen(served, good)
    fine = write_parts(tmp_path / "good", good, layout, 10)
    assert outcomes(check_tables(fine, served, CheckSettings(), locations)) == {}
    scored = write_parts(tmp_path / "parts", corrupt(good), layout, 10)
    with pytest.raises(TableCheckError, match="failed their checks") as caught:
        check_tables(scored, served, CheckSettings(), locations, overrule=True)
    assert outcomes(caught.value.checks) == {check: "held"}
    assert not (tmp_path / "warehouse").exists()


def without_all_seen(served: Served, good: Lists) -> Served:
    """The users who have a list: hand-written parts do not count those without."""
    there = {each.user for each in good}
    assert there == set(range(USERS)) - {ALL_SEEN}
    folder = served.prepared.folder.with_name("some")
    if not folder.exists():
        rows = sequences(served.prepared.folder)
        folder.mkdir()
        kept = rows.filter([user in there for user in rows["user_id"].to_pylist()])
        write_histories(folder, kept)
        pq.write_table(
            pq.read_table(served.prepared.folder / "items.parquet"), folder / "items.parquet"
        )
    return replace(served, prepared=replace(served.prepared, folder=folder))


def test_an_own_item_is_found_where_it_is_excluded(
    good: Lists, served: Served, locations: RunLocations, tmp_path: Path
) -> None:
    served = without_all_seen(served, good)
    rows = sequences(served.prepared.folder).to_pylist()
    own = next(item for item in rows[4]["item_ids"] if item not in ("item1", "item2"))
    scored = write_parts(tmp_path / "parts", first_item(own)(good), "long", 10)
    with pytest.raises(TableCheckError) as caught:
        check_tables(scored, served, CheckSettings(), locations)
    assert outcomes(caught.value.checks) == {"seen_items": "held"}
    with_seen = replace(
        served, score=ScoreSettings(**(served.score.model_dump() | {"exclude_seen": False}))
    )
    with pytest.raises(TableCheckError) as caught:  # then, nobody's list may be short
        check_tables(scored, with_seen, CheckSettings(), locations)
    assert outcomes(caught.value.checks) == {"list_lengths": "held"}


@pytest.mark.parametrize("name", ["candidates", "exclude"])
def test_an_item_that_is_not_for_its_user_is_found(
    name: str, good: Lists, served: Served, locations: RunLocations, tmp_path: Path
) -> None:
    served = without_all_seen(served, good)
    listed = [(each.user, item) for each in good for item in each.items]
    first = listed.index((good[4].user, good[4].items[0]))
    # That one item is excluded; or all listed ones are candidates, but for it.
    pairs = listed[first : first + 1] if name == "exclude" else listed[:first] + listed[first + 1 :]
    path = write_pairs(tmp_path / "pairs.parquet", pairs)
    score = ScoreSettings(**(served.score.model_dump() | {name: path}))
    scored = write_parts(tmp_path / "parts", good, "long", 10)
    with pytest.raises(TableCheckError) as caught:
        check_tables(scored, replace(served, score=score), CheckSettings(), locations)
    if name == "exclude":
        assert outcomes(caught.value.checks) == {"excluded_items": "held"}
    else:
        assert outcomes(caught.value.checks) == {"candidate_items": "held", "list_lengths": "held"}


def test_a_list_that_is_too_long_is_found(
    good: Lists, served: Served, locations: RunLocations, tmp_path: Path
) -> None:
    served = without_all_seen(served, good)
    scored = write_parts(tmp_path / "parts", lengthened(good), "long", 10)
    with pytest.raises(TableCheckError) as caught:
        check_tables(scored, served, CheckSettings(), locations)
    assert "list_lengths" in outcomes(caught.value.checks)


def test_parts_that_are_damaged_are_not_read(
    good: Lists, served: Served, locations: RunLocations, tmp_path: Path
) -> None:
    scored = write_parts(tmp_path / "parts", good, "long", 10)
    part = tmp_path / "parts" / "part-00001.parquet"
    content = bytearray(part.read_bytes())
    content[50] ^= 1
    part.write_bytes(content)
    with pytest.raises(PublishError, match="not as they were written"):
        check_tables(scored, without_all_seen(served, good), CheckSettings(), locations)


def recorded(locations: RunLocations, **usual: float) -> None:
    """Three earlier runs with these values."""
    for days in (3, 4, 5):
        ended = datetime(2026, 11, 10, tzinfo=UTC)
        checks = [{"name": name, "value": value} for name, value in usual.items()]
        row = {RUN_DATE: DAY - timedelta(days=days), "started_at": ended, "finished_at": ended}
        append_run(locations.warehouse, {**row, "table_checks": checks})


@pytest.mark.parametrize(
    ("usual", "settings", "expected"),
    [
        ({"coverage": 0.9}, {}, {}),
        ({"coverage": 0.9}, {"coverage": {"limit": 1.05}}, {"coverage": "held"}),
        ({"short_lists": 0.0}, {}, {}),
        ({"short_lists": 0.0}, {"short_lists": {"limit": 0.01}}, {"short_lists": "held"}),
        ({"fallback": 0.0}, {"fallback": {"limit": 0.01}}, {"fallback": "held"}),
        (
            {"fallback": 0.0},
            {"fallback": {"limit": 0.01, "action": "warn"}},
            {"fallback": "warned"},
        ),
        ({"fallback": 0.0}, {"fallback": {"limit": 0.01, "action": "off"}}, {}),
    ],
)
def test_limits_are_those_of_the_settings(
    usual: dict[str, float],
    settings: dict[str, Any],
    expected: dict[str, str],
    good: Lists,
    served: Served,
    locations: RunLocations,
    tmp_path: Path,
) -> None:
    recorded(locations, **usual)
    served = without_all_seen(served, good)
    scored = write_parts(tmp_path / "parts", good, "long", 10)
    given = (scored, served, CheckSettings(**settings), locations)
    if "held" not in expected.values():
        assert outcomes(check_tables(*given)) == expected
        return
    with pytest.raises(TableCheckError) as caught:
        check_tables(*given)
    assert outcomes(caught.value.checks) == expected
    overruled = check_tables(*given, overrule=True)
    assert outcomes(overruled) == dict.fromkeys(expected, "overruled")


@pytest.mark.parametrize("layout", ["long", "list"])
def test_lists_are_compared_with_those_of_the_day_before(
    layout: str, good: Lists, served: Served, locations: RunLocations, tmp_path: Path
) -> None:
    served = without_all_seen(served, good)
    # Half of them in another order, one of them of other items, and one user more.
    earlier = [
        replace(each, items=each.items[::-1]) if each.user % 2 else each for each in good
    ] + [ListOf(1000, ["item3"], [0.5], [1])]
    others = [f"item{i}" for i in range(3, 39) if f"item{i}" not in good[0].items][:TOP_K]
    earlier[0] = replace(earlier[0], items=[*good[0].items[:2], *others[:3]])
    publish(write_parts(tmp_path / "before", earlier, layout, 9), locations)
    next_run = replace(locations, run_date=NEXT)
    scored = write_parts(tmp_path / "parts", good, layout, 10, day=NEXT)
    found = values(check_tables(scored, served, CheckSettings(), next_run))
    pairs = [(each, earlier[place]) for place, each in enumerate(good)]
    jaccard = [
        len({*each.items} & {*old.items}) / len({*each.items} | {*old.items}) for each, old in pairs
    ]
    is_other = [list(each.items) != list(old.items) for each, old in pairs]
    assert found["overlap"] == pytest.approx(np.mean(jaccard))
    assert found["changed_lists"] == pytest.approx(np.mean(is_other))


def test_many_users_are_compared_by_a_sample(
    good: Lists,
    served: Served,
    locations: RunLocations,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checking, "_SAMPLE", USERS // 3)
    served = without_all_seen(served, good)
    earlier = [replace(each, items=each.items[::-1]) for each in good]
    publish(write_parts(tmp_path / "before", earlier, "long", 9), locations)
    scored = write_parts(tmp_path / "parts", good, "long", 10, day=NEXT)
    next_run = replace(locations, run_date=NEXT)
    found = values(check_tables(scored, served, CheckSettings(), next_run))
    assert (found["changed_lists"], found["overlap"]) == (1.0, 1.0)
