"""What counts as seen: by age, by the type of the event or both, beside plain Python."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as tuned
from hypothesis import strategies as st

from pipeline.bundles.bundle import Bundle
from pipeline.config.score_section import ScoreSettings
from pipeline.config.sections import LogSettings
from pipeline.config.seen_rule import SeenRule
from pipeline.dates import RunDay
from pipeline.errors import ConfigError, FearecError
from pipeline.schema import ITEMS_FILE
from pipeline.scoring.history_source import HistorySource
from pipeline.scoring.inputs import open_inputs
from pipeline.scoring.prepared_reader import PreparedHistories
from pipeline.storage.resources import ResourceSettings
from tests.helpers.history_strategies import input_lists, seen_lists
from tests.helpers.prepared_folders import write_prepared
from tests.helpers.scoring_cases import (
    RUN_DATE,
    assert_rows,
    brute_force,
    rows,
    run,
    write_sequences,
)

FIRST = datetime(2026, 11, 1, tzinfo=UTC)  # of 20 days up to the run date
TYPED = LogSettings(event_type="kind")

# A user, an item, an hour, and a type or none.
Event = tuple[int, int, int, str | None]
events = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.integers(1, 6),
        st.integers(0, 20 * 24 - 1),
        st.sampled_from([None, "view", "buy", "rent"]),
    ),
    min_size=1,
    max_size=25,
)
rules = st.builds(
    SeenRule,
    st.sampled_from([None, 1, 2, 10, 20]),
    st.sampled_from([(), ("buy",), ("rent", "view"), ("buy", "gift")]),
)


def time_of(event: Event) -> datetime:
    return FIRST + timedelta(hours=event[2])


def write_typed(path: Path, given: list[Event]) -> Path:
    users, items, _, kinds = zip(*given, strict=True)
    columns: dict[str, Any] = {"user_id": users, "item_id": items}
    columns["timestamp"] = pa.array(map(time_of, given), pa.timestamp("us", tz="UTC"))
    columns["kind"] = pa.array(kinds, pa.string())
    pq.write_table(pa.table(columns), path)
    return path


def counts_as_seen(event: Event, rule: SeenRule | None) -> bool:
    if rule is None:
        return True
    days = (RUN_DATE - time_of(event).date()).days
    is_recent = rule.within_days is None or days < rule.within_days
    return is_recent and (not rule.event_types or event[3] in rule.event_types)


def seen_and_read_by_user(
    source: HistorySource, items: pa.Table, folder: Path
) -> dict[int, tuple[list[int], list[int]]]:
    """The items that count as seen of every user, and those that the model sees."""
    found = {}
    with source.open(items, folder) as opened:
        for part in opened.histories:
            lists = zip(map(sorted, seen_lists(part)), input_lists(part), strict=True)
            found.update(zip(part.user_id.to_pylist(), lists, strict=True))
            assert input_lists(part.inputs()) == input_lists(part)
    return found


def log_source(
    path: Path, rule: SeenRule | None, inputs: tuple[str, ...] = (), logs: LogSettings = TYPED
) -> HistorySource:
    return open_inputs([str(path)], skip_bad_files=False).histories(
        logs,
        pa.string(),
        run_date=RUN_DATE,
        time_zone="UTC",
        users=None,
        active_within_days=None,
        seen_rule=rule,
        input_types=inputs,
        skip_bad_files=False,
        resources=ResourceSettings(threads=1),
    )


@given(
    given=events,
    rule=st.none() | rules,
    limit=st.integers(1, 4),
    inputs=st.sampled_from([(), ("view",), ("buy", "gift"), ("gift",)]),
)
@tuned(max_examples=25)
def test_logs_and_prepared_histories_have_what_a_loop_finds(
    given: list[Event],
    rule: SeenRule | None,
    limit: int,
    inputs: tuple[str, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("seen")
    given = sorted(set(given), key=lambda event: (event[0], event[2]))
    users = sorted({event[0] for event in given})
    mine = [[event for event in given if event[0] == user] for user in users]
    write_prepared(
        folder / "prepared",
        [[event[1] for event in each] for each in mine],
        [[time_of(event) for event in each] for each in mine],
        items=[1, 2, 3, 4, 5, 6],
        kinds=[[event[3] for event in each] for each in mine],
    )
    # The bundle knows the first few items alone, in another order.
    items = pq.read_table(folder / "prepared" / ITEMS_FILE).slice(0, limit)
    items = items.set_column(
        1, "item_id", items["item_id"].take(pa.array(range(limit - 1, -1, -1)))
    )
    index = {item: place for place, item in enumerate(items["item_id"].to_pylist(), start=1)}
    known = [[event for event in each if event[1] in index] for each in mine]
    expected = [
        (
            sorted(index[event[1]] for event in each if counts_as_seen(event, rule)),
            [index[event[1]] for event in each if not inputs or event[3] in inputs],
        )
        for each in known
    ]
    sources = [
        PreparedHistories(
            folder / "prepared", None, rule.on(RunDay(RUN_DATE, "UTC")) if rule else None, inputs
        ),
        log_source(write_typed(folder / "log.parquet", given), rule, inputs),
    ]
    types = {event[3] for event in given}
    for source, ids in zip(sources, (range(len(users)), users), strict=True):
        wanted = [rule.event_types if rule else (), inputs]
        if any(some and not types.intersection(some) for some in wanted):
            with pytest.raises(ConfigError, match="no event is of a type that"):
                seen_and_read_by_user(source, items, folder)
            continue
        found = seen_and_read_by_user(source, items, folder)
        assert found == dict(zip(ids, expected, strict=True))
        assert source.dropped.absent_types == set(rule.event_types if rule else ()) - types


def some_log(folder: Path) -> tuple[Path, list[Event]]:
    given = [
        (user, item, 24 * (19 - 3 * (item % 5)) + user, [None, "view", "buy"][(user + item) % 3])
        for user in range(12)
        for item in range(user % 4, 40, 2 + user)
    ]
    return write_typed(folder / "log.parquet", given), given


@pytest.mark.parametrize(
    "exclude", [True, False, "4 days", "buy", ["buy", "view"], ["buy", "view", "7 days"]]
)
def test_lists_leave_out_what_was_seen_and_nothing_else(
    exclude: Any, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle", list(range(40)))
    path, given = some_log(tmp_path)
    run(path, bundle, tmp_path / "out", exclude_seen=exclude, top_k=20, logs=TYPED)
    rule = ScoreSettings(exclude_seen=exclude).seen_rule
    expected, listed_again = {}, 0
    for user in {event[0] for event in given}:
        mine = sorted((event for event in given if event[0] == user), key=time_of)
        seen = {e[1] for e in mine if exclude is not False and counts_as_seen(e, rule)}
        history: list[Any] = [event[1] for event in mine]
        every = brute_force(bundle, history, 40, exclude_seen=False)
        expected[user] = [pair for pair in every if pair[0] not in seen][:20]
        listed_again += sum(item in history for item, _ in expected[user])
    assert_rows(rows(tmp_path / "out"), expected)
    assert (listed_again > 0) == (exclude is not True)


def test_sequences_with_times_have_an_age_and_an_unknown_time_counts(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    ago = [FIRST + timedelta(days=19 - days) for days in range(20)]
    histories = {"a": ["item1", "item2", "item3"], "b": ["item3"], "none": []}
    times = [[ago[9], None, ago[3]], [ago[4]], []]
    path = write_sequences(tmp_path / "s.parquet", histories, timestamps=times)
    run(path, tiny_bundle, tmp_path / "out", exclude_seen="4 days", top_k=40)
    expected = {
        user: brute_force(tiny_bundle, mine, 40, exclude_seen=False)
        for user, mine in histories.items()
    }
    expected["a"] = [pair for pair in expected["a"] if pair[0] not in ("item2", "item3")]
    assert_rows(rows(tmp_path / "out"), expected)
    with pytest.raises(ConfigError, match="exclude_seen names types of events"):
        run(path, tiny_bundle, tmp_path / "x", exclude_seen="buy", logs=TYPED)
    timeless = write_sequences(tmp_path / "timeless.parquet", histories)
    with pytest.raises(ConfigError, match="exclude_seen needs the time of each event"):
        run(timeless, tiny_bundle, tmp_path / "x", exclude_seen="4 days")
    assert not (tmp_path / "x").exists()


def test_types_that_are_not_there_are_named(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle", list(range(40)))
    path, _ = some_log(tmp_path)
    with pytest.raises(ConfigError, match="Take logs and set"):
        run(path, bundle, tmp_path / "x", exclude_seen="buy")
    with pytest.raises(ConfigError, match="expected bought; found buy, view"):
        run(path, bundle, tmp_path / "x", exclude_seen="bought", logs=TYPED)
    result = run(path, bundle, tmp_path / "out", exclude_seen=["buy", "gift"], logs=TYPED)
    assert result.absent_types == ("gift",)
    # Users who have bought nothing may be all that are listed.
    (tmp_path / "users.txt").write_text("1\n")
    listed = {"users": tmp_path / "users.txt", "logs": TYPED}
    result = run(path, bundle, tmp_path / "one", exclude_seen="gift", **listed)
    assert (result.n_users, result.absent_types) == (1, ("gift",))


def test_a_prepared_folder_without_types_is_refused(tmp_path: Path) -> None:
    write_prepared(tmp_path / "prepared", [[1, 2]])
    items = pq.read_table(tmp_path / "prepared" / ITEMS_FILE)
    source = PreparedHistories(
        tmp_path / "prepared", None, SeenRule(None, ("buy",)).on(RunDay(RUN_DATE, "UTC"))
    )
    with pytest.raises(FearecError, match="names types of events"), source.open(items, tmp_path):
        pass


def test_another_rule_is_another_run(make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", list(range(40)))
    path, _ = some_log(tmp_path)
    given = {"logs": TYPED, "resume": True}
    run(path, bundle, tmp_path / "out", exclude_seen=["4 days", "buy"], **given)
    run(path, bundle, tmp_path / "out", exclude_seen=["buy", "4 days"], **given)
    with pytest.raises(FearecError, match="exclude_seen is not what it was"):
        run(path, bundle, tmp_path / "out", exclude_seen=["buy", "5 days"], **given)


def reading(bundle: Bundle, *types: str) -> Bundle:
    """The same model, which sees events of some types alone."""
    given = {"event_types": {"inputs": list(types)}}
    return replace(bundle, description=bundle.description.model_copy(update={"settings": given}))


@pytest.mark.parametrize("exclude", [True, False, "buy"])
def test_a_model_of_some_types_reads_no_other_events(
    exclude: Any, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    bundle = reading(make_bundle(tmp_path / "bundle", list(range(40))), "view")
    path, given = some_log(tmp_path)
    # A user of whom the model sees nothing gets what is popular, but for what was seen.
    given = [*given, *((50, item, item, "buy") for item in range(5))]
    write_typed(path, given)
    settings = {"exclude_seen": exclude, "top_k": 12, "logs": TYPED, "because": True}
    result = run(path, bundle, tmp_path / "out", **settings)
    viewers = {event[0] for event in given if event[3] == "view"}
    assert result.n_fallback == len({event[0] for event in given} - viewers) > 1
    rule = ScoreSettings(exclude_seen=exclude).seen_rule
    expected = {}
    for user in {event[0] for event in given}:
        mine = sorted((event for event in given if event[0] == user), key=time_of)
        seen = {e[1] for e in mine if exclude is not False and counts_as_seen(e, rule)}
        inputs: list[Any] = [event[1] for event in mine if event[3] == "view"]
        every = brute_force(bundle, inputs, 40, exclude_seen=False)
        expected[user] = [pair for pair in every if pair[0] not in seen][:12]
    assert_rows(rows(tmp_path / "out"), expected)
    views = {user: {e[1] for e in given if e[0] == user and e[3] == "view"} for user in expected}
    for row in pq.read_table(tmp_path / "out").to_pylist():
        assert row["because"] in views[row["user_id"]] or row["user_id"] not in viewers
    # Only some items, by the same events.
    pairs = [(user, item) for user in expected for item in range(0, 40, 3)]
    table = pa.table([*zip(*pairs, strict=True)], names=["user_id", "item_id"])
    pq.write_table(table, tmp_path / "pairs.parquet")
    listed = {**settings, "candidates": str(tmp_path / "pairs.parquet"), "top_k": 40}
    run(path, bundle, tmp_path / "listed", **listed)
    run(path, bundle, tmp_path / "every", **{**settings, "top_k": 40})
    every = rows(tmp_path / "every")
    some = {user: [pair for pair in mine if pair[0] % 3 == 0] for user, mine in every.items()}
    assert_rows(rows(tmp_path / "listed"), some)


def test_a_model_of_some_types_needs_events_with_types(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    bundle = reading(make_bundle(tmp_path / "bundle", [f"item{n}" for n in range(40)]), "rent")
    path, _ = some_log(tmp_path)
    with pytest.raises(ConfigError, match="of the bundle names types of events, which this input"):
        run(path, bundle, tmp_path / "x")
    path = write_sequences(tmp_path / "s.parquet", {"a": ["item1"]})
    with pytest.raises(ConfigError, match="of the bundle names types of events, which this input"):
        run(path, bundle, tmp_path / "x", logs=TYPED)
    path, _ = some_log(tmp_path)
    bundle = reading(make_bundle(tmp_path / "numbers", list(range(40))), "rent")
    with pytest.raises(ConfigError, match="expected rent; found buy, view"):
        run(path, bundle, tmp_path / "x", logs=TYPED)
    assert not (tmp_path / "x").exists()
