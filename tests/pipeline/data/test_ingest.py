"""Ingest: what is kept, what is quarantined, and that any rerun leaves the same tables."""

import datetime as dt
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from hypothesis import given
from hypothesis import strategies as st

import pipeline.data.ingest
import pipeline.data.source_files
from pipeline.config.sections import LogSettings
from pipeline.config.settings import Settings
from pipeline.data import quarantine_sql
from pipeline.dates import run_end
from pipeline.errors import ConflictError, FearecError, InputError, SchemaError
from pipeline.logs.conversion import normalise_timestamps
from pipeline.logs.log_files import LogFile, list_log_files
from pipeline.results import Ingested
from pipeline.schema import TIME
from pipeline.warehouse.tables import (
    append,
    create_table,
    dataset_of,
    open_or_create_table,
    open_table,
    table_id,
)
from tests.helpers.examples import few_and_many
from tests.helpers.ingest_cases import (
    NOON,
    TODAY,
    events_of,
    rows_of,
    settings_in,
    versions,
    write_log,
)
from tests.helpers.stages import ingest, table_uri


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


def test_good_rows_are_kept_with_their_source(settings: Settings):
    write_log(settings, "dt=1/a.parquet", [(1, "x", NOON), (2, "y", NOON)])
    result = ingest(settings, TODAY)
    identity = table_id(open_table(table_uri(settings, "interactions")))
    assert result == Ingested(identity, 1, 1, 2, 2, 0, 0, 0)
    first, second = sorted(rows_of(settings, "interactions"), key=lambda row: row["source_row"])
    assert (first["user_id"], first["item_id"], first["timestamp"]) == (1, "x", NOON)
    assert [first["source_row"], second["source_row"]] == [0, 1]
    assert first["source_file"] == "dt=1/a.parquet"


def test_the_tables_are_asked_no_more_often_where_more_files_are_known(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    def counted(table: DeltaTable) -> str:
        asked[-1] += 1
        return table_id(table)

    asked: list[int] = []
    monkeypatch.setattr(pipeline.data.source_files, "table_id", counted)
    for number in range(12):
        asked.append(0)
        write_log(settings, f"{number}.parquet", [(number, "x", NOON)])
        assert ingest(settings, TODAY).files == 1
    assert asked[2] == asked[11] > 0


def test_bad_rows_are_quarantined_as_text_with_the_reason(settings: Settings):
    second = timedelta(seconds=1)
    bad = [
        (None, None, None),
        (1, None, NOON),
        (1, "x", None),
        (1, "x", datetime(1989, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (1, "x", datetime(2026, 6, 11, tzinfo=UTC)),
    ]
    good = [
        (1, "x", datetime(1990, 1, 1, tzinfo=UTC)),
        (1, "x", datetime(2026, 6, 11, tzinfo=UTC) - second),
    ]
    write_log(settings, "a.parquet", bad + good)
    result = ingest(settings, TODAY)
    assert (result.rows, result.added, result.quarantined) == (7, 2, 5)
    assert events_of(settings) == good
    rows = sorted(rows_of(settings, "quarantine"), key=lambda row: row["source_row"])
    assert [row["reason"] for row in rows] == [
        "null user_id",
        "null item_id",
        "null timestamp",
        "timestamp before 1990",
        "timestamp after the run date",
    ]
    assert rows[3]["user_id"] == "1"
    assert rows[3]["item_id"] == "x"
    assert rows[3]["timestamp"] == "1989-12-31 23:59:59.000000"
    assert {row["run_date"] for row in rows} == {TODAY}
    assert rows[0]["timestamp"] is None


def test_exact_repeats_are_kept_once_from_the_first_file(settings: Settings):
    write_log(settings, "b.parquet", [(1, "x", NOON)])
    write_log(settings, "a.parquet", [(2, "y", NOON), (1, "x", NOON), (1, "x", NOON)])
    result = ingest(settings, TODAY)
    assert (result.rows, result.added, result.duplicates) == (4, 2, 2)
    (kept,) = [row for row in rows_of(settings, "interactions") if row["user_id"] == 1]
    assert (kept["source_file"], kept["source_row"]) == ("a.parquet", 1)


def test_running_again_changes_no_table(settings: Settings):
    write_log(settings, "a.parquet", [(1, "x", NOON), (None, "x", NOON)])
    write_log(settings, "only_repeats.parquet", [(1, "x", NOON)])
    write_log(settings, "without_rows.parquet", [])
    ingest(settings, TODAY)
    before = versions(settings)
    result = ingest(settings, TODAY)
    assert versions(settings) == before
    assert (result.interactions_version, result.files) == (before["interactions"], 0)
    assert (result.added, result.duplicates, result.quarantined, result.withdrawn) == (0, 0, 0, 0)


def test_only_new_and_changed_files_are_read(settings: Settings):
    write_log(settings, "a.parquet", [(1, "x", NOON)])
    changed = write_log(settings, "b.parquet", [(2, "x", NOON), (None, "x", NOON)])
    ingest(settings, TODAY)
    write_log(settings, "c.parquet", [(3, "x", NOON)])
    write_log(settings, "b.parquet", [(2, "x", NOON), (4, "x", NOON), (4, None, NOON)])
    result = ingest(settings, TODAY)
    assert (result.files, result.rows, result.added) == (2, 4, 2)
    assert (result.duplicates, result.quarantined) == (1, 1)
    assert [user for user, _, _ in events_of(settings)] == [1, 2, 3, 4]
    # Touched but unchanged: read once more, nothing added.
    os.utime(changed, ns=(0, changed.stat().st_mtime_ns + 1))
    assert ingest(settings, TODAY).added == 0
    assert ingest(settings, TODAY).files == 0


def test_a_moved_checkout_does_not_read_everything_again(tmp_path: Path):
    settings = settings_in(tmp_path / "here")
    write_log(settings, "a.parquet", [(1, "x", NOON)])
    ingest(settings, TODAY)
    (tmp_path / "here").rename(tmp_path / "there")
    assert ingest(settings_in(tmp_path / "there"), TODAY).files == 0


def test_rows_after_the_run_date_are_released_when_it_comes(settings: Settings):
    tomorrow = NOON + timedelta(days=1)
    future = datetime(2099, 1, 1, tzinfo=UTC)
    log = write_log(
        settings,
        "a.parquet",
        [(1, "x", NOON), (1, "y", tomorrow), (1, "y", tomorrow), (1, "z", future)],
    )
    assert ingest(settings, TODAY).quarantined == 3
    log.unlink()  # the log may be gone by then
    write_log(settings, "b.parquet", [(2, "x", NOON)])
    result = ingest(settings, TODAY + timedelta(days=1))
    assert (result.rows, result.added, result.duplicates, result.quarantined) == (1, 2, 1, 0)
    assert (1, "y", tomorrow) in events_of(settings)
    assert [row["item_id"] for row in rows_of(settings, "quarantine")] == ["z"]
    before = versions(settings)
    ingest(settings, TODAY + timedelta(days=1))
    assert versions(settings) == before


@pytest.mark.parametrize(
    "killed_at", ["quarantine", "interactions", "log_files", "delete", "entries"]
)
def test_a_killed_run_is_completed_by_the_next(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, killed_at: str
):
    tomorrow = NOON + timedelta(days=1)
    write_log(settings, "a.parquet", [(1, "x", NOON), (1, "y", tomorrow)])
    ingest(settings, TODAY)
    write_log(settings, "b.parquet", [(2, "x", NOON), (2, None, NOON)])

    def dies_at(table: DeltaTable, *rows: Any) -> None:
        append(table, *rows)
        if killed_at in table.table_uri:
            raise KeyboardInterrupt

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        for module in (pipeline.data.ingest, quarantine_sql, pipeline.data.source_files):
            patch.setattr(module, "append", dies_at)
        if killed_at == "delete":
            patch.setattr(pipeline.data.ingest, "delete", dies)
        if killed_at == "entries":
            patch.setattr(pipeline.data.source_files.SourceFiles, "write_entries", dies)
        with pytest.raises(KeyboardInterrupt):
            ingest(settings, TODAY + timedelta(days=1))
    assert ingest(settings, TODAY + timedelta(days=1)).duplicates == 0
    assert events_of(settings) == [(1, "x", NOON), (1, "y", tomorrow), (2, "x", NOON)]
    assert [row["reason"] for row in rows_of(settings, "quarantine")] == ["null item_id"]
    before = versions(settings)
    ingest(settings, TODAY + timedelta(days=1))
    assert versions(settings) == before


def test_two_runs_at_once_do_not_add_twice(settings: Settings):
    columns = pa.schema([("user_id", pa.int64())])
    rows = pa.table({"user_id": [1]}, columns)
    one = open_or_create_table(table_uri(settings, "interactions"), columns)
    other = open_or_create_table(table_uri(settings, "interactions"), columns)
    append(one, rows.to_reader())
    with pytest.raises(FearecError, match="another run wrote to the table meanwhile"):
        append(other, rows.to_reader())
    assert len(rows_of(settings, "interactions")) == 1


# Two runs at once


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("reads", [1, 3])  # of the log, before the other run commits
def test_two_ingests_at_once_double_no_row(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, first: bool, reads: int
):
    if not first:
        write_log(settings, "0.parquet", [(0, "x", NOON), (0, None, NOON)])
        ingest(settings, TODAY)
    tomorrow = NOON + timedelta(days=1)
    write_log(settings, "a.parquet", [(1, "x", NOON), (None, "x", NOON), (1, "y", tomorrow)])
    elsewhere = settings.model_copy(update={"work_dir": settings.work_dir / "other"})
    steps = ["stage", "find_kept", "find_bad"]
    function = steps[reads - 1]
    unpatched = getattr(pipeline.data.ingest, function)
    others: list[Ingested] = []

    def meanwhile(*arguments: Any, **named: Any) -> Any:
        if not others:
            others.append(Ingested("", 0, 0, 0, 0, 0, 0, 0))  # not once more inside
            others[0] = ingest(elsewhere, TODAY)
        return unpatched(*arguments, **named)

    monkeypatch.setattr(pipeline.data.ingest, function, meanwhile)
    result = ingest(settings, TODAY)
    assert (result.added, result.quarantined, others[0].added) == (0, 0, 1)
    assert events_of(settings) == [*([] if first else [(0, "x", NOON)]), (1, "x", NOON)]
    reasons = sorted(row["reason"] for row in rows_of(settings, "quarantine"))
    assert reasons == [
        *([] if first else ["null item_id"]),
        "null user_id",
        "timestamp after the run date",
    ]
    names = [row["source_file"] for row in rows_of(settings, "log_files")]
    assert len(names) == len(set(names))
    monkeypatch.undo()
    before = versions(settings)
    assert ingest(settings, TODAY).files == 0
    assert versions(settings) == before


def test_creating_a_table_twice_at_once_is_a_race_that_one_loses(tmp_path: Path):
    columns = pa.schema([("a", pa.int64())])
    rows = pa.table({"a": [1]}, columns)

    def create(uri: str, together: threading.Barrier) -> int:
        together.wait()
        try:
            append(create_table(uri, columns), rows.to_reader())
        except ConflictError:
            return 0
        return 1

    with ThreadPoolExecutor(2) as pool:
        for attempt in range(40):
            uri, together = str(tmp_path / f"{attempt}"), threading.Barrier(2)
            created = [pool.submit(create, uri, together) for _ in range(2)]
            won = sum(each.result() for each in created)
            assert rows_in(uri) == won <= 1


def rows_in(uri: str) -> int:
    table = open_table(uri)
    return 0 if table is None else dataset_of(table).count_rows()


# Id types


@pytest.mark.parametrize(
    ("written", "kept", "ids"),
    [
        (pa.int64(), pa.int64(), [1, 2]),
        (pa.int32(), pa.int32(), [1, 2]),
        (pa.uint32(), pa.int64(), [1, 2**32 - 1]),
        (pa.string(), pa.string(), ["1", "zwölf"]),
        (pa.large_string(), pa.string(), ["1", "2"]),
        (pa.dictionary(pa.int8(), pa.string()), pa.string(), ["1", "2"]),
    ],
    ids=str,
)
def test_ids_keep_their_type(
    settings: Settings, written: pa.DataType, kept: pa.DataType, ids: list[Any]
):
    rows = [(ids[0], ids[1], NOON), (ids[1], ids[0], NOON), (None, None, NOON)]
    write_log(settings, "a.parquet", rows, user=written, item=written)
    ingest(settings, TODAY)
    columns = open_table(table_uri(settings, "interactions")).to_pyarrow_dataset().schema
    assert columns.field("user_id").type == columns.field("item_id").type == kept
    assert events_of(settings) == sorted(rows[:2])
    # And they are recognised the next time.
    write_log(settings, "b.parquet", rows[:2], user=written, item=written)
    assert ingest(settings, TODAY).duplicates == 2


@pytest.mark.parametrize("same_night", [True, False])
def test_integers_widen(settings: Settings, same_night: bool):
    write_log(settings, "a.parquet", [(1, 7, NOON)], user=pa.int32(), item=pa.int32())
    if not same_night:
        ingest(settings, TODAY)
    write_log(settings, "b.parquet", [(2**40, 7, NOON), (1, 7, NOON)], item=pa.int32())
    result = ingest(settings, TODAY)
    assert result.duplicates == 1
    columns = open_table(table_uri(settings, "interactions")).to_pyarrow_dataset().schema
    assert columns.field("user_id").type == pa.int64()
    assert columns.field("item_id").type == pa.int32()
    assert events_of(settings) == [(1, 7, NOON), (2**40, 7, NOON)]


@pytest.mark.parametrize("same_night", [True, False])
def test_other_id_types_than_elsewhere_are_refused(settings: Settings, same_night: bool):
    first = write_log(settings, "a.parquet", [(1, "x", NOON)])
    if not same_night:
        ingest(settings, TODAY)
    second = write_log(settings, "b.parquet", [("1", "x", NOON)], user=pa.string())
    with pytest.raises(SchemaError) as refusal:
        ingest(settings, TODAY)
    assert refusal.value.exit_code == 2
    assert str(second) in str(refusal.value)
    assert (str(first) if same_night else "interactions") in str(refusal.value)
    assert len(events_of(settings)) == (0 if same_night else 1)


# Timestamps

EPOCH = int(NOON.timestamp())


@pytest.mark.parametrize(
    ("values", "kind", "unit"),
    [
        ([EPOCH, None], pa.int64(), "s"),
        ([EPOCH, None], pa.uint32(), "s"),
        ([EPOCH * 1000, None], pa.int64(), "ms"),
        ([float(EPOCH), None], pa.float64(), "s"),
        ([float(EPOCH * 1000), float("nan")], pa.float64(), "ms"),
        ([NOON.replace(tzinfo=None), None], pa.timestamp("ns"), "s"),
        ([NOON.replace(tzinfo=None), None], pa.timestamp("s"), "ms"),
        (
            [NOON.astimezone(timezone(timedelta(hours=9))), None],
            pa.timestamp("ms", "Asia/Tokyo"),
            "s",
        ),
    ],
    ids=str,
)
def test_every_kind_of_timestamp_is_the_same_instant(
    tmp_path: Path, values: list[Any], kind: pa.DataType, unit: str
):
    settings = settings_in(tmp_path, timestamp_unit=unit)
    write_log(settings, "a.parquet", [(1, "x", value) for value in values], time=kind)
    ingest(settings, TODAY)
    assert events_of(settings) == [(1, "x", NOON)]
    assert [row["reason"] for row in rows_of(settings, "quarantine")] == ["null timestamp"]


def test_fractions_of_a_second_are_kept():
    column = normalise_timestamps(pa.array([EPOCH + 0.25]), "s")
    assert column.to_pylist() == [NOON + timedelta(milliseconds=250)]


@given(
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)),
    st.sampled_from([pa.int64(), *(pa.timestamp(unit) for unit in ("s", "ms", "us", "ns"))]),
    st.sampled_from(["s", "ms"]),
)
def test_no_integer_is_too_large_for_a_timestamp(
    values: list[int | None], kind: pa.DataType, unit: str
):
    scale = {"s": 10**6, "ms": 10**3, "us": 1, "ns": 1e-3}[getattr(kind, "unit", unit)]
    times = normalise_timestamps(pa.array(values, pa.int64()).cast(kind), unit).to_pylist()
    for value, time in zip(values, times, strict=True):
        assert (time is None) == (value is None)
        if value is not None and abs(value * scale) < 2**53:
            exact = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(value * scale))
            assert abs(time - exact) <= timedelta(microseconds=1)
        elif value is not None:
            assert time.year < 1990 if value < 0 else time.year > 2200


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_no_float_is_too_large_for_a_timestamp(value: float):
    (time,) = normalise_timestamps(pa.array([value]), "s").to_pylist()
    if value != value:
        assert time is None
    elif value <= 0:
        assert time.year <= 1970
    elif value >= 4e9:
        assert time.year > 2090
    else:
        exact = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=value)
        assert abs(time - exact) <= timedelta(microseconds=1)


def test_the_run_date_ends_where_the_user_lives():
    assert run_end(TODAY, "UTC") == datetime(2026, 6, 11, tzinfo=UTC)
    assert run_end(TODAY, "Asia/Tokyo") == datetime(2026, 6, 10, 15, tzinfo=UTC)


# Bad input: exit code 2, one line that names the place, nothing written


@pytest.fixture
def nothing_written(settings: Settings) -> Iterator[None]:
    yield
    assert not Path(settings.warehouse).exists()


def refusal(settings: Settings, kind: type[FearecError]) -> str:
    with pytest.raises(kind) as error:
        ingest(settings, TODAY)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.usefixtures("nothing_written")
def test_a_missing_path_is_refused(settings: Settings):
    assert settings.logs.path in refusal(settings, InputError)


@pytest.mark.usefixtures("nothing_written")
def test_a_folder_without_parquet_is_refused(settings: Settings):
    write_log(settings, "_unfinished/a.parquet", [(1, "x", NOON)])
    write_log(settings, ".hidden.parquet", [(1, "x", NOON)])
    (Path(settings.logs.path) / "notes.txt").write_text("user_id,item_id\n")
    assert "no log files" in refusal(settings, InputError)


@pytest.mark.usefixtures("nothing_written")
@pytest.mark.parametrize("column", ["user_id", "item_id", "timestamp"])
def test_a_missing_column_is_refused(settings: Settings, column: str):
    path = write_log(settings, "b.parquet", [(1, "x", NOON)])
    write_log(settings, "a.parquet", [(1, "x", NOON)])
    table = pq.read_table(path)
    names = [f"my_{name}" if name == column else name for name in table.column_names]
    pq.write_table(table.rename_columns(names), path)
    message = refusal(settings, SchemaError)
    assert str(path) in message
    assert f"my_{column}" in message
    assert f"[logs] {column} =" in message


def test_other_names_can_be_mapped(tmp_path: Path):
    settings = settings_in(tmp_path, user_id="who", item_id="what", timestamp="when")
    path = write_log(settings, "a.parquet", [(1, "x", NOON)])
    table = pq.read_table(path).rename_columns(["who", "what", "when"])
    pq.write_table(table.append_column("user_id", pa.array([9])), path)
    ingest(settings, TODAY)
    assert events_of(settings) == [(1, "x", NOON)]


@pytest.mark.usefixtures("nothing_written")
@pytest.mark.parametrize(
    ("rows", "types"),
    [
        ((1.5, "x", NOON), {"user": pa.float64()}),
        ((1, True, NOON), {"item": pa.bool_()}),
        ((2**63, "x", NOON), {"user": pa.uint64()}),
        ((1, "x", True), {"time": pa.bool_()}),
        ((1, "x", dt.time(12)), {"time": pa.time32("ms")}),
        ((1, Decimal("1.5"), NOON), {"item": pa.decimal128(9, 1)}),
        ((float(2**60), "x", NOON), {"user": pa.float64()}),
    ],
    ids=str,
)
def test_a_column_of_the_wrong_type_is_refused(
    settings: Settings, rows: tuple[Any, Any, Any], types: dict[str, pa.DataType]
):
    path = write_log(settings, "a.parquet", [rows], **types)
    message = refusal(settings, SchemaError)
    assert str(path) in message
    assert str(next(iter(types.values()))) in message


@pytest.mark.usefixtures("nothing_written")
def test_an_empty_log_is_refused(settings: Settings):
    write_log(settings, "a.parquet", [])
    assert "the log is empty" in refusal(settings, InputError)


@pytest.mark.usefixtures("nothing_written")
@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "pages"])
def test_a_corrupt_file_is_refused(settings: Settings, damage: str):
    write_log(settings, "a.parquet", [(1, "x", NOON)])
    path = write_log(settings, "b.parquet", [(user, f"item-{user}", NOON) for user in range(999)])
    whole = path.read_bytes()
    path.write_bytes(
        {
            "truncated": whole[:-20],
            "empty": b"",
            "text": b"user_id,item_id,timestamp\n",
            "pages": whole[:4] + b"\xff" * 2_000 + whole[2_004:],
        }[damage]
    )
    assert str(path) in refusal(settings, InputError)


def test_a_corrupt_file_costs_no_good_data(settings: Settings):
    write_log(settings, "a.parquet", [(1, "x", NOON)])
    ingest(settings, TODAY)
    before = versions(settings)
    write_log(settings, "b.parquet", [(2, "x", NOON)])
    (Path(settings.logs.path) / "c.parquet").write_bytes(b"PAR1")
    refusal(settings, InputError)
    assert versions(settings) == before
    (Path(settings.logs.path) / "c.parquet").unlink()
    assert ingest(settings, TODAY).added == 1


def test_bad_rows_alone_are_quarantined_and_refused(settings: Settings):
    write_log(settings, "a.parquet", [(1, "x", NOON + timedelta(days=1)), (None, "x", NOON)])
    assert "no good row" in refusal(settings, InputError)
    assert len(rows_of(settings, "quarantine")) == 2
    refusal(settings, InputError)
    assert len(rows_of(settings, "quarantine")) == 2
    assert ingest(settings, TODAY + timedelta(days=1)).added == 1


# Wrong settings, put right


def test_a_wrong_unit_found_out_at_once_is_put_right(settings: Settings, tmp_path: Path):
    rows = [(1, "x", EPOCH * 1000), (2, "y", EPOCH * 1000), (None, "y", EPOCH * 1000)]
    write_log(settings, "a.parquet", rows, time=pa.int64())
    assert "no good row" in refusal(settings, InputError)
    assert len(rows_of(settings, "quarantine")) == 3
    right = settings_in(tmp_path, timestamp_unit="ms")
    result = ingest(right, TODAY)
    assert (result.files, result.added, result.quarantined) == (1, 2, 1)
    (bad,) = rows_of(right, "quarantine")
    assert (bad["reason"], bad["timestamp"]) == ("null user_id", "2026-06-10 12:00:00.000000")
    before = versions(right)
    assert ingest(right, TODAY).files == 0
    assert versions(right) == before


def test_a_wrong_unit_found_out_later_costs_nothing_that_is_not_read_again(
    settings: Settings, tmp_path: Path
):
    write_log(settings, "a.parquet", [(1, "x", NOON), (None, "x", NOON)])
    gone = write_log(settings, "gone.parquet", [(5, "x", NOON), (5, None, NOON)])
    write_log(settings, "b.parquet", [(2, "x", EPOCH * 1000)], time=pa.int64())
    ingest(settings, TODAY)
    gone.unlink()
    right = settings_in(tmp_path, timestamp_unit="ms")
    result = ingest(right, TODAY)
    assert (result.files, result.added, result.withdrawn) == (2, 1, 0)
    assert events_of(right) == [(1, "x", NOON), (2, "x", NOON), (5, "x", NOON)]
    reasons = sorted((row["source_file"], row["reason"]) for row in rows_of(right, "quarantine"))
    assert reasons == [("a.parquet", "null user_id"), ("gone.parquet", "null item_id")]


def test_wrong_columns_are_put_right(settings: Settings, tmp_path: Path):
    path = write_log(settings, "a.parquet", [(1, "x", NOON), (2, "y", NOON)])
    table = pq.read_table(path)
    pq.write_table(table.append_column("viewer", pa.array([7, 8])), path)
    ingest(settings, TODAY)
    right = settings_in(tmp_path, user_id="viewer")
    result = ingest(right, TODAY)
    assert (result.added, result.duplicates, result.withdrawn) == (2, 0, 2)
    assert events_of(right) == [(7, "x", NOON), (8, "y", NOON)]
    before = versions(right)
    assert ingest(right, TODAY).files == 0
    assert versions(right) == before


def test_wrong_columns_of_another_type_are_put_right(settings: Settings, tmp_path: Path):
    path = write_log(settings, "a.parquet", [(1, "x", NOON)])
    table = pq.read_table(path)
    never = pa.array([datetime(1970, 1, 1, tzinfo=UTC)], TIME)
    pq.write_table(table.append_column("session", pa.array(["s"])).append_column("t", never), path)
    with pytest.raises(InputError, match="no good row"):
        ingest(settings_in(tmp_path, user_id="session", timestamp="t"), TODAY)
    assert ingest(settings, TODAY).added == 1
    assert events_of(settings) == [(1, "x", NOON)]


def test_a_wrong_unit_never_empties_the_table(settings: Settings, tmp_path: Path):
    write_log(settings, "a.parquet", [(1, "x", EPOCH)], time=pa.int64())
    ingest(settings, TODAY)
    with pytest.raises(InputError, match="no good row"):
        ingest(settings_in(tmp_path, timestamp_unit="ms"), TODAY)
    assert events_of(settings) == [(1, "x", NOON)]
    ingest(settings, TODAY)
    assert events_of(settings) == [(1, "x", NOON)]


def test_bad_rows_of_files_touched_or_written_again_are_there_once(settings: Settings):
    rows = [(1, "x", NOON), (None, "x", NOON), (2, None, NOON)]
    path = write_log(settings, "a.parquet", rows)
    ingest(settings, TODAY)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    result = ingest(settings, TODAY)
    assert (result.files, result.quarantined) == (1, 0)
    write_log(settings, "a.parquet", [*rows, (None, "z", NOON)])
    assert ingest(settings, TODAY).quarantined == 1
    bad = Counter((row["user_id"], row["item_id"]) for row in rows_of(settings, "quarantine"))
    assert bad == {(None, "x"): 1, ("2", None): 1, (None, "z"): 1}


def test_only_rows_that_a_replaced_file_has_still_are_released(settings: Settings):
    tomorrow = NOON + timedelta(days=1)
    write_log(settings, "latest.parquet", [(1, "x", NOON), (1, "y", tomorrow)])
    ingest(settings, TODAY)
    write_log(settings, "latest.parquet", [(2, "x", NOON), (2, "z", tomorrow)])
    ingest(settings, TODAY)
    ingest(settings, TODAY + timedelta(days=1))
    assert events_of(settings) == [(2, "x", NOON), (2, "z", tomorrow)]
    assert rows_of(settings, "quarantine") == []


def test_a_table_made_anew_has_another_id(settings: Settings):
    write_log(settings, "a.parquet", [(1, "x", NOON)])
    first = ingest(settings, TODAY)
    Path(settings.warehouse).rename(Path(settings.warehouse).with_name("lost"))
    again = ingest(settings, TODAY)
    assert again.interactions_version == first.interactions_version
    assert again.interactions_id != first.interactions_id


# Listing


@pytest.mark.usefixtures("nothing_written")
def test_a_link_that_leads_nowhere_is_named(settings: Settings):
    logs = Path(settings.logs.path)
    logs.mkdir()
    (logs / "link.parquet").symlink_to(logs / "gone")
    message = refusal(settings, InputError)
    assert "link.parquet" in message
    assert "No such file" in message
    write_log(settings, "a.parquet", [(1, "x", NOON)])
    assert "link.parquet" in refusal(settings, InputError)


def test_a_link_beside_its_target_is_passed_over(settings: Settings):
    one = write_log(settings, "1.parquet", [(1, "a", NOON), (1, "b", NOON)])
    latest = one.with_name("latest.parquet")
    latest.symlink_to(one)
    (one.parent / "dt=1").mkdir()
    write_log(settings, "dt=1/3.parquet", [(3, "c", NOON)])
    (one.parent / "a").symlink_to("dt=1")
    assert ingest(settings, TODAY).files == 2
    two = write_log(settings, "2.parquet", [(2, "a", NOON)])
    latest.unlink()
    latest.symlink_to(two)
    assert ingest(settings, TODAY).files == 1
    write_log(settings, "1.parquet", [(1, "x", NOON), (1, "b", NOON)])
    corrected = ingest(settings, TODAY)
    assert (corrected.added, corrected.withdrawn) == (1, 1)
    files = {row["source_file"] for row in rows_of(settings, "interactions")}
    assert files == {"1.parquet", "2.parquet", "dt=1/3.parquet"}
    assert [user for user, item, _ in events_of(settings) if item == "a"] == [2]


def test_the_link_of_an_earlier_version_is_corrected_with_its_target(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    one = write_log(settings, "1.parquet", [(1, "a", NOON), (1, "b", NOON)])
    one.with_name("latest.parquet").symlink_to(one)
    with monkeypatch.context() as patch:  # which listed a file and its link

        def both(path: str) -> list[LogFile]:
            (file,) = list_log_files(path)
            link = replace(file, path=str(one.with_name("latest.parquet")), name="latest.parquet")
            return [file, link]

        patch.setattr("tests.helpers.stages.list_logs", both)
        assert ingest(settings, TODAY).files == 2
    write_log(settings, "1.parquet", [(1, "x", NOON), (1, "b", NOON)])
    assert ingest(settings, TODAY).withdrawn == 1
    assert events_of(settings) == [(1, "b", NOON), (1, "x", NOON)]


def test_files_are_found_by_file_folder_and_glob(settings: Settings):
    for name in ("dt=1/a.parquet", "dt=1/B.PARQUET", "dt=2/a.parquet", "x/y/z.parquet"):
        write_log(settings, name, [(1, "x", NOON)])
    logs = Path(settings.logs.path)

    def names(*paths: str | Path) -> list[str]:
        return [Path(file.path).relative_to(logs).as_posix() for file in list_log_files(paths)]

    assert names(logs) == ["dt=1/B.PARQUET", "dt=1/a.parquet", "dt=2/a.parquet", "x/y/z.parquet"]
    assert names(logs / "x/y/z.parquet") == ["x/y/z.parquet"]
    assert names(f"{logs}/dt=*/a.parquet") == ["dt=1/a.parquet", "dt=2/a.parquet"]
    assert names(f"{logs}/dt=?") == ["dt=1/B.PARQUET", "dt=1/a.parquet", "dt=2/a.parquet"]
    assert names(f"{logs}/**/z.parquet") == ["x/y/z.parquet"]
    assert names(logs / "dt=2", logs / "dt=2/a.parquet") == ["dt=2/a.parquet"]
    (file,) = list_log_files(f"file://{logs}/x")
    assert file.name == "y/z.parquet"
    with pytest.raises(InputError, match="no log files"):
        list_log_files(f"{logs}/dt=3*")


def test_a_relative_path_is_listed(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    write_log(settings, "dt=1/a.parquet", [(1, "x", NOON)])
    monkeypatch.chdir(Path(settings.logs.path).parent)
    for path in ("logs", "logs/", "./logs", "."):
        assert len(list_log_files(path)) == 1
    assert list_log_files("*/dt=1")[0].path == "logs/dt=1/a.parquet"
    assert LogSettings().path == "logs"


# Any way of splitting

rows = st.tuples(
    st.none() | st.integers(0, 3),
    st.none() | st.sampled_from(["x", "y", "z"]),
    st.none()
    | st.sampled_from([NOON - timedelta(hours=hours) for hours in (-40, -20, 0, 1, 10**6)]),
)


def check_any_split_into_files_and_nights_comes_to_the_same(nights: list[list[list[Any]]]):
    always = (0, "x", NOON)  # so that there is a good row
    last_night = TODAY + timedelta(days=len(nights) - 1)

    def outcome(settings: Settings) -> tuple[list[Any], Counter[Any]]:
        bad = rows_of(settings, "quarantine")
        texts = ("user_id", "item_id", "timestamp", "reason")
        return events_of(settings), Counter(tuple(row[name] for name in texts) for row in bad)

    with tempfile.TemporaryDirectory() as folder:
        split, whole = settings_in(Path(folder, "split")), settings_in(Path(folder, "whole"))
        write_log(split, "always.parquet", [always])
        for night, files in enumerate(nights):
            for number, file in enumerate(files):
                write_log(split, f"{night}-{number}.parquet", file)
            ingest(split, TODAY + timedelta(days=night))
        every = [row for files in nights for file in files for row in file]
        write_log(whole, "all.parquet", [always, *every])
        ingest(whole, last_night)
        assert outcome(split) == outcome(whole)

        events, _ = outcome(whole)
        end = run_end(last_night, "UTC")
        good = {
            row
            for row in [always, *every]
            if None not in row and row[2].year >= 1990 and row[2] < end
        }
        assert events == sorted(good)


test_any_split_into_files_and_nights_comes_to_the_same, test_many_splits = few_and_many(
    check_any_split_into_files_and_nights_comes_to_the_same,
    6,
    60,
    st.lists(st.lists(st.lists(rows, max_size=5), min_size=1, max_size=3), min_size=1, max_size=3),
)
