"""Event types, values and `logs.keep`: the tables and counts against brute force."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.bundles.bundle import Bundle
from pipeline.config.sections import LogSettings
from pipeline.config.settings import Settings
from pipeline.data.source_files import source_stamp
from pipeline.errors import ConfigError, InputError, SchemaError
from pipeline.logs.log_files import list_log_files
from pipeline.warehouse.tables import open_table, replace
from tests.helpers import scoring_cases
from tests.helpers.ingest_cases import NOON, TODAY, rows_of, settings_in
from tests.helpers.stages import ingest, table_uri

MAPPED = {"event_type": "kind", "value": "rating"}
Row = tuple[Any, Any, Any, Any, Any]
LATE = NOON + timedelta(days=1)


def write(
    settings: Settings,
    name: str,
    rows: list[Row],
    kinds: pa.DataType = pa.string(),  # noqa: B008
    values: pa.DataType = pa.float64(),  # noqa: B008
) -> Path:
    columns = list(zip(*rows, strict=True))
    types = [pa.int64(), pa.string(), pa.timestamp("us", "UTC"), kinds, values]
    names = ["user_id", "item_id", "timestamp", "kind", "rating"]
    arrays = [pa.array(column, type) for column, type in zip(columns, types, strict=True)]
    path = Path(settings.logs.path) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(arrays, names), path)
    return path


def stored(settings: Settings) -> list[Row]:
    names = ("user_id", "item_id", "timestamp", "event_type", "value")
    rows = (tuple(row[name] for name in names) for row in rows_of(settings, "interactions"))
    return sorted(rows, key=repr)


# `logs.keep`, and the same in Python: true, false or None for NULL.


def sql_and(one: bool | None, other: bool | None) -> bool | None:
    if one is False or other is False:
        return False
    return None if one is None or other is None else True


def at_least_4(row: Row) -> bool | None:
    return None if row[4] is None or row[4] == float("inf") else row[4] >= 4


def is_view(row: Row) -> bool | None:
    return row[3] == "view" if row[3] else None


KEEPS: dict[str | None, Callable[[Row], bool | None]] = {
    None: lambda row: True,
    "value >= 4": at_least_4,
    "event_type = 'view' AND value >= 4": lambda row: sql_and(is_view(row), at_least_4(row)),
    "event_type IS NULL": lambda row: not row[3],
    "item_id <> 'y' AND timestamp < '2026-06-10 12:30:00'": lambda row: sql_and(
        row[1] and row[1] != "y", row[2] and row[2] < NOON + timedelta(minutes=30)
    ),
}


def fault(row: Row) -> str | None:
    user, item, time, _, value = row
    if user is None or item is None or time is None:
        return "null " + ("user_id" if user is None else "item_id" if item is None else "timestamp")
    if time.year < 1990:
        return "timestamp before 1990"
    return "value is no finite number" if value == float("inf") else None


def judged(row: Row, keep: bool | None) -> str | None:
    """The reason of a row, ``filtered``, or None for a good one."""
    if keep is False:
        return "filtered"
    if fault(row) or keep is None:
        return fault(row) or "filtered"
    return "timestamp after the run date" if row[2] >= datetime(2026, 6, 11, tzinfo=UTC) else None


@pytest.mark.parametrize("keep", KEEPS)
def test_tables_and_counts_are_those_of_brute_force(
    tiny_bundle: Bundle, tmp_path: Path, keep: str | None
) -> None:
    times = (NOON, NOON + timedelta(hours=1), None, datetime(1989, 1, 1, tzinfo=UTC), LATE)
    values = (None, 1.0, 5.0, float("inf"), float("nan"))
    every = list(product((1, 2, None), ("x", "y", None), times, (None, "", "view", "buy"), values))
    chosen = random.Random(str(keep)).choices(every, k=1500)
    settings = settings_in(tmp_path, keep=keep, **MAPPED)
    write(settings, "a.parquet", chosen[:700])
    write(settings, "b.parquet", chosen[700:])
    result = ingest(settings, TODAY)

    rows = [
        (*row[:3], row[3] or None, None if row[4] != row[4] else row[4]) for row in chosen
    ]  # as they are meant: '' and NaN are no values
    reasons = [judged(row, KEEPS[keep](row)) for row in rows]
    kept: dict[Any, Row] = {}
    for row, reason in zip(rows, reasons, strict=True):
        if reason is None:
            kept.setdefault(row[:4], row)
    assert stored(settings) == sorted(kept.values(), key=repr)
    bad = {reason: reasons.count(reason) for reason in set(reasons) - {None, "filtered"}}
    assert result.quarantined_by_reason == bad
    assert result.filtered == reasons.count("filtered")
    assert (keep is None) == (result.filtered == 0)
    assert (
        result.rows
        == len(rows)
        == (result.added + result.duplicates + result.quarantined + result.filtered)
    )
    # `fearec-score` judges the same rows the same.
    options = {"logs": settings.logs, "run_date": TODAY}
    scored = scoring_cases.run(settings.logs.path, tiny_bundle, tmp_path / "out", **options)
    assert scored.dropped == bad
    assert (scored.filtered, scored.duplicates) == (result.filtered, result.duplicates)


@pytest.mark.parametrize(
    ("kinds", "kind", "expected"),
    [
        (pa.int8(), 3, "3"),
        (pa.dictionary(pa.int8(), pa.string()), "view", "view"),
        (pa.large_string(), "view", "view"),
        (pa.string(), "", None),
    ],
    ids=str,
)
def test_event_types_become_text(
    tmp_path: Path, kinds: pa.DataType, kind: Any, expected: str | None
) -> None:
    settings = settings_in(tmp_path, **MAPPED)
    write(settings, "a.parquet", [(1, "x", NOON, kind, 1)], kinds)
    ingest(settings, TODAY)
    assert [row[3] for row in stored(settings)] == [expected]


@pytest.mark.parametrize(
    ("values", "value", "expected"),
    [
        (pa.int8(), 3, 3.0),
        (pa.float32(), 0.5, 0.5),
        (pa.decimal128(5, 2), Decimal("3.25"), 3.25),
        (pa.uint64(), 2**63, 2.0**63),
        (pa.string(), " 3.25 ", 3.25),
        (pa.string(), "", None),
        (pa.null(), None, None),
    ],
    ids=str,
)
def test_values_become_floats(
    tmp_path: Path, values: pa.DataType, value: Any, expected: float | None
) -> None:
    settings = settings_in(tmp_path, **MAPPED)
    write(settings, "a.parquet", [(1, "x", NOON, "view", value)], values=values)
    ingest(settings, TODAY)
    assert [row[4] for row in stored(settings)] == [expected]


def test_a_value_that_cannot_be_read_is_quarantined_as_it_is(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, **MAPPED)
    rows = [(1, "x", NOON, "view", "3,5"), (1, "y", NOON, "view", "1e400"), (1, "z", NOON, "", "1")]
    write(settings, "a.parquet", rows, values=pa.string())
    assert ingest(settings, TODAY).quarantined_by_reason == {"value is no finite number": 2}
    bad = sorted((row["value"], row["event_type"]) for row in rows_of(settings, "quarantine"))
    assert bad == [("1e400", "view"), ("3,5", "view")]


@pytest.mark.parametrize(
    ("name", "kinds", "values"),
    [("kind", pa.float64(), pa.float64()), ("rating", pa.string(), pa.bool_())],
)
def test_other_types_are_refused(
    tmp_path: Path, name: str, kinds: pa.DataType, values: pa.DataType
) -> None:
    settings = settings_in(tmp_path, **MAPPED)
    write(settings, "a.parquet", [(1, "x", NOON, None, None)], kinds, values)
    with pytest.raises(SchemaError, match=f"column '{name}' has a type that cannot be used"):
        ingest(settings, TODAY)


def test_a_mapped_column_that_is_missing_is_refused(tmp_path: Path) -> None:
    write(settings_in(tmp_path), "a.parquet", [(1, "x", NOON, "view", 1)])
    with pytest.raises(SchemaError, match="no column 'stars'"):
        ingest(settings_in(tmp_path, value="stars"), TODAY)


def test_columns_mapped_later_fill_the_rows_that_are_there(tmp_path: Path) -> None:
    plain = settings_in(tmp_path)
    write(plain, "a.parquet", [(1, "x", NOON, "view", 1), (1, "x", NOON, "buy", 2)])
    assert (ingest(plain, TODAY).added, stored(plain)) == (1, [(1, "x", NOON, None, None)])
    valued = settings_in(tmp_path, value="rating")
    result = ingest(valued, TODAY)  # the same event, with a value
    assert (result.files, result.added, result.withdrawn) == (1, 0, 0)
    assert stored(valued) == [(1, "x", NOON, None, 1)]
    typed = settings_in(tmp_path, **MAPPED)
    result = ingest(typed, TODAY)
    assert (result.files, result.added, result.withdrawn) == (1, 2, 1)
    assert stored(typed) == [(1, "x", NOON, "buy", 2), (1, "x", NOON, "view", 1)]
    assert ingest(typed, TODAY).files == 0


def test_another_condition_reads_the_files_again(tmp_path: Path) -> None:
    rows = [(1, "x", NOON, "view", 1), (2, "y", NOON, "buy", 2), (3, None, NOON, "view", 3)]
    everything = settings_in(tmp_path, **MAPPED)
    write(everything, "a.parquet", rows)
    assert ingest(everything, TODAY).quarantined == 1
    bought = settings_in(tmp_path, keep="event_type = 'buy'", **MAPPED)
    result = ingest(bought, TODAY)
    assert (result.rows, result.filtered, result.withdrawn, result.added) == (3, 2, 1, 0)
    assert stored(bought) == [rows[1]]
    assert rows_of(bought, "quarantine") == []
    assert ingest(everything, TODAY).added == 1
    assert stored(everything) == rows[:2]


def test_what_was_too_late_keeps_its_columns(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, keep="value > 1 OR value IS NULL", **MAPPED)
    late = [(1, "x", LATE, "view", 1.1), (1, "x", LATE, "buy", None), (1, "y", LATE, "buy", 1.0)]
    write(settings, "a.parquet", [(1, "x", NOON, None, 3.0), *late])
    result = ingest(settings, TODAY)
    assert (result.added, result.quarantined, result.filtered) == (1, 2, 1)
    assert ingest(settings, LATE.date()).added == 2
    assert stored(settings)[1:] == [late[1], late[0]]
    assert rows_of(settings, "quarantine") == []


def test_a_table_without_the_columns_gets_them_and_null_equals_null(tmp_path: Path) -> None:
    plain = settings_in(tmp_path)
    write(plain, "a.parquet", [(1, "x", NOON, "view", 1), (2, "x", NOON, "view", 1)])
    ingest(plain, TODAY)
    table = open_table(table_uri(plain, "interactions"))
    old = table.to_pyarrow_dataset().to_table().drop_columns(["event_type", "value"])
    replace(table, old.to_reader())
    write(plain, "b.parquet", [(1, "x", NOON, "buy", 9), (3, "x", NOON, "buy", 9)])
    result = ingest(plain, TODAY)
    assert (result.files, result.added, result.duplicates) == (1, 1, 1)
    assert stored(plain) == [(user, "x", NOON, None, None) for user in (1, 2, 3)]


def test_files_known_to_earlier_versions_are_not_read_again(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    write(settings, "a.parquet", [(1, "x", NOON, "view", 1)])
    (file,) = list_log_files(settings.logs.path)
    reading = '["user_id", "item_id", "timestamp", "s"]'
    assert source_stamp(file, settings.logs) == f"{file.stamp} {reading}"
    stamps = {
        source_stamp(file, LogSettings(**logs))
        for logs in (
            {},
            {"event_type": "kind"},
            {"value": "kind"},
            {"keep": "user_id IS NULL"},
            {"keep": "user_id IS NOT NULL"},
        )
    }
    assert len(stamps) == 5


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ("item_id::INTEGER > 3", "fails on a row"),
        ("user_id = 'a'", "cannot be used with these logs"),
    ],
)
def test_a_condition_that_fails_writes_nothing(tmp_path: Path, keep: str, message: str) -> None:
    settings = settings_in(tmp_path, keep=keep, **MAPPED)
    write(settings, "a.parquet", [(1, "x", NOON, "view", 1)])
    with pytest.raises(ConfigError, match=message) as raised:
        ingest(settings, TODAY)
    assert raised.value.where == "logs.keep"
    assert "\n" not in str(raised.value)
    assert rows_of(settings, "interactions") == []


def test_a_condition_that_keeps_nothing_is_named(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, keep="value > 9", **MAPPED)
    write(settings, "a.parquet", [(1, "x", NOON, "view", 1)])
    with pytest.raises(InputError, match=r"1 rows that logs\.keep leaves out"):
        ingest(settings, TODAY)


def test_times_in_a_condition_are_of_the_logs_zone(tmp_path: Path) -> None:
    # 12 o'clock in UTC is 21 o'clock in Tokyo.
    settings = settings_in(tmp_path, time_zone="Asia/Tokyo", keep="timestamp < '2026-06-10 20:00'")
    morning = NOON - timedelta(hours=3)
    write(settings, "a.parquet", [(1, "x", NOON, "", 1), (1, "y", morning, "", 1)])
    assert ingest(settings, TODAY).filtered == 1
    assert [row[1] for row in stored(settings)] == ["y"]
