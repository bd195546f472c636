"""Which files are logs, and every type that people have in them, in ingest and `fearec-score`."""

import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from pipeline.bundles.bundle import Bundle
from pipeline.config.sections import LogSettings
from pipeline.config.settings import Settings
from pipeline.errors import InputError, SchemaError
from pipeline.logs.conversion import normalise_timestamps
from pipeline.logs.log_files import list_log_files
from tests.helpers import scoring_cases
from tests.helpers.ingest_cases import NOON, TODAY, events_of, rows_of, settings_in, write_log
from tests.helpers.stages import ingest

HOUR = timedelta(hours=1)
EPOCH = int(NOON.timestamp())
UUID = uuid.UUID("12345678-90ab-cdef-1234-567890abcdef")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


# Times


def write_int96(path: Path, days: list[int]) -> None:
    """A log whose times are INT96: days since the epoch, as Julian days, at noon."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noons = np.array(days, "datetime64[D]").astype("datetime64[s]") + np.timedelta64(12, "h")
    users = [1] * len(days)
    items = [f"item{number + 1}" for number in range(len(days))]
    table = pa.table({"user_id": users, "item_id": items, "timestamp": pa.array(noons)})
    pq.write_table(table, path, use_deprecated_int96_timestamps=True)


def test_no_int96_time_wraps_around(
    settings: Settings, make_bundle: Callable[..., Bundle], tmp_path: Path
):
    days = [(date(year, 6, 1) - date(1970, 1, 1)).days for year in (2026, 2594, 1600)]
    path = Path(settings.logs.path) / "a.parquet"
    write_int96(path, days)
    there = pq.read_table(path, coerce_int96_timestamp_unit="s")["timestamp"].to_pylist()
    assert [time.year for time in there] == [2026, 2594, 1600]
    result = ingest(settings, TODAY)
    assert result.added == 1
    expected = {"timestamp after the run date": 1, "timestamp before 1990": 1}
    assert result.quarantined_by_reason == expected
    scored = scoring_cases.run(path, make_bundle(tmp_path / "b"), tmp_path / "out")
    assert scored.dropped == expected


LOCAL: list[tuple[list[Any], pa.DataType]] = [
    ([NOON.replace(tzinfo=None)], pa.timestamp("us")),
    ([NOON.replace(tzinfo=None)], pa.timestamp("ns")),
    (["2026-06-10T12:00:00"], pa.string()),
    (["2026-06-10 12:00"], pa.large_string()),
    (["2026-06-10T12:00:00.000"], pa.dictionary(pa.int8(), pa.string())),
]
ZONES = ("Asia/Tokyo", "America/New_York", "UTC")


@pytest.mark.parametrize(
    ("values", "kind", "zone", "own"),
    [
        # By default every kind with the logs' own zone and without, in one of the zones.
        pytest.param(
            *LOCAL[at], ZONES[zone], own, marks=[pytest.mark.slow] * bool((at + zone + own) % 3)
        )
        for at, zone, own in product(range(len(LOCAL)), range(len(ZONES)), (True, False))
    ],
    ids=str,
)
def test_a_time_without_a_zone_is_of_the_logs_zone(
    tmp_path: Path, values: list[Any], kind: pa.DataType, zone: str, own: bool
):
    hours = {"Asia/Tokyo": 9, "America/New_York": -4, "UTC": 0}[zone]
    logs = {"time_zone": zone} if own else {}
    settings = settings_in(tmp_path, **logs)
    if not own:
        settings = settings.model_copy(update={"time_zone": zone})
    write_log(settings, "a.parquet", [(1, "x", value) for value in values], time=kind)
    write_log(settings, "b.parquet", [(2, "x", NOON), (3, "x", NOON)])
    write_log(settings, "c.parquet", [(4, "x", "2026-06-10T12:00:00Z")], time=pa.string())
    ingest(settings, TODAY)
    assert events_of(settings) == [
        (1, "x", NOON - hours * HOUR),
        *((user, "x", NOON) for user in (2, 3, 4)),
    ]


def test_a_local_evening_is_not_after_its_own_day(
    tiny_bundle: Bundle, settings: Settings, tmp_path: Path
):
    evening = datetime(2026, 6, 10, 22)
    tokyo = settings.model_copy(update={"time_zone": "Asia/Tokyo"})
    path = write_log(settings, "a.parquet", [(1, "item1", evening)], time=pa.timestamp("us"))
    assert ingest(tokyo, TODAY).added == 1
    options: dict[str, Any] = {"run_date": TODAY, "time_zone": "Asia/Tokyo"}
    assert scoring_cases.run(path, tiny_bundle, tmp_path / "out", **options).n_users == 1
    in_utc = LogSettings(time_zone="UTC")
    with pytest.raises(InputError, match="no usable row"):
        scoring_cases.run(path, tiny_bundle, tmp_path / "utc", logs=in_utc, **options)


def test_another_zone_reads_a_file_again(settings: Settings, tmp_path: Path):
    write_log(settings, "a.parquet", [(1, "x", datetime(2026, 6, 10, 12))], time=pa.timestamp("us"))
    ingest(settings, TODAY)
    tokyo = settings_in(tmp_path, time_zone="Asia/Tokyo")
    result = ingest(tokyo, TODAY)
    assert (result.files, result.added, result.withdrawn) == (1, 1, 1)
    assert events_of(tokyo) == [(1, "x", NOON - 9 * HOUR)]


@pytest.mark.parametrize(
    ("value", "kind", "unit"),
    [
        (EPOCH * 10**6, pa.int64(), "us"),
        (EPOCH * 10**9, pa.int64(), "ns"),
        (EPOCH * 10**9, pa.uint64(), "ns"),
        (float(EPOCH * 10**6), pa.float64(), "us"),
        (Decimal(EPOCH), pa.decimal128(20, 0), "s"),
        (Decimal(f"{EPOCH}.000"), pa.decimal128(20, 3), "s"),
        ("2026-06-10T21:00:00+09:00", pa.string(), "s"),
    ],
    ids=str,
)
def test_every_other_kind_of_time_is_the_same_instant(
    tmp_path: Path, value: Any, kind: pa.DataType, unit: str
):
    settings = settings_in(tmp_path, timestamp_unit=unit)
    write_log(settings, "a.parquet", [(1, "x", value), (1, "y", None)], time=kind)
    ingest(settings, TODAY)
    assert events_of(settings) == [(1, "x", NOON)]
    assert [row["reason"] for row in rows_of(settings, "quarantine")] == ["null timestamp"]


def test_dates_are_midnights_of_the_zone(tmp_path: Path):
    settings = settings_in(tmp_path, time_zone="Asia/Tokyo")
    write_log(settings, "a.parquet", [(1, "x", TODAY)], time=pa.date32())
    ingest(settings, TODAY)
    assert events_of(settings) == [(1, "x", datetime(2026, 6, 9, 15, tzinfo=UTC))]


@pytest.mark.parametrize(
    "kind",  # Delta tables have views after a DELETE
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
    ids=str,
)
def test_text_that_is_no_time_is_a_bad_row_with_its_text(settings: Settings, kind: pa.DataType):
    texts = ["2026-06-10", "noon", "2026-02-30", ""]
    write_log(settings, "a.parquet", [(1, "x", text) for text in texts], time=kind)
    assert ingest(settings, TODAY).added == 1
    bad = sorted(row["raw_timestamp"] for row in rows_of(settings, "quarantine"))
    assert bad == sorted(texts[1:])


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_no_time_is_too_large_in_any_zone(zone: str, unit: str):
    extremes = pa.array([-(2**63), 2**63 - 1, 0, None], pa.int64())
    times = normalise_timestamps(extremes.cast(pa.timestamp(unit)), unit, zone).to_pylist()
    assert times[0].year < 1990
    assert times[1].year > 2200
    assert times[3] is None
    text = pa.array(["infinity", "9999-12-31 23:59:59", "290000-01-01", "0001-01-01"])
    never, last, later, first = normalise_timestamps(text, unit, zone).to_pylist()
    assert never is None
    assert (last.year, later.year, first.year) == (9999, 9999, 1)


# Ids


@pytest.mark.parametrize(
    ("ids", "kind", "kept"),
    [
        ([UUID.bytes, None], pa.uuid(), str(UUID)),
        ([UUID.bytes, None], pa.binary(16), UUID.hex),
        ([b"\x00\xfe\x10", None], pa.binary(3), "00fe10"),
        ([Decimal(12), None], pa.decimal128(38, 0), 12),
        ([2**63 - 1, None], pa.uint64(), 2**63 - 1),
        ([float(2**53), None], pa.float64(), 2**53),
        ([12.0, float("nan")], pa.float32(), 12),
    ],
    ids=str,
)
def test_other_ids_become_text_or_integers(
    settings: Settings, ids: list[Any], kind: pa.DataType, kept: Any
):
    write_log(settings, "a.parquet", [(each, "x", NOON) for each in [*ids, ids[0]]], user=kind)
    write_log(settings, "b.parquet", [(ids[0], "y", NOON)], user=kind)
    result = ingest(settings, TODAY)
    assert (result.added, result.duplicates, result.quarantined) == (2, 1, 1)
    assert events_of(settings) == [(kept, "x", NOON), (kept, "y", NOON)]


def test_other_ids_are_scored(make_bundle: Callable[..., Bundle], tmp_path: Path):
    bundle = make_bundle(tmp_path / "numbers", item_ids=list(range(40)))
    user, item = pa.array([UUID.bytes] * 2, pa.uuid()), pa.array([3.0, None])
    log = pa.table({"user_id": user, "item_id": item, "timestamp": [EPOCH] * 2})
    pq.write_table(log, tmp_path / "log.parquet")
    result = scoring_cases.run(tmp_path / "log.parquet", bundle, tmp_path / "out")
    assert (result.n_users, dict(result.dropped)) == (1, {"null item_id": 1})
    assert set(scoring_cases.rows(tmp_path / "out")) == {str(UUID)}


def test_a_number_that_is_not_whole_is_refused_in_scoring_too(
    make_bundle: Callable[..., Bundle], tmp_path: Path
):
    bundle = make_bundle(tmp_path / "numbers", item_ids=list(range(40)))
    log = pa.table({"user_id": [1, 2], "item_id": [3.0, 3.5], "timestamp": [EPOCH] * 2})
    pq.write_table(log, tmp_path / "log.parquet")
    with pytest.raises(SchemaError, match=r"log\.parquet: an id of type double cannot be used"):
        scoring_cases.run(tmp_path / "log.parquet", bundle, tmp_path / "out", skip_bad_files=True)


@pytest.mark.parametrize("column", ["user_id", "item_id", "timestamp"])
def test_a_column_that_is_there_twice_is_said_to_be(settings: Settings, column: str):
    path = write_log(settings, "a.parquet", [(1, "x", NOON)])
    table = pq.read_table(path)
    pq.write_table(table.append_column(column, table[column]), path)
    with pytest.raises(SchemaError, match=rf"a\.parquet: column '{column}' is there twice"):
        ingest(settings, TODAY)


# Files without rows


@pytest.mark.parametrize(
    "empty",
    [
        pa.table({name: pa.nulls(0) for name in ("user_id", "item_id", "timestamp")}),
        pa.table({"user_id": pa.array([], pa.float64()), "item_id": pa.array([], pa.bool_())}),
        pa.table({}),
    ],
    ids=["nulls", "other types", "no columns"],
)
@pytest.mark.parametrize("first", [True, False])
def test_files_without_rows_are_passed_over(
    settings: Settings, tiny_bundle: Bundle, tmp_path: Path, empty: pa.Table, first: bool
):
    if not first:
        write_log(settings, "0.parquet", [(1, "item1", NOON)])
        ingest(settings, TODAY)
    logs = Path(settings.logs.path)
    logs.mkdir(exist_ok=True)
    pq.write_table(empty, logs / "a.parquet")
    if first:
        with pytest.raises(InputError, match="the log is empty"):
            ingest(settings, TODAY)
    else:
        assert ingest(settings, TODAY).files == 1
    write_log(settings, "b.parquet", [(2, "item2", NOON)])
    assert ingest(settings, TODAY).added == 1
    scored = scoring_cases.run(logs, tiny_bundle, tmp_path / "out")
    assert scored.n_users == (1 if first else 2)


def test_a_column_without_values_is_bad_rows(settings: Settings):
    write_log(settings, "a.parquet", [(1, None, NOON)], item=pa.null())
    write_log(settings, "b.parquet", [(1, "x", NOON)])
    result = ingest(settings, TODAY)
    assert (result.added, dict(result.quarantined_by_reason)) == (1, {"null item_id": 1})


# Which files


def test_hidden_names_are_those_of_spark(settings: Settings):
    for name in ("_dt=2026-06-01/a", "dt=1/_h=2/b", "dt=1/_c=3"):
        write_log(settings, f"{name}.parquet", [(1, "x", NOON)])
    shown = [file.name for file in list_log_files(settings.logs.path)]
    for name in ("_temporary/0/a", ".dt=1/a", "_d", "dt=1/.e", "dt=1/_f/x=1/a", "dt=1/._g=1"):
        write_log(settings, f"{name}.parquet", [(2, "x", NOON)])
    assert [file.name for file in list_log_files(settings.logs.path)] == shown
    assert shown == ["_dt=2026-06-01/a.parquet", "dt=1/_c=3.parquet", "dt=1/_h=2/b.parquet"]
    ingest(settings, TODAY)
    assert [user for user, _, _ in events_of(settings)] == [1]


@pytest.mark.parametrize("below", ["", "/dt=1", "/dt=1/*.parquet", "/*.parquet", "/.."])
def test_a_table_is_refused_as_logs(
    settings: Settings, tiny_bundle: Bundle, tmp_path: Path, below: str
):
    table = tmp_path / "in" / "table"
    rows = {"user_id": [1, 2], "item_id": ["item1", "item2"], "timestamp": [NOON] * 2}
    write_deltalake(table, pa.table({**rows, "dt": [1, 1]}), partition_by=["dt"])
    path = f"{table}{below}"
    if below:  # ingest takes a Delta table as such
        with pytest.raises(InputError, match="a table, of whose Parquet files some may hold"):
            ingest(settings_in(tmp_path, path=path), TODAY)
    with pytest.raises(InputError, match="a table, of whose Parquet files some may hold deleted"):
        scoring_cases.run(path, tiny_bundle, tmp_path / "out")


@pytest.mark.parametrize("beside", [".hoodie/hoodie.properties", "metadata/v1.metadata.json"])
def test_tables_of_other_kinds_are_refused_too(settings: Settings, beside: str):
    write_log(settings, "data/a.parquet", [(1, "x", NOON)])
    file = Path(settings.logs.path) / beside
    file.parent.mkdir()
    file.write_text("{}")
    with pytest.raises(InputError, match="a table, of whose Parquet files some may hold deleted"):
        ingest(settings, TODAY)
