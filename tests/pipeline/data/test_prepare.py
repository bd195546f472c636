"""Prepare: histories in order, an append-only vocabulary, nothing of after the run date."""

import tempfile
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

import pipeline.data.history_sort
import pipeline.data.item_counts
from pipeline import schema
from pipeline.config.sections import PrepareSettings
from pipeline.config.settings import Settings
from pipeline.errors import InputError
from pipeline.results import Prepared
from pipeline.schema import ITEMS_FILE
from pipeline.storage.prepared_folder import id_types, sequence_files
from pipeline.warehouse.tables import open_table
from tests.helpers import ingest_cases
from tests.helpers.examples import few_and_many
from tests.helpers.ingest_cases import NOON, TODAY, settings_in
from tests.helpers.prepared_folders import sequences
from tests.helpers.stages import ingest, prepare, table_uri

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

Row = tuple[Any, Any, datetime]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


def write_log(
    settings: Settings, name: str, rows: list[Row], ids: pa.DataType | None = None
) -> None:
    ingest_cases.write_log(settings, name, rows, ids, ids)


def night(settings: Settings, run_date: date) -> Prepared:
    return prepare(settings, run_date, ingest(settings, run_date))


def histories(prepared: Prepared) -> list[tuple[Any, list[Any], list[datetime]]]:
    rows = sequences(prepared.folder).to_pylist()
    return [(row["user_id"], row["item_ids"], row["timestamps"]) for row in rows]


def vocabulary(prepared: Prepared) -> dict[Any, int]:
    rows = pq.read_table(prepared.folder / ITEMS_FILE).to_pylist()
    assert [row["item_index"] for row in rows] == list(range(1, len(rows) + 1))
    return {row["item_id"]: row["item_index"] for row in rows}


def test_histories_are_whole_and_in_order(settings: Settings):
    write_log(settings, "b.parquet", [(1, 7, NOON), (1, 9, NOON - HOUR)])
    write_log(settings, "a.parquet", [(2, 5, NOON), (1, 8, NOON), (1, 6, NOON)])
    prepared = night(settings, TODAY)
    # Equal times: by file path, then by row.
    assert histories(prepared) == [
        (1, [9, 8, 6, 7], [NOON - HOUR, NOON, NOON, NOON]),
        (2, [5], [NOON]),
    ]
    assert prepared.folder == settings.work_dir / "run_date=2026-06-10" / "prepared"
    assert (prepared.n_users, prepared.n_items, prepared.n_interactions) == (2, 6, 5)
    assert (prepared.first_event, prepared.last_event) == (NOON - HOUR, NOON)
    assert prepared.interactions_version == 1
    # New items are numbered in the order of their first events.
    assert vocabulary(prepared) == {9: 1, 5: 2, 8: 3, 6: 4, 7: 5}


@pytest.mark.parametrize("edge", [-(2**31), 2**31 - 1, -(2**31) - 1, 2**31, 2**63 - 1])
def test_large_user_ids_stay_what_they_are(settings: Settings, edge: int):
    write_log(settings, "a.parquet", [(edge, 1, NOON), (5, 2, NOON), (edge, 3, NOON - HOUR)])
    prepared = night(settings, TODAY)
    found = {user: items for user, items, _ in histories(prepared)}
    assert found == {edge: [3, 1], 5: [2]}
    assert id_types(prepared.folder) == (pa.int64(), pa.int64())


@pytest.mark.parametrize("ids", [pa.int32(), pa.int64(), pa.string()], ids=str)
def test_files_have_the_schemas_everybody_relies_on(settings: Settings, ids: pa.DataType):
    values = ["1", "2"] if ids == pa.string() else [1, 2]
    write_log(settings, "a.parquet", [(value, value, NOON) for value in values], ids)
    prepared = night(settings, TODAY)
    for path in sequence_files(prepared.folder):
        with pa.memory_map(str(path)) as file:
            assert pa.ipc.open_file(file).schema.equals(schema.prepared_schema(ids))
    items = pq.read_schema(prepared.folder / ITEMS_FILE)
    assert items.equals(schema.vocabulary_schema(ids))
    assert [user for user, _, _ in histories(prepared)] == values


def test_an_item_keeps_its_index_for_ever(settings: Settings):
    write_log(settings, "a.parquet", [(1, "m", NOON), (1, "z", NOON + HOUR)])
    first = vocabulary(night(settings, TODAY))
    # An older event of a new item, and one that sorts before all others.
    write_log(settings, "b.parquet", [(1, "a", NOON + DAY), (2, "k", NOON - DAY), (2, "m", NOON)])
    second = vocabulary(night(settings, TODAY + DAY))
    assert first == {"m": 1, "z": 2}
    assert second == {"m": 1, "z": 2, "k": 3, "a": 4}


def test_nothing_of_after_the_run_date_but_the_indices(settings: Settings):
    write_log(settings, "a.parquet", [(1, "x", NOON), (1, "y", NOON + DAY), (2, "y", NOON + DAY)])
    later = night(settings, TODAY + DAY)
    earlier = night(settings, TODAY)
    assert (later.n_users, later.n_interactions) == (2, 3)
    assert (earlier.n_users, earlier.n_interactions, earlier.n_items) == (1, 1, 3)
    assert histories(earlier) == [(1, ["x"], [NOON])]
    assert pq.read_table(earlier.folder / ITEMS_FILE).to_pylist() == [
        {"item_index": 1, "item_id": "x", "popularity": 1, "last_seen": NOON},
        {"item_index": 2, "item_id": "y", "popularity": 0, "last_seen": None},
    ]
    # Both nights' folders are there, side by side.
    assert histories(later)[1] == (2, ["y"], [NOON + DAY])


def test_the_asked_version_is_read_not_the_latest(settings: Settings):
    write_log(settings, "a.parquet", [(1, "x", NOON)])
    ingested = ingest(settings, TODAY)
    write_log(settings, "b.parquet", [(1, "y", NOON)])
    ingest(settings, TODAY)
    assert prepare(settings, TODAY, ingested).n_interactions == 1


def test_running_again_writes_the_same_bytes_and_no_version(settings: Settings):
    write_log(settings, "a.parquet", [(user, f"i{user % 7}", NOON) for user in range(50)])

    def outcome() -> list[Any]:
        folder = night(settings, TODAY).folder
        table = open_table(table_uri(settings, "vocabulary"))
        files = (*sequence_files(folder), folder / ITEMS_FILE)
        return [table.version(), *(path.read_bytes() for path in files)]

    assert outcome() == outcome()
    left = {path.name for path in settings.work_dir.rglob("*")}
    buckets = {f"{digit:x}.arrow" for digit in range(16)}
    assert left == {"run_date=2026-06-10", "prepared", "sequences", ITEMS_FILE, *buckets}


def test_the_content_hash_is_of_what_is_in_the_files(settings: Settings):
    write_log(settings, "a.parquet", [(1, "x", NOON), (2, "y", NOON)])
    first = night(settings, TODAY)
    assert night(settings, TODAY) == first
    write_log(settings, "b.parquet", [(1, "y", NOON - HOUR)])
    other = night(settings, TODAY)
    assert other.n_items == first.n_items
    assert other.content_hash != first.content_hash


def test_a_vocabulary_made_anew_has_another_id(settings: Settings):
    write_log(settings, "a.parquet", [(1, "x", NOON)])
    first = night(settings, TODAY)
    vocabulary = Path(settings.warehouse) / "vocabulary"
    vocabulary.rename(vocabulary.with_name("lost"))
    again = night(settings, TODAY)
    assert again.vocabulary_id != first.vocabulary_id
    assert again.content_hash == first.content_hash


def test_a_killed_run_leaves_what_was_there(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    write_log(settings, "a.parquet", [(1, "x", NOON)])
    before = histories(night(settings, TODAY))
    write_log(settings, "b.parquet", [(1, "y", NOON + HOUR)])

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.data.history_sort, "write_histories", dies)
        with pytest.raises(KeyboardInterrupt):
            night(settings, TODAY)
    folder = settings.work_dir / "run_date=2026-06-10" / "prepared"
    assert sequences(folder)["item_ids"].to_pylist() == [before[0][1]]
    assert vocabulary(night(settings, TODAY)) == {"x": 1, "y": 2}


def test_a_vocabulary_of_narrower_integers_widens(settings: Settings):
    write_log(settings, "a.parquet", [(1, 7, NOON)], pa.int32())
    night(settings, TODAY)
    write_log(settings, "b.parquet", [(1, 2**40, NOON)], pa.int64())
    assert vocabulary(night(settings, TODAY)) == {7: 1, 2**40: 2}


def test_no_interaction_up_to_the_run_date_is_refused(settings: Settings):
    write_log(settings, "a.parquet", [(1, "x", NOON)])
    ingested = ingest(settings, TODAY)
    with pytest.raises(InputError, match="no interaction up to 2026-06-09") as refusal:
        prepare(settings, TODAY - DAY, ingested)
    assert refusal.value.exit_code == 2


events = st.tuples(
    st.integers(0, 4), st.integers(0, 6), st.integers(0, 4).map(lambda hours: NOON - hours * HOUR)
)


def check_histories_equal_a_plain_sort(files: list[list[Row]], rows_a_batch: int):
    kept: dict[Row, tuple[int, int]] = {}
    for number, file in enumerate(files):
        for row, event in enumerate(file):
            kept.setdefault(event, (number, row))
    ordered = sorted(kept, key=lambda event: (event[0], event[2], kept[event]))
    expected = [
        (
            user,
            [item for who, item, _ in ordered if who == user],
            [time for who, _, time in ordered if who == user],
        )
        for user in sorted({who for who, _, _ in ordered})
    ]
    # Users that span batches, batches that span users.
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.data.history_sort, "_BATCH_ROWS", rows_a_batch)
        settings = settings_in(Path(folder))
        for number, file in enumerate(files):
            write_log(settings, f"{number}.parquet", file)
        prepared = night(settings, TODAY)
        assert histories(prepared) == expected
        assert prepared.n_users == len(expected)
        assert prepared.n_items == len({item for _, item, _ in kept}) + 1


test_histories_equal_a_plain_sort, test_many_histories_equal_a_plain_sort = few_and_many(
    check_histories_equal_a_plain_sort,
    6,
    60,
    st.lists(st.lists(events, min_size=1, max_size=12), min_size=1, max_size=3),
    st.integers(1, 5),
)


@pytest.mark.parametrize("first", [True, False])
def test_two_runs_at_once_give_no_index_twice(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, first: bool
):
    write_log(settings, "a.parquet", [(1, 7, NOON), (1, 9, NOON - DAY)])
    if not first:
        night(settings, TODAY - DAY)
    ingested = ingest(settings, TODAY)
    elsewhere = settings.model_copy(update={"work_dir": settings.work_dir / "other"})
    unpatched = pipeline.data.item_counts.append
    others: list[Prepared] = []

    def meanwhile(*arguments: Any) -> None:
        monkeypatch.setattr(pipeline.data.item_counts, "append", unpatched)
        others.append(prepare(elsewhere, TODAY, ingested))
        unpatched(*arguments)

    monkeypatch.setattr(pipeline.data.item_counts, "append", meanwhile)
    indices = vocabulary(prepare(settings, TODAY, ingested))
    assert indices == vocabulary(others[0])
    table = open_table(table_uri(settings, "vocabulary"))
    assert table is not None
    assert sorted(table.to_pyarrow_table()["item_index"].to_pylist()) == [1, 2]


@pytest.mark.parametrize("days", [1, 2, 4, None])
def test_older_events_than_the_history_are_not_used(tmp_path: Path, days: int | None):
    settings = settings_in(tmp_path)
    rows = [
        (user, f"item{(user + age) % 5}", datetime(2026, 6, 11, tzinfo=UTC) - age * DAY / 2)
        for user in range(4)
        for age in range(user, 8)
        if age
    ]
    write_log(settings, "a.parquet", rows)
    limits = {"history_days": days, "user_inter_num_interval": "[2,inf)"}
    prepared = night(settings.model_copy(update={"prepare": PrepareSettings(**limits)}), TODAY)
    since = datetime(2026, 6, 11, tzinfo=UTC) - (days or 30) * DAY
    used = [row for row in rows if row[2] >= since]
    users = [user for user in range(4) if sum(row[0] == user for row in used) >= 2]
    assert [user for user, _, _ in histories(prepared)] == users
    expected = sorted((row[0], row[2], row[1]) for row in used if row[0] in users)
    assert [
        (user, time, item)
        for user, items, times in histories(prepared)
        for item, time in zip(items, times, strict=True)
    ] == expected
    assert prepared.left_out_interactions == len(used) - len(expected)


def test_an_item_without_events_in_the_history_keeps_its_index(tmp_path: Path):
    settings = settings_in(tmp_path)
    write_log(settings, "a.parquet", [(1, "old", NOON - 9 * DAY), (1, "new", NOON)])
    assert night(settings, TODAY).n_items == 3
    recent = settings.model_copy(update={"prepare": PrepareSettings(history_days=3)})
    prepared = night(recent, TODAY)
    items = pq.read_table(prepared.folder / ITEMS_FILE).to_pylist()
    assert [(row["item_index"], row["item_id"], row["popularity"]) for row in items] == [
        (1, "old", 0),
        (2, "new", 1),
    ]
    assert items[0]["last_seen"] is None
    with pytest.raises(InputError, match=r"no interaction up to 2026-07-10.*history_days"):
        night(recent, date(2026, 7, 10))
